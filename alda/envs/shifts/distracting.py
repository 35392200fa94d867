"""The Distracting Control Suite (Stone et al., 2021), in the variant that the paper and DMControl-GB test in.

A moving sky, a wandering camera and drifting colours, each scaled by one intensity. They move at every second control
step, as in that variant.
"""

from typing import Any, ClassVar

import numpy as np

from alda.envs.backgrounds.clips import sky_clips, sky_side
from alda.envs.scene import Scene
from alda.envs.shifts.base import Shift, ShiftOptions
from alda.envs.shifts.camera import WanderingCamera

USUAL_INTENSITY = 0.025
_CLIPS = {0.025: 2, 0.05: 2, 0.1: 4, 0.15: 6, 0.2: 8}  # intensity -> clips to choose from; above: all
_FLOOR_ALPHA = {  # domain -> opacity of the floor before the moving sky
    "reacher": 0.0,
    "walker": 1.0,
    "cheetah": 1.0,
    "humanoid": 1.0,
    "quadruped": 1.0,
    "cartpole": 0.3,
    "finger": 0.3,
    "ball_in_cup": 0.3,
}
_TICK = 2  # control steps
_REFERENCE_SKY = 800  # texels a side


class DistractingSuite(Shift):
    """a moving sky, a wandering camera and drifting colours together (Distracting Control Suite)"""

    domains = frozenset(_FLOOR_ALPHA)
    has_intensity = True
    parts: ClassVar[tuple[str, ...]] = ("background", "camera", "color")

    def __init__(self, options: ShiftOptions) -> None:
        super().__init__(options)
        self.intensity = USUAL_INTENSITY if options.intensity is None else options.intensity
        makers = {"background": MovingSky, "camera": WanderingCamera, "color": DriftingColors}
        self._parts: dict[str, Any] = {name: makers[name](self.intensity, options) for name in self.parts}
        if "background" in self.parts:
            self.clips = self._parts["background"].clips

    def reset(self, scene: Scene, rng: np.random.Generator) -> None:
        self._control_steps = 0
        for name in DistractingSuite.parts:
            stream = np.random.default_rng(rng.integers(2**63))  # a part alone moves as it does among the others
            if name in self._parts:
                self._parts[name].reset(scene, stream)

    def step(self, scene: Scene) -> None:
        self._control_steps += 1
        if self._control_steps % _TICK == 0:
            for part in self._parts.values():
                part.tick(scene)
        elif "camera" in self._parts:
            self._parts["camera"].hold(scene)

    def draw(self, scene: Scene) -> None:
        if "background" in self._parts:
            self._parts["background"].draw(scene)


class DistractingBackground(DistractingSuite):
    """a moving sky, seen through the floor where the task's floor allows"""

    parts = ("background",)


class DistractingCamera(DistractingSuite):
    """a camera that wanders around where it should stand"""

    parts = ("camera",)


class DistractingColor(DistractingSuite):
    """colours of all materials, drifting around the task's own"""

    parts = ("color",)


class MovingSky:
    """A clip on all six sides of the sky, played forward and backward between its ends."""

    def __init__(self, intensity: float, options: ShiftOptions) -> None:
        self.options = options
        size = _REFERENCE_SKY if options.reference else sky_side(options.image_size)
        count = next((n for s, n in _CLIPS.items() if intensity <= s), None)
        self.clips = sky_clips(options.data, count, size)

    def reset(self, scene: Scene, rng: np.random.Generator) -> None:
        model = scene.physics.model
        model.mat_rgba[model.name2id("grid", "material"), 3] = _FLOOR_ALPHA[scene.domain]
        self._clip = self.clips[int(rng.integers(len(self.clips)))]
        self._index = int(rng.integers(len(self._clip)))
        self._direction = 1 if rng.integers(2) else -1
        self._shown = -1

    def tick(self, scene: Scene) -> None:
        if self.options.static:
            return
        self._index += self._direction
        last = len(self._clip) - 1
        if self._index <= 0:
            self._index, self._direction = 0, 1
        if self._index > last:  # the last frame is shown twice, the first once, as in the reference
            self._index, self._direction = last, -1

    def draw(self, scene: Scene) -> None:
        if self._shown == self._index:
            return
        self._shown = self._index
        image = self._clip[self._index]
        if self.options.reference:
            model = scene.physics.model
            model.tex_height[model.name2id("skybox", "texture")] = _REFERENCE_SKY  # six sides become one, repeated
            scene.texels("skybox")[:] = image
            scene.upload("skybox")
        else:
            scene.set_sky(image)


class DriftingColors:
    """The colour of every material, a random walk in a box around its own."""

    def __init__(self, intensity: float, options: ShiftOptions) -> None:
        self.intensity, self.options = intensity, options

    def reset(self, scene: Scene, rng: np.random.Generator) -> None:
        colors = scene.physics.model.mat_rgba[:, :3]
        if not hasattr(self, "_low"):
            self._low, self._high = np.clip(colors - self.intensity, 0, 1), np.clip(colors + self.intensity, 0, 1)
        self._rng, self._colors = rng, rng.uniform(self._low, self._high)
        colors[:] = self._colors

    def tick(self, scene: Scene) -> None:
        if self.options.static:
            return
        moved = self._colors + self._rng.standard_normal(self._colors.shape) * (0.03 * self.intensity)
        self._colors = np.clip(moved, self._low, self._high)
        scene.physics.model.mat_rgba[:, :3] = self._colors
