"""Pictures of a task whose sources are all known and drawn on their own: joints of the body, colours, camera.

In episodes the sources of a picture depend on each other. Here each is set by hand, so that what an agent's latents
have to do with one of them is not owed to another.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import NamedTuple

import numpy as np
from jaxtyping import Float, UInt8

from alda.config import EnvConfig
from alda.envs.dmc import DMCEnv
from alda.envs.scene import Scene
from alda.envs.shifts.base import Shift, ShiftOptions
from alda.envs.shifts.camera import look_at_point, orientation, to_cartesian, to_sphere
from alda.envs.shifts.color import recolor

COLORS = tuple(f"{part} {channel}" for part in ("floor", "agent", "sky") for channel in ("red", "green", "blue"))
CAMERA = ("camera azimuth", "camera elevation", "camera roll", "camera zoom")
NUISANCES = {"colors": COLORS, "camera": CAMERA}
CAMERA_REACH = np.array([0.3, 0.15, 0.3, 0.3])  # radians, and share of the distance; either way
SKY_TEXELS = 256  # pictures of this side show the whole of the sky's texture
_SLIDE, _HINGE = 2, 3  # MuJoCo's joint types with one coordinate


class Joint(NamedTuple):
    name: str
    place: int  # in qpos
    turns: bool  # an angle without limits, counted from -pi to pi


class Nuisance(Shift):
    """colours and a camera that are set from outside"""

    def __init__(self, image_size: int) -> None:
        super().__init__(ShiftOptions(image_size=image_size))
        self.wanted_colors: Float[np.ndarray, 9] | None = None
        self.wanted_camera: Float[np.ndarray, 4] | None = None
        self._painted = np.full(len(COLORS), np.nan)

    def draw(self, scene: Scene) -> None:
        """The camera must stand where the simulator puts it."""
        if self.wanted_colors is not None and not np.array_equal(
            self.wanted_colors, self._painted
        ):  # painting takes longest
            self._painted = self.wanted_colors.copy()
            floor, agent, sky = np.split(self.wanted_colors, 3)
            lighter = np.clip(floor + 0.1, 0, 1)  # the other squares, as in the published tables
            keys = {"grid_rgb1": floor, "grid_rgb2": lighter, "self_rgb": agent, "skybox_rgb": sky}
            recolor(scene, {key: value.tolist() for key, value in keys.items()})
        if self.wanted_camera is not None:
            azimuth, elevation, roll, zoom = self.wanted_camera.tolist()
            position, _ = scene.camera_pose()
            centre = scene.center_of_mass() if scene.trackcom else np.zeros(3)
            radius, across, down = to_sphere(position - centre)
            moved = to_cartesian(np.array([radius * (1 + zoom), across + azimuth, down - elevation])) + centre
            sight = orientation(moved, look_at_point(scene), roll, from_above=scene.domain == "reacher")
            scene.set_camera_pose(moved, sight)


class Studio:
    """Draws states of one task. Made by `open_studio`, which also closes it.

    joints: those that a picture shows, each one number; joints of several numbers stay as they are at reset, and so
    does what a camera that follows the body would not show.
    """

    def __init__(self, env: DMCEnv, nuisance: Nuisance) -> None:
        self.env, self.nuisance = env, nuisance
        self.joints = joints_of(env)
        self._start = env.physics.data.qpos.copy()

    def picture(
        self,
        joints: Float[np.ndarray, " d"],
        colors: Float[np.ndarray, "9"] | None = None,
        camera: Float[np.ndarray, "4"] | None = None,
    ) -> UInt8[np.ndarray, "3 h w"]:
        """One frame.

        joints: metres and radians, in the order of `joints`. colors: of COLORS, in [0, 1]; None: the task's own, as
        long as no others were asked for. camera: of CAMERA, in radians and as a share of the distance; None: in place.
        """
        physics = self.env.physics
        with physics.suppress_physics_errors():  # bodies may stand in each other: they are looked at, not moved
            physics.data.qpos[:] = self._start
            for joint, value in zip(self.joints, joints, strict=True):
                physics.data.qpos[joint.place] = value
            physics.data.qvel[:] = 0
            physics.forward()
        self.nuisance.wanted_colors, self.nuisance.wanted_camera = colors, camera
        return self.env.frame()


@contextmanager
def open_studio(config: EnvConfig) -> Iterator[Studio]:
    """For the task of a run, with its rendering."""
    options = {**vars(config)}
    del options["reference"]
    nuisance = Nuisance(config.image_size)
    env = DMCEnv(options.pop("task"), nuisance, **options)
    side = env.scene.texels("skybox").shape[1]
    wanted = max(1, SKY_TEXELS // config.image_size)
    factor = max(factor for factor in range(1, wanted + 1) if side % factor == 0)
    if factor > 1:
        env.scene.shrink_sky(factor)
    env.reset(seed=0)
    try:
        yield Studio(env, nuisance)
    finally:
        env.close()


def joints_of(env: DMCEnv) -> list[Joint]:
    """Joints with one coordinate whose position a picture shows."""
    model = env.physics.model
    found = []
    for joint in range(model.njnt):
        kind, limited = int(model.jnt_type[joint]), bool(model.jnt_limited[joint])
        at_root = int(model.body_parentid[model.jnt_bodyid[joint]]) == 0
        level = abs(float(model.jnt_axis[joint][2])) < 0.5
        followed = kind == _SLIDE and at_root and level and env.scene.trackcom
        if kind in (_SLIDE, _HINGE) and not followed:
            place = int(model.jnt_qposadr[joint])
            found.append(Joint(model.id2name(joint, "joint"), place, kind == _HINGE and not limited))
    return found


def read_joints(env: DMCEnv) -> Float[np.ndarray, " d"]:
    """Their present positions, in metres and radians."""
    qpos = env.physics.data.qpos
    values = [(qpos[joint.place], joint.turns) for joint in joints_of(env)]
    return np.array([(value + np.pi) % (2 * np.pi) - np.pi if turns else value for value, turns in values])
