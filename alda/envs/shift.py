"""What a visual shift may change, and when. The plain class changes nothing: the training world."""

from typing import Any

import numpy as np
from jaxtyping import UInt8


class Shift:
    """The plain task, as trained on."""

    def reset(self, physics: Any, rng: np.random.Generator) -> None:
        """An episode begins (the physics is already in its first state)."""

    def step(self, physics: Any) -> None:
        """A control step has been taken; there are `action_repeat` of them in an agent step."""

    def finish(self, frame: UInt8[np.ndarray, "h w c"]) -> UInt8[np.ndarray, "h w c"]:
        """The last word on a rendered frame."""
        return frame
