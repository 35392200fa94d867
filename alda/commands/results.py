"""`alda results add`."""

from pathlib import Path

from alda.analysis.runs.archive import Record, check_replaced, make_record, place_for, write_record
from alda.analysis.runs.table import find_runs, load_run
from alda.errors import UserError


def add(runs: tuple[Path, ...], /, *, to: Path = Path("results"), name: str = "study") -> None:
    """Keep small records of finished runs, from which figures, tables and reports are made again.

    A record of the same run is replaced where the run has gone on. Nothing is written before every run is checked.

    Args:
        runs: Run directories, or folders that hold some at any depth.
        to: Folder of all records.
        name: Folder in it for records that belong together: NAME/TASK/METHOD/VARIANT/sSEED.
    """
    made: dict[Path, tuple[Path, Record]] = {}
    for path in find_runs(runs):
        run = load_run(path)
        place = to / place_for(run, name)
        if place in made:
            raise UserError(f"{made[place][0]} and {path} would have one record, {place}; give each a --name")
        record = make_record(run)
        check_replaced(place, run, record)
        made[place] = path, record
    for place, (_, record) in made.items():
        write_record(place, record)
        print(f"written to {place}, {sum(len(text.encode()) for text in record.values()) / 1000:.0f} kB")
