"""Visual shifts that change the picture alone, so that they cover any environment. No benchmark has them."""

from typing import Any

import numpy as np
from jaxtyping import UInt8

from alda.envs.shifts.base import Shift, ShiftOptions

_USUAL = 0.2


class PictureShift(Shift):
    """A change of the picture by a random amount."""

    needs_scene = False
    has_intensity = True

    def __init__(self, options: ShiftOptions) -> None:
        super().__init__(options)
        self.intensity = _USUAL if options.intensity is None else options.intensity


class Recolor(PictureShift):
    """at every reset, colours mixed by a random affine map"""

    colors = "affine map"

    def reset(self, scene: Any, rng: np.random.Generator) -> None:
        self._mix = np.eye(3) + self.intensity * rng.normal(size=(3, 3))
        self._offset = 255 * self.intensity * rng.uniform(-1, 1, 3)

    def finish(self, frame: UInt8[np.ndarray, "h w c"]) -> UInt8[np.ndarray, "h w c"]:
        return (frame @ self._mix.T + self._offset).clip(0, 255).astype(np.uint8)


class CropJitter(PictureShift):
    """the picture wanders, by at most the intensity as a share of its side; beyond its edge the last pixels repeat"""

    def reset(self, scene: Any, rng: np.random.Generator) -> None:
        self._most = round(self.intensity * self.options.image_size)
        self._rng = rng
        self._place = rng.integers(-self._most, self._most + 1, 2)

    def begin_step(self, scene: Any) -> None:
        if not self.options.static:
            moved = self._place + self._rng.integers(-1, 2, 2)
            self._place = moved.clip(-self._most, self._most)

    def finish(self, frame: UInt8[np.ndarray, "h w c"]) -> UInt8[np.ndarray, "h w c"]:
        rows, columns = (
            (np.arange(side) + moved).clip(0, side - 1)
            for side, moved in zip(frame.shape[:2], self._place, strict=True)
        )
        return frame[rows[:, None], columns]
