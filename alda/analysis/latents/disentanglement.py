"""Disentanglement: whether each latent stands for one source, each source sits in one latent, and can be read out.

    sources [N, S] -> labels [N, S]   equal-frequency bins
    labels, codes [N, Z] -> NMI [S, Z] -> InfoM, InfoC, MIG
    labels or sources, codes -> a regression per source -> InfoE, SAP, DCI

Codes are integers where a codebook has an index for each value (that of the nearest one, for a softmax retrieval), else
floats. SAP and DCI read indices as numbers, so their order should be that of the values.

Sources that depend on each other cap InfoM, InfoC and MIG below 1, and so does the noise floor of plug-in information:
`one_to_one` is what the labels would score as their own code. InfoM and InfoC of a code that informs about nothing are
ratios of noise, so read them beside the NMI.

InfoM, InfoC, InfoE: Hsu et al., 2023, "Disentanglement via Latent Quantization". MIG: Chen et al., 2018. SAP: Kumar et
al., 2018. DCI: Eastwood and Williams, 2018.
"""

import warnings
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
from jaxtyping import Bool, Float, Int, Real
from scipy.special import entr
from scipy.stats import entropy as entropy_of_counts
from scipy.stats import rankdata

from alda.analysis.libraries import new_figure, sklearn
from alda.errors import UserError

NEIGHBOURS = 10
BIN_COUNTS = (10, 20, 50)
BINS = 20  # of the scores outside by_bins
MIN_SAMPLES = 100
SCORES = {  # as tables and figures name them
    "infom": "InfoM",
    "infoc": "InfoC",
    "infoe_held_out": "InfoE, held out",
    "mig": "MIG",
    "sap": "SAP",
    "dci_disentanglement": "DCI D",
    "dci_completeness": "DCI C",
    "dci_informativeness": "DCI I",
}


def measure(
    sources: Float[np.ndarray, "n s"],
    codes: Real[np.ndarray, "n z"],
    *,
    names: Sequence[str],
    seed: int = 0,
    progress: Callable[[str], None] = lambda _: None,
) -> dict[str, Any]:
    """Return every score of this file, ready for JSON; 1 is best, held-out scores can be negative.

    infoe and infoe_regression are in-sample, as published; _held_out is the other half of the samples. active: latents
    that InfoM and InfoC are about. nmi, importance (of DCI): tables [S][Z]. source_nmi: I(s_i; s_j) / H(s_i). Sources
    that never change are left out and listed in constant_sources. progress: is told what comes next.

    Raises UserError without scikit-learn, with fewer than 100 samples, and where no source varies.
    """
    if len(sources) < MIN_SAMPLES:
        raise UserError(f"{len(sources)} samples are too few for disentanglement; take at least {MIN_SAMPLES}")
    varies = np.ptp(sources, axis=0) > 0
    if not varies.any():
        raise UserError("no source varies in these samples; take them from more, or different, episodes")
    sources, active, labels = sources[:, varies], active_latents(codes), discretise(sources[:, varies], BINS)

    nmi, by_bins = {}, {}
    for count in BIN_COUNTS:
        progress(f"mutual information, {count} bins")
        binned = discretise(sources, count)
        nmi[count] = nmi_matrix(binned, codes, seed=seed)
        pruned = nmi[count][:, active]
        # MIG is defined on binned codes, whatever estimates the information of the others
        gap = mig(nmi_matrix(binned, bin_codes(codes, count)))
        by_bins[str(count)] = {"infom": infom(pruned), "infoc": infoc(pruned), "mig": gap}
    among = nmi_matrix(labels, labels)
    progress("InfoE")
    explicit = infoe(labels, codes, held_out=True, seed=seed)
    return {
        "samples": len(sources),
        "sources": [name for name, kept in zip(names, varies, strict=True) if kept],
        "constant_sources": [name for name, kept in zip(names, varies, strict=True) if not kept],
        "active": np.flatnonzero(active).tolist(),
        "estimator": f"{NEIGHBOURS} nearest neighbours" if is_continuous(codes) else "plug-in",
        "bins": BINS,
        "seed": seed,
        **by_bins[str(BINS)],
        "infoe": float(infoe(labels, codes, held_out=False).mean()),
        "infoe_held_out": float(explicit.mean()),
        "infoe_regression": float(infoe_regression(sources, codes, held_out=False).mean()),
        "infoe_regression_held_out": float(infoe_regression(sources, codes, held_out=True, seed=seed).mean()),
        "sap": sap(sources, codes),
        **dci(sources, codes, seed=seed, progress=progress),
        "nmi": nmi[BINS].tolist(),
        "infoe_by_source": explicit.tolist(),
        "source_nmi": among.tolist(),
        "one_to_one": {"infom": infom(among), "infoc": infoc(among), "mig": mig(among)},
        "by_bins": by_bins,
    }


def discretise(x: Real[np.ndarray, "n *s"], bins: int = BINS) -> Int[np.ndarray, "n *s"]:
    """Return the equal-frequency bin of each value within its column, in the order of the values.

    Equal values share a bin, the one their middle rank falls into; only a column that never changes makes one bin.
    """
    return ((2 * rankdata(x, axis=0) - 1) * bins // (2 * len(x))).astype(int)


def bin_codes(codes: Real[np.ndarray, "n *z"], bins: int = BINS) -> Int[np.ndarray, "n *z"]:
    """Return equal-frequency bins of floats, and indices as they are."""
    return discretise(codes, bins) if is_continuous(codes) else codes


def entropy(labels: Int[np.ndarray, " n"]) -> float:
    """Return the plug-in entropy of labels in nats."""
    return float(entropy_of_counts(np.unique(labels, return_counts=True)[1]))


def mutual_information(a: Int[np.ndarray, " n"], b: Int[np.ndarray, " n"]) -> float:
    """Return plug-in mutual information in nats. Independent labels get about (|a| - 1)(|b| - 1) / 2N, not 0."""
    return float(sklearn("metrics").mutual_info_score(a, b))


def nmi_matrix(
    labels: Int[np.ndarray, "n s"], codes: Real[np.ndarray, "n z"], *, seed: int = 0
) -> Float[np.ndarray, "s z"]:
    """Return I(s_i; z_j) / H(s_i), the share of source i's entropy that latent j tells (Hsu et al., 2023).

    Indices: plug-in. Floats: from 10 nearest neighbours (Ross, 2014); columns that never change inform about nothing.
    Every source must vary.
    """
    if not is_continuous(codes):
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
    """Return which latents are in use: indices that change at all; floats that span over a twentieth of the widest."""
    spans = np.ptp(codes, axis=0)
    return spans > (spans.max(initial=0) / 20 if is_continuous(codes) else 0)


def infom(nmi: Float[np.ndarray, "s a"]) -> float:
    """Return modularity (Hsu et al., 2023): 1 where each active latent informs about one source, 0 where about all."""
    return infoc(nmi.T)


def infoc(nmi: Float[np.ndarray, "s a"]) -> float:
    """Return compactness (Hsu et al., 2023): 1 where one active latent informs about each source, 0 where all do.

    It is the mean share of the largest entry of each row, less that of even entries. A row of zeros counts as 0.
    """
    if nmi.size == 0:
        return 0.0
    totals, even = nmi.sum(1), 1 / nmi.shape[1]
    if even == 1:  # a single entry is the only one, if it is anything
        return float(np.mean(totals > 0))
    share = np.divide(nmi.max(1), totals, out=np.full(len(nmi), even), where=totals > 0)
    return float((share.mean() - even) / (1 - even))


def infoe(
    labels: Int[np.ndarray, "n s"], codes: Real[np.ndarray, "n z"], *, held_out: bool, seed: int = 0
) -> Float[np.ndarray, " s"]:
    """Return the explicitness of each source, 1 - H / H0 (Hsu et al., 2023); InfoE is their mean.

    H is the log-loss in nats of a multinomial logistic regression without penalty, classes balanced, at most 100 steps,
    from all latents: one-hot indices or standardised floats. H0, without latents, is the log of the number of classes.
    H is over the samples of the fit as published, or, held out, over the half that was not fitted.
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
    """Return the explicitness of each source as R^2 of a linear regression from all latents (Hsu et al., 2023).

    It is over the samples of the fit or, held out, over the other half.
    """
    features = _features(codes)
    if not is_continuous(codes):
        features = features.toarray()  # what solves sparse systems errs where columns add up to a constant
    fit, test = _halves(np.zeros(len(codes)), seed) if held_out else (slice(None), slice(None))
    guess = sklearn("linear_model").LinearRegression().fit(features[fit], sources[fit]).predict(features[test])
    return sklearn("metrics").r2_score(sources[test], guess, multioutput="raw_values")


def mig(nmi: Float[np.ndarray, "s z"]) -> float:
    """Return the mutual information gap (Chen et al., 2018): the largest NMI of a source less the second, mean over
    sources. A latent that is not there has an NMI of 0."""
    ranked = np.sort(np.pad(nmi, ((0, 0), (2, 0))), axis=1)
    return float((ranked[:, -1] - ranked[:, -2]).mean())


def sap(sources: Float[np.ndarray, "n s"], codes: Real[np.ndarray, "n z"]) -> float:
    """Return separated attribute predictability (Kumar et al., 2018): the gap of squared correlations in place of NMI.
    Latents that never change correlate with nothing."""
    return mig((_standardised(sources).T @ _standardised(codes) / len(codes)) ** 2)


def dci(
    sources: Float[np.ndarray, "n s"],
    codes: Real[np.ndarray, "n z"],
    *,
    seed: int = 0,
    progress: Callable[[str], None] = lambda _: None,
) -> dict[str, Any]:
    """Return disentanglement, completeness, informativeness (Eastwood and Williams, 2018), and importances [S][Z].

    Importances are those of gradient boosting with 100 trees of depth 3, fitted to one half of the samples;
    informativeness is the mean R^2 on the other. A row or column without importance counts as 0.
    """
    importance, scores = [], []
    for i, source in enumerate(sources.T):
        progress(f"DCI, source {i + 1} of {sources.shape[1]}")
        trees = sklearn("ensemble").GradientBoostingRegressor(random_state=seed)
        fit, test = _halves(discretise(source), seed)
        trees.fit(codes[fit], source[fit])
        importance.append(trees.feature_importances_)
        scores.append(trees.score(codes[test], source[test]))
    table = np.array(importance)
    weights = table.sum(0) / max(table.sum(), 1e-12)
    return {
        "dci_disentanglement": float(weights @ _certainty(table.T)),
        "dci_completeness": float(_certainty(table).mean()),
        "dci_informativeness": float(np.mean(scores)),
        "importance": table.tolist(),
    }


def is_continuous(x: np.ndarray) -> bool:
    """Return whether codes are floats, and not indices of stored values."""
    return not np.issubdtype(x.dtype, np.integer)


def _certainty(rows: Float[np.ndarray, "r c"]) -> Float[np.ndarray, " r"]:
    """Return 1 less the entropy of each row, as a share of the largest possible; 0 for rows of zeros."""
    totals = rows.sum(1, keepdims=True)
    spread = entr(rows / np.where(totals > 0, totals, 1)).sum(1) / np.log(max(rows.shape[1], 2))
    return np.where(totals[:, 0] > 0, 1 - spread, 0.0)


def _features(codes: np.ndarray) -> Any:
    """Return inputs of a linear model [N, features]: indices as a sparse one-hot matrix, floats standardised."""
    if is_continuous(codes):
        return _standardised(codes)
    return sklearn("preprocessing").OneHotEncoder().fit_transform(codes).tocsr()


def _standardised(x: np.ndarray) -> np.ndarray:
    """Return columns of mean 0 and deviation 1; those that never change are 0."""
    x = x.astype(np.float64)
    return np.divide(x - x.mean(0), x.std(0), out=np.zeros(x.shape), where=np.ptp(x, axis=0) > 0)


def _halves(labels: np.ndarray, seed: int) -> tuple[np.ndarray, np.ndarray]:
    """Return samples to fit and samples to test: every second one of each label, in random order.

    What is fitted has seen every label, and is the larger half where a label has an odd number of samples.
    """
    rng = np.random.default_rng([seed, len(labels)])  # no stream that the samples themselves may have been drawn from
    order = np.lexsort((rng.permutation(len(labels)), labels))
    ranked = labels[order]
    place = np.arange(len(labels)) - np.searchsorted(ranked, ranked)  # within its label
    return order[place % 2 == 0], order[place % 2 == 1]


def draw_scores(results: dict[str, dict[str, Any]], method: str) -> Any:
    """Draw the NMI and the scores of each measurement, by the name of what its joints are."""
    figure = new_figure(15.0, 5.5)
    *tables, bars = figure.subplots(1, len(results) + 1)
    place = np.arange(len(SCORES))
    for i, (axes, (states, result)) in enumerate(zip(tables, results.items(), strict=True)):
        nmi = np.array(result["nmi"])
        shown = axes.imshow(nmi, vmin=0, vmax=max(0.2, nmi.max()), cmap="viridis", aspect="auto")
        axes.set(title=f"{method}: I(source; latent) / H(source)\n{states} joints", xlabel="latent")
        axes.set_yticks(range(len(nmi)), result["sources"], fontsize=8)
        figure.colorbar(shown, ax=axes)
        bars.barh(place + 0.4 * i - 0.2, [result[key] for key in SCORES], 0.4, label=f"{states} joints")
    bars.set_yticks(place, list(SCORES.values()))
    bars.invert_yaxis()
    bars.set(title="scores, 1 is best", xlim=(min(0, *bars.get_xlim()), 1))
    bars.legend(fontsize=8)
    return figure
