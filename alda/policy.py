"""Trained agents, ready to act: alda.load(run).act(obs)."""

import os
from pathlib import Path
from typing import Any

import numpy as np
import torch
from jaxtyping import Float, UInt8
from torch.utils._pytree import tree_map

from alda.agents import make_loaded_agent
from alda.agents.base import Agent
from alda.agents.decoding import ReconstructingAgent
from alda.config import Config, check_device, load_config
from alda.errors import UserError
from alda.export.bundle import export_meta, read_export
from alda.provenance import load_spec
from alda.training.checkpoint import load_weights
from alda.types import EnvSpec


class Policy:
    """Agent with its memory of the episode, if it has one.

    agent: the networks. config, spec: of the run it is from. step: agent steps it was trained for. complete: whether it
    has all its weights; in exports of earlier versions those that only learning reads, as of Q-functions, are NaN.
    """

    def __init__(self, agent: Agent, config: Config, spec: EnvSpec, step: int, *, complete: bool = True) -> None:
        self.agent, self.config, self.spec, self.step, self.complete = agent, config, spec, step, complete
        self._state: Any = None
        self.reset()

    def reset(self) -> None:
        """Begin new episodes. Only agents with a recurrent state need this."""
        self._state, self._playing = None, 0

    def act(self, obs: UInt8[np.ndarray, "..."], *, explore: bool = False) -> Float[np.ndarray, "..."]:
        """Choose the action for one observation, or one for each of a batch: float32 [A] or [B, A] in [-1, 1].

        obs: uint8 [F, 3, H, W] or [B, F, 3, H, W]; frames may be laid out as channels, [3 F, H, W] or [B, 3 F, H, W].
        explore: sample from the policy instead of taking its mode. Raises UserError for another shape or type, and
        where the batch has another size than before within an episode.
        """
        batch, single = self._batch(obs)
        if not self._playing:
            self._state, self._playing = self.agent.initial_state(len(batch)), len(batch)
        if self._state is not None and self._playing != len(batch):
            raise UserError(f"{self._playing} episodes are played, not {len(batch)}; reset the policy first")
        actions, self._state = self.agent.act(batch, self._state, explore=explore)
        return actions[0].cpu().numpy() if single else actions.cpu().numpy()

    def predict(
        self,
        observation: UInt8[np.ndarray, "..."],
        state: Any = None,
        episode_start: np.ndarray | None = None,
        deterministic: bool = False,
    ) -> tuple[Float[np.ndarray, "..."], Any]:
        """Return actions and the next state of the policy, as models of Stable-Baselines3 do.

        observation: as `act` takes it. state: returned by the call before (None: at the start). episode_start: of each
        observation of a batch, whether an episode begins with it. deterministic: take the mode of the policy. Raises
        UserError for another shape or type.
        """
        batch, single = self._batch(observation)
        start = self.agent.initial_state(len(batch))
        if state is None:
            state = start
        elif episode_start is not None:
            begins = torch.as_tensor(np.atleast_1d(episode_start), device=batch.device)
            state = tree_map(
                lambda new, old: torch.where(begins.view(-1, *[1] * (old.ndim - 1)), new, old), start, state
            )
        actions, state = self.agent.act(batch, state, explore=not deterministic)
        return actions[0].cpu().numpy() if single else actions.cpu().numpy(), state

    def reconstruct(self, obs: UInt8[np.ndarray, "f c h w"]) -> UInt8[np.ndarray, "c h w"] | None:
        """Return the newest frame as the agent decodes it, uint8 [3, H, W]; None for a method without a decoder."""
        if not isinstance(self.agent, ReconstructingAgent):
            return None
        return self.agent.reconstruct(self._batch(obs)[0])[0].cpu().numpy()

    def _batch(self, obs: np.ndarray) -> tuple[torch.Tensor, bool]:
        """Return a batch of observations on the agent's device, and whether it was one that is no batch."""
        frames, channels, height, width = shape = self.spec.obs_shape
        flat = (frames * channels, height, width)
        single = obs.shape in (shape, flat)
        if obs.dtype != np.uint8 or not (single or obs.shape[1:] in (shape, flat)):
            raise UserError(
                f"a policy acts on one observation, uint8 {list(shape)} or {list(flat)}, or on a batch of them, not on "
                f"{obs.dtype} {list(obs.shape)}"
            )
        return torch.from_numpy(np.ascontiguousarray(obs)).view(-1, *shape).to(
            next(self.agent.parameters()).device
        ), single


PRETRAINED = Path(__file__).parent / "pretrained"
"""One exported policy per task, of laptop size (docs/laptop.md)."""


def load(run_dir: str | os.PathLike[str], *, device: str = "cpu") -> Policy:
    """Return the newest policy of a run directory, or that of a folder that `alda export` wrote; in float32.

    A task's name, as in alda.load("walker_walk"), stands for the policy of that task that comes with this package,
    unless there is a folder of that name. Loading reads numbers and JSON; it never runs code from the files, and never
    opens the policy.pt2 of an export. Raises UserError where there is no policy, or a damaged one.
    """
    check_device(device)
    folder = Path(run_dir)
    if not folder.exists() and folder.name == str(run_dir) and (PRETRAINED / folder).is_dir():
        folder = PRETRAINED / folder
    meta = export_meta(folder)
    config = load_config(folder)
    spec = load_spec(folder, config)
    agent = make_loaded_agent(config.agent, spec)
    if meta is None:
        step, complete = load_weights(folder, agent), True
    else:
        step, complete = read_export(folder, meta, config, spec, agent)
    return Policy(agent.to(device).eval(), config, spec, step, complete=complete)
