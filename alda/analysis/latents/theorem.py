"""The test of the paper's Theorem 1: given any one latent, task-relevant and nuisance sources are uncorrelated.

The theorem says that where Q does not change with the nuisance, cov(s_i, s_j | z_k) = 0 for every latent k, every task
source i and every nuisance source j. Draw both kinds of source independently and look at one latent at a time: they
become dependent given z_k exactly where z_k mixes them.

    latent k -> bins -> in every bin: covariance, correlation, contingency table of each pair (i, j)
                        the same, nuisance sources shuffled inside the bins      -> null, z, p, Holm over latents

- t1, the effect: the mean over bins of |covariance|, in units of the sources' standard deviations over all samples.
- t2, the detector: the mean over bins of correlation^2. It overstates weak mixing, as the variance that is left inside
  a bin may be tiny: read it beside t1.
- cmi: the conditional mutual information in nats, which also sees dependence that is even and so without covariance.
  Like t2 it is relative to what is left inside a bin.

What the test cannot say. The theorem gives a necessary condition, under exact invariance: a latent that passes need
not belong to an invariant Q. Zero covariance is weaker than independence. A Q that ignores a mixed latent is invariant
too, hence the weights by sensitivity. The paper speaks of approximations of sources without a definition: `probe` is
one reading of it. And rows must be independent draws: states of one episode under one background are not.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
from jaxtyping import Float, Integer, Real

from alda.analysis.latents.disentangle import discretise, entropy, mutual_information
from alda.errors import UserError

LATENT_BINS = 20  # of a continuous latent, and of a source in the mixing index
LEVELS = 5  # of a source inside a bin
SMALLEST_BIN = 5  # samples
LEVEL = 0.05  # familywise, over latents
LEAST_PERMUTATIONS = 20  # with fewer, the corrected p value of one latent could not reach it
ROUNDING = 1e-12  # every statistic is free of units


def measure(
    task: Float[np.ndarray, "n d"],
    nuisance: Float[np.ndarray, "n e"],
    latents: Real[np.ndarray, "n k"],
    *,
    estimates: tuple[Float[np.ndarray, "n d"], Float[np.ndarray, "n e"]] | None = None,
    sensitivity: Float[np.ndarray, " k"] | None = None,
    permutations: int = 100,
    seed: int = 0,
    progress: Callable[[str], None] = lambda _: None,
) -> dict[str, Any]:
    """Everything about n samples, ready for JSON: settings, tables with one entry a latent, and a summary.

    task, nuisance: sources, independent of each other by construction. latents: codebook indices (integers), or
    continuous values, which are put into 20 bins of equal frequency. estimates: of the same sources, as from `probe`;
    they get tables of their own, in units of the sources' standard deviations, so that an estimate without information
    weighs little in t1. sensitivity: mean |dQ/dz_k|.

    Tables t1, t2 and cmi hold, by latent, the largest and the mean over pairs of sources, the mean of each under the
    null, and the excess over it; of the largest also the z-score and the permutation p value, which ends at
    1 / (permutations + 1): too coarse to be corrected for dozens of latents. p_holm is therefore Holm's correction of p
    values among the z-scores of all latents' nulls together, whose shapes are taken to be alike. `rejected` are the
    latents that t2 rejects at 0.05, `dependent` those that cmi rejects: two families, each corrected by itself.

    Raises UserError for a constant source, for values that are not finite, for fewer than 20 permutations (the
    corrected p value of one latent could not reach 0.05) and where no bin of a latent has 5 samples.
    """
    if permutations < LEAST_PERMUTATIONS:
        raise UserError(f"{permutations} permutations cannot reject anything: take {LEAST_PERMUTATIONS} or more")
    given = {"task sources": task, "nuisance sources": nuisance, "latents": latents}
    if estimates:
        given |= {"task estimates": estimates[0], "nuisance estimates": estimates[1]}
    for name, values in given.items():
        if not np.isfinite(values).all():
            raise UserError(f"{name} are not all finite: leave out the samples that are not")
    task_scale, nuisance_scale = _scale(task, "task"), _scale(nuisance, "nuisance")
    bins = [bin_latent(latent) for latent in latents.T]

    def dependences(left: np.ndarray, right: np.ndarray, what: str) -> list[Dependence]:
        found = []
        for k, ids in enumerate(bins):
            progress(f"{what}: latent {k + 1} of {len(bins)}")
            found.append(dependence(left, right, ids, permutations=permutations, seed=(seed, k)))
        return found

    found = dependences(task / task_scale, nuisance / nuisance_scale, "sources")
    statistics, of_estimates = _tables(found), None
    if estimates:
        of_estimates = _tables(dependences(estimates[0] / task_scale, estimates[1] / nuisance_scale, "estimates"))
    strongest = [np.unravel_index(latent.pairs[0].argmax(), latent.pairs[0].shape) for latent in found]
    mixing = [mixing_index(task, nuisance, ids) for ids in bins]
    left_out = [latent.left_out for latent in found]
    excess = np.array(statistics["t1"]["largest_excess"])
    return {
        "samples": len(task),
        "permutations": permutations,
        "seed": seed,
        "level": LEVEL,
        "latents": {
            "bins": [latent.bins for latent in found],
            "left_out": left_out,
            "mixing": mixing,
            "strongest": [[int(i), int(j)] for i, j in strongest],
            **statistics,
        },
        "estimates": of_estimates,
        "summary": {
            "rejected": _rejected(statistics["t2"]),
            "dependent": _rejected(statistics["cmi"]),
            "t1_excess": float(excess.mean()),
            "t1_excess_largest": float(excess.max()),
            "t1_excess_weighted": None if sensitivity is None else weighted(excess, sensitivity),
            "mixing": float(np.mean(mixing)),
            "left_out": float(np.mean(left_out)),
        },
    }


@dataclass(frozen=True)
class Dependence:
    """What the bins of one latent say about each pair of sources."""

    pairs: Float[np.ndarray, "3 d e"]
    """t1, t2, cmi."""
    null: Float[np.ndarray, "p 3 2"]
    """Their largest and mean over pairs, by permutation."""
    bins: int
    """Bins that were large enough."""
    left_out: float
    """Share of samples in those that were not."""


def dependence(
    task: Float[np.ndarray, "n d"],
    nuisance: Float[np.ndarray, "n e"],
    bins: Integer[np.ndarray, " n"],
    *,
    permutations: int = 100,
    seed: int | tuple[int, ...] = 0,
) -> Dependence:
    """t1, t2 and cmi of sources given one latent's bins, and their null.

    task, nuisance: in units of their standard deviations. Bins of fewer than 5 samples are left out; the others count
    by their samples. The null shuffles whole rows of nuisance sources inside the bins. For cmi a source has 5 levels
    of equal frequency inside each bin: a lower bound, coarser than the sources, whose plug-in estimate is biased
    upwards by about 16 / (2 n_b) nats; the null has the same bias. Raises UserError where no bin is large enough.
    """
    ids, sizes = np.unique(bins, return_inverse=True, return_counts=True)[1:]
    order = np.argsort(ids, kind="stable")
    order = order[sizes[ids[order]] >= SMALLEST_BIN]
    kept = sizes[sizes >= SMALLEST_BIN]
    if not len(kept):
        raise UserError(f"no bin of a latent has {SMALLEST_BIN} of the {len(bins)} samples: collect more")
    within = _Within(task[order], nuisance[order], kept)
    rng = np.random.default_rng(seed)
    shuffled = [within.statistics(shuffle_within(ids[order], rng)) for _ in range(permutations)]
    null = [np.stack([pairs.max((1, 2)), pairs.mean((1, 2))], axis=-1) for pairs in shuffled]
    return Dependence(
        pairs=within.statistics(np.arange(len(order))),
        null=np.stack(null),
        bins=len(kept),
        left_out=1 - len(order) / len(bins),
    )


def shuffle_within(bins: Integer[np.ndarray, " n"], rng: np.random.Generator) -> Integer[np.ndarray, " n"]:
    """A random order of samples, each in the place of one of its own bin. bins: ascending."""
    return np.argsort(bins + rng.random(len(bins)))


class _Within:
    """Samples bin by bin, ready for sums over each bin of products of a task and a nuisance column."""

    def __init__(self, task: np.ndarray, nuisance: np.ndarray, sizes: np.ndarray) -> None:
        ends = np.cumsum(sizes)
        self.slices = [slice(end - size, end) for end, size in zip(ends, sizes, strict=True)]
        self.sizes = sizes[:, None, None]
        self.task, task_variance, self.task_levels = self._prepare(task)
        self.nuisance, nuisance_variance, self.nuisance_levels = self._prepare(nuisance)
        product = task_variance[:, :, None] * nuisance_variance[:, None, :]  # [B, D, E]
        self.variances = np.where(product > ROUNDING, product, np.inf)  # what is constant correlates with nothing

    def _prepare(self, sources: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Centred sources [N, S], their variances [B, S] and their levels, one-hot [N, S*L]; all inside the bins."""
        parts = [sources[part].astype(np.float64) for part in self.slices]
        centred = np.concatenate([part - part.mean(0) for part in parts])
        levels = np.concatenate([_levels(part, LEVELS) for part in parts])
        # counts below 2^24 are exact in single precision
        one_hot = np.eye(LEVELS, dtype=np.float32)[levels].reshape(len(sources), -1)
        return centred, np.stack([part.var(0) for part in parts]), one_hot

    def statistics(self, order: np.ndarray) -> np.ndarray:
        """t1, t2, cmi [3, D, E] with the nuisance sources in another order."""
        covariance = self._products(self.task, self.nuisance[order]) / self.sizes
        counts = self._products(self.task_levels, self.nuisance_levels[order]).astype(np.float64)
        tables = counts.reshape(-1, self.task.shape[1], LEVELS, self.nuisance.shape[1], LEVELS).swapaxes(2, 3)
        by_bin = np.stack([np.abs(covariance), covariance**2 / self.variances, _information(tables)])
        return (by_bin * self.sizes).sum(1) / self.sizes.sum()

    def _products(self, left: np.ndarray, right: np.ndarray) -> np.ndarray:
        return np.stack([left[part].T @ right[part] for part in self.slices])


def against_null(pairs: Float[np.ndarray, "k d e"], null: Float[np.ndarray, "k p 2"]) -> dict[str, list[float]]:
    """One statistic of every latent beside its null, as `measure` describes it."""
    largest, mean = pairs.max((1, 2)), pairs.mean((1, 2))
    largest_null, mean_null = null.mean(1).T
    spread = null[..., 0].std(1, ddof=1)
    spread = np.where(spread > ROUNDING, spread, np.inf)  # a statistic that cannot vary says nothing: z = 0
    z = (largest - largest_null) / spread
    p = (1 + (null[..., 0] >= largest[:, None] - ROUNDING).sum(1)) / (1 + null.shape[1])
    pooled = _pooled(np.concatenate([null[..., 0], largest[:, None]], axis=1))
    columns = {
        "largest": largest,
        "largest_null": largest_null,
        "largest_excess": largest - largest_null,
        "mean": mean,
        "mean_null": mean_null,
        "mean_excess": mean - mean_null,
        "z": z,
        "p": p,
        "p_holm": holm(pooled),
    }
    return {name: column.tolist() for name, column in columns.items()}


def _pooled(values: Float[np.ndarray, "k p1"]) -> Float[np.ndarray, " k"]:
    """P values of the last column among the others of all rows, each row in units of its own spread.

    Mean and spread are taken with the last value among the rest: only then is it, under the null, one of them.
    """
    spread = values.std(1, ddof=1, keepdims=True)
    z = (values - values.mean(1, keepdims=True)) / np.where(spread > ROUNDING, spread, np.inf)
    null = z[:, :-1].ravel()
    return (1 + (null >= z[:, -1:] - ROUNDING).sum(1)) / (1 + null.size)


def holm(p: Float[np.ndarray, " k"]) -> Float[np.ndarray, " k"]:
    """P values that may be compared with a familywise level (Holm, 1979)."""
    order = np.argsort(p)
    stepped = np.maximum.accumulate(p[order] * np.arange(len(p), 0, -1))
    adjusted = np.empty_like(p)
    adjusted[order] = np.minimum(stepped, 1)
    return adjusted


def bin_latent(latent: Real[np.ndarray, " n"]) -> Integer[np.ndarray, " n"]:
    """Bins of one latent: a codebook index is its own; a continuous value gets one of 20 of equal frequency.

    Equal values share a bin, so there may be fewer than 20; few of the lowest values share one with the next.
    """
    return latent if np.issubdtype(latent.dtype, np.integer) else _levels(latent[:, None], LATENT_BINS)[:, 0]


def mixing_index(
    task: Float[np.ndarray, "n d"], nuisance: Float[np.ndarray, "n e"], bins: Integer[np.ndarray, " n"]
) -> float:
    """The smaller of what a latent says about its best task source and its best nuisance source, from 0 to 1.

    Both are I(s; z_k) / H(s), plug-in, of sources in 20 bins of equal frequency: pure latents stand at the bias of the
    estimate, about 19 (bins - 1) / (2 n H(s)).
    """

    def binned(sources: np.ndarray) -> list[np.ndarray]:
        return [discretise(column, LATENT_BINS) for column in sources.T]

    return min(
        max(mutual_information(labels, bins) / entropy(labels) for labels in binned(sources))
        for sources in (task, nuisance)
    )


def probe(
    latents: Real[np.ndarray, "n k"], sources: Float[np.ndarray, "n s"], *, penalty: float = 1.0, seed: int = 0
) -> tuple[Float[np.ndarray, "n s"], Float[np.ndarray, " s"]]:
    """Estimates of sources from all latents, and the R^2 of each: ridge regression, each half predicted by the other.

    Integers are codebook indices and enter one-hot; continuous latents are standardised. penalty: of squared weights.

    Estimates of different sources read the same latents. What one latent's noise adds to two estimates they share, and
    every probe has small weights on latents that are not its own: estimates covary given z_k even where each latent is
    pure, and the null, which shuffles that away too, does not hold it back. So judge estimates by t1, not by p. Raises
    UserError for a constant source.
    """
    integers = np.issubdtype(latents.dtype, np.integer)
    inputs = np.concatenate([_one_hot(latent) for latent in latents.T], axis=1) if integers else latents.astype(float)
    halves = np.array_split(np.random.default_rng(seed).permutation(len(latents)), 2)
    estimates = np.empty(sources.shape)
    for fit, held_out in (halves, halves[::-1]):
        mean, spread = inputs[fit].mean(0), 1.0 if integers else inputs[fit].std(0)
        x, y = (inputs - mean) / np.where(spread > 0, spread, 1), sources[fit] - sources[fit].mean(0)
        weights = np.linalg.solve(x[fit].T @ x[fit] + penalty * np.eye(x.shape[1]), x[fit].T @ y)
        estimates[held_out] = x[held_out] @ weights + sources[fit].mean(0)
    return estimates, 1 - ((sources - estimates) ** 2).mean(0) / _scale(sources, "probed") ** 2


def delta_q(q: Float[np.ndarray, " n"], elsewhere: Float[np.ndarray, " n"]) -> float:
    """The premise of the theorem: mean |Q(s, e, a) - Q(s, e', a)| in standard deviations of Q over states alone.

    elsewhere: values of the same states and actions under another nuisance, drawn anew for each; the covariance of both
    is then the variance that is due to the state. It ends at 100 where that is nothing. Raises UserError where Q is
    constant.
    """
    if np.ptp(q) == 0:
        raise UserError("Q has the same value everywhere, so its invariance means nothing: train for longer")
    shared, change = float(np.cov(q, elsewhere, ddof=0)[0, 1]), float(np.abs(q - elsewhere).mean())
    return min(100.0, change / max(shared, 1e-30) ** 0.5)


def delta_pi(actions: Float[np.ndarray, "n a"], elsewhere: Float[np.ndarray, "n a"]) -> float:
    """The same of the policy: mean Euclidean distance of the mean actions, whose every entry is in [-1, 1]."""
    return float(np.linalg.norm(actions - elsewhere, axis=1).mean())


def weighted(t1: Float[np.ndarray, " k"], sensitivity: Float[np.ndarray, " k"]) -> float:
    """The mean of t1 over latents, by how much Q listens to each: low delta_q predicts that it is low.

    sensitivity: mean |dQ/dz_k|, times the standard deviation of z_k where the scales of latents differ. Raises
    UserError where Q listens to none.
    """
    if sensitivity.sum() <= 0:
        raise UserError("Q is sensitive to no latent, so there is nothing to weight by: train for longer")
    return float(np.average(t1, weights=sensitivity))


def _scale(sources: np.ndarray, kind: str) -> np.ndarray:
    constant = np.flatnonzero(np.ptp(sources, axis=0) == 0)
    if len(constant):
        raise UserError(f"{kind} sources {constant.tolist()} are constant: leave them out, or vary them")
    return sources.std(0)


def _tables(found: list[Dependence]) -> dict[str, dict[str, list[float]]]:
    pairs, null = np.stack([latent.pairs for latent in found]), np.stack([latent.null for latent in found])
    return {name: against_null(pairs[:, s], null[:, :, s]) for s, name in enumerate(("t1", "t2", "cmi"))}


def _rejected(statistic: dict[str, list[float]]) -> list[int]:
    return [k for k, p in enumerate(statistic["p_holm"]) if p <= LEVEL]


def _levels(values: np.ndarray, count: int) -> np.ndarray:
    """Columns [N, S] as integers below `count` of equal frequency; equal values are never split."""
    edges = np.quantile(values, np.arange(1, count) / count, axis=0)
    return (values > edges[:, None]).sum(0)


def _one_hot(labels: np.ndarray) -> np.ndarray:
    return (labels[:, None] == np.unique(labels)).astype(float)


def _information(counts: np.ndarray) -> np.ndarray:
    """Plug-in mutual information in nats of contingency tables [..., A, B]."""
    total, rows, columns = counts.sum((-2, -1)), counts.sum(-1), counts.sum(-2)
    joint, apart = _n_log_n(counts).sum((-2, -1)), _n_log_n(rows).sum(-1) + _n_log_n(columns).sum(-1)
    return np.asarray((joint - apart + _n_log_n(total)) / total)


def _n_log_n(counts: Any) -> np.ndarray:
    return np.asarray(counts * np.log(np.maximum(counts, 1)))
