import inspect
import json
import sys
from dataclasses import asdict
from itertools import product

import numpy as np
import pytest
from scipy.special import ndtr, ndtri
from scipy.stats import entropy as entropy_of_shares
from sklearn.feature_selection import mutual_info_classif
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import log_loss, mutual_info_score

from alda.analysis.latents.disentangle import (
    active_latents,
    dci,
    discretise,
    entropy,
    infoc,
    infoe,
    infoe_regression,
    infom,
    measure,
    mig,
    mutual_information,
    nmi_matrix,
    sap,
)
from alda.errors import UserError


def grid(values, sources, repeats=1):
    """Every combination of labels, equally often: independent and uniform, exactly."""
    return np.repeat(np.array(list(product(range(values), repeat=sources))), repeats, axis=0)


def uniform(n, d, seed=0):
    return np.random.default_rng(seed).uniform(-1, 1, (n, d))


def labels_of(sources, bins=20):
    return np.stack([discretise(column, bins) for column in sources.T], axis=1)


def brute_force_information(a, b):
    total = 0.0
    for x in set(a.tolist()):
        for y in set(b.tolist()):
            both, left, right = np.mean((a == x) & (b == y)), np.mean(a == x), np.mean(b == y)
            total += both * np.log(both / (left * right)) if both else 0.0
    return total


def test_bins_of_a_hand_made_column():
    column = np.array([3.0, 0, 1, 0, 2, 0, 4, 0])  # middle ranks of four: 2 of 8, 4.5, 5.5, 6.5, 7.5
    assert discretise(column, 4).tolist() == [2, 0, 1, 0, 1, 0, 2, 0]


def test_bins_are_equally_full_and_follow_the_order():
    column = uniform(1000, 1)[:, 0]
    for bins in (10, 20, 50):
        label = discretise(column, bins)
        assert np.bincount(label).tolist() == [1000 // bins] * bins
        assert (np.diff(label[np.argsort(column)]) >= 0).all()


def test_bins_never_split_ties_and_only_a_constant_makes_one():
    column = np.random.default_rng(0).poisson(1.0, 500).astype(float)
    label = discretise(column, 20)
    assert all(len(set(label[column == value])) == 1 for value in set(column))
    rare = np.array([0.0] * 999 + [1.0])
    assert set(discretise(rare, 2)) == set(discretise(-rare, 2)) == {0, 1}
    assert set(discretise(np.full(100, 0.1))) == {0}


def test_entropy_of_hand_made_shares_in_nats():
    assert entropy(np.array([0, 0, 1, 5])) == pytest.approx(0.5 * np.log(2) + 0.5 * np.log(4))
    assert entropy(np.array([0, 0, 1, 1]), np.array([0, 1, 0, 1])) == pytest.approx(np.log(4))
    assert entropy(np.zeros(9, dtype=int)) == 0


def test_mutual_information_equals_a_double_loop_and_sklearn():
    rng = np.random.default_rng(0)
    for spread in (1, 4, 100):
        a = rng.integers(0, 7, 300)
        b = a * 3 - rng.integers(0, spread, 300)
        assert mutual_information(a, b) == pytest.approx(brute_force_information(a, b), abs=1e-12)
        assert mutual_information(a, b) == pytest.approx(mutual_info_score(a, b), abs=1e-12)


def test_neighbours_find_the_information_of_a_gaussian_channel():
    n, bins, correlation = 4000, 20, 0.8
    source, noise = np.random.default_rng(0).normal(size=(2, n))
    code = correlation * source + np.sqrt(1 - correlation**2) * noise
    label = discretise(source, bins)
    found = nmi_matrix(label[:, None], np.stack([5 * code - 3, noise, np.ones(n)], axis=1)) * entropy(label)

    # density of the code in each bin of the source, integrated: what is left of the closed form after binning
    z, step = np.linspace(-7, 7, 4001, retstep=True)
    edges = (ndtri(np.linspace(0, 1, bins + 1))[:, None] - correlation * z) / np.sqrt(1 - correlation**2)
    normal = np.exp(-(z**2) / 2) / np.sqrt(2 * np.pi)
    density = np.maximum(bins * normal * np.diff(ndtr(edges), axis=0), 1e-300)
    binned = (density * np.log(density / normal)).sum() * step / bins
    closed_form = -0.5 * np.log(1 - correlation**2)
    assert 0.9 * closed_form < binned < closed_form
    assert found[0, 0] == pytest.approx(binned, abs=0.03)
    published = mutual_info_classif(code[:, None], label, discrete_features=False, n_neighbors=10)
    assert found[0, 0] == pytest.approx(published[0], abs=1e-3)
    unrelated = nmi_matrix(label[:, None], noise[::-1, None].copy())
    assert unrelated[0, 0] < 0.01
    assert found[0, 2] == 0


def test_labels_that_are_their_own_code_are_disentangled():
    labels = grid(5, 3, repeats=4)
    code = np.array([3, 1, 4, 0, 2])[labels[:, [2, 0, 1]]]
    nmi = nmi_matrix(labels, code)
    np.testing.assert_allclose(nmi, np.eye(3)[:, [2, 0, 1]], atol=1e-12)
    assert infom(nmi) == pytest.approx(1)
    assert infoc(nmi) == pytest.approx(1)
    assert mig(nmi) == pytest.approx(1)
    assert infoe(labels, code, held_out=False).min() > 0.99
    assert infoe(labels, code, held_out=True).min() > 0.99
    trees = dci(labels, code)
    assert min(trees[:3]) > 0.98


def test_a_continuous_code_of_its_own_is_disentangled():
    sources = uniform(800, 3)
    codes = sources[:, ::-1] ** 3
    labels = labels_of(sources, 10)
    nmi = nmi_matrix(labels, codes)
    np.testing.assert_allclose(nmi, np.eye(3)[::-1], atol=0.05)
    assert infom(nmi) > 0.95
    assert infoc(nmi) > 0.95
    assert infoe_regression(sources, codes, held_out=False).mean() == pytest.approx(21 / 25, abs=0.01)  # of s from s^3
    trees = dci(sources, codes)
    assert min(trees[:3]) > 0.95


def test_a_rotated_code_tells_as_much_about_either_source():
    k = 8
    labels = grid(k, 2, repeats=4)
    code = np.stack([labels.sum(1), labels[:, 0] - labels[:, 1]], axis=1)
    nmi = nmi_matrix(labels, code)
    # the sum of two uniform labels is triangular; given one of them it is uniform
    triangle = [min(i + 1, 2 * k - 1 - i) / k**2 for i in range(2 * k - 1)]
    expected = (entropy_of_shares(triangle) - np.log(k)) / np.log(k)
    np.testing.assert_allclose(nmi, np.full((2, 2), expected), atol=1e-12)
    assert infom(nmi) == pytest.approx(0, abs=1e-12)
    assert infoc(nmi) == pytest.approx(0, abs=1e-12)
    assert mig(nmi) == pytest.approx(0, abs=1e-12)
    assert infoe(labels, code, held_out=False).min() > 0.95  # -(s - (a + b) / 2)^2 is additive in a and b, for each s


def test_a_rotation_by_hand_counts_in_between():
    nmi = np.array([[0.6, 0.2], [0.3, 0.4]])
    assert infom(nmi) == pytest.approx((2 / 3 + 2 / 3) / 2 * 2 - 1)  # of columns: .6 of .9, .4 of .6
    assert infoc(nmi) == pytest.approx((3 / 4 + 4 / 7) / 2 * 2 - 1)  # of rows: .6 of .8, .4 of .7
    assert mig(nmi) == pytest.approx((0.4 + 0.1) / 2)


def test_sources_in_two_latents_each_are_modular_but_not_compact():
    labels = grid(6, 2, repeats=6)
    code = labels[:, [0, 1, 0, 1]]
    nmi = nmi_matrix(labels, code)
    assert infom(nmi) == pytest.approx(1)
    assert infoc(nmi) == pytest.approx((1 / 2 - 1 / 4) / (1 - 1 / 4))
    assert mig(nmi) == pytest.approx(0, abs=1e-12)
    assert sap(labels.astype(float), code) == pytest.approx(0, abs=1e-12)
    trees = dci(labels.astype(float), code)
    assert trees.disentanglement > 0.99
    assert 0.49 < trees.completeness < 0.65  # 1/2 where the trees share out evenly: 1 - log 2 / log 4


def test_all_sources_in_one_latent_are_compact_but_not_modular():
    joint = grid(4, 3, repeats=2)  # the third column is independent of both sources
    labels = joint[:, :2]
    code = np.stack([labels[:, 0] * 4 + labels[:, 1], joint[:, 2]], axis=1)
    nmi = nmi_matrix(labels, code)
    np.testing.assert_allclose(nmi, [[1, 0], [1, 0]], atol=1e-12)
    one = nmi[:, :1]
    assert infom(one) == pytest.approx(0, abs=1e-12)
    assert infoc(one) == 1
    assert infoc(nmi) == pytest.approx(1)
    assert mig(nmi) == pytest.approx(1)
    assert infoe(labels, code, held_out=False).min() > 0.99


def test_one_source_is_the_only_one_a_latent_can_be_about():
    assert infom(np.array([[0.5, 0.1]])) == 1
    assert infom(np.array([[0.5, 0.0]])) == 0.5  # a latent about nothing counts as 0
    assert infom(np.zeros((3, 2))) == infoc(np.zeros((3, 2))) == infom(np.zeros((3, 0))) == infoc(np.zeros((3, 0))) == 0
    assert mig(np.array([[0.5], [0.3]])) == pytest.approx(0.4)


def test_noise_tells_nothing():
    rng = np.random.default_rng(7)
    n = 1000
    sources, indices, floats = uniform(n, 2), rng.integers(0, 6, (n, 4)), rng.normal(size=(n, 4))
    labels = labels_of(sources, 8)
    floor = 7 * 5 / (2 * n) / np.log(8)
    assert nmi_matrix(labels, indices).mean() == pytest.approx(floor, rel=0.2)
    assert nmi_matrix(labels, floats).max() < 0.03
    for code in (indices, floats):
        assert infoe(labels, code, held_out=False).mean() > 0  # it learns the samples by heart
        assert infoe(labels, code, held_out=True).max() < 0.01
        assert infoe_regression(sources, code, held_out=True).max() < 0.02
        assert sap(sources, code) < 0.02
    trees = dci(sources, floats)
    assert trees.informativeness < 0.02
    assert trees.disentanglement < 0.1
    assert mig(nmi_matrix(labels, indices)) < 0.01


def test_the_order_of_sources_and_latents_and_the_names_of_indices_do_not_matter():
    rng = np.random.default_rng(0)
    sources = uniform(400, 3)
    mixed = sources @ np.array([[1, 0.2, 0, 0], [0, 1, 0.5, 0], [0, 0, 0.5, 1]])
    codes = labels_of(mixed, 8)
    rows, columns = [2, 0, 1], [3, 1, 0, 2]
    labels = labels_of(sources, 5)
    nmi = nmi_matrix(labels, codes)
    renamed = np.stack([rng.permutation(8)[column] for column in codes.T], axis=1) * 7
    np.testing.assert_allclose(nmi_matrix(labels, renamed), nmi, atol=1e-12)
    moved = nmi_matrix(labels[:, rows], codes[:, columns])
    np.testing.assert_allclose(moved, nmi[np.ix_(rows, columns)], atol=1e-12)
    for score in (infom, infoc, mig):
        assert 0.05 < score(nmi) < 0.95
        assert score(moved) == pytest.approx(score(nmi), abs=1e-12)
    for held_out in (False, True):
        explicit = infoe(labels, codes, held_out=held_out)
        again = infoe(labels[:, rows], renamed[:, columns], held_out=held_out)
        np.testing.assert_allclose(again, explicit[rows], atol=0.02)  # the solver stops at 100 steps
        line = infoe_regression(sources, codes, held_out=held_out)
        again = infoe_regression(sources[:, rows], renamed[:, columns], held_out=held_out)
        np.testing.assert_allclose(again, line[rows], atol=1e-4)
    assert sap(sources[:, rows], codes[:, columns]) == pytest.approx(sap(sources, codes), abs=1e-12)
    trees, other = dci(sources, codes), dci(sources[:, rows], codes[:, columns])
    np.testing.assert_allclose(other.importance, trees.importance[np.ix_(rows, columns)], atol=0.02)
    np.testing.assert_allclose(other[:3], trees[:3], atol=0.02)


def test_explicitness_equals_two_regressions_in_full():
    rng = np.random.default_rng(0)
    labels = (rng.random((300, 1)) ** 2 * 4).astype(int)  # uneven
    code = np.concatenate([labels + rng.integers(0, 3, labels.shape), rng.integers(0, 2, labels.shape)], axis=1)
    floats = np.stack([labels[:, 0] + rng.normal(size=300), 50 * rng.normal(size=300)], axis=1)
    one_hot = np.concatenate([np.eye(6)[code[:, 0]], np.eye(2)[code[:, 1]]], axis=1)
    for codes, features in ((code, one_hot), (floats, (floats - floats.mean(0)) / floats.std(0))):
        model = LogisticRegression(C=np.inf, class_weight="balanced", max_iter=100)
        losses = [log_loss(labels[:, 0], model.fit(x, labels[:, 0]).predict_proba(x)) for x in (features, 0 * features)]
        found = infoe(labels, codes, held_out=False)
        assert found == pytest.approx([1 - losses[0] / losses[1]], abs=1e-4)
        assert 0.1 < found[0] < 0.9


def test_regression_equals_least_squares():
    sources, codes = uniform(400, 2), uniform(400, 3, seed=1)
    codes[:, :2] += sources
    design = np.concatenate([codes, np.ones((400, 1))], axis=1)
    for i, found in enumerate(infoe_regression(sources, codes, held_out=False)):
        residual = sources[:, i] - design @ np.linalg.lstsq(design, sources[:, i])[0]
        assert found == pytest.approx(1 - residual.var() / sources[:, i].var())


def test_held_out_samples_are_not_fitted_and_every_label_is():
    labels = np.concatenate([np.arange(30), np.repeat([0, 1], 60)])[:, None]  # 28 of them once
    assert infoe(labels, labels, held_out=True)[0] > 0.99  # a label that was not fitted would raise
    # an index for each sample is known by heart, and of no help with the other half
    labels, own = np.arange(90)[:, None] % 3, np.arange(90)[:, None]
    assert infoe(labels, own, held_out=False)[0] > 0.9
    assert infoe(labels, own, held_out=True)[0] < 0.01
    assert infoe_regression(labels.astype(float), own, held_out=False)[0] > 0.99
    assert infoe_regression(labels.astype(float), own, held_out=True)[0] < 0.01


def test_sap_is_a_gap_of_squared_correlations():
    sources, codes = uniform(300, 3), uniform(300, 5, seed=1)
    codes[:, :3] += sources @ np.array([[1, 0.5, 0], [0, 1, 0.5], [0.3, 0, 1]])
    gaps = []
    for source in sources.T:
        squares = sorted(np.corrcoef(source, code)[0, 1] ** 2 for code in codes.T)
        gaps.append(squares[-1] - squares[-2])
    dead = np.concatenate([codes, np.full((300, 1), 0.1)], axis=1)
    assert sap(sources, codes) == pytest.approx(np.mean(gaps))
    assert sap(sources, dead) == pytest.approx(np.mean(gaps))


def test_sap_of_labels_is_a_gap_of_accuracies():
    labels = grid(2, 2, repeats=100)
    noise = np.random.default_rng(0).normal(size=(400, 2))
    code = np.concatenate([2 * labels + 0.05 * noise, noise], axis=1)
    assert sap(labels, code) == pytest.approx(0.5, abs=0.1)  # 1 less guessing


def test_dci_follows_from_the_importance_of_trees():
    sources = uniform(400, 2)
    codes = np.concatenate([sources @ np.array([[1, 0.3], [0.5, 1]]), uniform(400, 1, seed=1)], axis=1)
    found = dci(sources, codes)
    table = found.importance
    by_latent = [1 - entropy_of_shares(table[:, j], base=2) for j in range(3)]
    share = table.sum(0) / table.sum()
    assert found.disentanglement == pytest.approx(sum(share * by_latent))
    assert found.completeness == pytest.approx(np.mean([1 - entropy_of_shares(row, base=3) for row in table]))
    assert 0.1 < found.disentanglement < 0.9
    assert 0.1 < found.completeness < 0.9
    assert found.informativeness > 0.8


def test_active_indices_change_and_active_floats_span_enough():
    assert active_latents(np.array([[0, 5, 2], [1, 5, 2], [0, 5, 0]])).tolist() == [True, False, True]
    spans = np.array([[0.0, 0, 0, 7], [20, 1, 1.1, 7]])
    assert active_latents(spans).tolist() == [True, False, True, False]
    assert not active_latents(np.zeros((5, 2))).any()


@pytest.mark.parametrize("kind", ["indices", "floats"])
def test_a_measurement_is_its_parts_and_repeats(kind):
    n = 120
    sources = uniform(n, 3)
    sources[:, 1] = 0.1  # constant
    floats = np.concatenate([sources[:, [0, 2]] + 0.5 * uniform(n, 2, seed=1), np.full((n, 1), 0.3)], axis=1)
    floats[:, 2] += 1e-3 * uniform(n, 1, seed=2)[:, 0] * (kind == "floats")  # not quite dead
    codes = floats if kind == "floats" else labels_of(floats, 9)
    told = []
    found = measure(sources, codes, names=["pitch", "sky", "knee"], seed=3, progress=told.append)
    assert json.loads(json.dumps(asdict(found), allow_nan=False)) == asdict(found)
    assert measure(sources, codes, names=["pitch", "sky", "knee"], seed=3) == found
    assert (found.samples, found.sources, found.constant_sources) == (n, ["pitch", "knee"], ["sky"])
    assert found.active == [0, 1]
    assert told[-1] == "DCI, source 2 of 2"

    varying = sources[:, [0, 2]]
    labels = labels_of(varying)
    nmi = nmi_matrix(labels, codes, seed=3)
    assert found.nmi == nmi.tolist()
    assert found.infom == infom(nmi[:, :2])
    assert found.infoc == infoc(nmi[:, :2])
    assert found.infoe_by_source == infoe(labels, codes, held_out=True, seed=3).tolist()
    assert found.infoe_held_out == pytest.approx(np.mean(found.infoe_by_source))
    assert found.infoe == pytest.approx(infoe(labels, codes, held_out=False).mean())
    assert found.infoe_regression_held_out == infoe_regression(varying, codes, held_out=True, seed=3).mean()
    assert found.sap == sap(varying, codes, seed=3)
    trees = dci(varying, codes, seed=3)
    assert (found.dci_disentanglement, found.dci_completeness, found.dci_informativeness) == trees[:3]
    assert found.importance == trees.importance.tolist()
    dependence = mutual_info_score(labels[:, 0], labels[:, 1]) / np.log(20)
    np.testing.assert_allclose(found.source_nmi, [[1, dependence], [dependence, 1]], atol=1e-12)
    assert found.one_to_one["mig"] == pytest.approx(1 - dependence)
    assert list(found.by_bins) == ["10", "20", "50"]
    assert found.by_bins["20"] == {"infom": found.infom, "infoc": found.infoc, "mig": found.mig}
    gaps = []
    for source in varying.T:
        label = discretise(source, 10)
        binned = [code if kind == "indices" else discretise(code, 10) for code in codes.T]
        information = sorted(mutual_info_score(label, code) / np.log(10) for code in binned)
        gaps.append(information[-1] - information[-2])
    assert found.by_bins["10"]["mig"] == pytest.approx(np.mean(gaps))


def test_labels_as_sources_have_nothing_to_bin():
    labels = grid(3, 2, repeats=20).astype(np.uint8)
    found = measure(labels, labels[:, ::-1].astype(np.float32))
    assert json.dumps(asdict(found), allow_nan=False)
    assert found.by_bins == {"20": {"infom": found.infom, "infoc": found.infoc, "mig": 1.0}}
    assert found.infoe_regression is found.infoe_regression_held_out is None
    assert found.dci_informativeness == 1
    assert found.sources == ["source 0", "source 1"]


@pytest.mark.parametrize(
    ("sources", "dead"),
    [
        (uniform(100, 2), np.full((100, 3), 4)),
        (uniform(100, 2), np.full((100, 3), 0.1)),
        (grid(3, 2, repeats=12), np.full((108, 3), 0.1)),
    ],
)
def test_a_dead_encoder_scores_nothing(sources, dead):
    found = measure(sources, dead)
    assert json.dumps(asdict(found), allow_nan=False)
    assert found.active == []
    zeros = (found.infom, found.infoc, found.mig, found.sap, found.dci_disentanglement, found.dci_completeness)
    assert zeros == (0,) * 6
    assert abs(found.infoe) < 1e-6
    assert abs(found.infoe_held_out) < 1e-6


def test_what_cannot_be_measured_is_said():
    sources, codes = uniform(200, 2), uniform(200, 2, seed=1)
    with pytest.raises(UserError, match="no source varies"):
        measure(np.ones((200, 2)), codes)
    with pytest.raises(UserError, match="200 samples of sources and 199 of codes"):
        inspect.unwrap(measure)(sources, codes[1:])  # the shape hints would stop it first
    with pytest.raises(UserError, match="at least 100"):
        measure(sources[:50], codes[:50])
    with pytest.raises(UserError, match="the encoder has diverged"):
        measure(sources, np.where(codes > 0.9, np.nan, codes))
    with pytest.raises(UserError, match="leave those samples out"):
        measure(np.where(sources > 0.9, np.inf, sources), codes)
    with pytest.raises(UserError, match="x has over 100 labels"):
        measure(np.arange(200)[:, None], codes, names=["x"])


def test_without_sklearn_the_remedy_is_said(monkeypatch):
    monkeypatch.setitem(sys.modules, "sklearn.linear_model", None)
    with pytest.raises(UserError, match=r"pip install 'alda\[analysis\]'"):
        infoe(grid(2, 1, repeats=50), grid(2, 1, repeats=50), held_out=False)
