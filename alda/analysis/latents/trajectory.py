"""Latents along an episode beside the state of the body, and how much of that state they contain (paper, figure 7)."""

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from jaxtyping import Float
from scipy.stats import rankdata

from alda.analysis.latents.readout import in_chunks, require_latents, stacked
from alda.analysis.libraries import new_figure
from alda.policy import Policy

_LINES = 5  # latents and state variables drawn over time, as in the paper's figure


@torch.no_grad()
def read_codes(policy: Policy, seen: Sequence[np.ndarray]) -> tuple[Float[np.ndarray, "t l"], Float[np.ndarray, "t d"]]:
    """Return codes of the newest frames and features of the stacks."""
    agent, obs = require_latents(policy), stacked(seen, policy)
    code = in_chunks(lambda part: agent.latents(part).code, obs)
    features = in_chunks(agent.representation, obs)  # type: ignore[arg-type]
    return code.cpu().double().numpy(), features.cpu().double().numpy()


def correlations(x: Float[np.ndarray, "n l"], y: Float[np.ndarray, "n s"]) -> Float[np.ndarray, "l s"]:
    """Return Pearson's correlation of every column of x with every column of y; 0 where one is constant."""
    x, y = (part - part.mean(0) for part in (x, y))
    scale = np.sqrt((x**2).sum(0))[:, None] * np.sqrt((y**2).sum(0))
    return np.divide(x.T @ y, scale, out=np.zeros(scale.shape), where=scale > 0)


def rank_correlations(x: Float[np.ndarray, "n l"], y: Float[np.ndarray, "n s"]) -> Float[np.ndarray, "l s"]:
    """Return Spearman's correlation of every column of x with every column of y; 0 where one is constant."""
    return correlations(rankdata(x, axis=0), rankdata(y, axis=0))


def draw_trajectory(
    code: Float[np.ndarray, "t l"],
    states: Float[np.ndarray, "t s"],
    names: list[str],
    pearson: Float[np.ndarray, "l s"],
    probes: dict[str, Float[np.ndarray, " s"]],
) -> Any:
    """Draw one episode's latents that correlate most with state variables, these variables, and probes."""
    figure = new_figure(14.0, 9.0)
    panels = figure.subplot_mosaic([["latents", "map"], ["states", "map"], ["r2", "r2"]], height_ratios=[1, 1, 1.1])
    for latent in np.argsort(-np.abs(pearson).max(1))[:_LINES]:
        partner = int(np.abs(pearson[latent]).argmax())
        panels["latents"].plot(code[:, latent].clip(-1, 1), label=f"latent {latent}")
        panels["states"].plot(states[:, partner], label=names[partner])
    panels["latents"].set(title="codes over one episode, clipped to [-1, 1]", ylabel="code")
    panels["states"].set(title="the state variable that correlates most with each", ylabel="value", xlabel="agent step")
    for name in ("latents", "states"):
        low, high = panels[name].get_ylim()
        panels[name].set_ylim(low - 0.25 * (high - low), high)
        panels[name].legend(fontsize=8, loc="lower center", ncols=_LINES, frameon=False)
    shown = panels["map"].imshow(pearson, cmap="RdBu_r", vmin=-1, vmax=1, aspect="auto")
    panels["map"].set(title="Pearson correlation, all episodes", ylabel="latent", yticks=range(len(pearson)))
    figure.colorbar(shown, ax=panels["map"])
    for i, (name, values) in enumerate(probes.items()):
        place = np.arange(len(names)) + 0.2 * (i - (len(probes) - 1) / 2)
        panels["r2"].bar(place, values.clip(-0.2, 1), 0.2, label=f"{name}, mean {values.mean():.2f}")
    panels["r2"].set(title="recovered by probes, on held-out episodes", ylabel="R2 (cut off at -0.2)")
    panels["r2"].set_ylim(-0.2, 1.25)
    panels["r2"].axhline(0, color="black", linewidth=0.8)
    panels["r2"].legend(fontsize=8, loc="upper center", ncols=len(probes), frameon=False)
    for name in ("map", "r2"):
        panels[name].set_xticks(range(len(names)), names, rotation=90, fontsize=8)
    return figure
