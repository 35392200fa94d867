"""`alda report`."""

from collections.abc import Sequence
from pathlib import Path

from alda.analysis.report.page import overview_of, render, section_of
from alda.analysis.report.parts import results
from alda.analysis.runs.comparison import compare
from alda.analysis.runs.curves import AGGREGATE
from alda.analysis.runs.table import find_runs, load_runs
from alda.commands.analyze import ANALYSES
from alda.errors import LearningError, UserError, WorkerError
from alda.files import write_text


def report(
    runs: tuple[Path, ...], /, *, out: Path = Path("report.html"), analyze: bool = False, mix: bool = False
) -> None:
    """Write one HTML page about runs that opens offline: scores, curves, pictures, analyses.

    Damaged pieces are named on the page.

    Args:
        runs: Run directories, or folders that hold some at any depth.
        out: HTML file to write.
        analyze: First run the analyses that are missing, with their defaults: minutes to hours per run.
        mix: Also average scores that were made in different ways (simulator, renderer, visuals, background, action
            repeat, image size, settings); the report says so.
    """
    if out.suffix not in (".html", ".htm") or out.is_dir():
        raise UserError(f"a report is written as a .html file, not as {out}")
    places = find_runs(runs)
    usable, unread = load_runs(places)
    made = compare(AGGREGATE, usable, mix=mix) if usable else None
    try:
        out.parent.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise UserError(f"there is no folder {out.parent}, and none can be made: {error}") from error
    refused = _analyze(places) if analyze else {}
    run_at = {run.path: run for run in usable}
    sections = [
        section_of(place, run_at.get(place), wrong=unread.get(place, ""), refused=refused.get(place, {}))
        for place in places
    ]
    write_text(out, render(sections, overview_of(made, several=len(places) > 1)))
    print(f"written to {out}, {out.stat().st_size / 1e6:.1f} MB")


def _analyze(places: Sequence[Path]) -> dict[Path, dict[str, str]]:
    """Run the analyses that are missing; return why some of them could not be done."""
    missing = [(place, name) for place in places for name in ANALYSES if not results(place, name)]
    refused: dict[Path, dict[str, str]] = {}
    for done, (place, name) in enumerate(missing):
        print(f"{name} of {place} ({done + 1} of {len(missing)})")
        try:
            run = place.absolute()
            ANALYSES[name]((run,) if name == "theorem1" else run)
        except (UserError, LearningError, WorkerError, OSError) as error:
            refused.setdefault(place, {})[name] = f"Could not be done: {error}."
    return refused
