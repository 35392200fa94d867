"""Libraries that only some commands need: each belongs to an extra of the package."""

import importlib
from typing import Any

from alda.errors import UserError

_NAMES = {"matplotlib": "matplotlib", "scipy": "SciPy", "sklearn": "scikit-learn"}


def optional(module: str, extra: str) -> Any:
    """A module of an optional library. Raises UserError where it is not installed, with what to do."""
    try:
        return importlib.import_module(module)
    except ImportError as error:
        name = _NAMES[module.split(".")[0]]
        raise UserError(f"this needs {name}: pip install 'alda[{extra}]'") from error


def sklearn(part: str = "base") -> Any:
    """scikit-learn's module of that name."""
    return optional(f"sklearn.{part}", "analysis")


def new_figure(width: float, height: float) -> Any:
    """An empty matplotlib figure, in inches, which needs no window."""
    return optional("matplotlib.figure", "plot").Figure(figsize=(width, height), layout="constrained")
