"""`alda compare`."""

from pathlib import Path

from alda.analysis.runs.reproduction import compare_runs


def compare(runs: tuple[Path, ...], /, *, out: Path | None = None, mix: bool = False) -> None:
    """Print scores of runs beside the published ones: intervals, bands, a verdict, what else differs.

    Args:
        runs: Run directories or records of them, or folders that hold some at any depth.
        out: File to write the table to, .csv, .json or .md (None: none).
        mix: Also average scores that were made in different ways (simulator, renderer, visuals, background, action
            repeat, image size, settings); the table says so.
    """
    compare_runs(runs, out=out, mix=mix)
