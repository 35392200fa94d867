"""The curves of the paper's figures: which methods and variants each compares, and their colours.

The paper's figures 3 and 5 are known by their contents, and that figure 4 shows QLAE. Figures 12, 13, 15, 16 and 17 are
pictures whose contents are told apart here by the order in which its appendices and text treat them: beta (A.4), one
code for the stack (A.5), the critic's gradient (A.10), the number of latents, SVEA trained on color_easy.
"""

from collections.abc import Sequence
from typing import Any, NamedTuple

# Tol's muted colours, which colour-blind people can tell apart
METHODS = {
    "alda": ("ALDA", "#332288"),
    "svea": ("SVEA", "#CC6677"),
    "sac_ae": ("SAC+AE", "#117733"),
    "repo": ("RePo", "#DDCC77"),
    "darla": ("DARLA", "#88CCEE"),
    "sac": ("SAC", "#555555"),
    "drq": ("DrQ", "#AA4499"),
    "sada": ("SADA", "#999933"),
}
_QLAE_COLOR, _BIOAE_COLOR = "#44AA99", "#882255"
_LIGHT, _MIDDLE, _DARK = "#FEC44F", "#EC7014", "#8C2D04"
_ORDERED = {3: (_LIGHT, _MIDDLE, _DARK), 5: (_LIGHT, "#FE9929", _MIDDLE, "#CC4C02", _DARK)}  # values of a setting
AGGREGATE = "aggregate"


class Curve(NamedTuple):
    """A method with the settings that differ from its defaults and make it a variant."""

    label: str
    method: str
    settings: tuple[tuple[str, Any], ...]
    color: str
    dash: str = "-"


def _default(method: str) -> Curve:
    label, color = METHODS[method]
    return Curve(label, method, (), color)


def _variant(label: str, color: str, dash: str = "-", method: str = "alda", **settings: Any) -> Curve:
    return Curve(label, method, tuple(settings.items()), color, dash)


def _series(name: str, setting: str, values: Sequence[int | float], default: int) -> tuple[Curve, ...]:
    """Return ALDA at several values of one setting; its default keeps its colour."""
    others = [value for value in values if value != default]
    colors = dict(zip(others, _ORDERED[len(others)], strict=True))
    curves = {value: Curve(f"ALDA, {name} {value:g}", "alda", ((setting, value),), colors[value]) for value in others}
    return tuple(curves.get(value, _ALDA._replace(label=f"ALDA, {name} {value:g}")) for value in values)


_ALDA = _default("alda")
_QLAE = _variant("QLAE", _QLAE_COLOR, latent="quantized")
_BIOAE = _variant("BioAE", _BIOAE_COLOR, latent="bio")
_BIOAE_PENALTY = _variant("BioAE (penalty)", _BIOAE_COLOR, "--", latent="bio_penalty", weight_decay=1e-4)
_LEARNED = _variant("ALDA, values learn", _ALDA.color, "--", codebook_grad="quant")
_QLAE_FIXED = _variant("QLAE, values stay", _QLAE_COLOR, "--", latent="quantized", codebook_grad="none")
_STACKED = _variant("ALDA(framestack)", _MIDDLE, stack="channels")
_CRITIC = _variant("ALDA(CG)", _MIDDLE, critic_grad="ste")
_CRITIC_SLOPE = _variant("ALDA(CG), by the slope", _DARK, "--", critic_grad="soft")
_SVEA_COLOR = METHODS["svea"][1]
_SVEA_EASY = _variant("SVEA(color easy)", _SVEA_COLOR, method="svea", augmentation="none", train_shift="color_easy")

FIGURES: dict[str, tuple[str, tuple[Curve, ...]]] = {
    "3": ("association, quantisation, energy", (_ALDA, _QLAE, _BIOAE, _BIOAE_PENALTY)),
    "4": ("blend or nearest value, values that learn or do not", (_ALDA, _LEARNED, _QLAE, _QLAE_FIXED)),
    "5": ("the main comparison", tuple(map(_default, ("alda", "svea", "sac_ae", "repo", "darla")))),
    "12": ("inverse temperature of the retrieval", _series("beta", "beta", (1.0, 10.0, 50.0, 100.0), 100)),
    "13": ("one code for the whole stack of frames", (_ALDA, _STACKED)),
    "15": ("the critic's gradient reaches the encoder", (_ALDA, _CRITIC, _CRITIC_SLOPE)),
    "16": ("number of latents", _series("latents", "num_latents", (12, 20, 32, 40, 64, 128), 12)),
    "17": ("SVEA trained on color_easy", (_ALDA, _SVEA_EASY)),
}
