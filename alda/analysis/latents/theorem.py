"""The test of the paper's Theorem 1 on trained agents: its premise, its conclusion, and whether they go together.

The theorem: where Q does not change with the nuisance, cov(s_i, s_j | z_k) = 0 for every latent k, task source i and
nuisance source j. Sources that are drawn independently become dependent given z_k exactly where z_k mixes them.

    frames -> latent k -> bins -> in every bin: covariance, correlation, contingency table of each pair (i, j)
          |                       the same, nuisance sources shuffled inside the bins -> null, z, p, Holm
          '-> Q and action under two nuisances -> the premise

- t1, the effect: the mean over bins of |covariance|, in units of the sources' standard deviations over all samples.
- t2, the detector: the mean over bins of correlation^2. It overstates weak mixing where little variance is left inside
  a bin: read it beside t1.
- cmi: the conditional mutual information in nats, which also sees dependence without covariance.

The theorem gives a necessary condition under exact invariance. A latent that passes need not belong to an invariant Q,
and a Q that ignores a mixed latent is invariant too, hence the weights by sensitivity. Rows must be independent draws:
states of one episode are not.
"""

from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np
import torch
from jaxtyping import Float, Integer, Real
from scipy.special import xlogy
from torch import Tensor

from alda.agents.alda import ALDA
from alda.agents.darla import DARLA
from alda.agents.sac import SAC
from alda.analysis.latents.disentanglement import bin_codes, discretise, entropy, mutual_information
from alda.analysis.latents.factor_dataset import FactorDataset
from alda.analysis.latents.probes import estimate_sources
from alda.analysis.latents.readout import read_latents, require_critic, still
from alda.analysis.latents.results import rounded
from alda.analysis.libraries import new_figure
from alda.errors import UserError
from alda.policy import Policy

LEVELS = 5  # of a source inside a bin
SMALLEST_BIN = 5  # samples
LEVEL = 0.05  # familywise, over latents
LEAST_PERMUTATIONS = 20  # with fewer, the corrected p value of one latent could not reach it
ROUNDING = 1e-12  # every statistic is free of units


def judge(
    policy: Policy, data: FactorDataset, *, permutations: int, seed: int, progress: Callable[[str], None]
) -> dict[str, Any]:
    """Return premise and conclusion for one agent, ready for JSON. Raises UserError for an agent that has diverged, or
    whose Q is the same everywhere."""
    codes = read_latents(policy, data.frame)
    premise, sensitivity = measure_premise(policy, data.frame[: len(data.elsewhere)], data.elsewhere)
    joints_hat, r2_joints = estimate_sources(codes, data.joints, seed=seed)
    nuisance_hat, r2_nuisance = estimate_sources(codes, data.nuisance, seed=seed)
    options: dict[str, Any] = {"permutations": permutations, "seed": seed, "progress": progress}
    estimates = joints_hat, nuisance_hat
    numbers = measure(data.joints, data.nuisance, codes, estimates=estimates, sensitivity=sensitivity, **options)
    t1_hat = np.array(numbers["estimates"]["t1"]["largest_excess"])
    names, r2 = data.joint_names + data.nuisance_names, [*r2_joints, *r2_nuisance]
    return {
        "method": policy.config.method,
        "name": policy.config.name,
        "premise": premise,
        "sensitivity": rounded(sensitivity),
        "probes": {name: rounded(value) for name, value in zip(names, r2, strict=True)},
        "sources": [data.joint_names, data.nuisance_names],
        "t1_estimates_weighted": rounded(weighted(t1_hat, sensitivity)),
        **numbers,
    }


def measure_premise(
    policy: Policy, frame: np.ndarray, elsewhere: np.ndarray
) -> tuple[dict[str, float], Float[np.ndarray, " l"]]:
    """Return the premise on states seen under two nuisances, and Q's sensitivity to each latent.

    delta_q: change of Q of the action taken under the first nuisance. delta_pi: mean Euclidean distance of the policy's
    modes. Sensitivity: mean |dQ/dz_k| times the deviation of z_k, for a latent that all frames of the stack share.
    """
    agent = require_critic(policy)
    with torch.no_grad():
        features, others = (agent.representation(still(part, policy)) for part in (frame, elsewhere))
        action, changed = (agent.actor(part).mode for part in (features, others))
        q, q_elsewhere = (agent.critic(part, action).amin(0) for part in (features, others))
    latents = agent.latents(still(frame, policy))
    assert latents is not None
    code = latents.code.detach().requires_grad_()
    (slope,) = torch.autograd.grad(q_of_code(agent, code, action, policy.spec.frames).sum(), code)
    sensitivity = slope.abs().mean(0) * code.detach().std(0)
    premise = {
        "delta_q": delta_q(_numpy(q), _numpy(q_elsewhere)),
        "delta_pi": float(np.linalg.norm(_numpy(action) - _numpy(changed), axis=1).mean()),
    }
    return premise, _numpy(sensitivity)


def q_of_code(agent: SAC, code: Float[Tensor, "n l"], action: Float[Tensor, "n a"], frames: int) -> Float[Tensor, " n"]:
    """Return Q of stacks whose frames all have this code, as `agent.latents` gives it."""
    if isinstance(agent, ALDA | DARLA):
        one_image = isinstance(agent, ALDA) and agent.representation.frames_per_image > 1
        codes = code[:, None].expand(-1, 1 if one_image else frames, -1)
        return agent.critic(agent.representation.history(codes), action).amin(0)
    joined = torch.cat([code, action], dim=-1)
    return torch.stack([q(joined).squeeze(-1) for q in agent.critic.q]).amin(0)


def delta_q(q: Float[np.ndarray, " n"], elsewhere: Float[np.ndarray, " n"]) -> float:
    """Return mean |Q(s, e, a) - Q(s, e', a)| in standard deviations of Q over states, at most 100.

    elsewhere: Q under another nuisance, drawn anew for each state, so that the covariance of both is the variance due
    to the state. Raises UserError where Q is constant.
    """
    if np.ptp(q) == 0:
        raise UserError("Q has the same value everywhere, so its invariance means nothing: train for longer")
    shared, change = float(np.cov(q, elsewhere, ddof=0)[0, 1]), float(np.abs(q - elsewhere).mean())
    return min(100.0, change / max(shared, 1e-30) ** 0.5)


def weighted(t1: Float[np.ndarray, " k"], sensitivity: Float[np.ndarray, " k"]) -> float:
    """Return the mean of t1 over latents, weighted by sensitivity. Raises UserError where Q is sensitive to none."""
    if sensitivity.sum() <= 0:
        raise UserError("Q is sensitive to no latent, so there is nothing to weight by: train for longer")
    return float(np.average(t1, weights=sensitivity))


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
    """Return the conclusion on n samples, ready for JSON: settings, tables with one entry a latent, and a summary.

    task, nuisance: sources that were drawn independently. latents: codebook indices (integers), or floats, which are
    put into 20 bins. estimates: of the same sources, as from `estimate_sources`; they get tables of their own, in units
    of the sources' deviations, so that an estimate without information weighs little in t1.

    Tables: see `against_null`. rejected: latents that t2 rejects at 0.05; dependent: those that cmi rejects; each
    family is corrected by itself. Raises UserError for a constant source, and where no bin of a latent has 5 samples.
    """
    task_scale, nuisance_scale = _scale(task, "task"), _scale(nuisance, "nuisance")
    bins = list(bin_codes(latents).T)

    def dependences(left: np.ndarray, right: np.ndarray, what: str) -> list[Dependence]:
        found = []
        for k, ids in enumerate(bins):
            progress(f"{what}: latent {k + 1} of {len(bins)}")
            scaled = left / task_scale, right / nuisance_scale
            found.append(dependence(*scaled, ids, permutations=permutations, seed=(seed, k)))
        return found

    def rejected(statistic: str) -> list[int]:
        return [k for k, p in enumerate(statistics[statistic]["p_holm"]) if p <= LEVEL]

    found = dependences(task, nuisance, "sources")
    statistics = _tables(found)
    strongest = [np.unravel_index(latent.pairs[0].argmax(), latent.pairs[0].shape) for latent in found]
    mixing, left_out = [mixing_index(task, nuisance, ids) for ids in bins], [latent.left_out for latent in found]
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
        "estimates": _tables(dependences(*estimates, "estimates")) if estimates else None,
        "summary": {
            "rejected": rejected("t2"),
            "dependent": rejected("cmi"),
            "t1_excess": float(excess.mean()),
            "t1_excess_largest": float(excess.max()),
            "t1_excess_weighted": None if sensitivity is None else weighted(excess, sensitivity),
            "mixing": float(np.mean(mixing)),
            "left_out": float(np.mean(left_out)),
        },
    }


class Dependence(NamedTuple):
    """Dependence of each pair of sources given the bins of one latent."""

    pairs: Float[np.ndarray, "3 d e"]  # t1, t2, cmi
    null: Float[np.ndarray, "p 3 2"]  # their largest and mean over pairs, by permutation
    bins: int  # that were large enough
    left_out: float  # share of samples in those that were not


def dependence(
    task: Float[np.ndarray, "n d"],
    nuisance: Float[np.ndarray, "n e"],
    bins: Integer[np.ndarray, " n"],
    *,
    permutations: int = 100,
    seed: int | tuple[int, ...] = 0,
) -> Dependence:
    """Return t1, t2 and cmi of standardised sources given one latent's bins, and their null.

    Bins of fewer than 5 samples are left out; the others count by their samples. The null shuffles whole rows of
    nuisance sources inside the bins. For cmi a source has 5 levels of equal frequency inside each bin; the plug-in
    estimate is biased upwards by 16 / (2 n_b) nats, as is its null. Raises UserError where no bin is large enough.
    """
    ids, sizes = np.unique(bins, return_inverse=True, return_counts=True)[1:]
    order = np.argsort(ids, kind="stable")
    order = order[sizes[ids[order]] >= SMALLEST_BIN]
    kept = sizes[sizes >= SMALLEST_BIN]
    if not len(kept):
        raise UserError(f"no bin of a latent has {SMALLEST_BIN} of the {len(bins)} samples: collect more")
    statistics = _statistics_within(kept, task[order], nuisance[order])
    rng = np.random.default_rng(seed)
    shuffled = [statistics(shuffle_within(ids[order], rng)) for _ in range(permutations)]
    return Dependence(
        pairs=statistics(np.arange(len(order))),
        null=np.stack([np.stack([pairs.max((1, 2)), pairs.mean((1, 2))], axis=-1) for pairs in shuffled]),
        bins=len(kept),
        left_out=1 - len(order) / len(bins),
    )


def shuffle_within(bins: Integer[np.ndarray, " n"], rng: np.random.Generator) -> Integer[np.ndarray, " n"]:
    """Return a random order of samples, each in the place of one of its own bin. bins: ascending."""
    return np.argsort(bins + rng.random(len(bins)))


def _statistics_within(
    sizes: Integer[np.ndarray, " b"], task: np.ndarray, nuisance: np.ndarray
) -> Callable[[np.ndarray], np.ndarray]:
    """Return the function from an order of nuisance sources to t1, t2, cmi [3, D, E]. Samples lie bin by bin."""
    ends, sizes = np.cumsum(sizes)[:-1], sizes[:, None, None]

    def prepare(sources: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Return centred sources [N, S], their variances [B, S] and their levels, one-hot [N, S*L]; all by bin."""
        parts = np.split(sources.astype(np.float64), ends)
        levels = np.concatenate([discretise(part, LEVELS) for part in parts])
        one_hot = np.eye(LEVELS, dtype=np.float32)[levels]  # counts below 2^24 are exact in single precision
        centred = np.concatenate([part - part.mean(0) for part in parts])
        return centred, np.stack([part.var(0) for part in parts]), one_hot.reshape(len(sources), -1)

    def products(left: np.ndarray, right: np.ndarray) -> np.ndarray:
        return np.stack([a.T @ b for a, b in zip(np.split(left, ends), np.split(right, ends), strict=True)])

    (left, left_variance, left_levels), (right, right_variance, right_levels) = prepare(task), prepare(nuisance)
    variances = left_variance[:, :, None] * right_variance[:, None, :]  # [B, D, E]
    variances = np.where(variances > ROUNDING, variances, np.inf)  # what is constant correlates with nothing

    def statistics(order: np.ndarray) -> np.ndarray:
        covariance = products(left, right[order]) / sizes
        counts = products(left_levels, right_levels[order]).astype(np.float64)
        tables = counts.reshape(-1, left.shape[1], LEVELS, right.shape[1], LEVELS).swapaxes(2, 3)
        by_bin = np.stack([np.abs(covariance), covariance**2 / variances, _information(tables)])
        return (by_bin * sizes).sum(1) / sizes.sum()

    return statistics


def _information(counts: np.ndarray) -> np.ndarray:
    """Return plug-in mutual information in nats of contingency tables [..., A, B]."""
    joint, rows, columns, total = counts, counts.sum(-1), counts.sum(-2), counts.sum((-2, -1))
    apart = xlogy(rows, rows).sum(-1) + xlogy(columns, columns).sum(-1)
    return (xlogy(joint, joint).sum((-2, -1)) - apart + xlogy(total, total)) / total


def against_null(pairs: Float[np.ndarray, "k d e"], null: Float[np.ndarray, "k p 2"]) -> dict[str, list[float]]:
    """Return, by latent, the largest and mean statistic over pairs of sources, their null means, and the excess.

    Of the largest also the z-score and the permutation p value, which is at least 1 / (permutations + 1): too coarse to
    be corrected for dozens of latents. p_holm is therefore Holm's correction of p values among the z-scores of all
    latents' nulls together, whose shapes are taken to be alike.
    """
    largest, mean = pairs.max((1, 2)), pairs.mean((1, 2))
    largest_null, mean_null = null.mean(1).T
    spread = null[..., 0].std(1, ddof=1)
    spread = np.where(spread > ROUNDING, spread, np.inf)  # a statistic that cannot vary says nothing: z = 0
    columns = {
        "largest": largest,
        "largest_null": largest_null,
        "largest_excess": largest - largest_null,
        "mean": mean,
        "mean_null": mean_null,
        "mean_excess": mean - mean_null,
        "z": (largest - largest_null) / spread,
        "p": (1 + (null[..., 0] >= largest[:, None] - ROUNDING).sum(1)) / (1 + null.shape[1]),
        "p_holm": holm(_pooled(np.concatenate([null[..., 0], largest[:, None]], axis=1))),
    }
    return {name: column.tolist() for name, column in columns.items()}


def _pooled(values: Float[np.ndarray, "k p1"]) -> Float[np.ndarray, " k"]:
    """Return p values of the last column among the others of all rows, each row in units of its own spread.

    Mean and spread are taken with the last value among the rest: only then is it, under the null, one of them.
    """
    spread = values.std(1, ddof=1, keepdims=True)
    z = (values - values.mean(1, keepdims=True)) / np.where(spread > ROUNDING, spread, np.inf)
    null = z[:, :-1].ravel()
    return (1 + (null >= z[:, -1:] - ROUNDING).sum(1)) / (1 + null.size)


def holm(p: Float[np.ndarray, " k"]) -> Float[np.ndarray, " k"]:
    """Return p values that may be compared with a familywise level (Holm, 1979)."""
    order = np.argsort(p)
    stepped = np.maximum.accumulate(p[order] * np.arange(len(p), 0, -1))
    adjusted = np.empty_like(p)
    adjusted[order] = np.minimum(stepped, 1)
    return adjusted


def mixing_index(
    task: Float[np.ndarray, "n d"], nuisance: Float[np.ndarray, "n e"], bins: Integer[np.ndarray, " n"]
) -> float:
    """Return the smaller of the shares I(s; z_k) / H(s) of a latent's best task and best nuisance source, in 20 bins.

    Both are plug-in estimates: a pure latent has their bias, about 19 (bins - 1) / (2 n H(s)).
    """
    labels = (discretise(sources).T for sources in (task, nuisance))
    return min(max(mutual_information(source, bins) / entropy(source) for source in kind) for kind in labels)


def _scale(sources: np.ndarray, kind: str) -> np.ndarray:
    """Return the standard deviations of sources. Raises UserError for a constant one."""
    constant = np.flatnonzero(np.ptp(sources, axis=0) == 0)
    if len(constant):
        raise UserError(f"{kind} sources {constant.tolist()} are constant: leave them out, or vary them")
    return sources.std(0)


def _tables(found: list[Dependence]) -> dict[str, dict[str, list[float]]]:
    pairs, null = np.stack([latent.pairs for latent in found]), np.stack([latent.null for latent in found])
    return {name: against_null(pairs[:, s], null[:, :, s]) for s, name in enumerate(("t1", "t2", "cmi"))}


def _numpy(x: Tensor) -> np.ndarray:
    return x.detach().cpu().double().numpy()


def summarise(result: dict[str, Any]) -> dict[str, Any]:
    """Return one line of a comparison of runs."""
    summary = result["summary"]
    shown = ("t1_excess_weighted", "t1_excess", "t1_excess_largest", "mixing")
    return {
        **{name: result[name] for name in ("run", "method", "name")},
        **{name: rounded(value) for name, value in result["premise"].items()},
        "latents": len(result["sensitivity"]),
        "rejected": len(summary["rejected"]),
        **{name: rounded(summary[name]) for name in shown},
    }


def draw_theorem(results: list[dict[str, Any]]) -> Any:
    """Draw T1 of each run's latents beside its null, and the conclusion of all runs over their premise."""
    figure = new_figure(12.0, 3 + 2.2 * len(results))
    top = 1.05 * max(0.1, *(max(result["latents"]["t1"]["largest"]) for result in results))
    grid = figure.add_gridspec(len(results), 3)
    premise = figure.add_subplot(grid[:, 2])
    for row, result in enumerate(results):
        axes, t1 = figure.add_subplot(grid[row, :2]), result["latents"]["t1"]
        name, rejected = f"{result['method']} {result['name']}", result["summary"]["rejected"]
        place = np.arange(len(t1["largest"]))
        axes.bar(place, t1["largest"], color=["tab:red" if k in rejected else "tab:blue" for k in place])
        axes.hlines(t1["largest_null"], place - 0.4, place + 0.4, color="black", linewidth=1)
        title = f"{name}: {len(rejected)} of {len(place)} latents mix (red), line: null"
        axes.set(title=title, ylabel="T1, largest pair", ylim=(0, top))
        if row == len(results) - 1:
            axes.set_xlabel("latent")
        x, y = result["premise"]["delta_q"], result["summary"]["t1_excess_weighted"]
        premise.scatter([x], [y], color="black")
        premise.annotate(f" {name}", (x, y), fontsize=8)
    premise.set(
        title="predicted: small delta Q, small T1",
        xlabel="delta Q, in s.d. of Q (premise)",
        ylabel="T1 less null, weighted by sensitivity (conclusion)",
    )
    premise.set_xscale("symlog", linthresh=0.1)  # it may be 0
    premise.margins(0.3)
    premise.set_xlim(left=0)
    return figure
