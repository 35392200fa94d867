"""Does association bring a shifted image back to what was known? The paper claims it and shows returns alone.

The same states are drawn in the training world and in a shifted one, and what the agent makes of both is compared
before retrieval (as encoded) and after it (as decoded and acted on). Distances are given over those between different
states of the training world: 0 where the shift is not noticed, 1 where it is as good as another state.
"""

from itertools import groupby
from pathlib import Path
from typing import Any

import numpy as np
import torch
from jaxtyping import Float, Int, UInt8
from rich.table import Table
from torch import Tensor

from alda.agents.alda import ALDA
from alda.agents.base import Agent
from alda.agents.decoding import DecodingAgent, LatentAgent, psnr, to_pixels
from alda.agents.sac import SAC
from alda.analysis.latents.look import (
    episode_steps,
    in_chunks,
    memory_of,
    progress,
    require_critic,
    require_latents,
    result_files,
    rounded,
    stacked,
    write_result,
)
from alda.analysis.libraries import new_figure
from alda.analysis.paired_rollouts import twins
from alda.envs import check_shift
from alda.errors import UserError
from alda.latents.ablations import ClampLatent
from alda.latents.codebook import CodebookLatent
from alda.nets.representation import to_float
from alda.pictures import sheet
from alda.policy import load
from alda.progress import wide_console

_ALIKE = 1e-5  # mean distance below which states are not told apart, by codes of order 1
_EXAMPLES = 9  # states that are drawn


def analyze_association(
    run: Path,
    *,
    shift: str = "color_hard",
    episodes: int = 10,
    states: int = 20,
    seed: int = 0,
    out: Path | None = None,
) -> dict[str, Any]:
    """Writes one picture that tells whether association works, and the numbers under it.

    shift: the world to come back from. episodes: each with its own colours, backgrounds or camera. states: of each
    episode, evenly spread. Returns the numbers. For a method whose encoder is followed by no latent model, before and
    after are the same. Raises UserError for a method without latents, and for an unknown world.
    """
    if episodes < 1 or states < 2 or seed < 0:
        raise UserError("--episodes must be at least 1, --states at least 2 and --seed not negative")
    policy = load(run)
    require_latents(policy)
    agent = require_critic(policy)
    check_shift(shift, policy.config.env.task)
    picture, table = result_files(run, out, f"association_{shift}")
    clean, shifted = [], []
    with progress() as begin:
        step = begin(f"playing episodes in train and {shift}", episodes * episode_steps(policy))
        pairs = twins(policy, ("train", shift), range(seed, seed + episodes))
        for _, episode in groupby(pairs, key=lambda twin: twin.seed):
            seen = []
            for twin in episode:
                seen.append(twin.seen)
                step()
            for t in np.linspace(0, len(seen) - 1, states).round().astype(int):
                clean.append(seen[t][0])
                shifted.append(seen[t][1])
        step = begin("comparing", 2)
        here = View(agent, stacked(clean, policy))
        step()
        there = View(agent, stacked(shifted, policy))
        step()
    numbers = compare(agent, here, there)
    _draw(picture, agent, here, there, numbers, shift, policy.config.method)
    write_result(table, policy, {"shift": shift, "episodes": episodes, "pairs": len(clean), **numbers})
    _say(numbers, shift)
    print(f"written to {picture.parent}: {picture.name}, {table.name}")
    return numbers


class CodeView:
    """What an autoencoder makes of N observations, before retrieval and after it."""

    @torch.no_grad()
    def __init__(self, agent: LatentAgent, obs: UInt8[Tensor, "n f c h w"]) -> None:
        latents = [agent.latents(part) for part in obs.split(64)]
        self.frame = to_float(obs[:, -1])
        self.encoded = torch.cat([one.encoded for one in latents])  # [N, L]
        self.code = torch.cat([one.code for one in latents])
        nearest = [one.nearest for one in latents if one.nearest is not None]
        self.nearest = torch.cat(nearest) if nearest else None


class View(CodeView):
    """What an agent makes of them."""

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
    """The same N states in both worlds: what `compare_codes` says of them, and what becomes of the codes.

    distance: of features and action as well. q: mean absolute change of Q for the clean twin's action, in standard
    deviations of Q over clean states.
    """
    result = compare_codes(agent, clean, shifted)
    for name, when, here, there in (
        ("features", "before", clean.features_encoded, shifted.features_encoded),
        ("features", "after", clean.features, shifted.features),
        ("action", "after", clean.action, shifted.action),
    ):
        result["distance"].setdefault(name, {})[when] = rounded(relative_distance(here, there))
    q, q_shifted = (agent.critic(view.features, clean.action).amin(0) for view in (clean, shifted))
    result["q"] = rounded((q_shifted - q).abs().mean() / q.std().clamp(min=1e-12))
    result["q_mean"] = {"train": rounded(q.mean()), "shifted": rounded(q_shifted.mean())}
    return result


@torch.no_grad()
def compare_codes(agent: Agent, clean: CodeView, shifted: CodeView) -> dict[str, Any]:
    """The codes of the same N states in both worlds. "before" and "after" are of retrieval.

    distance: to that of the clean twin, over the distance between different states. distance_by_latent: the same,
    latent by latent; None where a latent is the same in all clean states. move_by_latent: the mean absolute change of
    each latent itself. outside: share of frames that lie outside what is stored. same_value: share that retrieves what
    the twin retrieves. psnr: of decoded shifted frames, against the frame of the clean twin and against the frame that
    was seen.
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
    """Mean distance of twins over that of different states of the first world; nan where those are all alike."""
    n = len(here)
    apart = torch.cdist(here.double(), here.double()).sum() / (n * (n - 1))
    apart = torch.where(apart > _ALIKE, apart, torch.nan)
    return (there - here).double().norm(dim=1).mean() / apart


def stored_range(agent: Agent) -> tuple[Float[Tensor, " l"], Float[Tensor, " l"]] | None:
    """The lowest and the highest value that each latent can be brought back to, if that is limited."""
    memory = memory_of(agent)
    if not isinstance(memory, CodebookLatent | ClampLatent):
        return None
    ends = memory.sweep(torch.zeros(1, memory.config.num_latents), 2)
    return ends[:, 0], ends[:, 1]


def usage(nearest: Int[Tensor, "n l"], count: int) -> Float[np.ndarray, "l v"]:
    """Share of frames in which each latent is closest to each of its stored values."""
    return np.stack([np.bincount(column, minlength=count) for column in nearest.cpu().numpy().T]) / len(nearest)


def _say(numbers: dict[str, Any], shift: str) -> None:
    table = Table(title=f"{shift} against train: 0 is unnoticed, 1 is another state")
    for column in ("", "before retrieval", "after"):
        table.add_column(column, justify="left" if not column else "right")
    for name, values in numbers["distance"].items():
        table.add_row(name, *(f"{values[when]:.2f}" if when in values else "" for when in ("before", "after")))
    table.add_row("Q", "", f"{numbers['q']:.2f}")
    wide_console().print(table)


def _draw(file: Path, agent: SAC, clean: View, shifted: View, numbers: dict[str, Any], shift: str, method: str) -> None:
    figure = new_figure(15.0, 11.0)
    panels = figure.subplot_mosaic(
        [
            ["pictures", "pictures", "summary"],
            ["range", "used train", "used shifted"],
            ["latents", "latents", "latents"],
        ],
        height_ratios=[1.25, 1, 0.8],
    )
    figure.suptitle(f"{method}: train against {shift}, {len(clean.code)} pairs of the same state")
    examples = _examples(agent, clean, shifted, shift)
    picture = np.asarray(sheet(list(examples.values()), []))
    panels["pictures"].imshow(picture)
    panels["pictures"].set_yticks((np.arange(len(examples)) + 0.5) * len(picture) / len(examples), list(examples))
    panels["pictures"].tick_params(length=0)
    panels["pictures"].set_xticks([])
    panels["pictures"].set_frame_on(False)
    if "psnr" in numbers:
        quality = {when: values["clean twin"] for when, values in numbers["psnr"].items()}
        words = ", ".join(f"{value:.1f} dB {when} retrieval" for when, value in quality.items())
        panels["pictures"].set_title(f"decoded {shift}, against the clean twin's frame: {words}", fontsize=10)

    names = ["code", "features", "action", "Q"]
    distance = numbers["distance"]
    before = [distance[name].get("before") for name in names[:2]]
    after = [*(distance[name]["after"] for name in names[:3]), numbers["q"]]
    _bars(panels["summary"], names, before, after)
    panels["summary"].set(title="distance to the clean twin", ylabel="1 = as far as another state (Q: in s.d.)")

    number = range(clean.code.shape[1])
    for offset, colour, view, name in ((-0.15, "tab:blue", clean, "train"), (0.15, "tab:orange", shifted, shift)):
        low, middle, high = np.quantile(view.encoded.cpu().numpy(), [0.05, 0.5, 0.95], axis=0)
        place = np.arange(len(middle)) + offset
        panels["range"].errorbar(
            place, middle, [middle - low, high - middle], fmt="o", markersize=3, color=colour, label=name
        )
    memory = memory_of(agent)
    if isinstance(memory, CodebookLatent):
        for i, values in enumerate(memory.values.detach().cpu().numpy()):
            panels["range"].hlines(values, i - 0.35, i + 0.35, color="grey", linewidth=0.5, zorder=0)
    panels["range"].set(
        title="encoder output, 5 to 95 % of frames\n(grey: stored values)", xlabel="latent", ylabel="before retrieval"
    )
    panels["range"].legend(fontsize=8)

    for key, view, name in (("used train", clean, "train"), ("used shifted", shifted, shift)):
        if view.nearest is None or memory is None:
            panels[key].text(0.5, 0.5, "no stored values", ha="center", va="center")
            panels[key].axis("off")
            continue
        shown = panels[key].imshow(
            usage(view.nearest, memory.config.num_values), vmin=0, vmax=1, cmap="viridis", aspect="auto"
        )
        panels[key].set(title=f"what is retrieved in {name}\n(share of frames)", xlabel="stored value, from the lowest")
        panels[key].set_ylabel("latent")
        panels[key].set_yticks(number)
        figure.colorbar(shown, ax=panels[key])

    by_latent = numbers["distance_by_latent"]
    _bars(panels["latents"], [str(i) for i in number], *by_latent.values())
    outside = numbers.get("outside", {}).get("shifted")
    labels = [f"{i}\n{share:.0%} out" for i, share in enumerate(outside)] if outside else [str(i) for i in number]
    if len(labels) <= 20:
        panels["latents"].set_xticks(number, labels, fontsize=8)
    else:
        panels["latents"].locator_params(axis="x", nbins=20)
    panels["latents"].set(
        title=f"distance to the clean twin, latent by latent (out: outside the stored range in {shift})",
        xlabel="latent",
        ylabel="1 = as far as another state",
    )
    figure.savefig(file, dpi=100)


def _bars(axes: Any, names: list[str], before: list[float | None], after: list[float | None]) -> None:
    for offset, colour, name, values in (
        (-0.2, "tab:red", "before retrieval", before),
        (0.2, "tab:green", "after", after),
    ):
        places = [i + offset for i, value in enumerate(values) if value is not None]
        axes.bar(places, [value for value in values if value is not None], 0.4, color=colour, label=name)
    axes.set_xticks(range(len(names)), names)
    axes.axhline(1, color="grey", linewidth=0.8, linestyle="--")
    axes.legend(fontsize=8)


@torch.no_grad()
def _examples(agent: SAC, clean: View, shifted: View, shift: str) -> dict[str, list[UInt8[np.ndarray, "c h w"]]]:
    """Rows of pictures, a column for each of a few states."""
    chosen = np.linspace(0, len(clean.code) - 1, _EXAMPLES).round().astype(int)
    rows = {"train": clean.frame, shift: shifted.frame}
    if isinstance(agent, DecodingAgent):
        codes = {"train,\ndecoded": clean.code, "before\nretrieval": shifted.encoded, "after": shifted.code}
        rows |= {name: agent.decode(code[chosen]) for name, code in codes.items()}
    return {
        name: list(to_pixels(images if len(images) == _EXAMPLES else images[chosen]).cpu().numpy())
        for name, images in rows.items()
    }
