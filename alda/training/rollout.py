"""Playing episodes without exploration, in any world."""

from collections import deque
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from jaxtyping import Float, UInt8

from alda.agents.base import Agent
from alda.envs.vector import LocalPool, Pool, Result
from alda.errors import LearningError
from alda.provenance import World
from alda.training.acceleration import one_thread


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


def play_all(agent: Agent, pool: Pool, jobs: Sequence[Job]) -> Iterator[tuple[int, Episode]]:
    """Plays deterministic episodes; yields each one's number when it is over."""
    series = EpisodeQueue(agent, pool, jobs)
    while not series.over:
        yield from series.advance()


class EpisodeQueue:
    """Deterministic episodes on their way, as many at a time as the pool has slots.

    An episode depends on its seed and the agent alone, not on what is played beside it: every action is chosen for one
    observation. `checkpoint` is called before every step and may raise to stop.
    """

    def __init__(
        self, agent: Agent, pool: Pool, jobs: Sequence[Job], *, checkpoint: Callable[[Job], None] = lambda _: None
    ) -> None:
        self.agent, self.pool, self.checkpoint = agent, pool, checkpoint
        self._waiting = deque(enumerate(jobs))
        self._playing: dict[int, _Playing] = {}
        for slot in range(pool.size):
            self._begin(slot)

    @property
    def over(self) -> bool:
        return not self._playing

    def advance(self, *, wait: bool = True) -> Iterator[tuple[int, Episode]]:
        """One step of each episode whose environment is ready; yields those that are over.

        wait: for one to be ready, where none is.
        """
        for slot in self.pool.ready(wait=wait):
            it, result = self._playing[slot], self.pool.result(slot)
            if it.over(result):
                del self._playing[slot]
                self._begin(slot)
                yield it.number, it.episode
            else:
                self.checkpoint(it.job)
                self.pool.step(slot, it.act(self.agent, result.obs))

    def _begin(self, slot: int) -> None:
        if self._waiting:
            number, job = self._waiting.popleft()
            self._playing[slot] = _Playing(number, job, self.agent.initial_state(num_envs=1))
            self.pool.reset(slot, job.shift, job.seed)


class Evaluation:
    """Seeded episodes in every world, by an agent that stays as it is meanwhile; equal starting states in all worlds.

    when: where the run was when it began. look: numbers about what the agent sees in a world's first episode.
    """

    def __init__(
        self,
        agent: Agent,
        pool: Pool,
        worlds: dict[str, World],
        seeds: Sequence[int],
        when: dict[str, int],
        look: Callable[[str, Episode], dict[str, float]],
        checkpoint: Callable[[Job], None] = lambda _: None,
    ) -> None:
        self.agent, self.worlds, self.seeds, self.when, self.look = agent, worlds, seeds, when, look
        self._jobs = [Job(shift, seed, keep=i == 0) for shift in worlds for i, seed in enumerate(seeds)]
        self._series = EpisodeQueue(agent, pool, self._jobs, checkpoint=checkpoint)
        self._returns: dict[str, dict[int, float]] = {shift: {} for shift in worlds}
        self._seen: dict[str, float] = {}

    @property
    def over(self) -> bool:
        return self._series.over

    def advance(self, *, wait: bool) -> dict[str, float]:
        """Plays on; returns the mean return in each world whose last episode is over now."""
        complete = {}
        for number, episode in self._series.advance(wait=wait):
            shift = self._jobs[number].shift
            self._returns[shift][number] = episode.total
            if episode.observations:
                self._seen |= self.look(shift, episode)
            if len(self._returns[shift]) == len(self.seeds):
                complete[shift] = self._mean(shift)
        return complete

    def row(self) -> dict[str, Any]:
        """What to record."""
        row: dict[str, Any] = dict(self._seen)
        for shift, world in self.worlds.items():
            singles = [total for _, total in sorted(self._returns[shift].items())]
            row |= {
                f"eval/{shift}/return": self._mean(shift),
                f"eval/{shift}/returns": singles,
                f"eval/{shift}/world": world,
            }
        return row

    def summary(self) -> str:
        means = ", ".join(f"{shift} {self._mean(shift):.0f}" for shift in self.worlds)
        return f"step {self.when['step']:,}: mean return over {len(self.seeds)} episodes: {means}"

    def _mean(self, shift: str) -> float:
        return float(np.mean([total for _, total in sorted(self._returns[shift].items())]))


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
        with one_thread(), torch.random.fork_rng(devices=devices):  # training's random numbers stay as they are
            torch.manual_seed(self.job.seed + self.episode.length)
            action, self.state = agent.act(torch.from_numpy(obs)[None].to(device), self.state, explore=False)
        if not action.isfinite().all():
            raise LearningError("the policy has diverged, its actions are not numbers", sound=False)
        return action[0].cpu().numpy()


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
