r"""procedural-v1: seeded moving backgrounds that loop, for the video shifts when no recordings are at hand.

A clip is a painted scene before a moving camera, like the videos it stands in for:

    scenery, around a torus of 2 views           -> window at the camera ----\
    growth in front of it, where there is any    -> window at another speed -- one over the other, x light -> frame
    bodies, small pictures on ways of their own  -> placed in the window ----/

All is defined in views (1.0 is the width of a frame), so that a clip shows the same at every size.
"""

import math

import numpy as np
from jaxtyping import Float32, UInt8

from alda.envs.backgrounds.scenery import FAMILIES, Layer, Planes, Way, scene

NAME = "procedural-v1"
LENGTH = 300  # frames; frame LENGTH would equal frame 0
SMALLEST = 64  # pixels a side
SPLITS = {"train": 60, "test": 110, "overlay": 140}  # number of clips; each has its own random stream


class ProceduralClip:
    """A moving background; frame i depends on split, index, size and i alone.

    split: train and test for shifts, overlay for augmentation. index: below SPLITS[split]. size: pixels per side.
    Frames are RGB and contiguous. Raises IndexError for a frame outside 0 to LENGTH - 1.
    """

    def __init__(self, split: str, index: int, size: int) -> None:
        assert 0 <= index < SPLITS[split], f"there is no clip {index} of the split {split}"
        assert size >= SMALLEST, f"{size} pixels cannot show the details"
        rng = np.random.default_rng([0xA1DA, list(SPLITS).index(split), index])
        self.size = size
        self.light = Light(rng, size)
        self.layers, self.bodies = scene(rng, list(FAMILIES.values())[index % len(FAMILIES)], size)

    def __len__(self) -> int:
        return LENGTH

    def __getitem__(self, i: int) -> UInt8[np.ndarray, "size size 3"]:
        if not 0 <= i < LENGTH:
            raise IndexError(f"frame {i} of a clip of {LENGTH} frames")
        t, size = i / LENGTH, self.size
        scenery, *growth = (_window(s.planes, s.y.at(t) * size, s.x.at(t) * size, size, size) for s in self.layers)
        for planes in growth:
            _cover(scenery, planes)
        for body in self.bodies:
            self._pass_by(scenery, body, t)
        scenery *= self.light.at(t)
        np.minimum(scenery, 255, out=scenery)
        frame = np.empty((size, size, 3), np.uint8)
        for channel in range(3):
            frame[:, :, channel] = scenery[channel]
        return frame

    def _pass_by(self, view: Planes, body: Layer, t: float) -> None:
        """Draw a body into the view, as far as it is inside."""
        height, width = body.planes.shape[1:]
        y = (body.y.at(t) - (body.y.period - 1) / 2) * self.size - height / 2
        x = (body.x.at(t) - (body.x.period - 1) / 2) * self.size - width / 2
        top, left = max(math.floor(y) + 1, 0), max(math.floor(x) + 1, 0)
        h = min(math.floor(y) + height - 1, self.size) - top
        w = min(math.floor(x) + width - 1, self.size) - left
        if h > 0 and w > 0:
            _cover(view[:, top : top + h, left : left + w], _window(body.planes, top - y, left - x, h, w))


class Light:
    """Slow shadows that pass, an exposure that varies, a tint between warm and cool."""

    def __init__(self, rng: np.random.Generator, size: int, waves: int = 5) -> None:
        place = (2 * np.pi * (np.arange(size) + 0.5) / size)[:, None]
        self.turns = rng.choice([-1, 1], waves) * rng.integers(1, 6, waves)
        self.rows = (place * rng.uniform(-1.2, 1.2, waves) + rng.uniform(0, 6.28, waves)).astype(np.float32)
        self.ones = np.ones((size, 1), np.float32)
        angle, depth = (place * rng.uniform(-1.2, 1.2, waves)).T, rng.uniform(0.12, 0.35) / math.sqrt(waves)
        self.columns = np.concatenate([depth * np.cos(angle), -depth * np.sin(angle), self.ones.T]).astype(np.float32)
        self.exposure = Way(1.0, 2.0, 0, rng.uniform(0.05, 0.16), int(rng.integers(1, 4)), rng.uniform())
        self.warmth = Way(1.0, 2.0, 0, rng.uniform(0.03, 0.12), 1, rng.uniform())

    def at(self, t: float) -> Float32[np.ndarray, "3 size size"]:
        """Return the gain of every pixel."""
        angle = self.rows + (2 * np.pi * t * self.turns).astype(np.float32)
        rows = np.concatenate([np.cos(angle), np.sin(angle), self.ones], 1)
        exposure, warmth = self.exposure.at(t), self.warmth.at(t)
        tint = np.array([[[exposure * warmth]], [[exposure]], [[exposure * (2 - warmth)]]], np.float32)
        return (tint * rows) @ self.columns


def _window(planes: Planes, y: float, x: float, height: int, width: int) -> Planes:
    """Return the part at (y, x), which may lie between pixels; flat, because long rows are quick."""
    top, left, row = int(y), int(x), width + 1
    part = planes[:, top : top + height + 1, left : left + row].reshape(len(planes), -1)
    rows = part[:, row:] - part[:, :-row]
    rows *= y - top
    rows += part[:, :-row]
    mixed = np.empty_like(rows)
    np.subtract(rows[:, 1:], rows[:, :-1], out=mixed[:, :-1])
    mixed[:, -1] = 0
    mixed *= x - left
    mixed += rows
    return mixed.reshape(-1, height, row)[:, :, :width]


def _cover(view: Planes, planes: Planes) -> None:
    """Lay a picture over the view, in place."""
    view *= planes[3]
    view += planes[:3]
