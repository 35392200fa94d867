"""A camera that wanders around where it should stand (Distracting Control Suite, Stone et al., 2021).

Position is kept in spherical coordinates about the body's centre of mass, or about the world's origin for a camera that
stands still, and moves by a velocity that is itself a random walk, within limits around the native position.
"""

import math
from dataclasses import dataclass

import numpy as np

from alda.envs.scene import Scene

_USUAL_RADIUS = 4.0  # metres; a nearer camera moves more slowly
_DOWN = np.array([0.0, 0.0, -1.0])


@dataclass(frozen=True)
class CameraLimits:
    """How far and how fast it may wander, in radians, metres and fractions of the radius, per tick."""

    angle: float  # either way, vertically, horizontally and in roll
    zoom_in: float
    zoom_out: float
    velocity: float
    velocity_std: float
    roll_velocity: float
    roll_velocity_std: float

    @classmethod
    def of(cls, intensity: float, *, static: bool) -> "CameraLimits":
        """As the suite scales them; a static camera is placed at reset and stays."""
        moving = 0.0 if static else 1.0
        s = intensity
        return cls(
            angle=math.pi / 2 * s,
            zoom_in=0.5 * s,
            zoom_out=1.5 * s,
            velocity=0.4 * s * moving,
            velocity_std=0.1 * s * moving,
            roll_velocity=math.pi / 50 * s * moving,
            roll_velocity_std=math.pi / 300 * s * moving,
        )


class WanderingCamera:
    """The camera of one scene, from `reset` to `reset`.

    Angles stay above the floor and before the agent, that is from -pi to 0 in the plane, where the native camera is.
    from_above: the camera looks straight down, as in reacher; its angles have no such limits, and its picture may turn
    about the line of sight. reference: these limits hold for every native camera. Of the suite's, that of humanoid
    stands behind them (quadruped's as well): it is then brought to the agent's other side.
    """

    def __init__(self, limits: CameraLimits, *, from_above: bool, reference: bool = False) -> None:
        self.limits, self.from_above, self.reference = limits, from_above, reference

    def reset(self, scene: Scene, rng: np.random.Generator) -> None:
        """Places the camera at random around its native pose."""
        limits, self._rng = self.limits, rng
        position, _ = scene.camera_pose()
        self._target = look_at_point(scene)
        radius, h, v = to_sphere(position - scene.center_of_mass() if scene.trackcom else position)
        low = [max(radius - radius * limits.zoom_in, 0), h - limits.angle, v - limits.angle]
        high = [radius + radius * limits.zoom_out, h + limits.angle, v + limits.angle]
        self._native_h, self._in_front = h, self.reference or -math.pi <= h <= 0
        if not self.from_above:
            low[2], high[2] = max(low[2], 0), min(high[2], math.pi / 2)
            if self._in_front:
                low[1], high[1] = max(low[1], -math.pi), min(high[1], 0)
        self._low, self._high = np.array(low), np.array(high)

        h, v, radius_now = (low[i] + (high[i] - low[i]) * rng.random() for i in (1, 2, 0))  # limits may be out of order
        self._sphere = np.array([radius_now, h, v])
        self._roll = rng.uniform(-limits.angle, limits.angle)
        direction = rng.standard_normal(3)
        self._velocity = direction / np.linalg.norm(direction) * rng.uniform(0, limits.velocity)
        self._roll_velocity = rng.uniform(-limits.roll_velocity, limits.roll_velocity)
        self._scale = radius / _USUAL_RADIUS
        self.wander(scene)

    def wander(self, scene: Scene) -> None:
        """One tick: velocities change, the pose follows them as far as its limits let it."""
        limits, rng = self.limits, self._rng
        velocity = self._velocity + rng.standard_normal(3) * (limits.velocity_std * self._scale)
        roll_velocity = self._roll_velocity + rng.standard_normal() * limits.roll_velocity_std
        speed, fastest = float(np.linalg.norm(velocity)), limits.velocity * self._scale
        if speed > fastest:
            velocity *= fastest / speed
        roll_velocity = min(max(roll_velocity, -limits.roll_velocity), limits.roll_velocity)

        before = to_cartesian(self._sphere)
        moved = to_sphere(before + velocity)
        if not self._in_front:  # the angle must not jump where it is counted from pi on to -pi
            moved[1] = self._native_h + math.remainder(moved[1] - self._native_h, 2 * math.pi)
        self._sphere = np.clip(moved, self._low, self._high)
        self._velocity = to_cartesian(self._sphere) - before
        roll = min(max(self._roll + roll_velocity, -limits.angle), limits.angle)
        self._roll, self._roll_velocity = roll, roll - self._roll
        self.place(scene)

    def place(self, scene: Scene) -> None:
        """Puts the camera where it is now, around a body that may have moved on."""
        position, target = to_cartesian(self._sphere), self._target
        if scene.trackcom:
            position, target = position + scene.center_of_mass(), look_at_point(scene)
        scene.set_camera_pose(position, orientation(position, target, self._roll, from_above=self.from_above))


def look_at_point(scene: Scene) -> np.ndarray:
    """The point on the line of sight that is as far away as the body's centre of mass, [3]."""
    position, matrix = scene.camera_pose()
    return position - np.linalg.norm(position - scene.center_of_mass()) * matrix[:, 2]


def orientation(position: np.ndarray, target: np.ndarray, roll: float, *, from_above: bool) -> np.ndarray:
    """Camera axes as columns, [3, 3]: looking from position to target, rolled by so many radians about that line."""
    sight = target - position
    sight /= np.linalg.norm(sight)
    return (_tilted(sight) if from_above else _upright(sight)) @ _about_z(roll)


def to_sphere(point: np.ndarray) -> np.ndarray:
    """x, y, z -> radius, angle in the plane, angle from the zenith."""
    x, y, z = point.tolist()
    across = math.hypot(x, y)
    return np.array([math.sqrt(x * x + y * y + z * z), math.atan2(y, x), math.atan2(across, z)])


def to_cartesian(sphere: np.ndarray) -> np.ndarray:
    radius, h, v = sphere.tolist()
    across = radius * math.sin(v)
    return np.array([across * math.cos(h), across * math.sin(h), radius * math.cos(v)])


def _upright(sight: np.ndarray) -> np.ndarray:
    """The horizon stays level."""
    x, y, z = sight.tolist()
    tilt = math.atan2(z, math.hypot(x, y)) + math.pi / 2  # a camera without rotation looks down
    cos, sin = math.cos(tilt), math.sin(tilt)
    return _about_z(-math.atan2(x, y)) @ np.array([[1, 0, 0], [0, cos, -sin], [0, sin, cos]])


def _tilted(sight: np.ndarray) -> np.ndarray:
    """The shortest rotation from straight down: free of jumps there, where `_upright` has them."""
    axis = np.cross(_DOWN, sight)
    sin, cos = float(np.linalg.norm(axis)), float(_DOWN @ sight)
    x, y, z = (axis / (sin + 1e-4)).tolist()
    cross = np.array([[0, -z, y], [z, 0, -x], [-y, x, 0]])
    return cos * np.eye(3) + sin * cross + (1 - cos) * np.outer([x, y, z], [x, y, z])


def _about_z(angle: float) -> np.ndarray:
    cos, sin = math.cos(angle), math.sin(angle)
    return np.array([[cos, -sin, 0], [sin, cos, 0], [0, 0, 1]])
