"""Tables and pictures of many autoencoders: means over seeds with intervals, and differences seed by seed."""

import json
from collections.abc import Iterable, Iterator, Sequence
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
WHENS = {"before": "tab:red", "clamped": "tab:orange", "after": "tab:green"}
Result = dict[str, Any]  # of one autoencoder, as `alda represent one` writes it
Variant = tuple[str, str]  # latent model, normalisation
Group = dict[Variant, list[Result]]  # results of one task
Reading = tuple[Variant, str]  # and when its code is read
Column = tuple[str, tuple[str, ...]]  # head of a table, and where the number is in a result; nowhere: count of seeds


class Estimate(NamedTuple):
    """A mean over seeds. half: of its 95 % interval by Student's t; None for a single seed."""

    mean: float
    half: float | None
    values: list[float]

    def words(self, digits: int) -> str:
        """'0.52 ± 0.03'"""
        return " ± ".join(_number(value, digits) for value in (self.mean, self.half) if value is not None)


def write_summary(out: Path) -> None:
    """Write summary.md, summary.json, TASK.png and TASK_decoded.png from all results in a folder.

    Raise UserError where one is damaged, and where there is none.
    """
    groups = {task: group_results(results) for task, results in read_results(out).items()}
    text = "\n".join(line for task, group in groups.items() for line in [*tables(task, group), ""])
    common = ("machine", "settings", "task")  # to all results
    rows = {
        task: [{k: v for k, v in one.items() if k not in common} for results in group.values() for one in results]
        for task, group in groups.items()
    }
    write_text(out / "summary.md", text)
    write_json(out / "summary.json", rows)
    for task, group in groups.items():
        _draw(out / f"{task}.png", task, group)
        if (out / task / SEEN).exists():
            _draw_decoded(out / f"{task}_decoded.png", out / task, group)
    print(text)
    print(f"written to {out}: summary.md, summary.json and pictures of {', '.join(groups)}")


def read_results(out: Path) -> dict[str, list[Result]]:
    """Return the results in a folder, by task."""
    found: dict[str, list[Result]] = {}
    for file in sorted(out.glob("*/*-*/s*.json")):
        try:
            result = json.loads(file.read_text())
            found.setdefault(result["task"], []).append(result)
        except (ValueError, KeyError, TypeError) as error:
            raise UserError(f"{file} is damaged: {error}; delete it, and the same command makes it anew") from error
    if not found:
        raise UserError(f"{out} holds no result of an autoencoder")
    return found


def group_results(results: Sequence[Result]) -> Group:
    """Return the results of one task by variant, in the order in which norms and latent models are registered."""
    known = list(LATENTS)

    def order(result: Result) -> tuple[int, int, int]:
        latent = result["latent"]
        return NORMS.index(result["norm"]), known.index(latent) if latent in known else len(known), result["seed"]

    group: Group = {}
    for result in sorted(results, key=order):
        group.setdefault((result["latent"], result["norm"]), []).append(result)
    return group


def tables(task: str, group: Group) -> Iterator[str]:
    """Yield the lines of all tables of a task."""
    shifts = list(next(iter(group.values()))[0]["worlds"])
    yield f"## {task}"
    yield ""
    yield "Means over seeds and their 95 % intervals by Student's t; docs/representation.md says what the columns are."
    columns: list[Column]
    poses = [(f"pose {when}", ("pose", when)) for when in WHENS]
    yield from _table("plain task", [("seeds", ()), ("PSNR, dB", ("psnr",)), *poses, ("outside", ("outside",))], group)
    for shift in shifts:
        columns = [(f"{what} {when}", ("worlds", shift, what, when)) for what in ("distance", "pose") for when in WHENS]
        columns += [(f"PSNR {when}", ("worlds", shift, "psnr", when)) for when in ("before", "after")]
        columns += [(name.replace("_", " "), ("worlds", shift, name)) for name in ("outside", "same_value")]
        yield from _table(shift, columns, group)
    names = {"InfoM": "infom", "InfoC": "infoc", "InfoE": "infoe", "of a joint": "joints", "of a colour": "colors"}
    columns = [(head, ("information", name)) for head, name in names.items()]
    names = {"T1": "t1_excess", "largest T1": "t1_excess_largest", "latents that mix": "rejected"}
    columns += [(head, ("theorem1", name)) for head, name in names.items()]
    yield from _table("independent joints and colours", columns, group)
    yield from _differences(group, shifts)


def _table(title: str, columns: Sequence[Column], group: Group) -> Iterator[str]:
    """Yield a row for each variant."""
    yield ""
    yield f"| {title} | {' | '.join(head for head, _ in columns)} |"
    yield "|---|" + "---:|" * len(columns)
    for variant, results in group.items():
        cells = [_cell([read(one, *path) for one in results]) if path else str(len(results)) for _, path in columns]
        yield f"| {', '.join(variant)} | {' | '.join(cells)} |"


def _differences(group: Group, shifts: Sequence[str]) -> Iterator[str]:
    """Yield a table of the contrasts of which both sides are there."""
    places = list(product(shifts, ("distance", "pose")))
    rows = []
    for name, left, right in contrasts(dict.fromkeys(latent for latent, _ in group)):
        found = [contrast(group, left, right, *place) for place in places]
        if counts := [len(one.values) for one in found if one]:
            cells = ["" if one is None else one.words(3) for one in found]
            rows.append(f"| {name} | {' | '.join(cells)} | {max(counts)} |")
    if rows:
        yield ""
        yield f"| difference, seed by seed | {' | '.join(f'{what}, {shift}' for shift, what in places)} | seeds |"
        yield "|---|" + "---:|" * (len(places) + 1)
        yield from rows


def contrasts(latents: Iterable[str]) -> Iterator[tuple[str, Reading, Reading]]:
    """Yield what is compared of these latent models: a name and two readings of codes."""
    for norm in NORMS:
        ours = ("associative", norm)
        yield f"same encoder ({norm}): clamped, against as encoded", (ours, "clamped"), (ours, "before")
        yield f"same encoder ({norm}): retrieved, against clamped", (ours, "after"), (ours, "clamped")
    pairs = [(latent, "identity") for latent in latents if latent != "identity"]
    for norm, (left, right) in product(NORMS, (*pairs, ("associative", "clamp"))):
        name = f"{left}, against {right} ({norm})"
        for words, when in (("encoder learned with", "before"), ("all together:", "after")):
            yield f"{words} {name}", ((left, norm), when), ((right, norm), when)
    usual, *others = NORMS
    for latent, norm in product(("associative", "identity"), others):
        name = f"encoder with {usual} norm, against {norm} ({latent})"
        yield name, ((latent, usual), "before"), ((latent, norm), "before")


def contrast(group: Group, left: Reading, right: Reading, shift: str, what: str) -> Estimate | None:
    """Return left less right under one shift, seed by seed; None where they have no seed in common.

    what: distance or pose. A seed whose code is the same in all states has no distance and is left out.
    """
    mine, other = (
        {one["seed"]: read(one, "worlds", shift, what, when) for one in group.get(variant, [])}
        for variant, when in (left, right)
    )
    pairs = [(mine[seed], other[seed]) for seed in sorted(mine.keys() & other.keys())]
    found = [a - b for a, b in pairs if a is not None and b is not None]
    return estimate(found) if found else None


def estimate(values: Sequence[float]) -> Estimate:
    """Return the mean over seeds and its interval, which is honest about how few they are."""
    data = np.asarray(values, float)
    half = None
    if len(data) > 1:
        factor = optional("scipy.stats", "analysis").t.ppf(0.975, len(data) - 1)
        half = float(factor * data.std(ddof=1) / np.sqrt(len(data)))
    return Estimate(float(data.mean()), half, data.tolist())


def read(result: Any, *path: str) -> Any:
    """Return the number at a place in a result; None where there is none."""
    for name in path:
        result = result.get(name) if result else None
    return result


def _cell(values: Sequence[float | int | None]) -> str:
    known = [float(value) for value in values if value is not None]
    if not known:
        return ""
    found = estimate(known)
    return found.words(1 if abs(found.mean) >= 5 else 2)


def _number(value: float, digits: int) -> str:
    text = f"{value:.{digits}f}"
    return text.removeprefix("-") if float(text) == 0 else text


def _draw(file: Path, task: str, group: Group) -> None:
    """Draw distance and pose under every shift: a bar is a mean over seeds, a dot a seed."""
    shifts = list(next(iter(group.values()))[0]["worlds"])
    figure = new_figure(4 + 1.3 * len(group), 3.2 * len(shifts) + 0.8)
    panels = figure.subplots(len(shifts), 2, squeeze=False, sharex=True)
    for row, shift in zip(panels, shifts, strict=True):
        for axes, what in zip(row, ("distance", "pose"), strict=True):
            for offset, when in zip((-0.27, 0.0, 0.27), WHENS, strict=True):
                _draw_bars(axes, offset, when, group, ("worlds", shift, what, when))
            axes.set_title(f"{what} under {shift}", fontsize=10)
            axes.grid(axis="y", alpha=0.3)
            axes.set_axisbelow(True)
        distance, pose = row
        distance.set_ylabel("distance to the clean twin\n(1 = as far as another state)", fontsize=9)
        distance.set_yscale("symlog", linthresh=1, linscale=3)  # even up to 1; codes that collapse are far beyond
        distance.set_yticks([0, 0.25, 0.5, 0.75, 1, 3, 10, 30, 100])
        distance.yaxis.set_major_formatter("{x:g}")
        distance.axhline(1, color="grey", linewidth=0.8, linestyle="--")
        pose.set_ylabel("share of the joints' variance\ntold from the code (R2)", fontsize=9)
        for place, results in enumerate(group.values()):
            plain = np.mean([one["pose"]["after"] for one in results])
            pose.hlines(plain, place - 0.4, place + 0.4, color="black", linewidth=1)
    for axes in panels[-1]:
        axes.set_xticks(range(len(group)), ["\n".join(variant) for variant in group], fontsize=8)
        axes.set_xlabel("latent model, normalisation")
    panels[0, 0].legend(fontsize=8)
    figure.suptitle(f"{task}: autoencoders alone; dots are seeds, black lines the plain task")
    figure.savefig(file, dpi=110)


def _draw_bars(axes: Any, offset: float, when: str, group: Group, path: tuple[str, ...]) -> None:
    label = "clamped only" if when == "clamped" else f"{when} retrieval"
    for place, results in enumerate(group.values()):
        values = [value for one in results if (value := read(one, *path)) is not None]
        if values:
            axes.bar(place + offset, np.mean(values), 0.25, color=WHENS[when], alpha=0.6, label=label)
            axes.plot([place + offset] * len(values), values, "k.", markersize=3)
            label = ""  # once in the legend


def _draw_decoded(file: Path, folder: Path, group: Group) -> None:
    """Draw the same states under every shift, as they are and as each variant's first seed decodes them."""
    shifts = ["train", *next(iter(group.values()))[0]["worlds"]]
    strips = {"seen": folder / SEEN}
    strips |= {"\n".join(key): folder / "-".join(key) / f"s{results[0]['seed']}.png" for key, results in group.items()}
    rows = {label: _read_strip(strip) for label, strip in strips.items() if strip.exists()}
    states = len(rows["seen"]) // len(shifts)
    titles = [shift.replace("distracting_", "") if i == 0 else "" for shift in shifts for i in range(states)]
    sheet(list(rows.values()), titles, list(rows), scale=1).save(file)


def write_strip(path: Path, images: UInt8[Tensor, "n 3 h w"]) -> None:
    """Write square pictures side by side."""
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(np.concatenate(list(images.cpu().numpy()), axis=-1).transpose(1, 2, 0)).save(path)


def _read_strip(path: Path) -> list[UInt8[np.ndarray, "3 h w"]]:
    with Image.open(path, formats=("PNG",)) as image:
        pixels = np.asarray(image.convert("RGB")).transpose(2, 0, 1)
    return np.split(pixels, pixels.shape[-1] // pixels.shape[-2], axis=-1)
