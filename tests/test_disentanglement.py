import json
import sys
from itertools import product

import numpy as np
import pytest
from scipy.special import ndtr, ndtri
from scipy.stats import entropy as entropy_of_shares
from sklearn.feature_selection import mutual_info_classif
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import log_loss, mutual_info_score

from alda.analysis.latents.disentanglement import (
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
    nmi_matrix,
    sap,
)
from alda.errors import UserError


def grid(values, sources, repeats=1):
    """Every combination of labels, equally often: independent and uniform, exactly."""
    return np.repeat(np.array(list(product(range(values), repeat=sources))), repeats, axis=0)


def uniform(n, d, seed=0):
    return np.random.default_rng(seed).uniform(-1, 1, (n, d))


def shares(trees):
    return [trees[f"dci_{name}"] for name in ("disentanglement", "completeness", "informativeness")]


def test_bins_follow_middle_ranks_and_never_split_ties():
    column = np.array([3.0, 0, 1, 0, 2, 0, 4, 0])  # middle ranks of four: 2 of 8, 4.5, 5.5, 6.5, 7.5
    assert discretise(column, 4).tolist() == [3, 1, 2, 1, 2, 1, 3, 1]
    distinct = uniform(1000, 2)
    for bins in (10, 20, 50):
        labels = discretise(distinct, bins)
        for column, label in zip(distinct.T, labels.T, strict=True):
            assert np.bincount(label).tolist() == [1000 // bins] * bins
            assert (np.diff(label[np.argsort(column)]) >= 0).all()
    counts = np.random.default_rng(0).poisson(1.0, 500).astype(float)
    assert all(len(set(discretise(counts, 20)[counts == value])) == 1 for value in set(counts))
    rare = np.array([0.0] * 999 + [1.0])
    assert len(set(discretise(rare, 2))) == len(set(discretise(-rare, 2))) == 2
    assert len(set(discretise(np.full(100, 0.1)))) == 1  # only a constant makes one bin


def test_neighbours_find_the_information_of_a_gaussian_channel():
    n, bins, correlation = 4000, 20, 0.8
    source, noise = np.random.default_rng(0).normal(size=(2, n))
    code = correlation * source + np.sqrt(1 - correlation**2) * noise
    label = discretise(source, bins)
    found = nmi_matrix(label[:, None], np.stack([5 * code - 3, noise[::-1], np.ones(n)], axis=1)) * entropy(label)

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
    assert found[0, 1] < 0.02
    assert found[0, 2] == 0


def coded(kind):
    """Labels, a code of them, and its NMI as it must be."""
    if kind == "own":  # renamed and in another order
        labels = grid(5, 3, repeats=4)
        return labels, np.array([3, 1, 4, 0, 2])[labels[:, [2, 0, 1]]], np.eye(3)[:, [2, 0, 1]]
    if kind == "rotated":  # the sum of two uniform labels is triangular; given one of them it is uniform
        labels = grid(8, 2, repeats=4)
        triangle = [min(i + 1, 15 - i) / 64 for i in range(15)]
        share = (entropy_of_shares(triangle) - np.log(8)) / np.log(8)
        return labels, np.stack([labels.sum(1), labels[:, 0] - labels[:, 1]], axis=1), np.full((2, 2), share)
    if kind == "twice":
        labels = grid(6, 2, repeats=6)
        return labels, labels[:, [0, 1, 0, 1]], np.eye(2)[:, [0, 1, 0, 1]]
    labels = grid(4, 2, repeats=4)  # together in one latent
    return labels, labels[:, :1] * 4 + labels[:, 1:], np.ones((2, 1))


@pytest.mark.parametrize(
    ("kind", "modularity", "compactness", "gap"),
    [("own", 1, 1, 1), ("rotated", 0, 0, 0), ("twice", 1, (1 / 2 - 1 / 4) / (1 - 1 / 4), 0), ("together", 0, 1, 1)],
)
def test_codes_of_labels_have_the_scores_of_the_closed_form(kind, modularity, compactness, gap):
    labels, code, expected = coded(kind)
    nmi = nmi_matrix(labels, code)
    np.testing.assert_allclose(nmi, expected, atol=1e-12)
    assert [infom(nmi), infoc(nmi), mig(nmi)] == pytest.approx([modularity, compactness, gap], abs=1e-12)
    assert infoe(labels, code, held_out=False).min() > 0.95


def test_scores_of_tables_by_hand():
    nmi = np.array([[0.6, 0.2], [0.3, 0.4]])
    assert infom(nmi) == pytest.approx((2 / 3 + 2 / 3) / 2 * 2 - 1)  # of columns: .6 of .9, .4 of .6
    assert infoc(nmi) == pytest.approx((3 / 4 + 4 / 7) / 2 * 2 - 1)  # of rows: .6 of .8, .4 of .7
    assert mig(nmi) == pytest.approx((0.4 + 0.1) / 2)
    assert infom(np.array([[0.5, 0.1]])) == 1  # a single source is the only one
    assert infom(np.array([[0.5, 0.0]])) == 0.5  # a latent about nothing counts as 0
    assert infom(np.zeros((3, 2))) == infoc(np.zeros((3, 2))) == infom(np.zeros((3, 0))) == infoc(np.zeros((3, 0))) == 0
    assert mig(np.array([[0.5], [0.3]])) == pytest.approx(0.4)


def test_noise_tells_nothing():
    rng = np.random.default_rng(7)
    n = 1000
    sources, indices, floats = uniform(n, 2), rng.integers(0, 6, (n, 4)), rng.normal(size=(n, 4))
    labels = discretise(sources, 8)
    floor = 7 * 5 / (2 * n) / np.log(8)
    assert nmi_matrix(labels, indices).mean() == pytest.approx(floor, rel=0.2)
    assert nmi_matrix(labels, floats).max() < 0.03
    for code in (indices, floats):
        assert infoe(labels, code, held_out=False).mean() > 0  # it learns the samples by heart
        assert infoe(labels, code, held_out=True).max() < 0.01
        assert infoe_regression(sources, code, held_out=True).max() < 0.02
        assert sap(sources, code) < 0.02
    trees = dci(sources, floats)
    assert trees["dci_informativeness"] < 0.02
    assert trees["dci_disentanglement"] < 0.1


@pytest.mark.parametrize("kind", ["indices", "floats"])
def test_explicitness_equals_regressions_in_full(kind):
    rng = np.random.default_rng(0)
    labels = (rng.random((300, 1)) ** 2 * 4).astype(int)  # uneven
    codes = np.stack([labels[:, 0] + rng.normal(size=300), 50 * rng.normal(size=300)], axis=1)
    features = (codes - codes.mean(0)) / codes.std(0)
    if kind == "indices":
        codes = np.concatenate([labels + rng.integers(0, 3, labels.shape), rng.integers(0, 2, labels.shape)], axis=1)
        features = np.concatenate([np.eye(6)[codes[:, 0]], np.eye(2)[codes[:, 1]]], axis=1)
    model = LogisticRegression(C=np.inf, class_weight="balanced", max_iter=100)
    losses = [log_loss(labels[:, 0], model.fit(x, labels[:, 0]).predict_proba(x)) for x in (features, 0 * features)]
    found = infoe(labels, codes, held_out=False)
    assert found == pytest.approx([1 - losses[0] / losses[1]], abs=1e-4)
    assert 0.1 < found[0] < 0.9
    design = np.concatenate([features, np.ones((300, 1))], axis=1)
    residual = labels - design @ np.linalg.lstsq(design, labels)[0]
    found = infoe_regression(labels.astype(float), codes, held_out=False)
    assert found == pytest.approx([1 - residual.var() / labels.var()])


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
    squares = np.sort([[np.corrcoef(source, code)[0, 1] ** 2 for code in codes.T] for source in sources.T])
    expected = (squares[:, -1] - squares[:, -2]).mean()
    assert sap(sources, codes) == pytest.approx(expected)
    assert sap(sources, np.concatenate([codes, np.full((300, 1), 0.1)], axis=1)) == pytest.approx(expected)


def test_dci_follows_from_the_importance_of_trees():
    sources = uniform(400, 2)
    codes = np.concatenate([sources @ np.array([[1, 0.3], [0.5, 1]]), uniform(400, 1, seed=1)], axis=1)
    found = dci(sources, codes)
    table = np.array(found["importance"])
    by_latent = [1 - entropy_of_shares(table[:, j], base=2) for j in range(3)]
    assert found["dci_disentanglement"] == pytest.approx(table.sum(0) / table.sum() @ by_latent)
    assert found["dci_completeness"] == pytest.approx(np.mean([1 - entropy_of_shares(row, base=3) for row in table]))
    assert 0.1 < min(shares(found)[:2]) < max(shares(found)[:2]) < 0.9
    assert found["dci_informativeness"] > 0.8


def test_active_indices_change_and_active_floats_span_enough():
    assert active_latents(np.array([[0, 5, 2], [1, 5, 2], [0, 5, 0]])).tolist() == [True, False, True]
    spans = np.array([[0.0, 0, 0, 7], [20, 1, 1.1, 7]])
    assert active_latents(spans).tolist() == [True, False, True, False]


@pytest.mark.parametrize("kind", ["indices", "floats"])
def test_a_measurement_is_its_parts_and_repeats(kind):
    n, names = 120, ["pitch", "sky", "knee"]
    sources = uniform(n, 3)
    sources[:, 1] = 0.1  # constant
    floats = np.concatenate([sources[:, [0, 2]] + 0.5 * uniform(n, 2, seed=1), np.full((n, 1), 0.3)], axis=1)
    floats[:, 2] += 1e-3 * uniform(n, 1, seed=2)[:, 0] * (kind == "floats")  # not quite dead
    codes = floats if kind == "floats" else discretise(floats, 9)
    found = measure(sources, codes, names=names, seed=3)
    assert json.loads(json.dumps(found, allow_nan=False)) == found
    assert measure(sources, codes, names=names, seed=3) == found
    assert (found["samples"], found["sources"], found["constant_sources"]) == (n, ["pitch", "knee"], ["sky"])
    assert found["active"] == [0, 1]

    varying = sources[:, [0, 2]]
    labels = discretise(varying)
    nmi = nmi_matrix(labels, codes, seed=3)
    assert found["nmi"] == nmi.tolist()
    assert (found["infom"], found["infoc"]) == (infom(nmi[:, :2]), infoc(nmi[:, :2]))
    assert found["infoe_by_source"] == infoe(labels, codes, held_out=True, seed=3).tolist()
    assert found["infoe"] == pytest.approx(infoe(labels, codes, held_out=False).mean())
    assert found["infoe_regression_held_out"] == infoe_regression(varying, codes, held_out=True, seed=3).mean()
    assert found["sap"] == sap(varying, codes)
    assert dci(varying, codes, seed=3).items() <= found.items()
    dependence = mutual_info_score(*labels.T) / np.log(20)
    np.testing.assert_allclose(found["source_nmi"], [[1, dependence], [dependence, 1]], atol=1e-12)
    assert found["one_to_one"]["mig"] == pytest.approx(1 - dependence)
    assert list(found["by_bins"]) == ["10", "20", "50"]
    assert found["by_bins"]["20"] == {name: found[name] for name in ("infom", "infoc", "mig")}
    binned = codes if kind == "indices" else discretise(codes, 10)
    label = discretise(varying, 10)
    information = np.sort([[mutual_info_score(s, z) / np.log(10) for z in binned.T] for s in label.T])
    assert found["by_bins"]["10"]["mig"] == pytest.approx((information[:, -1] - information[:, -2]).mean())


@pytest.mark.parametrize("dead", [np.full((100, 3), 4), np.full((100, 3), 0.1)])
def test_a_dead_encoder_scores_nothing(dead):
    found = measure(uniform(100, 2), dead, names=["x", "y"])
    assert json.dumps(found, allow_nan=False)
    assert found["active"] == []
    zeros = ("infom", "infoc", "mig", "sap", "dci_disentanglement", "dci_completeness")
    assert [found[name] for name in zeros] == [0] * 6
    assert abs(found["infoe"]) < 1e-6
    assert abs(found["infoe_held_out"]) < 1e-6


def test_what_cannot_be_measured_is_said(monkeypatch):
    codes = uniform(200, 2)
    with pytest.raises(UserError, match="no source varies"):
        measure(np.ones((200, 2)), codes, names=["x", "y"])
    with pytest.raises(UserError, match="at least 100"):
        measure(codes[:50], codes[:50], names=["x", "y"])
    monkeypatch.setitem(sys.modules, "sklearn.linear_model", None)
    with pytest.raises(UserError, match=r"pip install 'alda\[analysis\]'"):
        infoe(grid(2, 1, repeats=50), grid(2, 1, repeats=50), held_out=False)
