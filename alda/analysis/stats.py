"""Numbers with their uncertainty, from few seeds and several tasks.

What to report and why: Agarwal et al., Deep Reinforcement Learning at the Edge of the Statistical Precipice, NeurIPS
2021 (section 4). Every interval is a percentile bootstrap interval. Seeds are drawn again within their task, never
tasks: an interval speaks of other seeds on the same tasks.

`Scores` are one array of seeds a task, on one scale: returns divided by the highest possible one. Tasks may have
different numbers of seeds.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
from jaxtyping import Float

from alda.errors import UserError
from alda.training.rollout import bootstrap_interval

Scores = Sequence[Float[np.ndarray, "_"]]


@dataclass(frozen=True)
class Score:
    """A mean over seeds with its 95 % bootstrap interval, which one seed has not."""

    mean: float
    low: float | None
    high: float | None
    seeds: int

    def __str__(self) -> str:
        ends = "" if self.low is None else f" ({self.low:.0f} to {self.high:.0f})"
        return f"{self.mean:.0f}{ends}"


def score_over_seeds(values: Sequence[float], *, resamples: int = 10_000) -> Score:
    """Return the mean of one value a seed, with its interval."""
    low, high = bootstrap_interval(values, resamples=resamples) if len(values) > 1 else (None, None)
    return Score(float(np.mean(values)), low, high, len(values))


class Estimate(NamedTuple):
    """A number, or one number for each threshold, and the ends of its bootstrap interval."""

    value: Float[np.ndarray, "*t"]
    low: Float[np.ndarray, "*t"]
    high: Float[np.ndarray, "*t"]


def mean(scores: Float[np.ndarray, "*b n"]) -> Float[np.ndarray, "*b"]:
    return np.asarray(scores.mean(-1))


def interquartile_mean(scores: Float[np.ndarray, "*b n"]) -> Float[np.ndarray, "*b"]:
    """Return the mean of the middle half: a quarter of the scores, rounded down, is left out at each end."""
    count = scores.shape[-1]
    tail = count // 4
    return np.asarray(np.sort(scores, -1)[..., tail : count - tail].mean(-1))


def optimality_gap(scores: Float[np.ndarray, "*b n"], target: float = 1.0) -> Float[np.ndarray, "*b"]:
    """Return by how much scores fall short of the target on average; what exceeds it does not count. Less is better."""
    return np.asarray((target - np.minimum(scores, target)).mean(-1))


def share_above(scores: Float[np.ndarray, "*b n"], thresholds: Float[np.ndarray, " t"]) -> Float[np.ndarray, "*b t"]:
    """Return the share of scores strictly above each threshold."""
    return np.stack([(scores > threshold).mean(-1) for threshold in thresholds], -1)


def aggregate(
    statistic: Callable[[Float[np.ndarray, "*b n"]], Float[np.ndarray, "*c"]],
    scores: Scores,
    *,
    confidence: float = 0.95,
    resamples: int = 5_000,
    seed: int = 0,
) -> Estimate:
    """Return a statistic of all scores together, with its interval by the bootstrap stratified by task.

    statistic: from scores on the last axis to numbers, whatever axes lead. Raises UserError where a task has no score.
    """
    _check(scores)
    rng = np.random.default_rng(seed)
    drawn = [task[rng.integers(len(task), size=(resamples, len(task)))] for task in scores]
    low, high = _percentiles(statistic(np.concatenate(drawn, -1)), confidence)
    return Estimate(statistic(np.concatenate(scores)), low, high)


def performance_profile(scores: Scores, thresholds: Float[np.ndarray, " t"], *, resamples: int = 5_000) -> Estimate:
    """Return the share of runs that score above each threshold, with pointwise intervals."""
    return aggregate(lambda drawn: share_above(drawn, thresholds), scores, resamples=resamples)


def probability_of_improvement(
    x: Scores, y: Scores, *, confidence: float = 0.95, resamples: int = 5_000, seed: int = 0
) -> Estimate:
    """Return P(a run of x beats a run of y on the same task), averaged over tasks; ties count half.

    On one task it is the Mann-Whitney U statistic over the number of pairs. x and y are drawn again independently.
    Raises UserError where they have different numbers of tasks, or a task has no score.
    """
    if len(x) != len(y):
        raise UserError(f"to be compared, both need the same tasks, not {len(x)} and {len(y)}")
    _check(x)
    _check(y)
    rng = np.random.default_rng(seed)
    value, drawn = np.zeros(()), np.zeros(resamples)
    for a, b in zip(x, y, strict=True):
        wins = (a[:, None] > b) + 0.5 * (a[:, None] == b)
        times_a = rng.multinomial(len(a), np.full(len(a), 1 / len(a)), resamples)  # how often each run is drawn
        times_b = rng.multinomial(len(b), np.full(len(b), 1 / len(b)), resamples)
        value = value + wins.mean() / len(x)
        drawn += ((times_a @ wins) * times_b).sum(-1) / (len(a) * len(b)) / len(x)
    return Estimate(value, *_percentiles(drawn, confidence))


def _percentiles(
    drawn: Float[np.ndarray, "r *t"], confidence: float
) -> tuple[Float[np.ndarray, "*t"], Float[np.ndarray, "*t"]]:
    tail = (1 - confidence) / 2
    low, high = np.quantile(drawn, [tail, 1 - tail], axis=0)
    return np.asarray(low), np.asarray(high)


def _check(scores: Scores) -> None:
    if not scores or not all(len(task) for task in scores):
        raise UserError("every task needs the score of at least one run")
