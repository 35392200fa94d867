"""A camera that wanders around where it should stand (Distracting Control Suite, Stone et al., 2021).

Position is kept in spherical coordinates about the body's centre of mass, or about the origin for a camera that stands
still, and moves by a velocity that is itself a random walk, within limits around the native position.
"""

import math

import numpy as np

from alda.envs.scene import Scene
from alda.envs.shifts.base import ShiftOptions

_USUAL_RADIUS = 4.0  # metres; a nearer camera moves more slowly
_DOWN = np.array([0.0, 0.0, -1.0])


class WanderingCamera:
    """A camera within limits, in radians, fractions of the radius and metres per tick.

    Angles stay above the floor and before the agent, that is from -pi to 0 in the plane, where the native camera is.
    Reacher's looks straight down: its angles have no such limits, and its picture may turn about the line of sight. A
    static camera is placed at reset and stays.

    The reference differs: it applies these limits to every native camera, which brings that of humanoid to the agent's
    other side; in quadruped it moves another camera than the one it draws with; between ticks it falls back to the
    native pose.
    """

    def __init__(self, intensity: float, options: ShiftOptions) -> None:
        self.options = options
        moving = 0.0 if options.static else intensity
        self.angle = math.pi / 2 * intensity  # either way, vertically, horizontally and in roll
        self.zoom_in, self.zoom_out = 0.5 * intensity, 1.5 * intensity
        self.velocity, self.velocity_std = 0.4 * moving, 0.1 * moving
        self.roll_velocity, self.roll_velocity_std = math.pi / 50 * moving, math.pi / 300 * moving

    def reset(self, scene: Scene, rng: np.random.Generator) -> None:
        """Place the camera at random around its native pose."""
        self._rng, self._from_above = rng, scene.domain == "reacher"
        self._unseen = self.options.reference and scene.domain == "quadruped"
        if self._unseen:
            return
        position, _ = scene.camera_pose()
        self._target = look_at_point(scene)
        radius, h, v = to_sphere(position - scene.center_of_mass() if scene.trackcom else position)
        low = [max(radius - radius * self.zoom_in, 0), h - self.angle, v - self.angle]
        high = [radius + radius * self.zoom_out, h + self.angle, v + self.angle]
        self._native_h, self._in_front = h, self.options.reference or -math.pi <= h <= 0
        if not self._from_above:
            low[2], high[2] = max(low[2], 0), min(high[2], math.pi / 2)
            if self._in_front:
                low[1], high[1] = max(low[1], -math.pi), min(high[1], 0)
        self._low, self._high = np.array(low), np.array(high)

        h, v, radius_now = (low[i] + (high[i] - low[i]) * rng.random() for i in (1, 2, 0))  # limits may be out of order
        self._sphere = np.array([radius_now, h, v])
        self._roll = rng.uniform(-self.angle, self.angle)
        direction = rng.standard_normal(3)
        self._velocity = direction / np.linalg.norm(direction) * rng.uniform(0, self.velocity)
        self._roll_velocity = rng.uniform(-self.roll_velocity, self.roll_velocity)
        self._scale = radius / _USUAL_RADIUS
        self.tick(scene)

    def tick(self, scene: Scene) -> None:
        """Change velocities; the pose follows them as far as its limits let it."""
        if self._unseen:
            return
        velocity = self._velocity + self._rng.standard_normal(3) * (self.velocity_std * self._scale)
        roll_velocity = self._roll_velocity + self._rng.standard_normal() * self.roll_velocity_std
        speed, fastest = float(np.linalg.norm(velocity)), self.velocity * self._scale
        if speed > fastest:
            velocity *= fastest / speed
        roll_velocity = min(max(roll_velocity, -self.roll_velocity), self.roll_velocity)

        before = to_cartesian(self._sphere)
        moved = to_sphere(before + velocity)
        if not self._in_front:  # the angle must not jump where it is counted from pi on to -pi
            moved[1] = self._native_h + math.remainder(moved[1] - self._native_h, 2 * math.pi)
        self._sphere = np.clip(moved, self._low, self._high)
        self._velocity = to_cartesian(self._sphere) - before
        roll = min(max(self._roll + roll_velocity, -self.angle), self.angle)
        self._roll, self._roll_velocity = roll, roll - self._roll
        self._place(scene)

    def hold(self, scene: Scene) -> None:
        """Follow the body between two ticks."""
        if not self.options.reference:
            self._place(scene)

    def _place(self, scene: Scene) -> None:
        """Put the camera where it is now, around a body that may have moved on."""
        position, target = to_cartesian(self._sphere), self._target
        if scene.trackcom:
            position, target = position + scene.center_of_mass(), look_at_point(scene)
        scene.set_camera_pose(position, orientation(position, target, self._roll, from_above=self._from_above))


def look_at_point(scene: Scene) -> np.ndarray:
    """Return the point on the line of sight that is as far away as the body's centre of mass, [3]."""
    position, matrix = scene.camera_pose()
    return position - np.linalg.norm(position - scene.center_of_mass()) * matrix[:, 2]


def orientation(position: np.ndarray, target: np.ndarray, roll: float, *, from_above: bool) -> np.ndarray:
    """Return camera axes as columns, [3, 3]: looking from position to target, rolled by so many radians about that."""
    sight = target - position
    sight /= np.linalg.norm(sight)
    return (_tilted(sight) if from_above else _upright(sight)) @ _about_z(roll)


def to_sphere(point: np.ndarray) -> np.ndarray:
    """x, y, z -> radius, angle in the plane, angle from the zenith."""
    x, y, z = point.tolist()
    across = math.hypot(x, y)
    return np.array([math.sqrt(x * x + y * y + z * z), math.atan2(y, x), math.atan2(across, z)])


def to_cartesian(sphere: np.ndarray) -> np.ndarray:
    """radius, angle in the plane, angle from the zenith -> x, y, z."""
    radius, h, v = sphere.tolist()
    across = radius * math.sin(v)
    return np.array([across * math.cos(h), across * math.sin(h), radius * math.cos(v)])


def _upright(sight: np.ndarray) -> np.ndarray:
    """Return the rotation that keeps the horizon level."""
    x, y, z = sight.tolist()
    tilt = math.atan2(z, math.hypot(x, y)) + math.pi / 2  # a camera without rotation looks down
    cos, sin = math.cos(tilt), math.sin(tilt)
    return _about_z(-math.atan2(x, y)) @ np.array([[1, 0, 0], [0, cos, -sin], [0, sin, cos]])


def _tilted(sight: np.ndarray) -> np.ndarray:
    """Return the shortest rotation from straight down: free of jumps there, where `_upright` has them."""
    axis = np.cross(_DOWN, sight)
    sin, cos = float(np.linalg.norm(axis)), float(_DOWN @ sight)
    x, y, z = (axis / (sin + 1e-4)).tolist()
    cross = np.array([[0, -z, y], [z, 0, -x], [-y, x, 0]])
    return cos * np.eye(3) + sin * cross + (1 - cos) * np.outer([x, y, z], [x, y, z])


def _about_z(angle: float) -> np.ndarray:
    cos, sin = math.cos(angle), math.sin(angle)
    return np.array([[cos, -sin, 0], [sin, cos, 0], [0, 0, 1]])
