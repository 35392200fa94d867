"""Learning curves of single runs: return and reconstruction quality under every shift they were evaluated under."""

from collections.abc import Iterator, Sequence
from typing import Any

from alda.analysis.libraries import new_figure
from alda.analysis.runs.table import Run
from alda.config import Config
from alda.errors import UserError
from alda.provenance import Conditions

STEPS = "agent steps (thousands)"
RETURN = "return of an episode"


def draw_runs(runs: Sequence[Run]) -> Any:
    """Draw a line for every run and shift; bars span the lowest to the highest episode of an evaluation.

    Evaluations under one shift that were made in different ways (simulator, renderer, background) are separate lines
    that say how. Raises UserError for a run that was not evaluated under its first shift.
    """
    for run in runs:
        if run.config.shifts[0] not in run.shifts:
            raise UserError(f"{run.path} has no evaluation in {run.config.shifts[0]} yet")
    lines = [line for run in runs for line in _lines(run)]
    decodes = any(f"eval/{shift}/psnr" in rows[0] for _, shift, _, rows in lines)
    figure = new_figure(9.0 if decodes else 5.0, 3.4 + 0.2 * len(lines))
    panels = figure.subplots(1, 2 if decodes else 1, squeeze=False)[0]
    for config, shift, made_with, rows in lines:
        variant = "" if config.name == Config.name else f" {config.name}"
        label = shift if len(runs) == 1 else f"{config.env.task}, {config.method}{variant} {config.seed}, {shift}"
        label += _told_apart(made_with, [other for _, name, other, _ in lines if name == shift])
        steps = [row["step"] / 1000 for row in rows]
        means = [row[f"eval/{shift}/return"] for row in rows]
        singles = [row.get(f"eval/{shift}/returns", [mean]) for row, mean in zip(rows, means, strict=True)]
        below = [mean - min(single) for mean, single in zip(means, singles, strict=True)]
        above = [max(single) - mean for mean, single in zip(means, singles, strict=True)]
        (line, *_) = panels[0].errorbar(steps, means, [below, above], marker="o", markersize=3, capsize=2, label=label)
        if len(runs) == 1:
            up = 5 if shift == config.shifts[0] else -13  # points: the first shift above its line, others below
            for end, aside, align in ((0, 5, "left"), (-1, -5, "right"))[: len(rows)]:
                where = {"xytext": (aside, up), "textcoords": "offset points", "ha": align}
                panels[0].annotate(f"{means[end]:.0f}", (steps[end], means[end]), color=line.get_color(), **where)
        if f"eval/{shift}/psnr" in rows[0]:
            panels[1].plot(steps, [row[f"eval/{shift}/psnr"] for row in rows], marker="o", markersize=3, label=label)
    tasks = ", ".join(sorted({run.task for run in runs}))
    panels[0].set(title=f"{tasks}: mean, lowest, highest", ylabel=RETURN)
    if decodes:
        panels[1].set(title="newest frame, decoded", ylabel="reconstruction, PSNR (dB)")
    for axes in panels:
        axes.set_xlabel(STEPS)
        axes.grid(alpha=0.3)
    figure.legend(*panels[0].get_legend_handles_labels(), loc="outside lower center", frameon=False)
    return figure


def _lines(run: Run) -> Iterator[tuple[Config, str, Conditions, list[dict[str, Any]]]]:
    """Yield config, shift, conditions and evaluations of each line."""
    for shift in run.shifts:
        made: list[tuple[Conditions, list[dict[str, Any]]]] = []
        for row in run.evaluations:
            if row.get(f"eval/{shift}/return") is not None:
                made_with = row.get(f"eval/{shift}/world", {})
                if made_with not in [other for other, _ in made]:
                    made.append((made_with, []))
                next(rows for other, rows in made if other == made_with).append(row)
        for made_with, rows in made:
            yield run.config, shift, made_with, rows


def _told_apart(made_with: Conditions, others: list[Conditions]) -> str:
    """Return how conditions differ from others under the same shift, as in ' (background davis-2017)'."""
    keys = dict.fromkeys(key for other in others for key in other)
    told = [key for key in keys if any(other.get(key) != made_with.get(key) for other in others)]
    parts = [f"{key} {made_with.get(key, 'unknown')}" for key in told]
    return f" ({', '.join(parts)})" if parts else ""
