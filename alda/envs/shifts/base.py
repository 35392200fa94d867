"""Visual shifts: what they may change, and when. The plain class changes nothing: the task as it is trained on."""

import re
from dataclasses import dataclass, field
from typing import Any, ClassVar

import numpy as np
from jaxtyping import UInt8

from alda.envs.backgrounds.clips import Clips
from alda.envs.backgrounds.data import Data
from alda.envs.scene import Scene
from alda.errors import UserError


@dataclass(frozen=True)
class ShiftOptions:
    """Settings of a shift. intensity: None for the usual one. static: chosen at reset, then still."""

    intensity: float | None = None
    static: bool = False
    data: Data = field(default_factory=Data)
    image_size: int = 64
    reference: bool = False


class Shift:
    """nothing: the task as it is trained on"""

    domains: ClassVar[frozenset[str] | None] = None  # of the suite that it covers; None: all
    has_intensity: ClassVar[bool] = False
    needs_scene: ClassVar[bool] = True  # of dm_control; else the shift changes the picture alone, of any environment
    clips: Clips | None = None  # that move behind the agent
    colors = "of the task"  # where they come from, by the name that records give it

    def __init__(self, options: ShiftOptions) -> None:
        self.options = options

    def prepare(self) -> dict[str, str]:
        """Make the clips ready, if there are any; return the names of background and colours for records.

        Raises UserError where a clip cannot be read.
        """
        if self.clips:
            self.clips.prepare()
        return {"background": self.clips.name if self.clips else "none", "colors": self.colors}

    def reset(self, scene: Any, rng: np.random.Generator) -> None:
        """Begin an episode; the physics is already in its first state.

        scene: a Scene; None, here and below, where the environment is another package's.
        """

    def begin_step(self, scene: Any) -> None:
        """Begin an agent step."""

    def step(self, scene: Scene) -> None:
        """Follow a control step; there are `action_repeat` of them in an agent step."""

    def draw(self, scene: Scene) -> None:
        """Change the scene before a picture is drawn."""

    def finish(self, frame: UInt8[np.ndarray, "h w c"]) -> UInt8[np.ndarray, "h w c"]:
        """Change a picture after it is drawn."""
        return frame


def parse_shift(text: str) -> tuple[str, float | None, bool]:
    """'distracting_cs:0.1:static' -> ('distracting_cs', 0.1, True). Raises UserError for another form."""
    match = re.fullmatch(r"([^:]*)(?::(\d*\.?\d+(?:e-\d+)?))?(:static)?", text)
    name, number, static = match.groups() if match else ("", "nan", None)
    intensity = None if number is None else float(number)
    if intensity is not None and not 0 < intensity <= 1:
        raise UserError(
            "a shift is written NAME, NAME:INTENSITY or NAME:INTENSITY:static, with an intensity above 0, at most 1, "
            f"not {text!r}"
        )
    return name, intensity, static is not None
