"""Trained agents, ready to act: alda.load(run).act(obs)."""

import os
from pathlib import Path
from typing import Any

import numpy as np
import torch
from jaxtyping import Float, UInt8

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
        """Begin a new episode. Only agents with a recurrent state need this."""
        self._state = self.agent.initial_state(num_envs=1)

    def act(self, obs: UInt8[np.ndarray, "f c h w"], *, explore: bool = False) -> Float[np.ndarray, " a"]:
        """Choose the action for one observation: uint8 [F, 3, H, W] -> float32 [A] in [-1, 1].

        explore: sample from the policy instead of taking its mode. Raises UserError for another shape or type.
        """
        action, self._state = self.agent.act(self._batch(obs), self._state, explore=explore)
        return action[0].cpu().numpy()

    def reconstruct(self, obs: UInt8[np.ndarray, "f c h w"]) -> UInt8[np.ndarray, "c h w"] | None:
        """Return the newest frame as the agent decodes it, uint8 [3, H, W]; None for a method without a decoder."""
        if not isinstance(self.agent, ReconstructingAgent):
            return None
        return self.agent.reconstruct(self._batch(obs))[0].cpu().numpy()

    def _batch(self, obs: np.ndarray) -> torch.Tensor:
        """Return a batch of one observation on the agent's device."""
        if (obs.dtype, obs.shape) != (np.uint8, self.spec.obs_shape):
            wanted, given = (
                f"{kind} {list(shape)}" for kind, shape in (("uint8", self.spec.obs_shape), (obs.dtype, obs.shape))
            )
            raise UserError(f"a policy acts on one observation, {wanted}, not on {given}")
        return torch.from_numpy(obs)[None].to(next(self.agent.parameters()).device)


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
