"""One number for all tasks: interquartile mean, mean, optimality gap, performance profile, probability of improvement.

Scores are final scores as shares of the highest possible return (1 a control step: 1000 in an episode of full length).
Under every shift, those curves and tasks are taken that bring most results together without a gap; others are named.
"""

from collections.abc import Sequence
from typing import Any

import numpy as np

from alda.analysis import stats
from alda.analysis.libraries import new_figure
from alda.analysis.runs.comparison import Comparison
from alda.analysis.runs.curves import Curve
from alda.analysis.runs.table import listed
from alda.analysis.stats import Estimate, Scores

STATISTICS = {
    "interquartile mean": stats.interquartile_mean,
    "mean": stats.mean,
    "optimality gap": stats.optimality_gap,
}
PROFILE, IMPROVEMENT = "share of runs above", "probability of improvement"
_THRESHOLDS = np.linspace(0, 1, 51)


def aggregate_table(made: Comparison) -> list[dict[str, Any]]:
    """Return one row for each number: of a curve, at a threshold (profiles), against another curve (improvement).

    The probability is that of the first curve's runs being better than those of each of the others.
    """
    rows = []
    for shift in made.shifts:
        scores = _comparable_scores(made, shift)
        first = next(iter(scores))
        for curve, own in scores.items():
            runs = sum(map(len, own))
            place = {"shift": shift, "curve": curve.label, "tasks": len(own), "runs": runs}
            for name, statistic in STATISTICS.items():
                rows.append(place | _row(name, stats.aggregate(statistic, own)))
            profile = stats.performance_profile(own, _THRESHOLDS)
            for threshold, *parts in zip(_THRESHOLDS.tolist(), *profile, strict=True):
                rows.append(place | _row(PROFILE, Estimate(*map(np.asarray, parts)), threshold=threshold))
            if curve != first:
                better = stats.probability_of_improvement(scores[first], own)
                both = {"curve": first.label, "runs": runs + sum(map(len, scores[first]))}
                rows.append(place | both | _row(IMPROVEMENT, better, against=curve.label))
    return rows


def _row(statistic: str, found: Estimate, *, threshold: float | None = None, against: str = "") -> dict[str, Any]:
    ends = {"value": float(found.value), "low": float(found.low), "high": float(found.high)}
    return {"statistic": statistic, "threshold": threshold, "against": against, **ends}


def _comparable_scores(made: Comparison, shift: str) -> dict[Curve, Scores]:
    """Return final scores of the curves that are compared under a shift, on the tasks that they share."""
    cells = {
        curve: {t: c for t in made.tasks if (c := made.cells.get((shift, t, curve.label)))} for curve in made.curves
    }
    tasks = _shared_tasks([set(of_task) for of_task in cells.values() if of_task])
    compared = {
        curve: [of_task[task] for task in sorted(tasks)] for curve, of_task in cells.items() if tasks <= set(of_task)
    }
    if others := [curve.label for curve, of_task in cells.items() if of_task and curve not in compared]:
        made.remark(f"not measured on all of {', '.join(sorted(tasks))}, and not compared: {listed(others)}", shift)
    if lost := [task for task in made.tasks if task not in tasks and any(task in of for of in cells.values())]:
        made.remark(f"not measured for all curves that are compared, and not counted: {listed(lost)}", shift)
    if alone := [curve.label for curve, own in compared.items() if all(len(cell.runs) == 1 for cell in own)]:
        made.remark(f"one seed a task has no interval: {listed(alone)}", shift)
    if uneven := [curve.label for curve, own in compared.items() if len({len(cell.runs) for cell in own}) > 1]:
        made.remark(f"tasks count by their numbers of seeds, which differ: {listed(uneven)}", shift)
    return {
        curve: [cell.final / cell.runs[0].config.env.episode_length for cell in own] for curve, own in compared.items()
    }


def _shared_tasks(measured: Sequence[set[str]]) -> set[str]:
    """Return the tasks that bring most results together, of two curves at least where that can be."""

    def results(tasks: set[str]) -> tuple[bool, int]:
        curves = sum(tasks <= own for own in measured)
        return curves > 1 or len(measured) == 1, curves * len(tasks)

    candidates = [a & b for a in measured for b in measured]
    return max((tasks for tasks in candidates if tasks), key=results)


def draw_aggregates(made: Comparison, rows: Sequence[dict[str, Any]]) -> Any:
    """Draw a line of panels for each shift."""
    lines = max(len({row["curve"] for row in rows if row["shift"] == shift}) for shift in made.shifts)
    figure = new_figure(13.0, max(2.2, 0.7 + 0.24 * lines) * len(made.shifts) + 1)
    panels = figure.subplots(len(made.shifts), 5, squeeze=False, width_ratios=(1, 1, 1, 1.3, 1))
    for shift, line in zip(made.shifts, panels, strict=True):
        here = [row for row in rows if row["shift"] == shift]
        line[0].set_ylabel(shift)
        for name, axes in zip(STATISTICS, line, strict=False):
            _draw_bars(axes, made, [row for row in here if row["statistic"] == name], "curve")
            axes.set_xlabel(name + (" (less is better)" if name == "optimality gap" else ""))
            axes.tick_params(labelleft=axes is line[0])
        _draw_profiles(line[3], made, [row for row in here if row["statistic"] == PROFILE])
        against = [row for row in here if row["statistic"] == IMPROVEMENT]
        _draw_bars(line[4], made, against, "against")
        line[4].axvline(0.5, color="gray", linewidth=0.8)
        line[4].set_xlabel(f"P({against[0]['curve']} > ...)" if against else "nothing to compare")
    return figure


def _draw_bars(axes: Any, made: Comparison, rows: Sequence[dict[str, Any]], named_by: str) -> None:
    colors = {curve.label: curve.color for curve in made.curves}
    for place, row in enumerate(rows):
        color = colors[row[named_by]]
        axes.barh(place, row["high"] - row["low"], left=row["low"], height=0.6, color=color, alpha=0.35)
        axes.plot([row["value"]], [place], marker="|", markersize=12, markeredgewidth=2, color=color)
    axes.set_yticks(range(len(rows)), [row[named_by] for row in rows])
    axes.set(xlim=(-0.03, 1.03), ylim=(len(rows) - 0.5, -0.5))
    axes.grid(alpha=0.25, linewidth=0.5, axis="x")


def _draw_profiles(axes: Any, made: Comparison, rows: Sequence[dict[str, Any]]) -> None:
    for curve in made.curves:
        of_curve = [row for row in rows if row["curve"] == curve.label]
        at, low, value, high = ([row[name] for row in of_curve] for name in ("threshold", "low", "value", "high"))
        axes.step(at, value, where="post", color=curve.color, linestyle=curve.dash)
        axes.fill_between(at, low, high, step="post", color=curve.color, alpha=0.18, linewidth=0)
    axes.set(xlabel="score tau", ylabel="share of runs above tau", ylim=(-0.02, 1.02))
    axes.grid(alpha=0.25, linewidth=0.5)
