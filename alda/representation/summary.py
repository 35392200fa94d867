"""What the autoencoders of a study say together: tables with intervals, contrasts, pictures."""

import json
from collections.abc import Callable, Iterator, Sequence
from itertools import product
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from jaxtyping import UInt8
from PIL import Image
from torch import Tensor

from alda.analysis.libraries import new_figure, optional
from alda.errors import UserError
from alda.files import write_json, write_text
from alda.pictures import sheet

SEEN = "seen.png"  # in a task's folder: the states that are drawn, as they are
WHENS = ("before", "clamped", "after")
_COLOURS = {"before": "tab:red", "clamped": "tab:orange", "after": "tab:green"}
_SIZE = 64  # of a tile in pictures
Result = dict[str, Any]  # as study._one writes it
Variant = tuple[str, str]  # latent model, normalisation


class Estimate(NamedTuple):
    """Over seeds. half: of the 95 % interval of the mean by Student's t; None of a single seed."""

    mean: float
    half: float | None
    values: list[float]

    def __str__(self) -> str:
        digits = 1 if abs(self.mean) >= 5 else 2
        return f"{self.mean:.{digits}f}" + ("" if self.half is None else f" ± {self.half:.{digits}f}")


class Contrast(NamedTuple):
    """A difference between two readings of the code that were learned with the same seeds."""

    name: str
    left: tuple[Variant, str]  # and when it is read
    right: tuple[Variant, str]


def _contrasts() -> Iterator[Contrast]:
    def of(latent: str, when: str = "after", norm: str = "instance") -> tuple[Variant, str]:
        return (latent, norm), when

    yield Contrast("clamping what the same encoder gives", of("associative", "clamped"), of("associative", "before"))
    yield Contrast("retrieval beyond clamping, same encoder", of("associative"), of("associative", "clamped"))
    for latent in ("associative", "quantized", "fsq", "clamp", "bio"):
        yield Contrast(f"learned with {latent}, against identity", of(latent), of("identity"))
    yield Contrast("learned with associative, against clamp", of("associative"), of("clamp"))
    for latent in ("associative", "identity"):
        for norm in ("layer", "none"):
            yield Contrast(f"instance norm, against {norm} ({latent})", of(latent), of(latent, norm=norm))


CONTRASTS = tuple(_contrasts())


def estimate(values: Sequence[float]) -> Estimate:
    """The mean over seeds and its interval, which is honest about how few they are."""
    data = np.asarray(values, float)
    half = None
    if len(data) > 1:
        factor = optional("scipy.stats", "analysis").t.ppf(0.975, len(data) - 1)
        half = float(factor * data.std(ddof=1) / np.sqrt(len(data)))
    return Estimate(float(data.mean()), half, data.tolist())


def contrast(group: dict[Variant, dict[int, Result]], which: Contrast, shift: str, what: str) -> Estimate | None:
    """Left less right in one world, seed by seed; None where they have no seed in common. what: distance or pose."""
    (left, left_when), (right, right_when) = which.left, which.right
    seeds = sorted(set(group.get(left, {})) & set(group.get(right, {})))
    if not seeds:
        return None

    def read(variant: Variant, when: str, seed: int) -> float:
        return group[variant][seed]["worlds"][shift][what][when]

    return estimate([read(left, left_when, seed) - read(right, right_when, seed) for seed in seeds])


def read_results(out: Path) -> dict[str, dict[Variant, dict[int, Result]]]:
    """Task -> variant -> seed -> result. Raises UserError for a damaged one, and where there is none."""
    found: dict[str, dict[Variant, dict[int, Result]]] = {}
    for file in sorted(out.glob("*/*-*/s*.json")):
        try:
            result = json.loads(file.read_text())
            place = found.setdefault(result["task"], {}).setdefault((result["latent"], result["norm"]), {})
            place[result["seed"]] = result
        except (ValueError, KeyError, TypeError) as error:
            raise UserError(f"{file} is damaged: {error}; delete it, and the same command makes it anew") from error
    if not found:
        raise UserError(f"{out} holds no result of an autoencoder")
    return {task: dict(sorted(group.items(), key=lambda item: _order(item[0]))) for task, group in found.items()}


def summarise(out: Path) -> None:
    """Writes summary.md, summary.json, TASK.png and TASK_decoded.png from all results in a folder.

    Raises UserError where one is damaged.
    """
    groups = read_results(out)
    text = "\n".join(line for task, group in groups.items() for line in [*_tables(task, group), ""])
    write_text(out / "summary.md", text)
    write_json(out / "summary.json", {task: list(_rows(group)) for task, group in groups.items()})
    written = ["summary.md", "summary.json"]
    for task, group in groups.items():
        _draw(out / f"{task}.png", task, group)
        written.append(f"{task}.png")
        if (out / task / SEEN).exists():
            _draw_decoded(out / f"{task}_decoded.png", out / task, group)
            written.append(f"{task}_decoded.png")
    print(text)
    print(f"written to {out}: {', '.join(written)}")


def _rows(group: dict[Variant, dict[int, Result]]) -> Iterator[dict[str, Any]]:
    """Every result, without what all have in common."""
    for by_seed in group.values():
        for result in by_seed.values():
            yield {name: value for name, value in result.items() if name not in ("machine", "settings", "task")}


def _tables(task: str, group: dict[Variant, dict[int, Result]]) -> Iterator[str]:
    shifts = list(_first(group)["worlds"])
    seeds = sorted({seed for by_seed in group.values() for seed in by_seed})
    yield f"## {task}"
    yield ""
    yield f"Means over seeds {', '.join(map(str, seeds))} and their 95 % intervals by Student's t."
    yield ""
    columns: dict[str, Callable[[Result], float]] = {
        "PSNR, dB": lambda result: result["psnr"],
        "pose": lambda result: result["pose"]["after"],
        "InfoM": lambda result: result["information"]["infom"],
        "InfoC": lambda result: result["information"]["infoc"],
        "InfoE": lambda result: result["information"]["infoe"],
        "of a joint": lambda result: result["information"]["joints"],
        "of a colour": lambda result: result["information"]["colors"],
        "T1": lambda result: result["theorem1"]["t1_excess"],
        "latents that mix": lambda result: float(result["theorem1"]["rejected"]),
    }
    yield f"| plain task | {' | '.join(columns)} |"
    yield "|---|" + "---:|" * len(columns)
    for variant, by_seed in group.items():
        cells = [str(estimate([read(result) for result in by_seed.values()])) for read in columns.values()]
        yield f"| {_name(variant)} | {' | '.join(cells)} |"
    for shift in shifts:
        yield ""
        heads = [f"{what} {when}" for what in ("distance", "pose") for when in WHENS]
        heads += ["PSNR before", "PSNR after", "outside", "same value"]
        yield f"| {shift} | {' | '.join(heads)} |"
        yield "|---|" + "---:|" * len(heads)
        for variant, by_seed in group.items():
            worlds = [result["worlds"][shift] for result in by_seed.values()]
            cells = [
                _cell([world[what].get(when) for world in worlds]) for what in ("distance", "pose") for when in WHENS
            ]
            cells += [_cell([world["psnr"][when] for world in worlds]) for when in ("before", "after")]
            cells += [_cell([world[name] for world in worlds]) for name in ("outside", "same_value")]
            yield f"| {_name(variant)} | {' | '.join(cells)} |"
    rows = []
    for which in CONTRASTS:
        cells = []
        for shift, what in product(shifts, ("distance", "pose")):
            found = contrast(group, which, shift, what)
            cells.append("" if found is None else str(found))
        if any(cells):
            rows.append(f"| {which.name} | {' | '.join(cells)} |")
    if rows:
        heads = [f"{what}, {shift}" for shift in shifts for what in ("distance", "pose")]
        yield ""
        yield f"| difference, seed by seed | {' | '.join(heads)} |"
        yield "|---|" + "---:|" * len(heads)
        yield from rows


def _cell(values: Sequence[float | None]) -> str:
    known = [value for value in values if value is not None]
    return str(estimate(known)) if known else ""


def _draw(file: Path, task: str, group: dict[Variant, dict[int, Result]]) -> None:
    """Distance and pose in every world: a bar is a mean over seeds, a dot a seed."""
    shifts = list(_first(group)["worlds"])
    figure = new_figure(4 + 1.0 * len(group), 3.2 * len(shifts) + 0.8)
    panels = figure.subplots(len(shifts), 2, squeeze=False, sharex=True)
    for row, shift in enumerate(shifts):
        for axes, what in zip(panels[row], ("distance", "pose"), strict=True):
            for offset, when in zip((-0.27, 0.0, 0.27), WHENS, strict=True):
                for place, by_seed in enumerate(group.values()):
                    values = [result["worlds"][shift][what].get(when) for result in by_seed.values()]
                    if None in values:
                        continue
                    label = f"{when} retrieval" if when != "clamped" else "clamped only"
                    known = axes.get_legend_handles_labels()[1]
                    axes.bar(
                        place + offset,
                        np.mean(values),
                        0.25,
                        color=_COLOURS[when],
                        alpha=0.6,
                        label="_" if label in known else label,
                    )
                    axes.plot([place + offset] * len(values), values, "k.", markersize=3)
            axes.set_title(f"{what} in {shift}", fontsize=10)
            axes.grid(axis="y", alpha=0.3)
            axes.set_axisbelow(True)
        panels[row, 0].set_ylabel("distance to the clean twin\n(1 = as far as another state)", fontsize=9)
        panels[row, 0].axhline(1, color="grey", linewidth=0.8, linestyle="--")
        panels[row, 1].set_ylabel("share of the joints' variance\ntold from the code (R2)", fontsize=9)
        for place, by_seed in enumerate(group.values()):
            plain = np.mean([result["pose"]["after"] for result in by_seed.values()])
            panels[row, 1].hlines(plain, place - 0.4, place + 0.4, color="black", linewidth=1)
    for axes in panels[-1]:
        axes.set_xticks(range(len(group)), [_name(variant, "\n") for variant in group], fontsize=8)
        axes.set_xlabel("latent model, normalisation")
    panels[0, 0].legend(fontsize=8)
    figure.suptitle(f"{task}: autoencoders alone; dots are seeds, black lines the plain task")
    figure.savefig(file, dpi=110)


def _draw_decoded(file: Path, folder: Path, group: dict[Variant, dict[int, Result]]) -> None:
    """The same states in every world, as they are and as each variant's first seed decodes them."""
    worlds = ["train", *_first(group)["worlds"]]
    rows, labels = [_read_strip(folder / SEEN)], ["seen"]
    for variant, by_seed in group.items():
        strip = folder / "-".join(variant) / f"s{min(by_seed)}.png"
        if strip.exists():
            rows.append(_read_strip(strip))
            labels.append(_name(variant, "\n"))
    states = len(rows[0]) // len(worlds)
    titles = [world.replace("distracting_", "") if i == 0 else "" for world in worlds for i in range(states)]
    sheet(rows, titles, labels, scale=1).save(file)


def write_strip(path: Path, images: UInt8[Tensor, "n 3 h w"]) -> None:
    """Square pictures side by side."""
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(np.concatenate(list(images.cpu().numpy()), axis=-1).transpose(1, 2, 0)).save(path)


def _read_strip(path: Path) -> list[UInt8[np.ndarray, "3 h w"]]:
    with Image.open(path, formats=("PNG",)) as image:
        pixels = np.asarray(image.convert("RGB")).transpose(2, 0, 1)
    return np.split(pixels, pixels.shape[-1] // pixels.shape[-2], axis=-1)


def _first(group: dict[Variant, dict[int, Result]]) -> Result:
    return next(iter(next(iter(group.values())).values()))


def _order(variant: Variant) -> tuple[int, int]:
    latents = ("associative", "quantized", "fsq", "clamp", "identity", "bio")
    norms = ("instance", "layer", "none")
    latent, norm = variant
    return norms.index(norm), latents.index(latent) if latent in latents else len(latents)


def _name(variant: Variant, between: str = ", ") -> str:
    return between.join(variant)
