from itertools import product

import numpy as np
import pytest
from scipy import stats as scipy_stats

from alda.analysis import stats
from alda.analysis.stats import aggregate, interquartile_mean, optimality_gap, performance_profile, share_above
from alda.errors import UserError
from alda.training.rollout import bootstrap_interval


def table(tasks=3, seeds=5, seed=0):
    return list(np.random.default_rng(seed).random((tasks, seeds)))


def test_hand_made_scores():
    scores = np.array([0.0, 0.2, 0.4, 0.6, 0.8, 1.0, 1.2, 9.0])
    assert interquartile_mean(scores) == pytest.approx((0.4 + 0.6 + 0.8 + 1.0) / 4)
    assert optimality_gap(scores) == pytest.approx((1 + 0.8 + 0.6 + 0.4 + 0.2) / 8)
    assert optimality_gap(scores, 0.5) == pytest.approx((0.5 + 0.3 + 0.1) / 8)
    assert share_above(scores, np.array([0.0, 0.2, 0.7, 9.0])).tolist() == [7 / 8, 6 / 8, 4 / 8, 0]


@pytest.mark.parametrize("count", [1, 2, 3, 4, 5, 7, 20])
def test_interquartile_mean_is_that_of_scipy(count):
    scores = np.random.default_rng(count).random((6, count))
    np.testing.assert_allclose(interquartile_mean(scores), scipy_stats.trim_mean(scores, 0.25, axis=-1))


def test_tasks_are_strata():
    far_apart = [np.zeros(4), np.full(4, 100.0), np.full(2, 7.0)]
    found = aggregate(stats.mean, far_apart, resamples=200)  # drawn across tasks, the mean would move
    assert float(found.low) == float(found.high) == float(found.value) == pytest.approx(414 / 10)


def test_stratified_interval_is_that_of_all_resamples():
    scores = [np.array([0.1, 0.5, 0.9]), np.array([0.3, 0.4])]
    pools = [a + b for a in product(scores[0], repeat=3) for b in product(scores[1], repeat=2)]
    ends = np.quantile(scipy_stats.trim_mean(pools, 0.25, axis=1), [0.2, 0.8])
    found = aggregate(interquartile_mean, scores, resamples=8_000, confidence=0.6)
    assert [float(found.low), float(found.high)] == pytest.approx(ends, abs=0.034)  # they lie 1/30 apart


def test_profile_is_a_falling_share_within_its_interval():
    scores, thresholds = table(), np.linspace(0, 1, 11)
    found = performance_profile(scores, thresholds, resamples=500)
    by_hand = [sum(score > t for task in scores for score in task) / 15 for t in thresholds]
    np.testing.assert_allclose(found.value, by_hand)
    assert (np.diff(found.value) <= 0).all()
    assert (found.low <= found.value).all()
    assert (found.value <= found.high).all()


def test_improvement_is_the_u_statistic_of_every_task():
    rng = np.random.default_rng(3)
    x = [rng.integers(0, 4, n).astype(float) for n in (5, 3)]  # integers: ties
    y = [rng.integers(0, 4, n).astype(float) for n in (4, 6)]
    by_scipy = [scipy_stats.mannwhitneyu(a, b).statistic / (len(a) * len(b)) for a, b in zip(x, y, strict=True)]
    assert float(stats.probability_of_improvement(x, y).value) == pytest.approx(np.mean(by_scipy))


@pytest.mark.parametrize(
    ("x", "y"), [([1.0, 4.0, 5.0], [2.0, 4.0]), ([3.0], [1.0, 2.0, 4.0]), ([1.0, 4.0, 5.0], [3.0])]
)
def test_improvement_interval_is_that_of_all_resamples(x, y):
    pairs = product(product(x, repeat=len(x)), product(y, repeat=len(y)))
    drawn = [np.mean([(p > q) + (p == q) / 2 for p in a for q in b]) for a, b in pairs]
    found = stats.probability_of_improvement([np.array(x)], [np.array(y)], confidence=0.6, resamples=8_000)
    assert (float(found.low), float(found.high)) == pytest.approx(tuple(np.quantile(drawn, [0.2, 0.8])))
    assert found.low < found.high
    assert float(found.value) == pytest.approx(np.mean([(p > q) + (p == q) / 2 for p in x for q in y]))


def test_same_seed_same_interval_and_one_run_has_none():
    scores = table()
    once, again, other = (aggregate(stats.mean, scores, resamples=300, seed=seed) for seed in (0, 0, 1))
    assert once == again
    assert once != other
    alone = aggregate(stats.mean, [np.array([0.3])], resamples=50)
    assert float(alone.low) == float(alone.high) == pytest.approx(0.3)


def test_what_cannot_be_compared_is_refused():
    with pytest.raises(UserError, match="the same tasks, not 3 and 2"):
        stats.probability_of_improvement(table(3), table(2))
    with pytest.raises(UserError, match="at least one run"):
        aggregate(stats.mean, [np.ones(2), np.ones(0)])


def test_intervals_are_of_95_percent():
    """As the normal approximation, which holds for the mean of many numbers."""
    values = np.random.default_rng(0).uniform(size=400)
    low, high = bootstrap_interval(values.tolist())
    assert (high - low) / 2 == pytest.approx(1.96 * values.std() / 20, rel=0.03)
    assert bootstrap_interval(values.tolist(), confidence=0.9)[0] > low
