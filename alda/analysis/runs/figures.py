"""Figures of ALDA's paper from runs of one's own: tables of points, and panels of learning curves by task and shift.

The same runs give the same files.
"""

import csv
import textwrap
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from alda.analysis.libraries import new_figure
from alda.analysis.runs.comparison import Comparison, published_for
from alda.analysis.runs.curves import Curve
from alda.analysis.runs.learning_curves import RETURN, STEPS
from alda.analysis.runs.published import PAPER_STEPS, Published
from alda.analysis.runs.table import OF_SHIFT, Cell
from alda.analysis.stats import score_over_seeds
from alda.files import replacing

_CAPTION_LINES = 8
_PANEL = (2.7, 2.2)  # inches


def curve_table(made: Comparison) -> list[dict[str, Any]]:
    """Return one row for each point: means over seeds with their intervals, every seed, published values."""
    columns = ("shift", "task", "curve", "series", "step", "return", "low", "high", "from")
    rows: list[tuple[Any, ...]] = []
    for place, cell in made.cells.items():
        for step, score in cell.scores.items():
            rows.append((*place, "mean", step, score.mean, score.low, score.high, f"seeds: {score.seeds}"))
        for run, returns in zip(cell.runs, cell.returns.tolist(), strict=True):
            for step, value in zip(cell.scores, returns, strict=True):
                rows.append((*place, f"seed {run.config.seed}", step, value, None, None, str(run.path)))
        for mark in made.marks.get(place, []):
            rows.append((*place, "published", mark.steps, mark.value, *(mark.band or (None, None)), mark.source))
    return [dict(zip(columns, row, strict=True)) for row in rows]


def write_csv(file: Path, rows: Sequence[dict[str, Any]]) -> None:
    with replacing(file) as temporary, temporary.open("w", newline="") as opened:
        writer = csv.DictWriter(opened, list(rows[0]), lineterminator="\n")
        writer.writeheader()
        writer.writerows(rows)


def draw_curves(made: Comparison) -> Any:
    """Draw a row of panels for each shift, a column for each task.

    Published returns: end values at the right edge, earlier ones at their steps.
    """
    longest = max((len(curve.label) for curve in made.curves), default=0)
    legend = 2.4 + 0.08 * max(0, longest - 20)
    figure = new_figure(_PANEL[0] * len(made.tasks) + legend, _PANEL[1] * len(made.shifts) + 1.5)
    panels = figure.subplots(len(made.shifts), len(made.tasks), squeeze=False, sharex="col", sharey=True)
    for shift, line in zip(made.shifts, panels, strict=True):
        line[0].set_ylabel(f"{shift}\n{RETURN}")
        for task, axes in zip(made.tasks, line, strict=True):
            drawn = list(made.drawn(shift, task))
            for curve, cell in drawn:
                _draw_cell(axes, curve, cell, made.marks.get((shift, task, curve.label), []))
            if not drawn:
                axes.text(0.5, 0.5, "no runs", transform=axes.transAxes, ha="center", va="center", color="gray")
            axes.grid(alpha=0.25, linewidth=0.5)
    for task, axes in zip(made.tasks, panels[0], strict=True):
        axes.set_title(task, fontsize=10)
    for axes in panels[-1]:
        axes.set_xlabel(STEPS)
    panels[0][0].set_ylim(bottom=0)
    _draw_legend(figure, made)
    return figure


def _draw_cell(axes: Any, curve: Curve, cell: Cell, marks: Sequence[Published]) -> None:
    """Draw every seed of a curve, their mean, its interval, and published values."""
    steps, scores = cell.steps / 1000, cell.scores.values()
    style = {"color": curve.color, "linestyle": curve.dash}
    axes.plot(steps, [score.mean for score in scores], **style, linewidth=1.6, zorder=3)
    if len(cell.runs) > 1:
        low, high = [score.low for score in scores], [score.high for score in scores]
        axes.fill_between(steps, low, high, color=curve.color, alpha=0.18, linewidth=0)
        for returns in cell.returns:
            axes.plot(steps, returns, **style, linewidth=0.5, alpha=0.4)

    edge = {"transform": axes.get_yaxis_transform(), "color": curve.color, "clip_on": False, "zorder": 5}
    at_end = [mark for mark in marks if not mark.steps or mark.steps >= PAPER_STEPS]
    for mark in at_end[:1]:  # the paper's own, which comes first, or else that of others
        axes.plot([1], [mark.value], marker="D", markersize=5, markeredgecolor="white", markeredgewidth=0.6, **edge)
        if mark.band:
            axes.plot([1, 1], mark.band, linewidth=1.2, **edge)
    on_the_way = {mark.steps: mark.value for mark in marks if mark.steps and mark.steps < PAPER_STEPS}
    first = min(on_the_way, default=0)  # shown also to runs that are not there yet
    for step, value in on_the_way.items():
        if step <= max(cell.steps[-1], first):
            axes.plot(step / 1000, value, marker="D", markersize=4, color=curve.color, fillstyle="none")


def _draw_legend(figure: Any, made: Comparison) -> None:
    from matplotlib.lines import Line2D

    line: Any = Line2D
    handles = [line([], [], color=curve.color, linestyle=curve.dash, linewidth=1.6) for curve in made.curves]
    labels = []
    for curve in made.curves:
        counts = {len(cell.runs) for (_, _, label), cell in made.cells.items() if label == curve.label}
        labels.append(f"{curve.label} ({' to '.join(map(str, sorted({min(counts), max(counts)})))})")
    if made.marks:
        diamond = {"color": "gray", "marker": "D", "linestyle": "none"}
        handles += [line([], [], markersize=5, **diamond), line([], [], markersize=4, fillstyle="none", **diamond)]
        labels += ["published, at the end", "published, on the way there"]
    figure.legend(handles, labels, loc="outside right center", frameon=False, title="curve (seeds)", fontsize=9)


def add_caption(figure: Any, made: Comparison, lines: Sequence[str]) -> None:
    """Write the title above the panels, and below them the lines and what the reader has to know of the scores."""
    width, small = (int(figure.get_figwidth() * 105 / points) for points in (10, 7))  # in letters, about
    figure.suptitle(textwrap.fill(made.title, width), fontsize=10, x=0.01, ha="left")
    shown: list[str] = []
    for line in [*lines, *(f"{remark[0].upper()}{remark[1:]}." for remark in made.remarks)]:
        if len(shown) >= _CAPTION_LINES:
            shown.append("More remarks are in the JSON file.")
            break
        shown += textwrap.wrap(line, small)
    figure.supxlabel("\n".join(shown), fontsize=7, x=0.01, ha="left")


def record_of(number: str, made: Comparison, rows: Sequence[dict[str, Any]]) -> dict[str, Any]:
    """Return the table of a figure and where it is from, for JSON."""
    cells = []
    for (shift, task, label), cell in made.cells.items():
        score = score_over_seeds(cell.final.tolist())
        final = {
            "mean": score.mean,
            "interval": None if score.low is None else (score.low, score.high),
            "seeds": [run.config.seed for run in cell.runs],
            "runs": {str(run.path): of_run for run, of_run in zip(cell.runs, cell.final.tolist(), strict=True)},
        }
        made_with = {name: values for name, values in cell.conditions().items() if name in OF_SHIFT}
        cells.append({"shift": shift, "task": task, "curve": label, "final": final, "made_with": made_with})
    return {
        "figure": number,
        "title": made.title,
        "curves": {curve.label: {"method": curve.method, "settings": dict(curve.settings)} for curve in made.curves},
        "cells": cells,
        "left_out": {str(path): reason for path, reason in made.left_out.items()},
        "published": [mark._asdict() for found in made.marks.values() for mark in found],
        "missing": made.missing,
        "remarks": made.remarks,
        "table": list(rows),
    }


def print_returns(made: Comparison, steps: Sequence[int]) -> None:
    """Print mean returns at some agent steps, with 95 % intervals over seeds, above the published ones."""
    from rich.table import Table

    from alda.progress import wide_console

    table = Table("task", "shift", "curve", "seeds", *(f"{step:,}" for step in steps), title="mean return")
    for task, curve, shift, cell in made.by_task():
        cells = [str(cell.scores.get(step, "-")) for step in steps]
        table.add_row(task, shift, curve.label, str(len(cell.runs)), *cells)
        theirs = {mark.steps: str(mark.value) for mark in reversed(published_for(curve, task, shift))}
        if theirs.keys() & set(steps):
            table.add_row("", "", f"{curve.label}, published", "", *(theirs.get(step, "-") for step in steps))
    wide_console().print(table)
