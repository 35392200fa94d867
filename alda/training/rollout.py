"""Episodes without exploration, under any shift."""

from collections import deque
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from jaxtyping import Float, UInt8

from alda.agents.base import Agent
from alda.envs.vector import Pool, Result
from alda.errors import LearningError
from alda.training.acceleration import one_thread


@dataclass
class Episode:
    """Return of an episode, its length in agent steps, and its observations, where they are kept."""

    total: float
    length: int
    observations: list[UInt8[np.ndarray, "f c h w"]]


@dataclass(frozen=True)
class EpisodeRequest:
    """Episode to be played."""

    shift: str
    seed: int
    keep: bool = False
    """Whether its observations are kept."""


def play_all(
    agent: Agent,
    pool: Pool,
    requests: Sequence[EpisodeRequest],
    before_step: Callable[[EpisodeRequest], None] = lambda _: None,
) -> Iterator[tuple[int, Episode]]:
    """Play deterministic episodes, as many at a time as the pool has slots; yield each with its number when it ends.

    An episode depends on its seed and the agent alone, not on what is played beside it: every action is chosen for one
    observation. before_step: may raise to stop.
    """
    waiting = deque(enumerate(requests))
    playing: dict[int, _Playing] = {}

    def begin(slot: int) -> None:
        if waiting:
            number, request = waiting.popleft()
            playing[slot] = _Playing(number, request, agent.initial_state(num_envs=1))
            pool.reset(slot, request.shift, request.seed)

    for slot in range(pool.size):
        begin(slot)
    while playing:
        for slot in pool.ready():
            it, result = playing[slot], pool.result(slot)
            if it.record(result):
                del playing[slot]
                begin(slot)
                yield it.number, it.episode
            else:
                before_step(it.request)
                pool.step(slot, it.act(agent, result.obs))


class _Playing:
    """Episode under way."""

    def __init__(self, number: int, request: EpisodeRequest, state: Any) -> None:
        self.number, self.request, self.state = number, request, state
        self.episode = Episode(0.0, -1, [])  # the reset is not a step

    def record(self, result: Result) -> bool:
        """Record a reset or step; return whether the episode is over."""
        self.episode.total += result.reward
        self.episode.length += 1
        if self.request.keep:
            self.episode.observations.append(result.obs)
        return result.terminated or result.truncated

    def act(self, agent: Agent, obs: UInt8[np.ndarray, "f c h w"]) -> Float[np.ndarray, " a"]:
        """Choose an action; random numbers of its own leave those of training as they are."""
        device = next(agent.parameters()).device
        devices = [device] if device.type == "cuda" else []
        with one_thread(), torch.random.fork_rng(devices=devices):
            torch.manual_seed(self.request.seed + self.episode.length)
            action, self.state = agent.act(torch.from_numpy(obs)[None].to(device), self.state, explore=False)
        check_finite(action)
        return action[0].cpu().numpy()


def check_finite(action: torch.Tensor) -> None:
    """Raise LearningError for actions that are not numbers."""
    if not action.isfinite().all():
        raise LearningError("the policy has diverged, its actions are not numbers", sound=False)


def episode_seeds(seed: int, stream: int, count: int) -> list[int]:
    """Return the seeds of evaluation episodes: equal for every shift and method, and apart from those of training."""
    return [int(s) for s in np.random.SeedSequence([seed, stream, 1]).generate_state(count)]


def bootstrap_interval(
    values: Sequence[float], *, confidence: float = 0.95, resamples: int = 10_000, seed: int = 0
) -> tuple[float, float]:
    """Return the percentile bootstrap interval of the mean; equal values give an equal interval."""
    sample = np.asarray(values, float)
    rng = np.random.default_rng(seed)
    means = rng.choice(sample, (resamples, len(sample))).mean(1)
    tail = (1 - confidence) / 2
    low, high = np.quantile(means, [tail, 1 - tail])
    return float(low), float(high)
