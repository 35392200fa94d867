"""What a visual shift may change, and when. The plain class changes nothing: the training world."""

from dataclasses import dataclass, field
from typing import ClassVar

import numpy as np
from jaxtyping import UInt8

from alda.envs.backgrounds.clips import Clips
from alda.envs.backgrounds.data import Data
from alda.envs.scene import Scene
from alda.errors import UserError


@dataclass(frozen=True)
class ShiftOptions:
    """How a shift is wanted. intensity: None for the usual one. static: chosen at reset, then still."""

    intensity: float | None = None
    static: bool = False
    data: Data = field(default_factory=Data)
    image_size: int = 64
    reference: bool = False


class Shift:
    """nothing: the task as it is trained on"""

    domains: ClassVar[frozenset[str] | None] = None  # of the suite that it covers; None: all
    has_intensity: ClassVar[bool] = False
    colors = "of the task"  # where they come from, by the name that records give it

    def __init__(self, options: ShiftOptions) -> None:
        self.options = options

    @property
    def clips(self) -> Clips | None:
        """What moves behind the agent, if anything does."""
        return None

    def prepare(self) -> dict[str, str]:
        """Makes the clips ready, if there are any; what stands in records: names of the background and of the colours.

        Raises UserError where a clip cannot be read.
        """
        for error in self.clips.store() if self.clips else ():
            raise error
        return {"background": self.clips.name if self.clips else "none", "colors": self.colors}

    def reset(self, scene: Scene, rng: np.random.Generator) -> None:
        """An episode begins (the physics is already in its first state)."""

    def begin_step(self, scene: Scene) -> None:
        """An agent step begins."""

    def step(self, scene: Scene) -> None:
        """A control step has been taken; there are `action_repeat` of them in an agent step."""

    def draw(self, scene: Scene) -> None:
        """A picture is about to be drawn."""

    def finish(self, frame: UInt8[np.ndarray, "h w c"]) -> UInt8[np.ndarray, "h w c"]:
        """The last word on a drawn picture."""
        return frame


def parse_shift(text: str) -> tuple[str, float | None, bool]:
    """'distracting_cs:0.1:static' -> ('distracting_cs', 0.1, True). Raises UserError for another form."""
    name, *words = text.split(":")
    intensity, static = None, False
    for word in words:
        if word == "static" and not static:
            static = True
        elif intensity is None:
            intensity = _intensity(word, text)
        else:
            raise UserError(f"a shift is written NAME, NAME:INTENSITY or NAME:INTENSITY:static, not {text!r}")
    return name, intensity, static


def _intensity(word: str, text: str) -> float:
    try:
        value = float(word)
    except ValueError:
        value = -1.0
    if not 0 < value <= 1:
        raise UserError(f"the intensity of a shift is a number above 0, at most 1, not {word!r} (in {text!r})")
    return value
