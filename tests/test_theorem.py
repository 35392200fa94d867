import json

import numpy as np
import pytest
import torch
from conftest import SPEC, make_agent
from sklearn.linear_model import Ridge
from sklearn.metrics import mutual_info_score
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import OneHotEncoder, StandardScaler

from alda.analysis.latents.disentanglement import bin_codes
from alda.analysis.latents.probes import estimate_sources
from alda.analysis.latents.readout import still
from alda.analysis.latents.theorem import (
    against_null,
    delta_q,
    dependence,
    holm,
    measure,
    measure_premise,
    mixing_index,
    q_of_code,
    shuffle_within,
    weighted,
)
from alda.config import Config
from alda.errors import UserError
from alda.policy import Policy

T1, T2, CMI = range(3)


def sources(n=3000, task=2, nuisance=3, seed=0):
    """Task sources, normal, and nuisance sources, uniform on [-1, 1]."""
    rng = np.random.default_rng(seed)
    return rng.standard_normal((n, task)), rng.uniform(-1, 1, (n, nuisance))


def levels_of(x, count):
    """The bin of each value by its middle rank among all."""
    return [int(((x < value).mean() + (x == value).mean() / 2) * count) for value in x]


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
                levels = [levels_of(x, 5) for x in (d, e)]
                values = abs(np.cov(d, e, ddof=0)[0, 1]), np.corrcoef(d, e)[0, 1] ** 2, mutual_info_score(*levels)
                out[:, i, j] += np.array(values) * inside.sum() / total
    return out


def test_statistics_equal_loops_over_bins_and_pairs():
    d, e = sources(601)
    bins = np.digitize(d[:, 0] + e[:, 1], [-2.5, -2, -1, 0, 0.1, 2, 3])
    found = dependence(d, e, bins, permutations=1)
    np.testing.assert_allclose(found.pairs, by_loops(d, e, bins), atol=1e-12)
    assert found.pairs[CMI].argmax() == 1  # d 0, e 1


@pytest.mark.parametrize(("a", "t1"), [(0.7, 0.34), (0.2, 0.11)])
def test_mixed_latents_have_the_published_effect_and_are_rejected(a, t1):
    d, e = sources(4000, 1, 1)
    latents = np.tanh(np.hstack([d, e, d + a * e]))
    found = measure(d, e, latents, permutations=40)
    assert found["latents"]["t1"]["largest"][2] == pytest.approx(t1, abs=0.015)
    assert found["latents"]["t2"]["z"][2] > 100
    assert found["summary"]["rejected"] == found["summary"]["dependent"] == [2]


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


def test_shuffling_gives_every_order_within_each_bin():
    bins = np.repeat([0, 1, 4], [3, 50, 7])
    order = shuffle_within(bins, np.random.default_rng(0))
    for b in (0, 1, 4):
        assert set(order[bins == b]) == set(np.flatnonzero(bins == b))
    assert (order[bins == 1] != np.flatnonzero(bins == 1)).sum() > 40
    places = np.array([shuffle_within(bins, np.random.default_rng(seed))[:3] for seed in range(600)])
    assert np.unique(places, axis=0, return_counts=True)[1][:6].min() > 70  # of 100 for each of the six orders


def test_the_null_has_the_moments_of_permuted_samples():
    d, e = (x / x.std() for x in sources(1000, 1, 1))
    bins = np.repeat([0, 1, 2], [100, 300, 600])
    null = dependence(d, np.hstack([e, -e]), bins, permutations=400).null
    expected = (100 / 99 + 300 / 299 + 600 / 599) / 1000  # the mean of r^2 of n permuted pairs is 1 / (n - 1)
    assert null[:, T2, 0].mean() == pytest.approx(expected, abs=3 * null[:, T2, 0].std() / 20)
    expected = sum(n / 1000 * np.sqrt(2 / np.pi / n) for n in (100, 300, 600))  # the mean |covariance| of n samples
    assert null[:, T1, 0].mean() == pytest.approx(expected, rel=0.1)
    assert null[:, CMI, 0].mean() == pytest.approx(3 * 16 / 2 / 1000, rel=0.15)
    np.testing.assert_allclose(null[:, T2, 0], null[:, T2, 1])  # rows stay whole: both correlate alike


def test_a_table_against_its_null_by_hand():
    pairs = np.array([[[3.0, 1.0]], [[5.0, 1.0]]])
    null = np.array([[[1.0, 0.5], [3.0, 1.5], [2.0, 1.0]], [[5.0, 3.0]] * 3])
    expected = {
        "largest": [3, 5],
        "largest_null": [2, 5],
        "largest_excess": [1, 0],
        "mean": [2, 3],
        "mean_null": [1, 3],
        "mean_excess": [1, 0],
        "z": [1, 0],  # a constant null says nothing
        "p": [2 / 4, 4 / 4],
        # With the observed value among them: of 1, 3, 2 and 3 the last is 0.78 spreads above the mean, as the second of
        # the null, while the first and third are below it; the other row is all 0. Reached by 1 of 6 and 4 of 6; Holm
        # doubles the smaller.
        "p_holm": pytest.approx([4 / 7, 5 / 7]),
    }
    assert against_null(pairs, null) == expected
    np.testing.assert_allclose(holm(np.array([0.01, 0.04, 0.03, 0.005])), [0.03, 0.06, 0.06, 0.02])
    np.testing.assert_allclose(holm(np.array([0.7, 0.6])), [1, 1])


def test_indices_and_the_values_they_stand_for_give_the_same_numbers():
    d, e = sources(2000)
    index = np.digitize(d[:, :1] + e[:, :2], [-1.5, -0.8, -0.3, 0.0, 0.4, 1.0, 1.6])
    by_index, by_value = (measure(d, e, z, permutations=20) for z in (index, np.linspace(-1, 1, 8)[index]))
    assert by_index == by_value
    tied = np.repeat([0.0, 0.5, 1.0], [900, 90, 10])  # what a rectified latent seldom says is still told from zero
    assert len(np.unique(bin_codes(tied))) == 3


def test_small_bins_are_left_out_and_constants_correlate_with_nothing():
    d, e = sources(100)
    bins = np.repeat([0, 1, 2, 3], [90, 5, 4, 1])
    found = dependence(d, e, bins, permutations=1)
    assert (found.bins, found.left_out) == (2, pytest.approx(0.05))
    np.testing.assert_allclose(found.pairs, dependence(d[:95], e[:95], bins[:95], permutations=1).pairs)
    with pytest.raises(UserError, match="no bin of a latent has 5"):
        dependence(d, e, np.arange(100) // 4)
    d[:50] = 0.1
    found = dependence(d, e, np.repeat([0, 1], 50), permutations=1).pairs[T2, 0, 0]
    assert found == pytest.approx(np.corrcoef(d[50:, 0], e[50:, 0])[0, 1] ** 2 / 2)


def test_the_mixing_index_is_the_poorer_of_the_best_shares_of_entropy():
    d, e = sources(2000)
    levels = [np.array(levels_of(x, 20)) for x in (d[:, 1], e[:, 2])]
    mixed = levels[0] // 10 + 2 * (levels[1] // 4)  # all that it says of e 2: which fifth, of 20ths
    assert mixing_index(d, e, mixed) == pytest.approx(
        min(mutual_info_score(s, mixed) / mutual_info_score(s, s) for s in levels)
    )
    assert mixing_index(d, e, levels[0]) < 0.05
    assert mixing_index(d, d[:, ::-1].copy(), levels[0]) == pytest.approx(1)


@pytest.mark.parametrize("indices", [True, False])
def test_estimates_are_ridge_regressions_of_the_other_half(indices):
    d, e = sources(400)
    latents = 3 * d[:, :1] + e - 2
    if indices:
        latents = np.digitize(latents, np.linspace(-8, 4, 6))
        model = make_pipeline(OneHotEncoder(sparse_output=False), Ridge(1.0))
    else:
        model = make_pipeline(StandardScaler(), Ridge(1.0))
    estimates, r2 = estimate_sources(latents, d, seed=5)
    halves = np.array_split(np.random.default_rng(5).permutation(400), 2)
    for fit, held_out in (halves, halves[::-1]):
        np.testing.assert_allclose(estimates[held_out], model.fit(latents[fit], d[fit]).predict(latents[held_out]))
    assert r2[0] > 0.8
    assert r2[1] < 0.02  # nothing to find, and not found: in-sample it would be 5 %


def test_estimates_of_linearly_mixed_sources_covary_as_the_sources_do():
    d, e = np.random.default_rng(3).standard_normal((2, 3000, 1))
    latents = np.hstack([d + 0.7 * e, d - 0.3 * e])
    shy = 0.1 * estimate_sources(latents, e)[0]  # an estimate that hardly moves counts for little
    found = measure(d, e, latents, estimates=(estimate_sources(latents, d)[0], shy), permutations=20)
    expected = np.array([0.7 / 1.49, 0.3 / 1.09])
    np.testing.assert_allclose(found["estimates"]["t1"]["largest"], 0.1 * expected, atol=0.002)
    np.testing.assert_allclose(found["latents"]["t1"]["largest"], expected, atol=0.02)


def test_a_measurement_is_json_and_its_seed_repeats_it():
    d, e = sources(2000)
    latents, sensitivity = np.hstack([d, e[:, :1], d[:, 1:] + e[:, 2:]]), np.array([1.0, 0.0, 0.0, 3.0])
    found = measure(d, e, latents, sensitivity=sensitivity, permutations=20, seed=3)
    assert json.loads(json.dumps(found, allow_nan=False)) == found
    assert found == measure(d, e, latents, sensitivity=sensitivity, permutations=20, seed=3)
    assert found["latents"]["t2"]["z"] != measure(d, e, latents, permutations=20, seed=4)["latents"]["t2"]["z"]
    assert found["latents"]["strongest"][3] == [1, 2]
    excess = found["latents"]["t1"]["largest_excess"]
    assert found["summary"]["t1_excess_weighted"] == pytest.approx((excess[0] + 3 * excess[3]) / 4)
    assert found["summary"]["t1_excess_largest"] == max(excess) == excess[3]
    assert (found["samples"], found["latents"]["bins"], found["estimates"]) == (2000, [20] * 4, None)


@pytest.mark.parametrize("name", ["alda", "alda channels", "sac_ae", "darla"])
def test_q_of_a_code_is_q_of_frames_that_have_it(name, replay):
    method, *channels = name.split()
    agent = make_agent(method, **({"stack": "channels", "embed_dim": 12} if channels else {}))
    obs = replay.sample(4).obs[:, -1:].expand(-1, 3, -1, -1, -1)
    action = torch.rand(4, SPEC.action_dim)
    with torch.no_grad():
        code = agent.latents(obs).code
        expected = agent.critic(agent.representation(obs), action).amin(0)
        torch.testing.assert_close(q_of_code(agent, code, action, 3), expected, rtol=1e-4, atol=1e-5)


def test_the_premise_is_measured_on_the_same_action():
    q, other = np.array([1.0, 3.0, 5.0, 7.0]), np.array([2.0, 3.0, 2.0, 7.0])
    assert delta_q(q, other) == pytest.approx(1 / np.sqrt(3.5))  # covariance 14 / 4
    assert weighted(np.array([0.1, 0.5, 0.9]), np.array([3.0, 1.0, 0.0])) == pytest.approx(0.2)
    agent = make_agent("sac")
    policy = Policy(agent, Config(agent=agent.config), SPEC, 0)
    frame, elsewhere = np.random.default_rng(0).integers(0, 256, (2, 6, 3, 64, 64), dtype=np.uint8)
    premise, _ = measure_premise(policy, frame, frame)
    assert premise == {"delta_q": 0, "delta_pi": 0}
    agent.actor.policy[-1].weight.data *= 10  # so that the action depends on what is seen
    premise, sensitivity = measure_premise(policy, frame, elsewhere)
    assert premise["delta_pi"] > 0.02
    with torch.no_grad():
        features, others = (agent.representation(still(part, policy)) for part in (frame, elsewhere))
        action, turned = (agent.actor(part).mode for part in (features, others))
        q, changed = (agent.critic(part, action).amin(0).double().numpy() for part in (features, others))
        assert premise["delta_q"] == pytest.approx(delta_q(q, changed), rel=1e-5)
        assert premise["delta_pi"] == pytest.approx((turned - action).norm(dim=1).mean().item())
        code = agent.latents(still(frame, policy)).code.double()
        agent.double()
        step = torch.zeros_like(code)
        step[:, 3] = 1e-6
        up, down = (q_of_code(agent, code + sign * step, action.double(), 3) for sign in (1, -1))
        slope = ((up - down) / 2e-6).abs().mean() * code[:, 3].std()
    assert sensitivity[3] == pytest.approx(slope.item(), rel=1e-3)


def test_what_cannot_be_measured_is_refused():
    d, e = sources(100)
    constant = np.hstack([d, np.full((100, 1), 0.1)])
    with pytest.raises(UserError, match="task sources \\[2\\] are constant"):
        measure(constant, e, d)
    with pytest.raises(UserError, match="same value everywhere"):
        delta_q(np.ones(3), np.zeros(3))
    with pytest.raises(UserError, match="sensitive to no latent"):
        weighted(np.ones(3), np.zeros(3))
