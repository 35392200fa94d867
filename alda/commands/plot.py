"""`alda plot`."""

from pathlib import Path

from alda.analysis.runs.learning_curves import draw_runs
from alda.analysis.runs.table import load_run
from alda.errors import UserError
from alda.pictures import save_picture


def plot(runs: tuple[Path, ...], /, *, out: Path | None = None) -> None:
    """Draw learning curves of runs: return and reconstruction quality under every evaluated shift.

    Args:
        runs: Run directories.
        out: File to write, .png or .svg (None: curve.png in the first run directory).
    """
    if not runs:
        raise UserError("name at least one run directory")
    file = out or runs[0] / "curve.png"
    if file.suffix not in (".png", ".svg"):
        raise UserError(f"figures are written as .png or .svg, not as {file.name}")
    figure = draw_runs([load_run(run) for run in runs])
    file.parent.mkdir(parents=True, exist_ok=True)
    save_picture(figure, file, dpi=150)
    print(f"written to {file}")
