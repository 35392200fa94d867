"""`alda plot`."""

from pathlib import Path

from alda.analysis.runs.learning_curves import plot_runs


def plot(runs: tuple[Path, ...], /, *, out: Path | None = None) -> None:
    """Draw learning curves of runs: return and reconstruction quality under every evaluated shift.

    Args:
        runs: Run directories.
        out: File to write, .png or .svg (None: curve.png in the first run directory).
    """
    plot_runs(runs, out=out)
