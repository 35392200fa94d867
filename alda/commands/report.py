"""`alda report`."""

from pathlib import Path

from alda.analysis.report.page import write_report


def report(
    runs: tuple[Path, ...], /, *, out: Path = Path("report.html"), analyze: bool = False, mix: bool = False
) -> None:
    """Write one HTML page about runs that opens offline: scores, curves, pictures, analyses.

    Args:
        runs: Run directories, or folders that hold some at any depth.
        out: HTML file to write.
        analyze: First run the analyses that are missing, with their defaults: minutes to hours per run.
        mix: Also average scores that were made in different ways (simulator, renderer, visuals, background, action
            repeat, image size, settings); the report says so.
    """
    write_report(runs, out=out, analyze=analyze, mix=mix)
