"""Result files of an analysis: a PNG, and beside it its numbers as JSON."""

from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from rich.table import Table
from torch import Tensor

from alda.analysis.libraries import optional
from alda.errors import UserError
from alda.files import check_writable, own_folder, write_json
from alda.policy import Policy
from alda.progress import wide_console

DPI = 110  # of figures


def result_file(run: Path, out: Path | None, name: str, *conditions: str) -> Path:
    """Return the PNG to write, out or RUN/analysis/NAME_CONDITIONS, after making its folder.

    conditions: those that are the default (train, colors) are left out of the name. Raises UserError for a file that
    is not .png, and without matplotlib.
    """
    optional("matplotlib.figure", "plot")  # better to fail now than after playing episodes
    stem = "_".join([name, *(words for words in conditions if words not in ("train", "colors"))])
    file = out or own_folder(run / "analysis") / f"{stem.replace(':', '_')}.png"
    if file.suffix != ".png":
        raise UserError(f"pictures are written as .png, not as {file.name}")
    check_writable(file)
    return file


def write_numbers(file: Path, policy: Policy, numbers: dict[str, Any], pictures: Sequence[Path]) -> None:
    """Write numbers to JSON beside a picture, after the method, task, seed and agent step they belong to.

    pictures: that have been written, to be named with it on the terminal.
    """
    config, table = policy.config, file.with_suffix(".json")
    subject = {"method": config.method, "task": config.env.task, "seed": config.seed, "step": policy.step}
    write_json(table, subject | numbers)
    print(f"written to {file.parent}: {', '.join(written.name for written in (*pictures, table))}")


def print_table(title: str, head: Sequence[str], rows: Iterable[Sequence[Any]]) -> None:
    """Print a table: floats with three decimals, None as a dash."""
    table = Table(title=title)
    for i, column in enumerate(head):
        table.add_column(column, justify="right" if i else "left")
    for row in rows:
        words = (f"{value:.3f}" if isinstance(value, float) else str(value) for value in row)
        table.add_row(*("\N{EN DASH}" if word == "None" else word for word in words))
    wide_console().print(table)


def rounded(array: np.ndarray | np.floating | Tensor | float) -> Any:
    """Return numbers with four significant digits, as nested lists for JSON; None for what is not finite."""
    if isinstance(array, Tensor):
        array = array.detach().cpu().double().numpy()
    if isinstance(array, np.ndarray) and array.ndim:
        return [rounded(row) for row in array]
    value = float(array)
    return float(f"{value:.4g}") if np.isfinite(value) else None
