import json

import numpy as np
import pytest
from sklearn.linear_model import Ridge
from sklearn.metrics import mutual_info_score
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import OneHotEncoder, StandardScaler

from alda.analysis.latents.theorem import (
    LEVEL,
    against_null,
    bin_latent,
    delta_pi,
    delta_q,
    dependence,
    holm,
    measure,
    mixing_index,
    probe,
    shuffle_within,
    weighted,
)
from alda.errors import UserError

T1, T2, CMI = range(3)


def sources(n=3000, task=2, nuisance=3, seed=0):
    """Task sources, normal, and nuisance sources, uniform on [-1, 1]."""
    rng = np.random.default_rng(seed)
    return rng.standard_normal((n, task)), rng.uniform(-1, 1, (n, nuisance))


def by_loops(task, nuisance, bins):
    """t1, t2 and cmi, one bin and one pair at a time."""
    kept = [b for b in np.unique(bins) if (bins == b).sum() >= 5]
    total = sum((bins == b).sum() for b in kept)
    out = np.zeros((3, task.shape[1], nuisance.shape[1]))
    for b in kept:
        inside = bins == b
        for i in range(task.shape[1]):
            for j in range(nuisance.shape[1]):
                d, e = task[inside, i], nuisance[inside, j]
                levels = [np.digitize(x, np.quantile(x, [0.2, 0.4, 0.6, 0.8]), right=True) for x in (d, e)]
                values = abs(np.cov(d, e, ddof=0)[0, 1]), np.corrcoef(d, e)[0, 1] ** 2, mutual_info_score(*levels)
                out[:, i, j] += np.array(values) * inside.sum() / total
    return out


def test_statistics_equal_loops_over_bins_and_pairs():
    d, e = sources(600)
    bins = np.digitize(d[:, 0] + e[:, 1], [-2.5, -2, -1, 0, 0.1, 2, 3])
    found = dependence(d, e, bins, permutations=1)
    np.testing.assert_allclose(found.pairs, by_loops(d, e, bins), atol=1e-12)
    assert found.pairs[CMI].argmax() == 1  # d 0, e 1


@pytest.mark.parametrize("a", [0.2, 0.7, 1.0])
def test_mixed_gaussians_have_the_covariance_of_the_closed_form(a):
    d, e = np.random.default_rng(1).standard_normal((2, 4000, 1))
    found = dependence(d, e, bin_latent((d + a * e)[:, 0]), permutations=1)
    assert found.pairs[T1].item() == pytest.approx(a / (1 + a**2), abs=0.02)  # of d, e given d + a e


@pytest.mark.parametrize(("a", "t1"), [(0.7, 0.34), (0.2, 0.11)])
def test_mixed_latents_have_the_published_effect_and_are_rejected(a, t1):
    d, e = sources(4000, 1, 1)
    latents = np.tanh(np.hstack([d, e, d + a * e]))
    found = measure(d, e, latents, permutations=40)
    assert found["latents"]["t1"]["largest"][2] == pytest.approx(t1, abs=0.015)
    assert found["latents"]["t2"]["z"][2] > 100
    assert found["summary"]["rejected"] == found["summary"]["dependent"] == [2]


def test_pure_latents_stay_at_the_noise_floor():
    d, e = sources(4000)
    noise = np.random.default_rng(9).standard_normal((4000, 1))
    found = measure(d, e, np.hstack([d[:, :1] + 0.5 * noise, d[:, :1] * d[:, 1:], e[:, :1], noise]), permutations=50)
    assert found["summary"]["rejected"] == found["summary"]["dependent"] == []
    table = found["latents"]["t1"]
    np.testing.assert_allclose(table["largest_excess"], 0, atol=0.03)
    # the mean |covariance| of 200 independent samples, a little less where the latent tells of one of the sources
    np.testing.assert_allclose(table["mean_null"][-1], np.sqrt(2 / np.pi / 200), rtol=0.05)
    assert abs(np.array(found["latents"]["t2"]["z"])).max() < 3.5


def test_false_rejections_are_as_rare_as_the_level_says():
    p, rejected = [], 0
    for seed in range(8):
        d, e = sources(1000, seed=seed)
        few = np.digitize(d, [0.0, 0.5]), np.digitize(e, np.linspace(-1, 1, 12))  # nulls of different shapes
        found = measure(d, e, np.hstack(few), permutations=20, seed=seed)
        p += found["latents"]["t2"]["p"] + found["latents"]["cmi"]["p"]
        rejected += len(found["summary"]["rejected"]) + len(found["summary"]["dependent"])
    assert np.mean(p) == pytest.approx(0.5, abs=0.1)
    assert np.mean(np.array(p) < 0.1) < 0.2
    assert rejected <= 3  # 16 families at 0.05: four or more have a chance of 1 %


def test_dependence_without_covariance_is_seen_by_information_alone():
    d, e = np.random.default_rng(2).standard_normal((2, 4000, 1))
    found = measure(d, e, np.hstack([d, e, d**2 + e**2]), permutations=40)
    assert -0.04 < found["latents"]["t1"]["largest_excess"][2] < 0.01  # on a ring the noise floor itself is lower
    assert found["latents"]["cmi"]["largest_excess"][2] > 0.3
    assert 2 not in found["summary"]["rejected"]
    assert found["summary"]["dependent"] == [2]


def test_shuffling_leaves_the_contents_of_every_bin():
    bins = np.repeat([0, 1, 4], [3, 50, 7])
    order = shuffle_within(bins, np.random.default_rng(0))
    for b in (0, 1, 4):
        assert set(order[bins == b]) == set(np.flatnonzero(bins == b))
    assert (order[bins == 1] != np.flatnonzero(bins == 1)).sum() > 40
    places = np.array([shuffle_within(bins, np.random.default_rng(seed))[:3] for seed in range(600)])
    assert len(np.unique(places, axis=0)) == 6
    assert np.unique(places, axis=0, return_counts=True)[1].min() > 70  # of 100 for each of the six orders


def test_the_null_has_the_moments_of_permuted_samples():
    d, e = sources(1000, 1, 1)
    bins = np.repeat([0, 1, 2], [100, 300, 600])
    null = dependence(d, e, bins, permutations=400).null
    expected = (100 / 99 + 300 / 299 + 600 / 599) / 1000  # the mean of r^2 of n permuted pairs is 1 / (n - 1)
    error = null[:, T2, 0].std() / 20
    assert null[:, T2, 0].mean() == pytest.approx(expected, abs=3 * error)
    assert null[:, CMI, 0].mean() == pytest.approx(3 * 16 / 2 / 1000, rel=0.15)
    np.testing.assert_array_equal(null[..., 0], null[..., 1])  # one pair: its largest is its mean


def test_the_null_keeps_nuisance_sources_together():
    d, e = sources(500, 1, 1)
    null = dependence(d, np.hstack([e, e, -e]), np.zeros(500, int), permutations=5).null
    np.testing.assert_allclose(null[:, T2, 0], null[:, T2, 1])  # equal up to the sign: so are their correlations


def test_a_table_against_its_null_by_hand():
    pairs = np.array([[[3.0, 1.0]], [[5.0, 1.0]]])
    null = np.array([[[1.0, 0.5], [3.0, 1.5], [2.0, 1.0]], [[5.0, 3.0]] * 3])
    table = against_null(pairs, null)
    assert table["largest"] == [3, 5]
    assert table["largest_null"] == [2, 5]
    assert table["largest_excess"] == [1, 0]
    assert table["mean"] == [2, 3]
    assert table["mean_null"] == [1, 3]
    assert table["mean_excess"] == [1, 0]
    assert table["z"] == [1, 0]  # a constant null says nothing
    assert table["p"] == [2 / 4, 4 / 4]
    # With the observed value among them: of 1, 3, 2 and 3 the last is 0.78 spreads above the mean, as the second of the
    # null, while the first and third are below it; the other row is all 0. Reached by 1 of 6 and 4 of 6; Holm doubles
    # the smaller.
    assert table["p_holm"] == pytest.approx([4 / 7, 5 / 7])


def test_latents_of_a_true_null_are_rejected_as_seldom_as_promised():
    rng, families = np.random.default_rng(0), 300
    null = rng.gumbel(size=(families, 12, 21, 1, 1))  # of maxima, as over pairs of sources; one of 21 is the observed
    tables = [against_null(one[:, 0], np.repeat(one[:, 1:, 0], 2, axis=-1)) for one in null]
    rejected = np.mean([min(table["p_holm"]) <= LEVEL for table in tables])
    assert rejected < 0.09  # 5 % and three standard errors


def test_holm_by_hand():
    np.testing.assert_allclose(holm(np.array([0.01, 0.04, 0.03, 0.005])), [0.03, 0.06, 0.06, 0.02])
    np.testing.assert_allclose(holm(np.array([0.9, 0.4])), [0.9, 0.8])
    np.testing.assert_allclose(holm(np.array([0.7, 0.6])), [1, 1])


def test_indices_and_the_values_they_stand_for_give_the_same_numbers():
    d, e = sources(2000)
    index = np.digitize(d[:, :1] + e[:, :2], [-1.5, -0.8, -0.3, 0.0, 0.4, 1.0, 1.6])
    by_index, by_value = (measure(d, e, z, permutations=20) for z in (index, np.linspace(-1, 1, 8)[index]))
    assert by_index == by_value
    relabelled = measure(d, e, np.array([7, 90, 3, 5, 0, -4, 2, 6])[index], permutations=20)
    for name in ("t1", "t2", "cmi"):
        np.testing.assert_allclose(relabelled["latents"][name]["largest"], by_index["latents"][name]["largest"])


def test_equal_values_share_a_bin_and_bins_have_equal_frequency():
    assert np.bincount(bin_latent(np.random.default_rng(0).permutation(2000) / 2000)).tolist() == [100] * 20
    tied = np.repeat([0.0, 0.5, 1.0], [900, 90, 10])
    assert [len(np.unique(bin_latent(tied)[tied == value])) for value in (0.0, 0.5, 1.0)] == [1, 1, 1]
    assert len(np.unique(bin_latent(tied))) == 3  # what a rectified latent seldom says is still told from zero
    assert len(np.unique(bin_latent(np.ones(50)))) == 1
    index = np.array([3, 1, 1])
    assert bin_latent(index) is index


def test_small_bins_are_left_out_and_counted():
    d, e = sources(100)
    bins = np.repeat([0, 1, 2, 3], [90, 5, 4, 1])
    found = dependence(d, e, bins, permutations=1)
    assert (found.bins, found.left_out) == (2, pytest.approx(0.05))
    np.testing.assert_allclose(found.pairs, dependence(d[:95], e[:95], bins[:95], permutations=1).pairs)
    with pytest.raises(UserError, match="no bin of a latent has 5"):
        dependence(d, e, np.arange(100) // 4)


def test_a_source_that_is_constant_in_a_bin_correlates_with_nothing_there():
    d, e = sources(1000, 1, 1)
    d = np.where(np.arange(1000)[:, None] < 500, 0.1, d)
    bins = np.repeat([0, 1], 500)
    found = dependence(d, e, bins, permutations=1).pairs[T2].item()
    assert found == pytest.approx(np.corrcoef(d[500:, 0], e[500:, 0])[0, 1] ** 2 / 2)


def test_the_mixing_index_is_the_poorer_of_the_best_shares_of_entropy():
    d, e = sources(2000)
    levels = [np.digitize(x, np.quantile(x, np.arange(1, 20) / 20), right=True) for x in (d[:, 1], e[:, 2])]
    mixed = levels[0] // 10 + 2 * (levels[1] // 4)  # all that it says of e 2: which fifth, of 20ths
    assert mixing_index(d, e, mixed) == pytest.approx(
        min(mutual_info_score(s, mixed) / mutual_info_score(s, s) for s in levels)
    )
    assert mixing_index(d, e, levels[0]) < 0.05
    assert mixing_index(d, d[:, ::-1].copy(), levels[0]) == pytest.approx(1)


@pytest.mark.parametrize("indices", [True, False])
def test_probes_are_ridge_regressions_of_the_other_half(indices):
    d, e = sources(400)
    latents = 3 * d[:, :1] + e - 2
    if indices:
        latents = np.digitize(latents, np.linspace(-8, 4, 6))
        model = make_pipeline(OneHotEncoder(sparse_output=False), Ridge(2.0))
    else:
        model = make_pipeline(StandardScaler(), Ridge(2.0))
    estimates, r2 = probe(latents, d, penalty=2.0, seed=5)
    halves = np.array_split(np.random.default_rng(5).permutation(400), 2)
    for fit, held_out in (halves, halves[::-1]):
        np.testing.assert_allclose(estimates[held_out], model.fit(latents[fit], d[fit]).predict(latents[held_out]))
    assert r2[0] > 0.8
    assert r2[1] < 0.02  # nothing to find, and not found: in-sample it would be 5 %


def test_estimates_of_linearly_mixed_sources_covary_as_the_sources_do():
    d, e = np.random.default_rng(3).standard_normal((2, 3000, 1))
    latents = np.hstack([d + 0.7 * e, d - 0.3 * e])
    shy = 0.1 * probe(latents, e)[0]  # an estimate that hardly moves counts for little
    found = measure(d, e, latents, estimates=(probe(latents, d)[0], shy), permutations=20)
    expected = np.array([0.7 / 1.49, 0.3 / 1.09])
    np.testing.assert_allclose(found["estimates"]["t1"]["largest"], 0.1 * expected, atol=0.002)
    np.testing.assert_allclose(found["latents"]["t1"]["largest"], expected, atol=0.02)


def test_estimates_of_pure_latents_correlate_but_hardly_covary():
    d, e = sources(3000, 1, 1)
    latents = np.hstack([d, e]) + 0.3 * np.random.default_rng(4).standard_normal((3000, 2))
    estimates = probe(latents, d)[0], probe(latents, e)[0]
    found = measure(d, e, latents, estimates=estimates, permutations=20)
    assert found["summary"]["rejected"] == []
    assert max(found["estimates"]["t2"]["p_holm"]) < 0.05
    assert max(found["estimates"]["t1"]["largest"]) < 0.04


def test_a_measurement_is_json_and_its_seed_repeats_it():
    d, e = sources(2000)
    latents, said = np.hstack([d, e[:, :1], d[:, 1:] + e[:, 2:]]), []
    sensitivity = np.array([1.0, 0.0, 0.0, 3.0])
    found = measure(d, e, latents, sensitivity=sensitivity, permutations=20, seed=3, progress=said.append)
    assert json.loads(json.dumps(found, allow_nan=False)) == found
    assert found == measure(d, e, latents, sensitivity=sensitivity, permutations=20, seed=3)
    assert found["latents"]["t2"]["z"] != measure(d, e, latents, permutations=20, seed=4)["latents"]["t2"]["z"]
    assert found["latents"]["strongest"][3] == [1, 2]
    excess = found["latents"]["t1"]["largest_excess"]
    assert found["summary"]["t1_excess_weighted"] == pytest.approx((excess[0] + 3 * excess[3]) / 4)
    assert found["summary"]["t1_excess_largest"] == max(excess) == excess[3]
    assert (found["samples"], found["latents"]["bins"], found["estimates"]) == (2000, [20] * 4, None)
    assert said == [f"sources: latent {k} of 4" for k in (1, 2, 3, 4)]


def test_twenty_permutations_can_reject_one_of_many_latents():
    d, e = sources(500, 1, 1)
    latents = np.digitize(np.hstack([np.tile(d, 20), d + e]), [-1, 0, 1])
    assert 20 in measure(d, e, latents, permutations=20)["summary"]["rejected"]


def test_the_premise_by_hand():
    q, other = np.array([1.0, 3.0, 5.0, 7.0]), np.array([2.0, 3.0, 2.0, 7.0])
    assert delta_q(q, other) == pytest.approx(1 / np.sqrt(3.5))  # covariance 14 / 4
    assert delta_pi(np.array([[0.0, 0.0], [1.0, -1.0]]), np.array([[0.3, 0.4], [1.0, -1.0]])) == pytest.approx(0.25)
    assert weighted(np.array([0.1, 0.5, 0.9]), np.array([3.0, 1.0, 0.0])) == pytest.approx(0.2)


def test_what_cannot_be_measured_is_refused():
    d, e = sources(100)
    constant = np.hstack([d, np.full((100, 1), 0.1)])
    broken = d.copy()
    broken[3, 1] = np.nan
    with pytest.raises(UserError, match="task sources \\[2\\] are constant"):
        measure(constant, e, d)
    with pytest.raises(UserError, match="nuisance sources \\[2\\] are constant"):
        measure(d, constant, d)
    with pytest.raises(UserError, match="probed sources \\[2\\] are constant"):
        probe(d, constant)
    with pytest.raises(UserError, match="latents are not all finite"):
        measure(d, e, broken)
    with pytest.raises(UserError, match="task estimates are not all finite"):
        measure(d, e, d, estimates=(broken, e))
    with pytest.raises(UserError, match="take 20 or more"):
        measure(d, e, d, permutations=19)
    with pytest.raises(UserError, match="same value everywhere"):
        delta_q(np.ones(3), np.zeros(3))
    with pytest.raises(UserError, match="sensitive to no latent"):
        weighted(np.ones(3), np.zeros(3))
