"""Playing episodes without exploration, in any world."""

from collections import deque
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from jaxtyping import Float, UInt8

from alda.agents.base import Agent
from alda.envs.pool import LocalPool, Pool, Result


@dataclass
class Episode:
    """One episode: its return, its length in agent steps, and the observations it went through, where kept."""

    total: float
    length: int
    observations: list[UInt8[np.ndarray, "f c h w"]]


@dataclass(frozen=True)
class Job:
    """An episode to be played."""

    shift: str
    seed: int
    keep: bool = False
    """Whether its observations are kept."""


def play(agent: Agent, env: Any, seed: int, *, keep: bool = False) -> Episode:
    """One deterministic episode of one environment, from a seeded start."""
    pool = LocalPool(lambda shift: env)  # noqa: ARG005
    ((_, episode),) = play_all(agent, pool, [Job("", seed, keep)])
    return episode


def play_all(
    agent: Agent, pool: Pool, jobs: Sequence[Job], *, checkpoint: Callable[[Job], None] = lambda _: None
) -> Iterator[tuple[int, Episode]]:
    """Plays deterministic episodes, as many at a time as the pool has slots; yields each one's number when it is over.

    An episode depends on its seed and the agent alone, not on what is played beside it: every action is chosen for one
    observation. `checkpoint` is called before every step and may raise to stop.
    """
    waiting = deque(enumerate(jobs))
    playing: dict[int, _Playing] = {}

    def begin(slot: int) -> None:
        if waiting:
            number, job = waiting.popleft()
            playing[slot] = _Playing(number, job, agent.initial_state(num_envs=1))
            pool.reset(slot, job.shift, job.seed)

    for slot in range(pool.size):
        begin(slot)
    while playing:
        for slot in pool.ready():
            it, result = playing[slot], pool.result(slot)
            if it.over(result):
                del playing[slot]
                begin(slot)
                yield it.number, it.episode
            else:
                checkpoint(it.job)
                pool.step(slot, it.act(agent, result.obs))


class _Playing:
    """An episode on its way."""

    def __init__(self, number: int, job: Job, state: Any) -> None:
        self.number, self.job, self.state = number, job, state
        self.episode = Episode(0.0, -1, [])  # the reset is not a step

    def over(self, result: Result) -> bool:
        self.episode.total += result.reward
        self.episode.length += 1
        if self.job.keep:
            self.episode.observations.append(result.obs)
        return result.terminated or result.truncated

    def act(self, agent: Agent, obs: UInt8[np.ndarray, "f c h w"]) -> Float[np.ndarray, " a"]:
        device = next(agent.parameters()).device
        devices = [device] if device.type == "cuda" else []
        with _one_thread(), torch.random.fork_rng(devices=devices):  # training's random numbers stay as they are
            torch.manual_seed(self.job.seed + self.episode.length)
            action, self.state = agent.act(torch.from_numpy(obs)[None].to(device), self.state, explore=False)
        return action[0].cpu().numpy()


@contextmanager
def _one_thread() -> Iterator[None]:
    """For one observation more threads do not help, and the environments need the cores."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(threads)


def episode_seeds(seed: int, stream: int, count: int) -> list[int]:
    """Seeds of `count` evaluation episodes: equal for every world and method, apart from training's."""
    return [int(s) for s in np.random.SeedSequence([seed, stream, 1]).generate_state(count)]


def bootstrap_interval(
    values: Sequence[float], *, confidence: float = 0.95, resamples: int = 10_000, seed: int = 0
) -> tuple[float, float]:
    """Percentile bootstrap interval of the mean; the same values give the same interval."""
    sample = np.asarray(values, float)
    rng = np.random.default_rng(seed)
    means = rng.choice(sample, (resamples, len(sample))).mean(1)
    tail = (1 - confidence) / 2
    low, high = np.quantile(means, [tail, 1 - tail])
    return float(low), float(high)
