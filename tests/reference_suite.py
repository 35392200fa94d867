"""The Distracting Control Suite (Stone et al., 2021; the variant of DMControl-GB) a second time, to hold ours against.

Written from a description of the benchmark, on a stock suite environment, in the most direct way: every tick sends the
whole sky through MuJoCo, and a rotation is a product of matrices. It shares the random streams with ours, and no code.
"""

from collections.abc import Sequence

import mujoco
import numpy as np
from dm_control import suite

PARTS = ("background", "camera", "color")  # in the order in which they are seeded
SKY = 0  # number of its texture
SKY_SIDE = 800
FLOOR_ALPHA = {"reacher": 0.0, "cartpole": 0.3, "finger": 0.3, "ball_in_cup": 0.3}  # others 1


class ReferenceSuite:
    """One control step at a time.

    clips: of frames of 800 x 800. static: chosen at reset, then still. hold: keeps the camera's distraction between the
    ticks too, as the benchmark does not. moved: the camera that is distracted; camera 0 is the one that draws.
    """

    def __init__(
        self,
        domain: str,
        task: str,
        intensity: float,
        *,
        seed: int,
        clips: Sequence = (),
        parts: Sequence[str] = PARTS,
        static: bool = False,
        hold: bool = False,
        moved: int | None = None,
    ) -> None:
        self.env = suite.load(domain, task, task_kwargs={"random": seed % 2**32, "time_limit": 1e6})
        self.physics, self.domain = self.env.physics, domain
        self.seeds = np.random.default_rng([seed, 1])
        self.hold = hold
        if moved is None:
            moved = 2 if domain == "quadruped" else 0
        made = {
            "background": Background(self.physics, domain, clips, static),
            "camera": Camera(self.physics, moved, intensity, static, upright=domain != "reacher"),
            "color": Color(self.physics, intensity, static),
        }
        self.parts = {name: made[name] for name in parts}

    def reset(self, seed: int | None = None) -> None:
        if seed is not None:
            self.env.task.random.seed(seed % 2**32)
            self.seeds = np.random.default_rng([seed, 1])
        self.env.reset()
        self.count = 0
        for name in PARTS:
            rng = np.random.default_rng(self.seeds.integers(2**63))
            if name in self.parts:
                self.parts[name].reset(rng)

    def step(self, action: np.ndarray) -> None:
        """One control step with an action in [-1, 1]."""
        bounds = self.env.action_spec()
        middle, half = (bounds.minimum + bounds.maximum) / 2, (bounds.maximum - bounds.minimum) / 2
        self.env.step(middle + half * action.astype(float))
        self.count += 1
        if self.count % 2 == 0:
            for part in self.parts.values():
                part.tick()
        elif self.hold and "camera" in self.parts:
            self.parts["camera"].apply()

    def picture(self, size: int = 64) -> np.ndarray:
        return self.physics.render(size, size, camera_id=0)

    def camera_pose(self) -> tuple[np.ndarray, np.ndarray]:
        return self.physics.data.cam_xpos[0].copy(), self.physics.data.cam_xmat[0].reshape(3, 3).copy()

    def close(self) -> None:
        self.physics.free()


class Background:
    """A clip in the sky, there and back."""

    def __init__(self, physics, domain, clips, static) -> None:
        self.physics, self.domain, self.clips, self.static = physics, domain, clips, static

    def reset(self, rng) -> None:
        model = self.physics.model
        model.mat_rgba[model.name2id("grid", "material"), 3] = FLOOR_ALPHA.get(self.domain, 1.0)
        model.tex_height[SKY] = SKY_SIDE  # one side; MuJoCo then shows it on all six
        self.clip = self.clips[int(rng.integers(len(self.clips)))]
        self.index = int(rng.integers(len(self.clip)))
        self.direction = 1 if rng.integers(2) else -1
        self.apply()

    def tick(self) -> None:
        if not self.static:
            self.index, self.direction = next_frame(self.index, self.direction, len(self.clip))
            self.apply()

    def apply(self) -> None:
        model, contexts = self.physics.model, self.physics.contexts
        texels = np.asarray(self.clip[self.index]).reshape(-1)
        assert len(texels) == SKY_SIDE * SKY_SIDE * 3
        first = model.tex_adr[SKY]
        model.tex_data[first : first + len(texels)] = texels
        with contexts.gl.make_current() as gl:
            gl.call(mujoco.mjr_uploadTexture, model.ptr, contexts.mujoco.ptr, SKY)


def next_frame(index: int, direction: int, length: int) -> tuple[int, int]:
    index += direction
    if index <= 0:
        index, direction = 0, 1
    if index >= length:
        index, direction = length - 1, -1
    return index, direction


class Camera:
    """Wanders on a sphere, seen from whose centre it is at (radius, h, v)."""

    def __init__(self, physics, number, intensity, static, upright) -> None:
        self.physics, self.number, self.upright = physics, number, upright
        moving = 0.0 if static else intensity
        self.angle, self.zoom_in, self.zoom_out = np.pi / 2 * intensity, 0.5 * intensity, 1.5 * intensity
        self.max_velocity, self.velocity_std = 0.4 * moving, 0.1 * moving
        self.max_roll_velocity, self.roll_std = np.pi / 50 * moving, np.pi / 300 * moving

    @property
    def follows(self) -> bool:
        return int(self.physics.model.cam_mode[0]) == mujoco.mjtCamLight.mjCAMLIGHT_TRACKCOM

    @property
    def center(self) -> np.ndarray:
        return self.physics.data.subtree_com[1].copy() if self.follows else np.zeros(3)

    def looked_at(self) -> np.ndarray:
        """As far along the native line of sight as the body is away."""
        data = self.physics.data
        position, matrix = data.cam_xpos[self.number], data.cam_xmat[self.number].reshape(3, 3)
        return position - np.linalg.norm(position - data.subtree_com[1]) * matrix[:, 2]

    def reset(self, rng) -> None:
        self.rng = rng
        self.target = self.looked_at()
        native = self.physics.data.cam_xpos[self.number] - self.center
        radius, h, v = sphere(native)
        self.pace = radius / 4
        self.low = np.array([max(radius * (1 - self.zoom_in), 0), h - self.angle, v - self.angle])
        self.high = np.array([radius * (1 + self.zoom_out), h + self.angle, v + self.angle])
        if self.upright:
            self.low[1], self.high[1] = max(self.low[1], -np.pi), min(self.high[1], 0)
            self.low[2], self.high[2] = max(self.low[2], 0), min(self.high[2], np.pi / 2)

        h, v = between(rng, self.low[1], self.high[1]), between(rng, self.low[2], self.high[2])
        self.position = np.array([between(rng, self.low[0], self.high[0]), h, v])
        self.roll = between(rng, -self.angle, self.angle)
        heading = rng.standard_normal(3)
        self.velocity = heading / np.linalg.norm(heading) * between(rng, 0, self.max_velocity)
        self.roll_velocity = between(rng, -self.max_roll_velocity, self.max_roll_velocity)
        self.tick()

    def tick(self) -> None:
        self.velocity = self.velocity + self.rng.standard_normal(3) * self.velocity_std * self.pace
        self.roll_velocity += self.rng.standard_normal() * self.roll_std
        speed, fastest = np.linalg.norm(self.velocity), self.max_velocity * self.pace
        if speed > fastest:
            self.velocity = self.velocity * fastest / speed
        self.roll_velocity = min(max(self.roll_velocity, -self.max_roll_velocity), self.max_roll_velocity)

        before, roll = cartesian(self.position), self.roll
        self.position = np.minimum(np.maximum(sphere(before + self.velocity), self.low), self.high)
        self.velocity = cartesian(self.position) - before
        self.roll = min(max(roll + self.roll_velocity, -self.angle), self.angle)
        self.roll_velocity = self.roll - roll
        self.apply()

    def apply(self) -> None:
        data = self.physics.data
        position = cartesian(self.position) + self.center
        sight = (self.looked_at() if self.follows else self.target) - position
        sight = sight / np.linalg.norm(sight)
        matrix = (upright if self.upright else shortest)(sight) @ about_z(self.roll)
        data.cam_xpos[self.number], data.cam_xmat[self.number] = position, matrix.ravel()


def between(rng, low: float, high: float) -> float:
    """Uniform; as in the benchmark, the limits may come in the wrong order."""
    return low + (high - low) * rng.random()


def sphere(p: np.ndarray) -> np.ndarray:
    """Radius, angle in the plane, angle from the zenith."""
    return np.array([np.linalg.norm(p), np.arctan2(p[1], p[0]), np.arctan2(np.hypot(p[0], p[1]), p[2])])


def cartesian(s: np.ndarray) -> np.ndarray:
    radius, h, v = s
    return radius * np.array([np.sin(v) * np.cos(h), np.sin(v) * np.sin(h), np.cos(v)])


def about_x(angle: float) -> np.ndarray:
    c, s = np.cos(angle), np.sin(angle)
    return np.array([[1, 0, 0], [0, c, -s], [0, s, c]])


def about_z(angle: float) -> np.ndarray:
    c, s = np.cos(angle), np.sin(angle)
    return np.array([[c, -s, 0], [s, c, 0], [0, 0, 1]])


def upright(sight: np.ndarray) -> np.ndarray:
    """Tilts the camera up from straight down, then turns it about the vertical."""
    x, y, z = sight
    return about_z(-np.arctan2(x, y)) @ about_x(np.arctan2(z, np.hypot(x, y)) + np.pi / 2)


def shortest(sight: np.ndarray) -> np.ndarray:
    """From straight down to the line of sight (Rodrigues), about an axis that is a little too short to be a unit."""
    down = np.array([0.0, 0.0, -1.0])
    sin, cos = np.linalg.norm(np.cross(down, sight)), down @ sight
    x, y, z = np.cross(down, sight) / (sin + 1e-4)
    axis, turn = np.array([x, y, z]), np.array([[0, -z, y], [z, 0, -x], [-y, x, 0]])
    return cos * np.eye(3) + (1 - cos) * np.outer(axis, axis) + sin * turn


class Color:
    """The colours of all materials in a box around their own."""

    def __init__(self, physics, intensity, static) -> None:
        self.physics = physics
        self.std = 0.0 if static else 0.03 * intensity
        own = physics.model.mat_rgba[:, :3].copy()  # float32, and so are the limits; the walk is not
        self.low, self.high = np.clip(own - intensity, 0, 1), np.clip(own + intensity, 0, 1)

    def reset(self, rng) -> None:
        self.rng = rng
        self.rgb = rng.uniform(self.low, self.high)
        self.physics.model.mat_rgba[:, :3] = self.rgb

    def tick(self) -> None:
        self.rgb = np.clip(self.rgb + self.std * self.rng.standard_normal(self.rgb.shape), self.low, self.high)
        self.physics.model.mat_rgba[:, :3] = self.rgb
