"""Methods, latent models and visual shifts of installed packages, known to every command by entry points.

In the pyproject.toml of such a package, for a config and an agent, a latent model, and a shift:

    [project.entry-points."alda.agents"]
    dimmed = "my_package:DIMMED"        # DIMMED = (DimmedConfig, Dimmed)

    [project.entry-points."alda.latents"]
    tanh = "my_package:TanhLatent"

    [project.entry-points."alda.shifts"]
    night = "my_package:Night"
"""

import sys
from functools import cache
from importlib.metadata import entry_points
from typing import Any


def add_registered(kind: str, table: dict[str, Any]) -> None:
    """Add what installed packages register under alda.KIND to a table, by name; what cannot be imported is told.

    Called when a table is read, not when it is made: such packages import the one they extend.
    """
    table |= {name: thing for name, thing in _registered(kind).items() if name not in table}


@cache
def _registered(kind: str) -> dict[str, Any]:
    found = {}
    for entry in entry_points(group=f"alda.{kind}"):
        try:
            found[entry.name] = entry.load()
        except Exception as error:  # whatever is wrong in another package
            what = f"{entry.name} of alda.{kind}, {entry.value},"
            print(f"warning: {what} cannot be imported: {error}", file=sys.stderr)
    return found
