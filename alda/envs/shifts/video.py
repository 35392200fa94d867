"""video_easy and video_hard: a video behind the agent (Hansen & Wang, 2021).

The sky is painted green, in video_hard the floor as well; what is green in a picture is replaced by a video's frame.
"""

from typing import ClassVar

import numpy as np
from jaxtyping import Bool, UInt8

from alda.envs.backgrounds.clips import Clips, video_clips
from alda.envs.scene import Scene
from alda.envs.shifts.base import Shift, ShiftOptions

_GREEN = (51, 204, 51)


class VideoShift(Shift):
    """One video an episode behind the agent, from its first frame on, a frame per agent step, over and over."""

    name: ClassVar[str]
    green: ClassVar[tuple[str, ...]]  # textures painted green
    clips: Clips

    def __init__(self, options: ShiftOptions) -> None:
        super().__init__(options)
        self.clips = video_clips(options.data, self.name, options.image_size)
        self._painted = False

    def reset(self, scene: Scene, rng: np.random.Generator) -> None:
        if not self._painted:
            for texture in self.green:
                scene.texels(texture)[:] = _GREEN
            scene.upload(*self.green)
            self._painted = True
        self._clip = self.clips[int(rng.integers(len(self.clips)))]
        self._agent_steps = 0

    def begin_step(self, scene: Scene) -> None:
        self._agent_steps += 1

    def finish(self, frame: UInt8[np.ndarray, "h w c"]) -> UInt8[np.ndarray, "h w c"]:
        behind = self._clip[self._agent_steps % len(self._clip)]
        return np.where(green_screen(frame)[..., None], behind, frame)


class VideoEasy(VideoShift):
    """a video in place of the sky"""

    name, green = "video_easy", ("skybox",)


class VideoHard(VideoShift):
    """a video in place of sky and floor"""

    name, green = "video_hard", ("skybox", "grid")


def green_screen(picture: UInt8[np.ndarray, "h w c"]) -> Bool[np.ndarray, "h w"]:
    """Return which pixels are green: hue 100 to 185 degrees, saturation from 80 and value from 70 of 255, inclusive.

    In whole numbers, so that a colour on a limit is inside; the reference's floating point puts one in 3,600 colours,
    all of them on a limit, outside.
    """
    r, g, b = (picture[..., i].astype(np.int16) for i in range(3))
    value = np.maximum(np.maximum(r, g), b)
    chroma = value - np.minimum(np.minimum(r, g), b)
    saturated = 51 * chroma >= 16 * value  # 255 * chroma / value >= 80
    above_100 = 3 * (b - r) >= -chroma  # 120 + 60 * (b - r) / chroma >= 100, where green is the largest
    below_185 = 12 * (r - g) <= -11 * chroma  # 240 + 60 * (r - g) / chroma <= 185, where blue is
    return (value >= 70) & saturated & (r < value) & np.where(g == value, above_100, below_185)
