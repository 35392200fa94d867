"""Tables and pictures of many autoencoders: means over seeds with intervals, and differences seed by seed.

A row is one autoencoder: its numbers by path, as in "worlds.color_hard.distance.after", its latent, norm and seed.
"""

from collections.abc import Iterable, Iterator, Sequence
from itertools import product
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import UInt8
from PIL import Image

from alda.analysis.latents.results import DPI
from alda.analysis.libraries import new_figure, optional
from alda.config import flat
from alda.errors import UserError
from alda.files import read_json, write_json, write_text
from alda.latents import LATENTS
from alda.nets.conv import NORMS
from alda.pictures import save_picture, sheet

SEEN = "seen.png"  # in a task's folder: the states that are drawn, as they are
WHENS = {"before": "tab:red", "clamped": "tab:orange", "after": "tab:green"}
Row = dict[str, Any]
Variant = tuple[str, str]  # latent model, normalisation
Reading = tuple[Variant, str]  # and when its code is read


def write_summary(out: Path) -> None:
    """Write summary.md, summary.json, TASK.png and TASK_decoded.png from the results in a folder."""
    results, lines = read_results(out), []
    for task, found in results.items():
        rows, shifts = [flat(result) for result in found], list(found[0]["worlds"])
        lines += [*tables(task, rows, shifts), ""]
        _draw(out / f"{task}.png", task, rows, shifts)
        if (out / task / SEEN).exists():
            _draw_decoded(out / f"{task}_decoded.png", out / task, rows, shifts)
    write_text(out / "summary.md", "\n".join(lines))
    write_json(out / "summary.json", results)
    print("\n".join(lines))
    print(f"written to {out}: summary.md, summary.json and pictures of {', '.join(results)}")


def read_results(out: Path) -> dict[str, list[dict[str, Any]]]:
    """Return the results in a folder by task, in the order in which norms and latent models are registered; those of
    its summary.json where there are no others. Raise UserError where there are none."""
    found: dict[str, list[dict[str, Any]]] = {}
    for file in sorted(out.glob("*/*-*/s*.json")):
        result = read_json(file)
        common = ("machine", "settings", "task")  # to all results
        kept = {name: value for name, value in result.items() if name not in common}
        found.setdefault(result["task"], []).append(kept)
    if not found and (out / "summary.json").exists():
        found = read_json(out / "summary.json")
    if not found:
        raise UserError(f"{out} holds no result of an autoencoder; name runs, whose policies visit the states")
    rank = {name: i for i, name in enumerate((*NORMS, *LATENTS))}
    for results in found.values():
        results.sort(key=lambda result: (rank[result["norm"]], rank.get(result["latent"], len(rank)), result["seed"]))
    return found


def tables(task: str, rows: Sequence[Row], shifts: Sequence[str]) -> Iterator[str]:
    """Yield the lines of all tables of a task."""
    yield f"## {task}"
    yield ""
    yield "Means over seeds and their 95 % intervals by Student's t; docs/representation.md says what the columns are."
    poses = {f"pose {when}": f"pose.{when}" for when in WHENS}
    columns = {"seeds": "seed", "PSNR, dB": "psnr", **poses, "outside": "outside"}
    yield from _table("plain task", columns, rows)
    for shift in shifts:
        columns = {f"{what} {when}": f"{what}.{when}" for what in ("distance", "pose") for when in WHENS}
        columns |= {f"PSNR {when}": f"psnr.{when}" for when in ("before", "after")}
        columns |= {"outside": "outside", "same value": "same_value"}
        yield from _table(shift, {head: f"worlds.{shift}.{path}" for head, path in columns.items()}, rows)
    names = {"InfoM": "infom", "InfoC": "infoc", "InfoE": "infoe", "of a joint": "joints", "of a colour": "colors"}
    columns = {head: f"information.{name}" for head, name in names.items()}
    names = {"T1": "t1_excess", "largest T1": "t1_excess_largest", "latents that mix": "rejected"}
    columns |= {head: f"theorem1.{name}" for head, name in names.items()}
    yield from _table("independent joints and colours", columns, rows)
    yield from _differences(rows, shifts)


def _table(title: str, columns: dict[str, str], rows: Sequence[Row]) -> Iterator[str]:
    """Yield a line for each variant. columns: heads, and paths of numbers; of "seed" there is the count."""
    yield from _heads(title, *columns)
    for variant in _variants(rows):
        found = {path: list(by_seed(rows, variant, path).values()) for path in columns.values()}
        cells = [str(len(values)) if path == "seed" else estimate(values) for path, values in found.items()]
        yield f"| {', '.join(variant)} | {' | '.join(cells)} |"


def _heads(*heads: str) -> list[str]:
    return ["", f"| {' | '.join(heads)} |", "|---|" + "---:|" * (len(heads) - 1)]


def _differences(rows: Sequence[Row], shifts: Sequence[str]) -> Iterator[str]:
    """Yield a table of the contrasts of which both sides are there."""
    places = list(product(shifts, ("distance", "pose")))
    lines = []
    for name, left, right in contrasts(dict.fromkeys(latent for latent, _ in _variants(rows))):
        found = [contrast(rows, left, right, f"worlds.{shift}.{what}") for shift, what in places]
        if seeds := max(map(len, found)):
            lines.append(f"| {name} | {' | '.join(estimate(values, 3) for values in found)} | {seeds} |")
    if lines:
        yield from _heads("difference, seed by seed", *(f"{what}, {shift}" for shift, what in places), "seeds")
        yield from lines


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


def contrast(rows: Sequence[Row], left: Reading, right: Reading, path: str) -> list[float]:
    """Return left less right for each seed that both have. A code that is the same in all states has no distance."""
    a, b = (by_seed(rows, variant, f"{path}.{when}") for variant, when in (left, right))
    return [a[seed] - b[seed] for seed in sorted(a.keys() & b.keys())]


def by_seed(rows: Sequence[Row], variant: Variant, path: str) -> dict[int, float]:
    """Return a number of a variant's autoencoders, of those that have it."""
    ours = (row for row in rows if (row["latent"], row["norm"]) == variant)
    return {row["seed"]: float(row[path]) for row in ours if row.get(path) is not None}


def estimate(values: Sequence[float], digits: int | None = None) -> str:
    """Return the mean over seeds and its 95 % interval by Student's t: '0.52 ± 0.03'; of a single seed, itself."""
    if not values:
        return ""
    shown = [float(np.mean(values))]
    if len(values) > 1:
        factor = optional("scipy.stats", "analysis").t.ppf(0.975, len(values) - 1)
        shown.append(float(factor * np.std(values, ddof=1) / np.sqrt(len(values))))
    if digits is None:
        digits = 1 if abs(shown[0]) >= 5 else 2
    return " ± ".join(f"{value:z.{digits}f}" for value in shown)


def _variants(rows: Sequence[Row]) -> list[Variant]:
    return list(dict.fromkeys((row["latent"], row["norm"]) for row in rows))


def _draw(file: Path, task: str, rows: Sequence[Row], shifts: Sequence[str]) -> None:
    """Draw distance and pose under every shift: a bar is a mean over seeds, a dot a seed."""
    variants = _variants(rows)
    figure = new_figure(4 + 1.3 * len(variants), 3.2 * len(shifts) + 0.8)
    panels = figure.subplots(len(shifts), 2, squeeze=False, sharex=True)
    for (distance, pose), shift in zip(panels, shifts, strict=True):
        for axes, what in ((distance, "distance"), (pose, "pose")):
            _draw_bars(axes, rows, f"worlds.{shift}.{what}")
            axes.set_title(f"{what} under {shift}", fontsize=10)
        distance.set_ylabel("distance to the clean twin\n(1 = as far as another state)", fontsize=9)
        distance.set_yscale("symlog", linthresh=1, linscale=3)  # even up to 1; codes that collapse are far beyond
        distance.set_yticks([0, 0.25, 0.5, 0.75, 1, 3, 10, 30, 100])
        distance.yaxis.set_major_formatter("{x:g}")
        distance.axhline(1, color="grey", linewidth=0.8, linestyle="--")
        pose.set_ylabel("share of the joints' variance\ntold from the code (R2)", fontsize=9)
        for place, variant in enumerate(variants):
            plain = np.mean(list(by_seed(rows, variant, "pose.after").values()))
            pose.hlines(plain, place - 0.4, place + 0.4, color="black", linewidth=1)
    for axes in panels[-1]:
        axes.set_xticks(range(len(variants)), ["\n".join(variant) for variant in variants], fontsize=8)
        axes.set_xlabel("latent model, normalisation")
    panels[0, 0].legend(fontsize=8)
    figure.suptitle(f"{task}: autoencoders alone; dots are seeds, black lines the plain task")
    save_picture(figure, file, dpi=DPI)


def _draw_bars(axes: Any, rows: Sequence[Row], path: str) -> None:
    for offset, (when, colour) in zip((-0.27, 0.0, 0.27), WHENS.items(), strict=True):
        found = [list(by_seed(rows, variant, f"{path}.{when}").values()) for variant in _variants(rows)]
        places = np.arange(len(found)) + offset
        label = "clamped only" if when == "clamped" else f"{when} retrieval"
        heights = [np.mean(values) if values else 0 for values in found]
        axes.bar(places, heights, 0.25, color=colour, alpha=0.6, label=label)
        for place, values in zip(places, found, strict=True):
            axes.plot([place] * len(values), values, "k.", markersize=3)
    axes.grid(axis="y", alpha=0.3)
    axes.set_axisbelow(True)


def _draw_decoded(file: Path, folder: Path, rows: Sequence[Row], shifts: Sequence[str]) -> None:
    """Draw the same states under every shift, as they are and as each variant's first seed decodes them."""
    images = {"seen": _read_strip(folder / SEEN)}
    for row in rows:
        variant, strip = (row["latent"], row["norm"]), f"s{row['seed']}.png"
        images.setdefault("\n".join(variant), _read_strip(folder / "-".join(variant) / strip))
    states = len(images["seen"]) // (1 + len(shifts))
    titles = [""] * len(images["seen"])
    titles[::states] = [shift.removeprefix("distracting_") for shift in ("train", *shifts)]
    save_picture(sheet(list(images.values()), titles, list(images), scale=1), file)


def write_strip(path: Path, images: UInt8[np.ndarray, "n 3 h w"]) -> None:
    """Write square pictures side by side."""
    path.parent.mkdir(parents=True, exist_ok=True)
    save_picture(Image.fromarray(np.concatenate(list(images), axis=-1).transpose(1, 2, 0)), path)


def _read_strip(path: Path) -> list[UInt8[np.ndarray, "3 h w"]]:
    pixels = np.asarray(Image.open(path)).transpose(2, 0, 1)
    return np.split(pixels, pixels.shape[-1] // pixels.shape[-2], axis=-1)
