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
_QLAE, _BIOAE = "#44AA99", "#882255"
_LIGHT, _MIDDLE, _DARK = "#FEC44F", "#EC7014", "#8C2D04"
_ORDERED = {3: (_LIGHT, _MIDDLE, _DARK), 5: (_LIGHT, "#FE9929", _MIDDLE, "#CC4C02", _DARK)}  # values of a setting


class Curve(NamedTuple):
    """What a figure compares: a method with the settings that make it a variant."""

    label: str
    method: str
    settings: tuple[tuple[str, Any], ...]  # that differ from the method's defaults and make the variant
    color: str
    dash: str = "-"


def _default(method: str) -> Curve:
    label, color = METHODS[method]
    return Curve(label, method, (), color)


def _series(name: str, setting: str, values: Sequence[int | float], default: int) -> tuple[Curve, ...]:
    """ALDA at several values of one setting; its default keeps its colour."""
    others = [value for value in values if value != default]
    colors = dict(zip(others, _ORDERED[len(others)], strict=True))
    return tuple(
        Curve(f"ALDA, {name} {value:g}", "alda", ((setting, value),), colors[value])
        if value in colors
        else _default("alda")._replace(label=f"ALDA, {name} {value:g}")
        for value in values
    )


_ALDA = _default("alda")
_QLAE_CURVE = Curve("QLAE", "alda", (("latent", "quantized"),), _QLAE)
FIGURES: dict[str, tuple[str, tuple[Curve, ...]]] = {
    "3": (
        "association, quantisation, energy",
        (
            _ALDA,
            _QLAE_CURVE,
            Curve("BioAE", "alda", (("latent", "bio"),), _BIOAE),
            Curve(
                "BioAE (penalty)",
                "alda",
                (
                    ("latent", "bio_penalty"),
                    ("weight_decay", 1e-4),
                ),
                _BIOAE,
                "--",
            ),
        ),
    ),
    "4": (
        "blend or nearest value, values that learn or do not",
        (
            _ALDA,
            Curve("ALDA, values learn", "alda", (("codebook_grad", "quant"),), _ALDA.color, "--"),
            _QLAE_CURVE,
            Curve(
                "QLAE, values stay",
                "alda",
                (
                    ("latent", "quantized"),
                    ("codebook_grad", "none"),
                ),
                _QLAE,
                "--",
            ),
        ),
    ),
    "5": ("the main comparison", tuple(map(_default, ("alda", "svea", "sac_ae", "repo", "darla")))),
    "12": ("inverse temperature of the retrieval", _series("beta", "beta", (1.0, 10.0, 50.0, 100.0), 100)),
    "13": (
        "one code for the whole stack of frames",
        (_ALDA, Curve("ALDA(framestack)", "alda", (("stack", "channels"),), _MIDDLE)),
    ),
    "15": (
        "the critic's gradient reaches the encoder",
        (
            _ALDA,
            Curve("ALDA(CG)", "alda", (("critic_grad", "ste"),), _MIDDLE),
            Curve("ALDA(CG), by the slope", "alda", (("critic_grad", "soft"),), _DARK, "--"),
        ),
    ),
    "16": ("number of latents", _series("latents", "num_latents", (12, 20, 32, 40, 64, 128), 12)),
    "17": (
        "SVEA trained on color_easy",
        (
            _ALDA,
            Curve(
                "SVEA(color easy)",
                "svea",
                (("augmentation", "none"), ("train_shift", "color_easy")),
                METHODS["svea"][1],
            ),
        ),
    ),
}
AGGREGATE = "aggregate"
