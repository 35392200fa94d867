"""Whether association brings the code of a shifted image back to that of the unshifted one, which the paper claims.

The same states are seen in the plain task and under a shift, and what the agent makes of both is compared before
retrieval (as encoded) and after it (as decoded and acted on). Distances are given over those between different states
of the plain task: 0 where the shift is not noticed, 1 where it is as bad as another state.
"""

from typing import Any

import numpy as np
import torch
from jaxtyping import Float, Int, UInt8
from torch import Tensor

from alda.agents.alda import ALDA
from alda.agents.base import Agent
from alda.agents.decoding import DecodingAgent, LatentAgent, psnr, to_pixels
from alda.agents.sac import SAC
from alda.analysis.latents.readout import CHUNK, in_chunks, memory_of, stored_range
from alda.analysis.latents.results import rounded
from alda.analysis.libraries import new_figure
from alda.latents.codebook import CodebookLatent
from alda.nets.representation import to_float
from alda.pictures import sheet

_ALIKE = 1e-5  # mean distance below which states are not told apart, by codes of order 1
_EXAMPLES = 9  # states that are drawn
_BEFORE, _AFTER, _PLAIN, _SHIFTED = "tab:red", "tab:green", "tab:blue", "tab:orange"


class CodeView:
    """Codes of N observations, before retrieval (encoded) and after it (code)."""

    @torch.no_grad()
    def __init__(self, agent: LatentAgent, obs: UInt8[Tensor, "n f c h w"]) -> None:
        latents = [agent.latents(part) for part in obs.split(CHUNK)]
        self.frame = to_float(obs[:, -1])
        self.encoded = torch.cat([one.encoded for one in latents])  # [N, L]
        self.code = torch.cat([one.code for one in latents])
        nearest = [one.nearest for one in latents if one.nearest is not None]
        self.nearest = torch.cat(nearest) if nearest else None


class View(CodeView):
    """Codes, features and actions of N observations."""

    @torch.no_grad()
    def __init__(self, agent: SAC, obs: UInt8[Tensor, "n f c h w"]) -> None:
        super().__init__(agent, obs)
        self.features = in_chunks(agent.representation, obs)  # [N, D]
        self.features_encoded = self.features
        if isinstance(agent, ALDA):
            seen = agent.representation
            self.features_encoded = in_chunks(lambda part: seen.history(seen.encode(seen.images(part))), obs)
        self.action = agent.actor(self.features).mode


@torch.no_grad()
def compare(agent: SAC, clean: View, shifted: View) -> dict[str, Any]:
    """Compare the same N states without and with a shift: `compare_codes`, and what follows from the codes.

    distance: of features and action as well. q: mean absolute change of Q for the clean twin's action, in standard
    deviations of Q over clean states.
    """
    result = compare_codes(agent, clean, shifted)
    before, after = (clean.features_encoded, shifted.features_encoded), (clean.features, shifted.features)
    distance = {name: rounded(relative_distance(*pair)) for name, pair in (("before", before), ("after", after))}
    action = {"after": rounded(relative_distance(clean.action, shifted.action))}
    result["distance"] |= {"features": distance, "action": action}
    q, q_shifted = (agent.critic(view.features, clean.action).amin(0) for view in (clean, shifted))
    result["q"] = rounded((q_shifted - q).abs().mean() / q.std().clamp(min=1e-12))
    result["q_mean"] = {"train": rounded(q.mean()), "shifted": rounded(q_shifted.mean())}
    return result


@torch.no_grad()
def compare_codes(agent: Agent, clean: CodeView, shifted: CodeView) -> dict[str, Any]:
    """Compare the codes of the same N states without and with a shift, "before" and "after" retrieval.

    distance: to the code of the clean twin, over the distance between different states. distance_by_latent: the same by
    latent; None where a latent is the same in all clean states. move_by_latent: mean absolute change of each latent.
    outside: share of frames that lie outside the stored range. same_value: share that retrieves the value that the twin
    retrieves. psnr: of decoded shifted frames, against the clean twin's frame and against the frame that was seen.
    """
    result: dict[str, Any] = {"distance": {"code": {}}, "distance_by_latent": {}, "move_by_latent": {}}
    for when, here, there in (("before", clean.encoded, shifted.encoded), ("after", clean.code, shifted.code)):
        result["distance"]["code"][when] = rounded(relative_distance(here, there))
        result["move_by_latent"][when] = rounded((there - here).abs().mean(0))
        columns = zip(here.split(1, dim=1), there.split(1, dim=1), strict=True)
        result["distance_by_latent"][when] = [rounded(relative_distance(*pair)) for pair in columns]
    if (bounds := stored_range(agent)) is not None:
        low, high = bounds
        for name, view in (("train", clean), ("shifted", shifted)):
            outside = ((view.encoded < low) | (view.encoded > high)).double().mean(0)
            result.setdefault("outside", {})[name] = rounded(outside)
    if clean.nearest is not None and shifted.nearest is not None:
        result["same_value"] = rounded((clean.nearest == shifted.nearest).double().mean(0))
    if isinstance(agent, DecodingAgent):
        for when, code in (("before", shifted.encoded), ("after", shifted.code)):
            decoded = in_chunks(agent.decode, code)
            quality = {"clean twin": psnr(decoded, clean.frame), "frame seen": psnr(decoded, shifted.frame)}
            result.setdefault("psnr", {})[when] = {name: rounded(value) for name, value in quality.items()}
    return result


def relative_distance(here: Float[Tensor, "n d"], there: Float[Tensor, "n d"]) -> Float[Tensor, ""]:
    """Return the mean distance of pairs over that of different states in `here`; nan where these are all alike."""
    n = len(here)
    apart = torch.cdist(here.double(), here.double()).sum() / (n * (n - 1))
    apart = torch.where(apart > _ALIKE, apart, torch.nan)
    return (there - here).double().norm(dim=1).mean() / apart


def usage(nearest: Int[Tensor, "n l"], count: int) -> Float[np.ndarray, "l v"]:
    """Return the share of frames in which each latent is closest to each of its stored values."""
    return np.stack([np.bincount(column, minlength=count) for column in nearest.cpu().numpy().T]) / len(nearest)


def draw_association(agent: SAC, clean: View, shifted: View, numbers: dict[str, Any], shift: str, method: str) -> Any:
    """Draw examples, distances, the encoder's range beside stored values, and which values are retrieved."""
    figure = new_figure(15.0, 11.0)
    rows = [["examples", "examples", "distance"], ["range", "train", "shifted"], ["latents", "latents", "latents"]]
    panels = figure.subplot_mosaic(rows, height_ratios=[1.25, 1, 0.8])
    figure.suptitle(f"{method}: train against {shift}, {len(clean.code)} pairs of the same state")
    _draw_examples(panels["examples"], agent, clean, shifted, numbers, shift)
    _draw_distances(panels["distance"], panels["latents"], numbers, shift)
    _draw_range(panels["range"], agent, {"train": clean, shift: shifted})
    memory = memory_of(agent)
    for axes, view, name in ((panels["train"], clean, "train"), (panels["shifted"], shifted, shift)):
        if view.nearest is None or memory is None:
            axes.text(0.5, 0.5, "no stored values", ha="center", va="center")
            axes.axis("off")
            continue
        shown = axes.imshow(usage(view.nearest, memory.config.num_values), vmin=0, vmax=1, aspect="auto")
        axes.set(title=f"what is retrieved in {name}\n(share of frames)", xlabel="stored value, from the lowest")
        axes.set(ylabel="latent", yticks=range(view.nearest.shape[1]))
        figure.colorbar(shown, ax=axes)
    return figure


@torch.no_grad()
def _draw_examples(axes: Any, agent: SAC, clean: View, shifted: View, numbers: dict[str, Any], shift: str) -> None:
    """Draw rows of images, a column for each of a few states."""
    chosen = np.linspace(0, len(clean.code) - 1, _EXAMPLES).round().astype(int)
    images: dict[str, Any] = {"train": clean.frame[chosen], shift: shifted.frame[chosen]}
    if isinstance(agent, DecodingAgent):
        codes = {"train,\ndecoded": clean.code, "before\nretrieval": shifted.encoded, "after": shifted.code}
        images |= {name: agent.decode(code[chosen]) for name, code in codes.items()}
        quality = [f"{value['clean twin']:.1f} dB {when} retrieval" for when, value in numbers["psnr"].items()]
        axes.set_title(f"decoded {shift}, against the clean twin's frame: {', '.join(quality)}", fontsize=10)
    picture = np.asarray(sheet([list(to_pixels(row).cpu().numpy()) for row in images.values()], []))
    axes.imshow(picture)
    axes.set_yticks((np.arange(len(images)) + 0.5) * len(picture) / len(images), list(images))
    axes.tick_params(length=0)
    axes.set_xticks([])
    axes.set_frame_on(False)


def _draw_distances(summary: Any, by_latent: Any, numbers: dict[str, Any], shift: str) -> None:
    """Draw distances to the clean twin before and after retrieval, altogether and by latent."""
    ylabel, distance = "1 = as far as another state", numbers["distance"] | {"Q": {"after": numbers["q"]}}
    values = [[of.get(when) for of in distance.values()] for when in ("before", "after")]
    _bars(summary, list(distance), *values)
    summary.set(title="distance to the clean twin", ylabel=f"{ylabel} (Q: in s.d.)")
    latents = numbers["distance_by_latent"]
    outside = numbers.get("outside", {}).get("shifted", [None] * len(latents["after"]))
    labels = [str(i) if share is None else f"{i}\n{share:.0%} out" for i, share in enumerate(outside)]
    _bars(by_latent, labels, *latents.values())
    if len(labels) > 20:
        by_latent.set_xticks(range(0, len(labels), len(labels) // 20 + 1))
    title = f"distance to the clean twin, latent by latent (out: outside the stored range in {shift})"
    by_latent.set(title=title, xlabel="latent", ylabel=ylabel)


def _bars(axes: Any, names: list[str], before: list[float | None], after: list[float | None]) -> None:
    for offset, colour, name, values in ((-0.2, _BEFORE, "before retrieval", before), (0.2, _AFTER, "after", after)):
        heights = [np.nan if value is None else value for value in values]
        axes.bar(np.arange(len(names)) + offset, heights, 0.4, color=colour, label=name)
    axes.set_xticks(range(len(names)), names, fontsize=8)
    axes.axhline(1, color="grey", linewidth=0.8, linestyle="--")
    axes.legend(fontsize=8)


def _draw_range(axes: Any, agent: SAC, views: dict[str, View]) -> None:
    """Draw what the encoder gives for each latent beside its stored values."""
    for offset, colour, (name, view) in zip((-0.15, 0.15), (_PLAIN, _SHIFTED), views.items(), strict=True):
        low, middle, high = np.quantile(view.encoded.cpu().numpy(), [0.05, 0.5, 0.95], axis=0)
        place, ends = np.arange(len(middle)) + offset, [middle - low, high - middle]
        axes.errorbar(place, middle, ends, fmt="o", markersize=3, color=colour, label=name)
    memory = memory_of(agent)
    if isinstance(memory, CodebookLatent):
        for i, values in enumerate(memory.values.detach().cpu().numpy()):
            axes.hlines(values, i - 0.35, i + 0.35, color="grey", linewidth=0.5, zorder=0)
    axes.set(title="encoder output, 5 to 95 % of frames\n(grey: stored values)", xlabel="latent")
    axes.set_ylabel("before retrieval")
    axes.legend(fontsize=8)
