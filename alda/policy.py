"""A trained agent, ready to act: alda.load(run).act(obs)."""

import os
from pathlib import Path
from typing import Any

import numpy as np
import torch
from jaxtyping import Float, UInt8

from alda.agents import make_agent
from alda.agents.base import Agent
from alda.agents.decoding import ReconstructingAgent
from alda.config import Config, check_device, load_config
from alda.errors import UserError
from alda.export.bundle import export_meta, read_export
from alda.provenance import load_spec
from alda.training.checkpoint import load_weights
from alda.types import EnvSpec


class Policy:
    """An agent with its memory of the episode, if it has one.

    agent: the networks. config, spec: of the run it is from. step: agent steps it was trained for. exported: whether
    it is from an exported folder; its agent then has no part that only learning needs (alda.export.bundle).
    """

    def __init__(self, agent: Agent, config: Config, spec: EnvSpec, step: int, *, exported: bool = False) -> None:
        self.agent, self.config, self.spec, self.step, self.exported = agent, config, spec, step, exported
        self._state: Any = None
        self.reset()

    def reset(self) -> None:
        """A new episode begins. Only agents with a recurrent state need to be told."""
        self._state = self.agent.initial_state(num_envs=1)

    def act(self, obs: UInt8[np.ndarray, "f c h w"], *, explore: bool = False) -> Float[np.ndarray, " a"]:
        """The action for one observation: uint8 [F, 3, H, W] -> float32 [A] in [-1, 1].

        explore: sample from the policy instead of taking its mode. Raises UserError for another shape or type.
        """
        action, self._state = self.agent.act(self._batch(obs), self._state, explore=explore)
        return action[0].cpu().numpy()

    def reconstruct(self, obs: UInt8[np.ndarray, "f c h w"]) -> UInt8[np.ndarray, "c h w"] | None:
        """The newest frame as the agent decodes it, uint8 [3, H, W]; None for a method without a decoder."""
        if not isinstance(self.agent, ReconstructingAgent):
            return None
        return self.agent.reconstruct(self._batch(obs))[0].cpu().numpy()

    def _batch(self, obs: np.ndarray) -> torch.Tensor:
        """Of one observation, where the agent is."""
        if (obs.dtype, obs.shape) != (np.uint8, self.spec.obs_shape):
            wanted, given = (
                f"{kind} {list(shape)}" for kind, shape in (("uint8", self.spec.obs_shape), (obs.dtype, obs.shape))
            )
            raise UserError(f"a policy acts on one observation, {wanted}, not on {given}")
        return torch.from_numpy(obs)[None].to(next(self.agent.parameters()).device)


PRETRAINED = Path(__file__).parent / "pretrained"
"""One exported policy per task, of laptop size (docs/laptop.md)."""


def load(run_dir: str | os.PathLike[str], *, device: str = "cpu") -> Policy:
    """The newest policy of a run directory, or that of a folder that `alda export` wrote; in float32.

    A task's name, as in alda.load("walker_walk"), stands for the policy of that task that comes with this package,
    unless there is a folder of that name.
    Raises UserError where there is none, or it is damaged, or changed. Loading reads numbers and JSON; it never runs
    code from the files, and never opens the policy.pt2 of an export.
    """
    check_device(device)
    folder = Path(run_dir)
    if not folder.exists() and folder.name == str(run_dir) and (PRETRAINED / folder).is_dir():
        folder = PRETRAINED / folder
    meta = export_meta(folder)
    config = load_config(folder)
    spec = load_spec(folder)
    if meta is None:
        agent = make_agent(config.agent, spec)
        step = load_weights(folder, agent)
    else:
        agent, step = read_export(folder, meta, config, spec)
    return Policy(agent.to(device).eval(), config, spec, step, exported=meta is not None)
