"""Figures from the records of runs."""

from collections.abc import Sequence
from pathlib import Path

from alda.config import load_config
from alda.errors import UserError
from alda.logger import read_metrics


def plot_runs(runs: Sequence[Path], *, out: Path | None = None) -> Path:
    """Learning curves of one or more runs: return and reconstruction quality in every evaluated world.

    Every line is one run in one world; bars span the lowest to the highest episode of an evaluation.
    """
    try:
        from matplotlib.figure import Figure
    except ImportError as error:
        raise UserError("drawing needs matplotlib: pip install 'alda[plot]'") from error
    if not runs:
        raise UserError("name at least one run directory")

    file = out or runs[0] / "curve.png"
    if file.suffix not in (".png", ".svg"):
        raise UserError(f"figures are written as .png or .svg, not as {file.name}")

    figure = Figure(figsize=(9, 3.4), layout="constrained")
    returns, quality = figure.subplots(1, 2)
    for run in runs:
        config = load_config(run)
        rows = [row for row in read_metrics(run) if any(key.startswith("eval/") for key in row)]
        if not rows:
            raise UserError(f"{run} has no evaluation yet")
        steps = [row["step"] / 1000 for row in rows]
        for shift in config.shifts:
            label = shift if len(runs) == 1 else f"{config.method} {shift} (seed {config.seed})"
            means = [row[f"eval/{shift}/return"] for row in rows]
            spread = [
                [mean - min(row[f"eval/{shift}/returns"]) for mean, row in zip(means, rows, strict=True)],
                [max(row[f"eval/{shift}/returns"]) - mean for mean, row in zip(means, rows, strict=True)],
            ]
            returns.errorbar(steps, means, spread, marker="o", markersize=3, capsize=2, linewidth=1.5, label=label)
            if f"eval/{shift}/psnr" in rows[0]:
                quality.plot(steps, [row[f"eval/{shift}/psnr"] for row in rows], marker="o", markersize=3, label=label)
    title = f"{config.env.task}, {config.method}"
    returns.set(xlabel="agent steps (thousands)", ylabel="return of an episode", title=title)
    quality.set(xlabel="agent steps (thousands)", ylabel="reconstruction, PSNR (dB)", title="newest frame, decoded")
    for axes in (returns, quality):
        axes.grid(alpha=0.3)
        if axes.lines:
            axes.legend(frameon=False)
        else:
            axes.remove()  # no run here decodes images
    file.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(file, dpi=150)
    print(f"written to {file}")
    return file
