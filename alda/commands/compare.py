"""`alda compare`."""

from collections.abc import Sequence
from pathlib import Path

from alda.analysis.runs import comparison
from alda.analysis.runs.curves import AGGREGATE
from alda.analysis.runs.figures import write_csv
from alda.analysis.runs.reproduction import COLUMNS, Row, beside_published, in_words
from alda.analysis.runs.table import load_runs
from alda.errors import UserError
from alda.files import write_json, write_text
from alda.progress import wide_console


def compare(runs: tuple[Path, ...], /, *, out: Path | None = None, mix: bool = False) -> list[Row]:
    """Print scores of runs beside the published ones: intervals, bands, a verdict, what else differs.

    Args:
        runs: Run directories or records of them, or folders that hold some at any depth.
        out: File to write the table to, .csv, .json or .md (None: none).
        mix: Also average scores that were made in different ways (simulator, renderer, visuals, background, action
            repeat, image size, settings); the table says so.
    """
    if out is not None and out.suffix not in (".csv", ".json", ".md"):
        raise UserError(f"the table is written as .csv, .json or .md, not as {out.name}")
    made = comparison.compare(AGGREGATE, *load_runs(runs), mix=mix)
    rows = [row for task, curve, _, cell in made.by_task() for row in beside_published(curve, cell, task)]
    notes = made.notes()
    lines, legend = in_words(rows)
    _print(lines)
    for text in (*legend, *notes):
        print(text)
    if out is not None:
        out.parent.mkdir(parents=True, exist_ok=True)
        if out.suffix == ".csv":
            write_csv(out, [row.for_csv() for row in rows])
        elif out.suffix == ".json":
            write_json(out, {"rows": [row.for_json() for row in rows], "notes": notes})
        else:
            cells = [[cell.replace("|", "\\|") for cell in line] for line in (COLUMNS, ["---"] * len(COLUMNS), *lines)]
            table = [f"| {' | '.join(line)} |" for line in cells]
            write_text(out, "\n".join([*table, "", *(f"- {text}" for text in (*legend, *notes)), ""]))
        print(f"written to {out}")
    return rows


def _print(lines: Sequence[Sequence[str]]) -> None:
    from rich.box import SIMPLE_HEAD
    from rich.table import Table
    from rich.text import Text

    table = Table(box=SIMPLE_HEAD, padding=0)
    for column, widest in COLUMNS.items():
        whole = column in ("ours", "published", "at step")
        table.add_column(column, overflow="fold", no_wrap=whole, max_width=widest)
    before: Sequence[str] = [""] * len(COLUMNS)
    for line in lines:
        same = next(n for n in (7, 3, 0) if line[:n] == before[:n])  # our score, or its place: said once
        table.add_row(*map(Text, [*[""] * same, *line[same:]]))
        before = line
    wide_console().print(table)
