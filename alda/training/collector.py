"""Collection of experience: training environments -> replay."""

from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor
from torch.utils._pytree import tree_map, tree_map_only

from alda.agents import Agent
from alda.config import Config
from alda.envs.vector import Pool, Result
from alda.training.acceleration import synchronize
from alda.training.checkpoint import Position
from alda.training.replay import Replay
from alda.training.rollout import check_finite
from alda.training.timing import Stopwatch


class Collector:
    """Plays the training episodes of all environments, one action at a time, and adds them to replay.

    An episode is a function of its seed and its actions, so a checkpoint holds these and not the simulator.
    """

    def __init__(
        self, config: Config, agent: Agent, pool: Pool, replay: Replay, at: Position, watch: Stopwatch
    ) -> None:
        self.config, self.agent, self.pool, self.replay, self.at, self.watch = config, agent, pool, replay, at, watch
        n = config.num_envs
        self.device = torch.device(config.device or "cpu")
        self.obs: list[Tensor | None] = [None] * n  # None between episodes
        self.taken: list[list[Tensor]] = [[] for _ in range(n)]  # actions of the current episodes
        self.action: Tensor | None = None  # [N, A], chosen and not yet taken
        self.sent = False  # whether the environments are taking it
        self.policy_state = agent.initial_state(num_envs=n)

    def act(self) -> None:
        """Begin episodes where one has ended, and let the environments take the next actions meanwhile."""
        if None in self.obs:
            self._begin_episodes()
        if self.action is None:
            with self.watch("update"):
                synchronize(self.device)
            with self.watch("act"):
                self.action = self._choose()
        if not self.sent:
            for i, action in enumerate(self.action):
                self.pool.step(i, action.numpy(), role="training")
            self.sent = True

    def step(self) -> list[float]:
        """Add what came of the actions to replay; return the returns of the episodes that have ended."""
        assert self.action is not None
        ended = []
        for i, action in enumerate(self.action):
            result = self._result(i)
            obs = torch.from_numpy(result.obs)
            self.replay.add(action, result.reward, result.terminated, obs, env=i)
            self.taken[i].append(action)
            self.obs[i] = obs
            self.at.totals[i] += result.reward
            if result.terminated or result.truncated:
                ended.append(self.at.totals[i])
                self.obs[i] = None
        self.action, self.sent = None, False
        self.at.step += len(self.obs)
        return ended

    def state(self) -> dict[str, Any]:
        """Return what a checkpoint holds of the episodes, besides their numbers and returns."""
        return {
            "playing": [obs is not None for obs in self.obs],
            "actions": {str(i): torch.stack(actions) for i, actions in enumerate(self.taken) if actions},
            "action": self.action,
            "policy_state": self.policy_state,
        }

    def restore(self, saved: dict[str, Any], say: Callable[[str], None]) -> None:
        """Replay the episodes of a checkpoint up to where they were; say so where they do not look the same."""
        self.policy_state = tree_map_only(Tensor, self._to_device, saved["policy_state"])
        self.action = saved["action"]
        for i in [i for i, playing in enumerate(saved["playing"]) if playing]:
            self._reset(i)
            obs = self.pool.result(i).obs
            for action in saved["actions"].get(str(i), ()):
                self.pool.step(i, action.numpy(), role="training")
                obs = self.pool.result(i).obs
                self.taken[i].append(action)
            self.obs[i] = torch.from_numpy(obs)
        shown = [obs is None or torch.equal(obs[-1], self.replay.newest_frame(i)) for i, obs in enumerate(self.obs)]
        if not all(shown):
            say("note: this renderer or simulator draws the saved state differently; a new episode begins")
            self.obs, self.action = [obs if same else None for obs, same in zip(self.obs, shown, strict=True)], None

    def _begin_episodes(self) -> None:
        new = [i for i, obs in enumerate(self.obs) if obs is None]
        for i in new:
            self.at.episodes[i] = self.at.begun
            self.at.begun += 1
            self.at.totals[i] = 0.0
            self._reset(i)
        for i in new:
            obs = torch.from_numpy(self._result(i).obs)
            self.obs[i], self.taken[i] = obs, []
            self.replay.add_first(obs, env=i)
        fresh = torch.zeros(len(self.obs), dtype=torch.bool, device=self.device)
        fresh[new] = True

        def begin(start: Tensor, now: Tensor) -> Tensor:
            return torch.where(fresh.view(-1, *[1] * (now.ndim - 1)), start, now)

        start = self.agent.initial_state(num_envs=len(self.obs))
        self.policy_state = start if self.policy_state is None else tree_map(begin, start, self.policy_state)

    def _choose(self) -> Float[Tensor, "n a"]:
        if self.at.step < self.config.agent.random_steps:
            return torch.rand(len(self.obs), self.replay.spec.action_dim) * 2 - 1
        seen = self.agent.observe(self.replay, torch.stack([obs for obs in self.obs if obs is not None]))
        action, self.policy_state = self.agent.act(seen, self.policy_state, explore=True)
        check_finite(action)
        return action.cpu()

    def _reset(self, i: int) -> None:
        seed = np.random.SeedSequence([self.config.seed, self.at.episodes[i], 0]).generate_state(1)[0]
        self.pool.reset(i, self.config.train_shift, int(seed), role="training")

    def _result(self, i: int) -> Result:
        """Wait for an environment; count the time of its process, or that of this one, as its own."""
        with self.watch("idle"):
            result = self.pool.result(i)
        for part, seconds in (("environment", result.seconds - result.drawing), ("render", result.drawing)):
            if self.pool.beside:
                self.watch.add_elsewhere(seconds / len(self.obs), part)
            else:
                self.watch.move(seconds, "idle", part)
        return result

    def _to_device(self, saved: Tensor) -> Tensor:
        return saved.to(self.device, copy=True)  # aligned, as file contents need not be: equal bits in every product
