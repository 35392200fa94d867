"""Reading latents, Q and stored values out of a trained agent."""

from collections.abc import Callable, Sequence

import numpy as np
import torch
from jaxtyping import Float, Real, UInt8
from torch import Tensor

from alda.agents.base import Agent
from alda.agents.decoding import DecodingAgent, LatentAgent
from alda.agents.sac import SAC
from alda.envs.tasks import action_repeat_of
from alda.errors import UserError
from alda.latents.ablations import ClampLatent
from alda.latents.base import LatentModel
from alda.latents.codebook import CodebookLatent
from alda.policy import Policy

CHUNK = 64  # frames that pass a network together


def in_chunks(function: Callable[[Tensor], Tensor], rows: Tensor) -> Tensor:
    """Return function(rows), computed on a few rows at a time to save memory."""
    return torch.cat([function(part) for part in rows.split(CHUNK)])


def stacked(observations: Sequence[UInt8[np.ndarray, "f c h w"]], policy: Policy) -> UInt8[Tensor, "n f c h w"]:
    """Return observations as one batch on the agent's device."""
    return torch.from_numpy(np.stack(observations)).to(next(policy.agent.parameters()).device)


def still(frame: UInt8[np.ndarray, "n 3 h w"], policy: Policy) -> UInt8[Tensor, "n f 3 h w"]:
    """Return observations that repeat each frame, as at the beginning of an episode."""
    obs = torch.from_numpy(frame).to(next(policy.agent.parameters()).device)[:, None]
    return obs.expand(-1, policy.spec.frames, -1, -1, -1)


@torch.no_grad()
def read_latents(policy: Policy, frame: UInt8[np.ndarray, "n 3 h w"]) -> Real[np.ndarray, "n l"]:
    """Return the latents of frames: indices of retrieved values (integers) where values are stored, else codes.

    Raises UserError for codes that are not finite.
    """
    agent = require_latents(policy)

    def read(part: Tensor) -> Tensor:
        latents = agent.latents(part)
        if not latents.encoded.isfinite().all():
            raise UserError("codes are not finite: the encoder has diverged; train again, or take another run")
        return latents.code if latents.nearest is None else latents.nearest

    return in_chunks(read, still(frame, policy)).cpu().numpy()


def require_latents(policy: Policy) -> LatentAgent:
    """Return the agent. Raises UserError for one without latents of single frames."""
    if not isinstance(policy.agent, LatentAgent):
        raise UserError(f"{policy.config.method} has no latents of single frames to analyze")
    return policy.agent


def require_decoder(policy: Policy) -> DecodingAgent:
    """Return the agent. Raises UserError for one without latents of single frames, or without a decoder for them."""
    agent = require_latents(policy)
    if not isinstance(agent, DecodingAgent):
        raise UserError(f"{policy.config.method} has no decoder, so its latents cannot be drawn")
    return agent


def require_critic(policy: Policy) -> SAC:
    """Return the agent. Raises UserError for one without SAC's critic and actor."""
    if not isinstance(policy.agent, SAC):
        raise UserError(f"{policy.config.method} has no critic like SAC's, which this analysis reads")
    if not policy.complete:
        raise UserError("this export has no Q-functions, which this analysis reads; name the run that it is from")
    return policy.agent


def memory_of(agent: Agent) -> LatentModel | None:
    """Return the agent's latent model, if it has one."""
    memory = getattr(getattr(agent, "representation", None), "memory", None)
    return memory if isinstance(memory, LatentModel) else None


def stored_range(agent: Agent) -> tuple[Float[Tensor, " l"], Float[Tensor, " l"]] | None:
    """Return the lowest and highest value that each latent can be brought back to, if that is limited."""
    memory = memory_of(agent)
    if not isinstance(memory, CodebookLatent | ClampLatent):
        return None
    ends = memory.sweep(torch.zeros(1, memory.config.num_latents), 2)
    return ends[:, 0], ends[:, 1]


def episode_steps(policy: Policy) -> int:
    """Return the agent steps of an episode that does not end early."""
    env = policy.config.env
    return -(-env.episode_length // (env.action_repeat or action_repeat_of(env.task)))
