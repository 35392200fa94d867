"""ALDA: agents that act from pixels and keep working when the environment looks different."""

from importlib import import_module
from typing import TYPE_CHECKING, Any

from alda.envs import make_env, register
from alda.envs.backgrounds.data import Data
from alda.errors import UserError

if TYPE_CHECKING:
    from alda.latents import AssociativeLatent, LatentConfig
    from alda.policy import Policy, load

__version__ = "0.1.0"
__all__ = ["AssociativeLatent", "Data", "LatentConfig", "Policy", "UserError", "load", "make_env"]

_LATER = {  # imported on first use: they bring PyTorch
    "AssociativeLatent": "alda.latents",
    "LatentConfig": "alda.latents",
    "Policy": "alda.policy",
    "load": "alda.policy",
}

register()


def __getattr__(name: str) -> Any:
    if name in _LATER:
        return getattr(import_module(_LATER[name]), name)
    raise AttributeError(f"module 'alda' has no attribute {name!r}")
