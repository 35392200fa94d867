"""Disentanglement: how far each latent stands for one source, each source sits in one latent, and can be read out.

    sources [N, S] -> labels [N, S]   equal-frequency bins; integers are labels already
    labels, codes [N, Z] -> NMI [S, Z] -> InfoM, InfoC, MIG
    labels or sources, codes -> a regression per source -> InfoE, SAP, DCI

Codes are integers where a codebook has an index for each value, else floats. A softmax retrieval gives every sample a
float of its own: hand in the index of the nearest value. Mutual information does not care how indices are numbered;
SAP and DCI read them as numbers, so their order should be that of the values.

Sources that depend on each other cap InfoM, InfoC and MIG below 1, and so, with many sources, does the noise floor of
plug-in information: `Disentanglement.one_to_one` says what the labels would score as their own code. InfoM and InfoC
are ratios: of a code that informs about nothing they are ratios of noise, so read them beside the NMI.

InfoM, InfoC, InfoE: Hsu et al., 2023, "Disentanglement via Latent Quantization". MIG: Chen et al., 2018. SAP: Kumar et
al., 2018. DCI: Eastwood and Williams, 2018.
"""

import warnings
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
from jaxtyping import Bool, Float, Int, Real

from alda.analysis.libraries import sklearn
from alda.errors import UserError

NEIGHBOURS = 10
BIN_COUNTS = (10, 20, 50)
MIN_SAMPLES, MAX_VALUES = 100, 100


@dataclass(frozen=True)
class Disentanglement:
    """All scores of one set of samples; `dataclasses.asdict` of it is ready for JSON.

    S counts the sources that vary, Z all latents. Scores are 1 at best; held-out ones can be negative.
    """

    samples: int
    sources: list[str]  # rows of the tables below
    constant_sources: list[str]  # left out: there is nothing to know about them
    active: list[int]  # latents that InfoM and InfoC are about
    estimator: str  # of the mutual information in `nmi`
    bins: int
    seed: int
    infom: float
    infoc: float
    infoe: float  # in the samples it was fitted to, as published
    infoe_held_out: float
    infoe_regression: float | None  # None: the sources are labels
    infoe_regression_held_out: float | None
    mig: float
    sap: float
    dci_disentanglement: float
    dci_completeness: float
    dci_informativeness: float
    nmi: list[list[float]]  # [S][Z]
    importance: list[list[float]]  # [S][Z], of DCI
    infoe_by_source: list[float]  # [S], held out
    source_nmi: list[list[float]]  # [S][S], I(s_i; s_j) / H(s_i)
    one_to_one: dict[str, float]  # infom, infoc, mig of the labels as their own code
    by_bins: dict[str, dict[str, float]]  # number of bins -> infom, infoc, mig; one where the sources are labels


class DCI(NamedTuple):
    """disentanglement: of latents, by importance. completeness: of sources. informativeness: R^2 or accuracy."""

    disentanglement: float
    completeness: float
    informativeness: float
    importance: np.ndarray  # [S, Z], each row adds up to 1, or is 0 where nothing was of use


def measure(
    sources: Real[np.ndarray, "n s"],
    codes: Real[np.ndarray, "n z"],
    *,
    names: Sequence[str] | None = None,
    bins: int = 20,
    seed: int = 0,
    progress: Callable[[str], None] = lambda _: None,
) -> Disentanglement:
    """Every score of this file.

    sources: floats are continuous, integers are labels (at most 100 values each). codes: floats, or integers for
    indices of a codebook. names: of the sources. progress: is told what comes next.

    A source that never changes is left out and named. A latent that never changes informs about nothing; where all
    do so every score is 0, but for what DCI's informativeness and InfoE give a constant guess.

    Raises UserError without scikit-learn, with fewer than 100 samples, with values that are not finite, and where no
    source varies.
    """
    names = [f"source {i}" for i in range(sources.shape[1])] if names is None else list(names)
    assert len(names) == sources.shape[1], f"{len(names)} names for {sources.shape[1]} sources"
    _check(sources, codes, names)
    varies = np.ptp(sources, axis=0) > 0
    if not varies.any():
        raise UserError("no source varies in these samples; take them from more, or different, episodes")
    sources = sources[:, varies]
    active = active_latents(codes)

    labels = _labels(sources, bins)
    progress("dependence among sources")
    among = nmi_matrix(labels, labels)
    nmi, scores = {}, {}
    for count in sorted({bins, *BIN_COUNTS}) if _continuous(sources) else [bins]:
        progress(f"mutual information, {count} bins")
        binned = _labels(sources, count)
        nmi[count] = nmi_matrix(binned, codes, seed=seed)
        pruned = nmi[count][:, active]
        # MIG is defined on binned codes, whatever estimates the information of the others
        gap = mig(nmi_matrix(binned, _labels(codes, count)))
        scores[str(count)] = {"infom": infom(pruned), "infoc": infoc(pruned), "mig": gap}
    progress("InfoE")
    fitted = infoe(labels, codes, held_out=False)
    progress("InfoE, held out")
    held_out = infoe(labels, codes, held_out=True, seed=seed)
    line = line_held_out = None
    if _continuous(sources):
        progress("InfoE by regression")
        line = float(infoe_regression(sources, codes, held_out=False).mean())
        line_held_out = float(infoe_regression(sources, codes, held_out=True, seed=seed).mean())
    progress("SAP")
    separation = sap(sources, codes, seed=seed)
    trees = dci(sources, codes, seed=seed, progress=progress)
    return Disentanglement(
        samples=len(sources),
        sources=[name for name, kept in zip(names, varies, strict=True) if kept],
        constant_sources=[name for name, kept in zip(names, varies, strict=True) if not kept],
        active=np.flatnonzero(active).tolist(),
        estimator=f"{NEIGHBOURS} nearest neighbours" if _continuous(codes) else "plug-in",
        bins=bins,
        seed=seed,
        **scores[str(bins)],
        infoe=float(fitted.mean()),
        infoe_held_out=float(held_out.mean()),
        infoe_regression=line,
        infoe_regression_held_out=line_held_out,
        sap=separation,
        dci_disentanglement=trees.disentanglement,
        dci_completeness=trees.completeness,
        dci_informativeness=trees.informativeness,
        nmi=nmi[bins].tolist(),
        importance=trees.importance.tolist(),
        infoe_by_source=held_out.tolist(),
        source_nmi=among.tolist(),
        one_to_one={"infom": infom(among), "infoc": infoc(among), "mig": mig(among)},
        by_bins=scores,
    )


def discretise(x: Real[np.ndarray, " n"], bins: int = 20) -> Int[np.ndarray, " n"]:
    """The equal-frequency bin of each value, numbered from 0 without gaps, in the order of the values.

    Equal values share a bin, the one their middle rank falls into: few distinct values make few bins, and only a
    column that never changes makes one.
    """
    _, group, counts = np.unique(x, return_inverse=True, return_counts=True)
    middle = 2 * np.cumsum(counts) - counts  # twice the middle rank, so that it stays an integer
    return np.unique(middle * bins // (2 * len(x)), return_inverse=True)[1][group]


def entropy(*labels: Int[np.ndarray, " n"]) -> float:
    """Plug-in entropy of labels, joint where there are several, in nats."""
    joint = np.zeros(len(labels[0]), dtype=np.int64)
    for column in labels:
        values, index = np.unique(column, return_inverse=True)
        joint = joint * len(values) + index
    share = np.unique(joint, return_counts=True)[1] / len(joint)
    return max(0.0, float(-(share * np.log(share)).sum()))  # of a constant, plus zero


def mutual_information(a: Int[np.ndarray, " n"], b: Int[np.ndarray, " n"]) -> float:
    """Plug-in mutual information of labels in nats. Independent labels get about (|a| - 1)(|b| - 1) / 2N, not 0."""
    return max(0.0, entropy(a) + entropy(b) - entropy(a, b))


def nmi_matrix(
    labels: Int[np.ndarray, "n s"], codes: Real[np.ndarray, "n z"], *, seed: int = 0
) -> Float[np.ndarray, "s z"]:
    """I(s_i; z_j) / H(s_i): which share of what there is to know about source i latent j tells (Hsu et al., 2023).

    Indices: plug-in. Floats: from 10 nearest neighbours (Ross, 2014); columns that never change inform about nothing.
    Every source must vary.
    """
    if not _continuous(codes):
        information = np.array([[mutual_information(source, code) for code in codes.T] for source in labels.T])
    else:
        information = np.zeros((labels.shape[1], codes.shape[1]))
        varies = np.ptp(codes, axis=0) > 0
        if varies.any():
            features = _features(codes[:, varies])
            estimate = sklearn("feature_selection").mutual_info_classif
            options = {"discrete_features": False, "n_neighbors": NEIGHBOURS, "random_state": seed}
            information[:, varies] = [estimate(features, source, **options) for source in labels.T]
    return information / np.array([entropy(source) for source in labels.T])[:, None]


def active_latents(codes: Real[np.ndarray, "n z"]) -> Bool[np.ndarray, " z"]:
    """Which latents are in use: indices that change at all; floats that span over a twentieth of the widest."""
    spans = np.ptp(codes, axis=0)
    return spans > (spans.max(initial=0) / 20 if _continuous(codes) else 0)


def infom(nmi: Float[np.ndarray, "s a"]) -> float:
    """Modularity (Hsu et al., 2023): how far each active latent informs about one source only.

    0: about all alike; 1: about one each. A latent that informs about none counts as 0; no active latent gives 0.
    """
    return _concentration(nmi.T)


def infoc(nmi: Float[np.ndarray, "s a"]) -> float:
    """Compactness (Hsu et al., 2023): how far each source is informed about by one active latent only.

    0: by all alike; 1: by one each. A source that none informs about counts as 0; no active latent gives 0.
    """
    return _concentration(nmi)


def infoe(
    labels: Int[np.ndarray, "n s"], codes: Real[np.ndarray, "n z"], *, held_out: bool, seed: int = 0
) -> Float[np.ndarray, " s"]:
    """Explicitness of each source, InfoE being the mean (Hsu et al., 2023): 1 - H / H0.

    H is the log-loss in nats of a multinomial logistic regression without penalty, classes balanced, at most 100 steps,
    from all latents, active or not: one-hot indices or standardised floats. H0 is that of a regression that sees
    nothing: with classes balanced it guesses all alike, so log of their number. H is over the samples of the fit as
    published, or, held out, over the half that was not fitted; the latter can be negative.
    """
    model = sklearn("linear_model").LogisticRegression(C=np.inf, class_weight="balanced", max_iter=100, tol=1e-4)
    log_loss, features, found = sklearn("metrics").log_loss, _features(codes), []
    for source in labels.T:
        fit, test = _halves(source, seed) if held_out else (slice(None), slice(None))
        with warnings.catch_warnings():
            # a source that is read out perfectly has no best fit, only better ones
            warnings.simplefilter("ignore", sklearn("exceptions").ConvergenceWarning)
            model.fit(features[fit], source[fit])
        loss = log_loss(source[test], model.predict_proba(features[test]), labels=model.classes_)
        found.append(1 - loss / np.log(len(model.classes_)))
    return np.array(found)


def infoe_regression(
    sources: Float[np.ndarray, "n s"], codes: Real[np.ndarray, "n z"], *, held_out: bool, seed: int = 0
) -> Float[np.ndarray, " s"]:
    """Explicitness of each continuous source: R^2 of a linear regression from all latents (Hsu et al., 2023).

    One-hot indices or standardised floats; over the samples of the fit or, held out, over the other half.
    """
    features = _features(codes)
    if not _continuous(codes):
        features = features.toarray()  # what solves sparse systems errs where columns add up to a constant
    fit, test = _halves(np.zeros(len(codes)), seed) if held_out else (slice(None), slice(None))
    guess = sklearn("linear_model").LinearRegression().fit(features[fit], sources[fit]).predict(features[test])
    return sklearn("metrics").r2_score(sources[test], guess, multioutput="raw_values")


def mig(nmi: Float[np.ndarray, "s z"]) -> float:
    """Mutual information gap (Chen et al., 2018): NMI of the best latent of a source less that of the second best.

    Published for binned codes; `measure` takes as many equal-frequency bins as for the sources.
    """
    return _gap(nmi)


def sap(sources: Real[np.ndarray, "n s"], codes: Real[np.ndarray, "n z"], *, seed: int = 0) -> float:
    """Separated attribute predictability (Kumar et al., 2018): score of a source's best latent less the second best.

    The score of a latent alone is, for continuous sources, the squared correlation; for labels, the accuracy of a
    linear SVM (C = 0.01, classes balanced) on the half that was not fitted. Latents that never change score 0.
    """
    varies = np.ptp(codes, axis=0) > 0
    inputs = _standardised(codes[:, varies].astype(np.float64))
    if _continuous(sources):
        return _gap((_standardised(sources.astype(np.float64)).T @ inputs / len(inputs)) ** 2)
    model, scores = sklearn("svm").LinearSVC(C=0.01, class_weight="balanced"), []
    for source in sources.T:
        fit, test = _halves(source, seed)
        columns = [inputs[:, [j]] for j in range(inputs.shape[1])]
        scores.append([model.fit(x[fit], source[fit]).score(x[test], source[test]) for x in columns])
    return _gap(np.array(scores))


def dci(
    sources: Real[np.ndarray, "n s"],
    codes: Real[np.ndarray, "n z"],
    *,
    seed: int = 0,
    progress: Callable[[str], None] = lambda _: None,
) -> DCI:
    """Disentanglement, completeness, informativeness (Eastwood and Williams, 2018), from the importances of trees.

    Continuous sources: gradient boosting, 100 trees of depth 3, as is usual. Labels: 100 extremely randomised trees of
    at least 5 samples a leaf, because boosting would grow a tree a class a round. Fitted to one half; informativeness
    is the mean R^2 or accuracy on the other. A row or column without importance counts as 0.
    """
    ensemble, importance, scores = sklearn("ensemble"), [], []
    for i, source in enumerate(sources.T):
        progress(f"DCI, source {i + 1} of {sources.shape[1]}")
        if _continuous(sources):
            trees, fold = ensemble.GradientBoostingRegressor(random_state=seed), discretise(source)
        else:
            # all latents are open to every split: where few are, some must fall on latents of no use
            options = {"min_samples_leaf": 5, "max_features": None, "random_state": seed}
            trees, fold = ensemble.ExtraTreesClassifier(100, **options), source
        fit, test = _halves(fold, seed)
        trees.fit(codes[fit], source[fit])
        importance.append(trees.feature_importances_)
        scores.append(trees.score(codes[test], source[test]))
    table = np.array(importance)
    weights = table.sum(0) / max(table.sum(), 1e-12)
    return DCI(
        disentanglement=float(weights @ _certainty(table.T)),
        completeness=float(_certainty(table).mean()),
        informativeness=float(np.mean(scores)),
        importance=table,
    )


def _labels(x: Real[np.ndarray, "n d"], bins: int) -> Int[np.ndarray, "n d"]:
    return np.stack([discretise(column, bins) for column in x.T], axis=1) if _continuous(x) else x.astype(int)


def _continuous(x: np.ndarray) -> bool:
    return not np.issubdtype(x.dtype, np.integer)


def _concentration(rows: Float[np.ndarray, "r c"]) -> float:
    """Mean share of the largest entry of each row: 0 where all entries are alike, 1 where only one is not 0."""
    if rows.size == 0:
        return 0.0
    totals, even = rows.sum(1), 1 / rows.shape[1]
    if even == 1:  # a single entry is the only one, if it is anything
        return float(np.mean(totals > 0))
    share = np.divide(rows.max(1), totals, out=np.full(len(rows), even), where=totals > 0)
    return float((share.mean() - even) / (1 - even))


def _certainty(rows: Float[np.ndarray, "r c"]) -> Float[np.ndarray, " r"]:
    """1 less the entropy of each row, as a share of the largest possible; 0 for rows of zeros."""
    totals = rows.sum(1, keepdims=True)
    share = np.divide(rows, totals, out=np.zeros_like(rows), where=totals > 0)
    spread = -(share * np.log(np.where(share > 0, share, 1))).sum(1) / np.log(max(rows.shape[1], 2))
    return np.where(totals[:, 0] > 0, 1 - spread, 0.0)


def _gap(scores: Float[np.ndarray, "s z"]) -> float:
    """Mean over rows of the largest score less the second; a score that is not there is 0."""
    ranked = np.sort(np.pad(scores, ((0, 0), (2, 0))), axis=1)
    return float((ranked[:, -1] - ranked[:, -2]).mean())


def _features(codes: np.ndarray) -> Any:
    """What a linear model reads, [N, features]: indices as one-hot columns, a sparse matrix; floats standardised."""
    if _continuous(codes):
        return _standardised(codes.astype(np.float64))
    return sklearn("preprocessing").OneHotEncoder().fit_transform(codes).tocsr()


def _standardised(x: np.ndarray) -> np.ndarray:
    """Columns of mean 0 and deviation 1; those that never change are 0."""
    deviation = x.std(0)
    return (x - x.mean(0)) / np.where(np.ptp(x, axis=0) > 0, deviation, 1)


def _halves(labels: np.ndarray, seed: int) -> tuple[np.ndarray, np.ndarray]:
    """Samples to fit and samples to test: every second one of each label, in random order.

    What is fitted has seen every label, and is the larger half where a label has an odd number of samples.
    """
    rng = np.random.default_rng([seed, len(labels)])  # no stream that the samples themselves may have been drawn from
    order = np.lexsort((rng.permutation(len(labels)), labels))
    ranked = labels[order]
    place = np.arange(len(labels)) - np.searchsorted(ranked, ranked)  # within its label
    return order[place % 2 == 0], order[place % 2 == 1]


def _check(sources: np.ndarray, codes: np.ndarray, names: Sequence[str]) -> None:
    if len(sources) != len(codes):
        raise UserError(f"{len(sources)} samples of sources and {len(codes)} of codes: they must be of the same states")
    if len(sources) < MIN_SAMPLES:
        raise UserError(f"{len(sources)} samples say nothing about disentanglement; take at least {MIN_SAMPLES}")
    if not np.isfinite(codes).all():
        raise UserError("codes are not finite: the encoder has diverged; measure an earlier checkpoint")
    if not np.isfinite(sources).all():
        raise UserError("sources are not finite; leave those samples out")
    if not _continuous(sources):
        for name, column in zip(names, sources.T, strict=True):
            if len(np.unique(column)) > MAX_VALUES:
                raise UserError(f"{name} has over {MAX_VALUES} labels; if it is a number, give sources as floats")
