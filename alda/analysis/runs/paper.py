"""The figures of ALDA's paper, drawn from runs of one's own: learning curves, tasks by worlds.

Every figure comes as SVG and PNG beside the CSV and JSON that it is drawn from. The same runs give the same files.
"""

import csv
import textwrap
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from alda.analysis.libraries import new_figure, optional
from alda.analysis.runs.aggregates import aggregate_table, draw_aggregates
from alda.analysis.runs.comparison import Comparison, compare
from alda.analysis.runs.curves import AGGREGATE, Curve
from alda.analysis.runs.learning_curves import RETURN, STEPS
from alda.analysis.runs.published import PAPER_STEPS, Published, published
from alda.analysis.runs.table import OF_WORLD, listed, load_runs
from alda.files import write_json
from alda.training.rollout import bootstrap_interval

Marks = dict[tuple[str, str, str], list[Published]]  # by world, task, curve
_CAPTION_LINES = 8
_PANEL = (2.7, 2.2)  # inches


def draw_figure(number: str, runs: Sequence[Path], *, out: Path, shifts: Sequence[str] = (), mix: bool = False) -> Path:
    """Writes figure_NUMBER.svg, .png, .csv and .json to a folder, says what they hold and what not; returns the SVG.

    number: of the figure in the paper, or aggregate. runs: run directories, or folders that hold some. shifts: worlds
    to draw; none: all there are. Curves are means over seeds with 95 % bootstrap intervals, at the steps that all seeds
    share. Raises UserError for an unknown figure or world, where there is nothing to draw, and where scores that were
    made in different ways would be averaged, unless `mix` allows it.
    """
    optional("matplotlib.figure", "plot")  # better to know now than after reading all runs
    found, refused = load_runs(runs)
    made = compare(number, found, shifts=shifts, mix=mix)
    made.left_out |= refused
    marks = _marks(made) if number == "5" else {}
    if number == AGGREGATE:
        rows = aggregate_table(made)
        figure = draw_aggregates(made, rows)
        lines = [
            "Final scores, the means of a run's last five evaluations, as shares of the highest possible return.",
            "Bars and bands are 95 % bootstrap intervals over the seeds of every task.",
        ]
    else:
        rows = curve_table(made, marks)
        figure = draw_curves(made, rows)
        lines = ["Means over seeds with 95 % bootstrap intervals; thin lines are single seeds.", *_sources(marks)]
    figure.suptitle(textwrap.fill(made.title, _letters(figure, 10)), fontsize=10, x=0.01, ha="left")
    _caption(figure, lines, made)

    out.mkdir(parents=True, exist_ok=True)
    stem = out / f"figure_{number}"
    _save(figure, stem)
    write_csv(stem.with_suffix(".csv"), rows)
    write_json(stem.with_suffix(".json"), _record(number, made, marks, rows))
    print(f"written to {stem}.svg, .png, .csv and .json")
    for line in about(made):
        print(line)
    return stem.with_suffix(".svg")


def curve_table(made: Comparison, marks: Marks) -> list[dict[str, Any]]:
    """One row for each point: means over seeds, with the interval where there are several; seeds; published values."""
    rows = []
    for place, cell in made.cells.items():
        steps = cell.steps.tolist()
        for step, values in zip(steps, cell.returns.T, strict=True):
            ends = bootstrap_interval(values.tolist(), resamples=2_000) if len(values) > 1 else None
            rows.append(_point(place, "mean", step, float(values.mean()), ends, f"seeds: {len(values)}"))
        for run, returns in zip(cell.runs, cell.returns.tolist(), strict=True):
            for step, value in zip(steps, returns, strict=True):
                rows.append(_point(place, f"seed {run.config.seed}", step, value, None, str(run.path)))
        for mark in marks.get(place, []):
            rows.append(_point(place, "published", mark.steps, mark.value, mark.band, mark.source))
    return rows


def write_csv(file: Path, rows: Sequence[dict[str, Any]]) -> None:
    with file.open("w", newline="") as opened:
        writer = csv.DictWriter(opened, list(rows[0]), lineterminator="\n")
        writer.writeheader()
        writer.writerows(rows)


def _point(
    place: tuple[str, str, str],
    series: str,
    step: int | None,
    value: float | int,
    ends: tuple[float, float] | tuple[int, int] | None,
    origin: str,
) -> dict[str, Any]:
    low, high = ends or (None, None)
    where = dict(zip(("world", "task", "curve"), place, strict=True))
    return where | {"series": series, "step": step, "return": value, "low": low, "high": high, "from": origin}


def draw_curves(made: Comparison, rows: Sequence[dict[str, Any]]) -> Any:
    """Rows are worlds, columns tasks. Published returns: end values at the right edge, earlier ones at their steps."""
    points: dict[tuple[str, str, str], dict[str, list[dict[str, Any]]]] = {}
    for row in rows:
        series = points.setdefault((row["world"], row["task"], row["curve"]), {})
        series.setdefault(row["from"] if row["series"].startswith("seed") else row["series"], []).append(row)

    longest = max((len(curve.label) for curve in made.curves), default=0)
    legend = 2.4 + 0.08 * max(0, longest - 20)
    figure = new_figure(_PANEL[0] * len(made.tasks) + legend, _PANEL[1] * len(made.worlds) + 1.5)
    panels = figure.subplots(len(made.worlds), len(made.tasks), squeeze=False, sharex="col", sharey=True)
    for world, line in zip(made.worlds, panels, strict=True):
        line[0].set_ylabel(f"{world}\n{RETURN}")
        for task, axes in zip(made.tasks, line, strict=True):
            drawn = list(made.drawn(world, task))
            for curve, _ in drawn:
                _draw_cell(axes, curve, points[world, task, curve.label])
            if not drawn:
                axes.text(0.5, 0.5, "no runs", transform=axes.transAxes, ha="center", va="center", color="gray")
            axes.grid(alpha=0.25, linewidth=0.5)
    for task, axes in zip(made.tasks, panels[0], strict=True):
        axes.set_title(task, fontsize=10)
    for axes in panels[-1]:
        axes.set_xlabel(STEPS)
    panels[0][0].set_ylim(bottom=0)
    _legend(figure, made, rows)
    return figure


def _draw_cell(axes: Any, curve: Curve, series: dict[str, list[dict[str, Any]]]) -> None:
    """One curve in one panel: every seed, the mean, its interval, published values."""
    style = {"color": curve.color, "linestyle": curve.dash}
    several = len(series) - ("published" in series) > 2
    for name, rows in series.items():
        steps = [row["step"] / 1000 for row in rows if row["step"] is not None]
        values = [row["return"] for row in rows]
        if name == "mean":
            axes.plot(steps, values, **style, linewidth=1.6, zorder=3)
            if several:
                ends = ([row[end] for row in rows] for end in ("low", "high"))
                axes.fill_between(steps, *ends, color=curve.color, alpha=0.18, linewidth=0)
        elif name != "published" and several:
            axes.plot(steps, values, **style, linewidth=0.5, alpha=0.4)
    last = series["mean"][-1]["step"]
    edge = {"transform": axes.get_yaxis_transform(), "color": curve.color, "clip_on": False, "zorder": 5}
    for row in _ends(series.get("published", [])):
        axes.plot([1], [row["return"]], marker="D", markersize=5, markeredgecolor="white", markeredgewidth=0.6, **edge)
        if row["low"] is not None:
            axes.plot([1, 1], [row["low"], row["high"]], linewidth=1.2, **edge)
    on_the_way = [row for row in series.get("published", []) if row["step"] and row["step"] < PAPER_STEPS]
    first = min((row["step"] for row in on_the_way), default=0)  # shown also to runs that are not there yet
    for row in on_the_way:
        if row["step"] <= max(last, first):
            axes.plot(row["step"] / 1000, row["return"], marker="D", markersize=4, color=curve.color, fillstyle="none")


def _ends(published: Sequence[dict[str, Any]]) -> Sequence[dict[str, Any]]:
    """The end value to draw: the paper's own, which comes first, or else that of others."""
    return [row for row in published if not row["step"] or row["step"] >= PAPER_STEPS][:1]


def _legend(figure: Any, made: Comparison, rows: Sequence[dict[str, Any]]) -> None:
    from matplotlib.lines import Line2D

    line: Any = Line2D
    handles = [line([], [], color=curve.color, linestyle=curve.dash, linewidth=1.6) for curve in made.curves]
    labels = [f"{curve.label} ({made.seeds(curve)})" for curve in made.curves]
    if any(row["series"] == "published" for row in rows):
        diamond = {"color": "gray", "marker": "D", "linestyle": "none"}
        handles += [line([], [], markersize=5, **diamond), line([], [], markersize=4, fillstyle="none", **diamond)]
        labels += ["published, at the end", "published, on the way there"]
    figure.legend(handles, labels, loc="outside right center", frameon=False, title="curve (seeds)", fontsize=9)


def _marks(made: Comparison) -> Marks:
    """Published returns of the methods that are drawn, at their defaults."""
    methods = {curve.label: curve.method for curve in made.curves}
    marks = {place: published(methods[place[2]], place[1], place[0]) for place in made.cells}
    return {place: found for place, found in marks.items() if found}


def _sources(marks: Marks) -> list[str]:
    drawn = dict.fromkeys(found[0].source for found in marks.values())
    return [f"Published: {'; '.join(drawn)}."] if drawn else []


def _caption(figure: Any, lines: Sequence[str], made: Comparison) -> None:
    """Below the panels, wrapped to the figure's width, with what the reader has to know of the scores."""
    width = _letters(figure, 7)
    shown: list[str] = []
    for line in [*lines, *(f"{_capital(remark)}." for remark in made.remarks)]:
        if len(shown) >= _CAPTION_LINES:
            shown.append("More remarks are in the JSON file.")
            break
        shown += textwrap.wrap(line, width)
    figure.supxlabel("\n".join(shown), fontsize=7, x=0.01, ha="left")


def _letters(figure: Any, size: float | int) -> int:
    """About how many letters of a size in points fit across a figure."""
    return int(figure.get_figwidth() * 105 / size)


def _capital(text: str) -> str:
    return text[0].upper() + text[1:]


def _save(figure: Any, stem: Path) -> None:
    """SVG with its text as text, and PNG. Neither names the time."""
    from matplotlib import rc_context

    with rc_context({"svg.fonttype": "none", "svg.hashsalt": "alda"}):
        figure.savefig(stem.with_suffix(".svg"), metadata={"Date": None})
        figure.savefig(stem.with_suffix(".png"), dpi=150)


def _record(number: str, made: Comparison, marks: Marks, rows: Sequence[dict[str, Any]]) -> dict[str, Any]:
    """The table, and where it is from."""
    cells = []
    for (world, task, label), cell in made.cells.items():
        final = {str(run.path): score for run, score in zip(cell.runs, cell.final.tolist(), strict=True)}
        ends = bootstrap_interval(list(final.values())) if len(final) > 1 else None
        mean = {"mean": float(cell.final.mean()), "interval": ends, "seeds": [run.config.seed for run in cell.runs]}
        made_with = {
            name: sorted(set().union(*(run.conditions(world)[name] for run in cell.runs))) for name in OF_WORLD
        }
        place = {"world": world, "task": task, "curve": label}
        cells.append(place | {"final": mean | {"runs": final}, "made_with": made_with})
    return {
        "figure": number,
        "title": made.title,
        "curves": {curve.label: {"method": curve.method, "settings": dict(curve.settings)} for curve in made.curves},
        "cells": cells,
        "left_out": {str(path): reason for path, reason in made.left_out.items()},
        "published": [mark._asdict() for found in marks.values() for mark in found],
        "missing": made.missing,
        "remarks": made.remarks,
        "table": list(rows),
    }


def about(made: Comparison) -> list[str]:
    """What is not compared, and what to know of what is: a line each."""
    reasons: dict[str, list[Path]] = {}
    for path, reason in made.left_out.items():
        reasons.setdefault(reason, []).append(path)
    lines = [f"left out: {reason} ({listed(paths, most=2)})" for reason, paths in reasons.items()]
    lines += [f"missing: {what}" for what in made.missing]
    return lines + [f"note: {remark} ({listed(where, most=2)})" for remark, where in made.remarks.items()]
