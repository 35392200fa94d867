"""`alda results add`."""

from pathlib import Path

from alda.analysis.runs.archive import add_results


def add(runs: tuple[Path, ...], /, *, to: Path = Path("results"), name: str = "study") -> None:
    """Keep small records of finished runs, from which figures, tables and reports are made again.

    Args:
        runs: Run directories, or folders that hold some at any depth.
        to: Folder of all records.
        name: Folder in it for records that belong together: NAME/TASK/METHOD/VARIANT/sSEED.
    """
    add_results(runs, to=to, name=name)
