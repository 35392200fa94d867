"""Optional libraries, each of which belongs to an extra of the package."""

import importlib
from typing import Any

from alda.errors import UserError

_NAMES = {"matplotlib": "matplotlib", "scipy": "SciPy", "sklearn": "scikit-learn"}


def optional(module: str, extra: str) -> Any:
    """Import a module of an optional library. Raises UserError with the remedy where it is not installed."""
    try:
        return importlib.import_module(module)
    except ImportError as error:
        name = _NAMES[module.split(".")[0]]
        raise UserError(f"this needs {name}: pip install 'alda[{extra}]'") from error


def sklearn(part: str = "base") -> Any:
    """Import a module of scikit-learn."""
    return optional(f"sklearn.{part}", "analysis")


def new_figure(width: float, height: float) -> Any:
    """Return an empty matplotlib figure, in inches, that needs no window."""
    figure = optional("matplotlib.figure", "plot").Figure(figsize=(width, height), layout="constrained")
    optional("matplotlib", "plot").rcParams["text.parse_math"] = False  # a $ in a name is a $
    return figure
