"""What the autoencoders of a study say together: tables with intervals, contrasts, pictures."""

import json
from collections.abc import Callable, Iterable, Iterator, Sequence
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
from alda.latents import LATENTS
from alda.nets.conv import NORMS
from alda.pictures import sheet

SEEN = "seen.png"  # in a task's folder: the states that are drawn, as they are
WHENS = ("before", "clamped", "after")
_COLOURS = {"before": "tab:red", "clamped": "tab:orange", "after": "tab:green"}
Result = dict[str, Any]  # as study._one writes it
Variant = tuple[str, str]  # latent model, normalisation


class Estimate(NamedTuple):
    """Over seeds. half: of the 95 % interval of the mean by Student's t; None of a single seed."""

    mean: float
    half: float | None
    values: list[float]

    def words(self, digits: int) -> str:
        """'0.52 ± 0.03'"""
        return " ± ".join(_number(value, digits) for value in (self.mean, self.half) if value is not None)


class Contrast(NamedTuple):
    """A difference between two readings of the code that were learned with the same seeds."""

    name: str
    left: tuple[Variant, str]  # and when it is read
    right: tuple[Variant, str]


def contrasts(latents: Iterable[str]) -> Iterator[Contrast]:
    """What is compared of these latent models, where it is there."""

    def of(latent: str, when: str, norm: str) -> tuple[Variant, str]:
        return (latent, norm), when

    for norm in NORMS:
        encoded, clamped, retrieved = (of("associative", when, norm) for when in WHENS)
        yield Contrast(f"same encoder ({norm}): clamped, against as encoded", clamped, encoded)
        yield Contrast(f"same encoder ({norm}): retrieved, against clamped", retrieved, clamped)
    pairs = [(latent, "identity") for latent in latents if latent != "identity"]
    for norm, (left, right) in product(NORMS, (*pairs, ("associative", "clamp"))):
        name = f"{left}, against {right} ({norm})"
        yield Contrast(f"encoder learned with {name}", of(left, "before", norm), of(right, "before", norm))
        yield Contrast(f"all together: {name}", of(left, "after", norm), of(right, "after", norm))
    usual, *others = NORMS
    for latent, norm in product(("associative", "identity"), others):
        name = f"encoder with {usual} norm, against {norm} ({latent})"
        yield Contrast(name, of(latent, "before", usual), of(latent, "before", norm))


def estimate(values: Sequence[float]) -> Estimate:
    """The mean over seeds and its interval, which is honest about how few they are."""
    data = np.asarray(values, float)
    half = None
    if len(data) > 1:
        factor = optional("scipy.stats", "analysis").t.ppf(0.975, len(data) - 1)
        half = float(factor * data.std(ddof=1) / np.sqrt(len(data)))
    return Estimate(float(data.mean()), half, data.tolist())


def contrast(group: dict[Variant, dict[int, Result]], which: Contrast, shift: str, what: str) -> Estimate | None:
    """Left less right in one world, seed by seed; None where they have no seed in common. what: distance or pose.

    A seed whose code is the same in all states has no distances, and is left out.
    """
    (left, left_when), (right, right_when) = which.left, which.right

    def read(variant: Variant, when: str, seed: int) -> float | None:
        return group[variant][seed]["worlds"][shift][what].get(when)

    seeds = sorted(set(group.get(left, {})) & set(group.get(right, {})))
    both = [(read(left, left_when, seed), read(right, right_when, seed)) for seed in seeds]
    found = [mine - other for mine, other in both if mine is not None and other is not None]
    return estimate(found) if found else None


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
    yield f"## {task}"
    yield ""
    yield "Means over seeds and their 95 % intervals by Student's t; docs/representation.md says what the columns are."
    heads = ["seeds", "PSNR, dB", *(f"pose {when}" for when in WHENS), "outside"]
    yield from _table(
        ["plain task", *heads],
        group,
        lambda results: [
            str(len(results)),
            _cell([result["psnr"] for result in results]),
            *(_cell([result["pose"].get(when) for result in results]) for when in WHENS),
            _cell([result["outside"] for result in results]),
        ],
    )
    for shift in shifts:
        heads = [f"{what} {when}" for what in ("distance", "pose") for when in WHENS]
        heads += ["PSNR before", "PSNR after", "outside", "same value"]

        def row(results: list[Result], shift: str = shift) -> list[str]:
            worlds = [result["worlds"][shift] for result in results]
            pairs = [*product(("distance", "pose"), WHENS), ("psnr", "before"), ("psnr", "after")]
            cells = [_cell([world[what].get(when) for world in worlds]) for what, when in pairs]
            return cells + [_cell([world[name] for world in worlds]) for name in ("outside", "same_value")]

        yield from _table([shift, *heads], group, row)
    heads = ["InfoM", "InfoC", "InfoE", "of a joint", "of a colour", "T1", "largest T1", "latents that mix"]
    names = [("information", name) for name in ("infom", "infoc", "infoe", "joints", "colors")]
    names += [("theorem1", name) for name in ("t1_excess", "t1_excess_largest", "rejected")]
    yield from _table(
        ["independent joints and colours", *heads],
        group,
        lambda results: [_cell([result[part][name] for result in results]) for part, name in names],
    )
    places = list(product(shifts, ("distance", "pose")))
    latents = dict.fromkeys(latent for latent, _ in group)
    differences = {which.name: [contrast(group, which, *place) for place in places] for which in contrasts(latents)}
    rows = {name: found for name, found in differences.items() if any(found)}
    if rows:
        yield ""
        yield f"| difference, seed by seed | {' | '.join(f'{what}, {shift}' for shift, what in places)} | seeds |"
        yield "|---|" + "---:|" * (len(places) + 1)
        for name, found in rows.items():
            cells = ["" if one is None else one.words(3) for one in found]
            yield f"| {name} | {' | '.join(cells)} | {max(len(one.values) for one in found if one)} |"


def _table(
    heads: Sequence[str], group: dict[Variant, dict[int, Result]], row: Callable[[list[Result]], list[str]]
) -> Iterator[str]:
    """A row for each variant, from the results of its seeds."""
    yield ""
    yield f"| {' | '.join(heads)} |"
    yield "|---|" + "---:|" * (len(heads) - 1)
    for variant, by_seed in group.items():
        yield f"| {_name(variant)} | {' | '.join(row(list(by_seed.values())))} |"


def _cell(values: Sequence[float | int | None]) -> str:
    known = [float(value) for value in values if value is not None]
    if not known:
        return ""
    found = estimate(known)
    return found.words(1 if abs(found.mean) >= 5 else 2)


def _number(value: float, digits: int) -> str:
    text = f"{value:.{digits}f}"
    return text.removeprefix("-") if float(text) == 0 else text


def _draw(file: Path, task: str, group: dict[Variant, dict[int, Result]]) -> None:
    """Distance and pose in every world: a bar is a mean over seeds, a dot a seed."""
    shifts = list(_first(group)["worlds"])
    figure = new_figure(4 + 1.3 * len(group), 3.2 * len(shifts) + 0.8)
    panels = figure.subplots(len(shifts), 2, squeeze=False, sharex=True)
    for (distance, pose), shift in zip(panels, shifts, strict=True):
        for axes, what in ((distance, "distance"), (pose, "pose")):
            read = [[result["worlds"][shift][what] for result in by_seed.values()] for by_seed in group.values()]
            for offset, when in zip((-0.27, 0.0, 0.27), WHENS, strict=True):
                _bars(axes, offset, when, ([of_seed.get(when) for of_seed in seeds] for seeds in read))
            axes.set_title(f"{what} in {shift}", fontsize=10)
            axes.grid(axis="y", alpha=0.3)
            axes.set_axisbelow(True)
        distance.set_ylabel("distance to the clean twin\n(1 = as far as another state)", fontsize=9)
        distance.set_yscale("symlog", linthresh=1, linscale=3)  # even up to 1; codes that collapse are far beyond
        distance.set_yticks([0, 0.25, 0.5, 0.75, 1, 3, 10, 30, 100])
        distance.yaxis.set_major_formatter("{x:g}")
        distance.axhline(1, color="grey", linewidth=0.8, linestyle="--")
        pose.set_ylabel("share of the joints' variance\ntold from the code (R2)", fontsize=9)
        for place, by_seed in enumerate(group.values()):
            plain = np.mean([result["pose"]["after"] for result in by_seed.values()])
            pose.hlines(plain, place - 0.4, place + 0.4, color="black", linewidth=1)
    for axes in panels[-1]:
        axes.set_xticks(range(len(group)), [_name(variant, "\n") for variant in group], fontsize=8)
        axes.set_xlabel("latent model, normalisation")
    panels[0, 0].legend(fontsize=8)
    figure.suptitle(f"{task}: autoencoders alone; dots are seeds, black lines the plain task")
    figure.savefig(file, dpi=110)


def _bars(axes: Any, offset: float, when: str, values: Iterable[Sequence[float | None]]) -> None:
    """One reading of the code, of every variant: the values of its seeds."""
    known = [[value for value in seeds if value is not None] for seeds in values]
    bars = {place + offset: seeds for place, seeds in enumerate(known) if seeds}
    label = "clamped only" if when == "clamped" else f"{when} retrieval"
    axes.bar(
        list(bars), [np.mean(seeds) for seeds in bars.values()], 0.25, color=_COLOURS[when], alpha=0.6, label=label
    )
    for place, seeds in bars.items():
        axes.plot([place] * len(seeds), seeds, "k.", markersize=3)


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
    """In tables and pictures: as they are registered."""
    (latent, norm), known = variant, list(LATENTS)
    return NORMS.index(norm), known.index(latent) if latent in known else len(known)


def _name(variant: Variant, between: str = ", ") -> str:
    return between.join(variant)
