"""Latents along an episode beside the state of the body, and how much of that state they hold (paper, figure 7)."""

from itertools import chain, groupby
from pathlib import Path
from typing import Any

import numpy as np
import torch
from jaxtyping import Float

from alda.analysis.latents.look import (
    episode_steps,
    in_chunks,
    named,
    progress,
    require_latents,
    result_files,
    rounded,
    stacked,
    write_result,
)
from alda.analysis.latents.probes import KINDS, probe
from alda.analysis.libraries import new_figure, sklearn
from alda.analysis.paired_rollouts import twins
from alda.errors import UserError
from alda.policy import Policy, load

_LINES = 5  # latents and state variables drawn over time, as in the paper's figure
_STILL = 1e-6  # standard deviation, among probed or held-out states, below which a variable does not move


def analyze_trajectory(
    run: Path, *, episodes: int = 12, shift: str = "train", seed: int = 0, out: Path | None = None
) -> dict[str, Any]:
    """Writes a picture of one episode's latents above its states, their correlations, and what probes recover.

    episodes: the one that is drawn is played without exploring, the others, for variety, as in training. The last third
    is held out from the probes, which learn to tell every variable of the task's own state observation from the code
    of the newest frame, and from the features of the whole stack.
    Returns the numbers: correlations (Pearson, Spearman) of the code with each variable, and R2 of a linear (ridge)
    and a small non-linear probe on held-out episodes; 1 is perfect, 0 what the mean alone would give.
    Raises UserError for a method without latents, or where scikit-learn is missing.
    """
    if episodes < 3 or seed < 0:
        raise UserError("--episodes must be at least 3, to hold some out, and --seed not negative")
    policy = load(run)
    require_latents(policy)
    picture, table = result_files(run, out, named("trajectory", shift))
    sklearn()
    torch.manual_seed(seed)
    codes, features, states, lengths = [], [], [], []
    with progress() as begin:
        step = begin("playing episodes", episodes * episode_steps(policy))
        first = twins(policy, (shift,), [seed])
        others = twins(policy, (shift,), range(seed + 1, seed + episodes), explore=True)
        for _, episode in groupby(chain(first, others), key=lambda twin: twin.seed):
            seen = []
            for twin in episode:
                seen.append(twin.seen[0])
                state = twin.env.proprioception()
                states.append(list(state.values()))
                step()
            code, feature = _read(policy, seen)
            codes.append(code)
            features.append(feature)
            lengths.append(len(seen))
        truth = np.array(states)
        held_out = np.arange(len(truth)) >= sum(lengths[: episodes - episodes // 3])
        moving = np.minimum(truth[held_out].std(0), truth[~held_out].std(0)) > _STILL
        names = [name for name, moves in zip(state, moving, strict=True) if moves]
        truth, code, feature = truth[:, moving], np.concatenate(codes), np.concatenate(features)
        probes = {}
        step = begin("probing", 4)
        for source, x in (("code", code), ("features", feature)):
            for kind in KINDS:
                probes[f"{kind} from {source}"] = probe(x, truth, held_out, kind, seed)
                step()
    numbers = {
        "shift": shift,
        "episodes": episodes,
        "states": len(truth),
        "variables": names,
        "still": [name for name, moves in zip(state, moving, strict=True) if not moves],
        "pearson": rounded(correlations(code, truth)),
        "spearman": rounded(correlations(_ranks(code), _ranks(truth))),
        "r2": {name: dict(zip(names, rounded(values), strict=True)) for name, values in probes.items()},
        "r2_mean": {name: rounded(values.mean()) for name, values in probes.items()},
    }
    _draw(picture, code[: lengths[0]], truth[: lengths[0]], names, correlations(code, truth), probes)
    write_result(table, policy, numbers)
    print(f"written to {picture.parent}: {picture.name}, {table.name}")
    return numbers


@torch.no_grad()
def _read(policy: Policy, seen: list[np.ndarray]) -> tuple[Float[np.ndarray, "t l"], Float[np.ndarray, "t d"]]:
    """Codes of the newest frames and features of the stacks."""
    agent, obs = require_latents(policy), stacked(seen, policy)
    code = in_chunks(lambda part: agent.latents(part).code, obs)
    feature = in_chunks(agent.representation, obs)  # type: ignore[arg-type]
    return code.cpu().double().numpy(), feature.cpu().double().numpy()


def correlations(x: Float[np.ndarray, "n l"], y: Float[np.ndarray, "n s"]) -> Float[np.ndarray, "l s"]:
    """Pearson's, of every column of x with every column of y; 0 where one does not vary."""
    x, y = (part - part.mean(0) for part in (x, y))
    scale = np.sqrt((x**2).sum(0))[:, None] * np.sqrt((y**2).sum(0))
    return np.divide(x.T @ y, scale, out=np.zeros(scale.shape), where=scale > 0)


def _ranks(x: Float[np.ndarray, "n l"]) -> Float[np.ndarray, "n l"]:
    from scipy.stats import rankdata

    return rankdata(x, axis=0).astype(float)


def _draw(
    file: Path,
    code: Float[np.ndarray, "t l"],
    truth: Float[np.ndarray, "t s"],
    names: list[str],
    pearson: Float[np.ndarray, "l s"],
    probes: dict[str, Float[np.ndarray, " s"]],
) -> None:
    """The latents drawn are those that go most closely with a variable, and each with that variable below."""
    best = np.argsort(-np.abs(pearson).max(1))[:_LINES]
    figure = new_figure(14.0, 9.0)
    panels = figure.subplot_mosaic([["latents", "map"], ["states", "map"], ["r2", "r2"]], height_ratios=[1, 1, 1.1])
    for latent in best:
        partner = int(np.abs(pearson[latent]).argmax())
        panels["latents"].plot(code[:, latent].clip(-1, 1), label=f"latent {latent}")
        panels["states"].plot(truth[:, partner], label=names[partner])
    panels["latents"].set(title="codes over one episode, clipped to [-1, 1]", ylabel="code")
    panels["states"].set(
        title="the state variable that goes most closely with each", ylabel="value", xlabel="agent step"
    )
    for name in ("latents", "states"):
        low, high = panels[name].get_ylim()
        panels[name].set_ylim(low - 0.25 * (high - low), high)
        panels[name].legend(fontsize=8, loc="lower center", ncols=_LINES, frameon=False)
    shown = panels["map"].imshow(pearson, cmap="RdBu_r", vmin=-1, vmax=1, aspect="auto")
    panels["map"].set(title="Pearson correlation, all episodes", ylabel="latent", yticks=range(len(pearson)))
    panels["map"].set_xticks(range(len(names)), names, rotation=90, fontsize=8)
    figure.colorbar(shown, ax=panels["map"])
    for i, (name, values) in enumerate(probes.items()):
        place = np.arange(len(names)) + 0.2 * (i - (len(probes) - 1) / 2)
        label = f"{name}, mean {values.mean():.2f}"
        panels["r2"].bar(place, values.clip(-0.2, 1), 0.2, label=label)
    panels["r2"].set_xticks(range(len(names)), names, rotation=90, fontsize=8)
    panels["r2"].set(
        title="recovered by probes, on held-out episodes", ylabel="R2 (cut off at -0.2)", ylim=(-0.2, 1.25)
    )
    panels["r2"].axhline(0, color="black", linewidth=0.8)
    panels["r2"].legend(fontsize=8, loc="upper center", ncols=len(probes), frameon=False)
    figure.savefig(file, dpi=110)
