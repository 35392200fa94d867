"""Figures from the records of runs."""

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from alda.analysis.libraries import new_figure
from alda.analysis.runs.table import load_run
from alda.config import Config
from alda.errors import UserError
from alda.provenance import Conditions

STEPS = "agent steps (thousands)"
RETURN = "return of an episode"


def plot_runs(runs: Sequence[Path], *, out: Path | None = None) -> Path:
    """Learning curves of one or more runs: return and reconstruction quality in every evaluated world.

    Every line is one run in one world, made with one simulator, renderer and background: where a world was made in
    different ways, its lines are apart and say how. Bars span the lowest to the highest episode of an evaluation.
    """
    if not runs:
        raise UserError("name at least one run directory")

    file = out or runs[0] / "curve.png"
    if file.suffix not in (".png", ".svg"):
        raise UserError(f"figures are written as .png or .svg, not as {file.name}")

    curves = [_curve(run) for run in runs]
    decodes = any(f"eval/{shift}/psnr" in rows[0] for config, rows in curves for shift in config.shifts)
    lines = [line for config, rows in curves for line in _lines(config, rows)]
    figure = new_figure(9.0 if decodes else 5.0, 3.4 + 0.2 * len(lines))
    panels = figure.subplots(1, 2 if decodes else 1, squeeze=False)[0]
    for config, shift, world, rows in lines:
        steps = [row["step"] / 1000 for row in rows]
        variant = "" if config.name == Config.name else f" {config.name}"
        label = shift if len(runs) == 1 else f"{config.env.task}, {config.method}{variant} {config.seed}, {shift}"
        label += _apart(world, [other for _, name, other, _ in lines if name == shift])
        means = [row[f"eval/{shift}/return"] for row in rows]
        singles = [row.get(f"eval/{shift}/returns", [mean]) for row, mean in zip(rows, means, strict=True)]
        below = [mean - min(single) for mean, single in zip(means, singles, strict=True)]
        above = [max(single) - mean for mean, single in zip(means, singles, strict=True)]
        (line, *_) = panels[0].errorbar(steps, means, [below, above], marker="o", markersize=3, capsize=2, label=label)
        if len(runs) == 1:
            up = 5 if shift == config.shifts[0] else -13  # points: the first environment above its line, others below
            for end, (aside, align) in {0: (5, "left"), len(rows) - 1: (-5, "right")}.items():
                panels[0].annotate(
                    f"{means[end]:.0f}",
                    (steps[end], means[end]),
                    xytext=(aside, up),
                    textcoords="offset points",
                    ha=align,
                    color=line.get_color(),
                )
        if f"eval/{shift}/psnr" in rows[0]:
            panels[1].plot(steps, [row[f"eval/{shift}/psnr"] for row in rows], marker="o", markersize=3, label=label)
    tasks = ", ".join(sorted({config.env.task for config, _ in curves}))
    panels[0].set(title=f"{tasks}: mean, lowest, highest", ylabel=RETURN)
    if decodes:
        panels[1].set(title="newest frame, decoded", ylabel="reconstruction, PSNR (dB)")
    for axes in panels:
        axes.set_xlabel(STEPS)
        axes.grid(alpha=0.3)
    figure.legend(*panels[0].get_legend_handles_labels(), loc="outside lower center", frameon=False)
    file.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(file, dpi=150)
    print(f"written to {file}")
    return file


def _lines(
    config: Config, rows: list[dict[str, Any]]
) -> Iterator[tuple[Config, str, Conditions, list[dict[str, Any]]]]:
    """The evaluations of a run in each world, those that were made in different ways apart."""
    for shift in config.shifts:
        made: list[Conditions] = []
        for row in rows:
            world = row.get(f"eval/{shift}/world", {})
            if world not in made:
                made.append(world)
        for world in made:
            yield config, shift, world, [row for row in rows if row.get(f"eval/{shift}/world", {}) == world]


def _apart(world: Conditions, others: list[Conditions]) -> str:
    """What tells a world from others of the same name, as in ' (background davis-2017)'."""
    keys = dict.fromkeys(key for other in others for key in other)
    told = [key for key in keys if any(other.get(key) != world.get(key) for other in others)]
    parts = [f"{key} {world.get(key, 'unknown')}" for key in told]
    return f" ({', '.join(parts)})" if parts else ""


def _curve(run: Path) -> tuple[Config, list[dict[str, Any]]]:
    """A run's config and its evaluations."""
    loaded = load_run(run)
    world = loaded.config.shifts[0]
    rows = [row for row in loaded.evaluations if f"eval/{world}/return" in row]
    if not rows:
        raise UserError(f"{run} has no evaluation in {world} yet")
    return loaded.config, rows
