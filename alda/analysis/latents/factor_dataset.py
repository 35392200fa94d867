"""A data set whose factors are known and drawn independently: joints of the body, colours, the camera's pose.

In episodes the factors of a frame depend on each other. Here each is set by itself, so that what latents have to do
with one of them is not owed to another.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from typing import NamedTuple

import numpy as np
import torch
from jaxtyping import Float, UInt8

from alda.analysis.latents.readout import episode_steps
from alda.analysis.paired_rollouts import read_episodes
from alda.config import EnvConfig
from alda.envs.dmc import DMCEnv
from alda.envs.scene import Scene
from alda.envs.shifts.base import Shift, ShiftOptions
from alda.envs.shifts.camera import look_at_point, orientation, to_cartesian, to_sphere
from alda.envs.shifts.color import recolor
from alda.errors import UserError
from alda.policy import Policy
from alda.progress import Begin

COLORS = tuple(f"{part} {channel}" for part in ("floor", "agent", "sky") for channel in ("red", "green", "blue"))
CAMERA = ("camera azimuth", "camera elevation", "camera roll", "camera zoom")
NUISANCES = {"colors": COLORS, "camera": CAMERA}
CAMERA_REACH = np.array([0.3, 0.15, 0.3, 0.3])  # radians, and share of the distance; either way
SKY_TEXELS = 256  # images of this side show the sky's texture in full
_TAILS = 0.01  # cut off at both ends of every joint's visited range
_EPISODES, _MANY_EPISODES = 4, 16  # played to learn the range of joints, and to visit states
_SLIDE, _HINGE = 2, 3  # MuJoCo's joint types with one coordinate


class FactorDataset(NamedTuple):
    """N frames and their factors. Joints are the task's sources, colours and camera those that a policy can ignore."""

    joints: Float[np.ndarray, "n d"]  # metres and radians
    nuisance: Float[np.ndarray, "n e"]
    joint_names: tuple[str, ...]
    nuisance_names: tuple[str, ...]
    frame: UInt8[np.ndarray, "n 3 h w"]
    elsewhere: UInt8[np.ndarray, "m 3 h w"]  # the first m states once more, under another nuisance


def draw_samples(
    policy: Policy,
    count: int,
    *,
    nuisances: tuple[str, ...] = ("colors",),
    independent: bool = True,
    twice: int = 0,
    seed: int = 0,
    begin: Begin,
) -> FactorDataset:
    """Draw frames of the task with every nuisance factor independent of all others.

    nuisances: those of NUISANCES that vary; colours are uniform in [0, 1], the camera within CAMERA_REACH.
    independent: draw each joint uniformly over the range in which the policy moves it, less 1 % at both ends; else take
    distinct states that the policy visits (perhaps fewer than `count`), whose joints depend on each other.
    twice: number of states that are drawn once more under another nuisance. Raises UserError for an unknown nuisance.
    """
    if not nuisances or len(set(nuisances)) < len(nuisances) or not set(nuisances) <= set(NUISANCES):
        raise UserError(f"--nuisances are {' and '.join(NUISANCES)}, or one of them, not {' '.join(nuisances)!r}")
    rng = np.random.default_rng(seed)
    visited = _visited_joints(policy, seed, begin, _EPISODES if independent else _MANY_EPISODES)
    if independent:
        low, high = np.quantile(visited, [_TAILS, 1 - _TAILS], axis=0)
        joints = rng.uniform(low, high, (count, len(low)))
    else:
        joints = rng.permutation(visited)[:count]
    count = len(joints)
    colors = rng.uniform(0, 1, (2, count, len(COLORS)))
    camera = rng.uniform(-CAMERA_REACH, CAMERA_REACH, (2, count, len(CAMERA)))
    varied = {name: {"colors": colors, "camera": camera}[name] for name in nuisances}

    step = begin("drawing", count + twice)
    frames = np.empty((count + twice, *policy.spec.obs_shape[1:]), np.uint8)
    with open_renderer(policy.config.env) as renderer:
        for i in range(count + twice):
            again, state = divmod(i, count)
            frames[i] = renderer.render(
                joints[state], **{name: values[again, state] for name, values in varied.items()}
            )
            step()
    return FactorDataset(
        joints=joints,
        nuisance=np.concatenate([values[0] for values in varied.values()], axis=-1),
        joint_names=tuple(joint.name for joint in renderer.joints),
        nuisance_names=tuple(factor for name in nuisances for factor in NUISANCES[name]),
        frame=frames[:count],
        elsewhere=frames[count:],
    )


def _visited_joints(policy: Policy, seed: int, begin: Begin, episodes: int) -> Float[np.ndarray, "n d"]:
    """Return the joints of every state of some episodes in which the policy explores, as in training."""
    torch.manual_seed(seed)
    step, seeds = begin("playing episodes", episodes * episode_steps(policy)), range(seed, seed + episodes)
    read = partial(read_episodes, read=lambda state: read_joints(state.env), step=step, explore=True)
    return np.concatenate(list(read(policy, ("train",), seeds)))


class Joint(NamedTuple):
    """A joint that is one number and whose position an image shows."""

    name: str
    place: int  # in qpos
    turns: bool  # an angle without limits, counted from -pi to pi


def joints_of(env: DMCEnv) -> list[Joint]:
    """Return the joints with one coordinate, without those that a camera following the body does not show."""
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
    """Return the present positions of joints_of(env), in metres and radians."""
    qpos = env.physics.data.qpos
    values = [(qpos[joint.place], joint.turns) for joint in joints_of(env)]
    return np.array([(value + np.pi) % (2 * np.pi) - np.pi if turns else value for value, turns in values])


class FactorRenderer:
    """Renders states of one task from their factors; other joints stay as they are at reset."""

    def __init__(self, env: DMCEnv) -> None:
        self.env, self.joints = env, joints_of(env)
        self._start = env.physics.data.qpos.copy()

    def render(
        self,
        joints: Float[np.ndarray, " d"],
        colors: Float[np.ndarray, "9"] | None = None,
        camera: Float[np.ndarray, "4"] | None = None,
    ) -> UInt8[np.ndarray, "3 h w"]:
        """Return one frame.

        joints: metres and radians, in the order of `joints`. colors: as COLORS, in [0, 1]; None: as they were before.
        camera: as CAMERA, in radians and as a share of the distance; None: where the task has it.
        """
        physics = self.env.physics
        with physics.suppress_physics_errors():  # bodies may overlap: they are looked at, not moved
            physics.data.qpos[:] = self._start
            physics.data.qpos[[joint.place for joint in self.joints]] = joints
            physics.data.qvel[:] = 0
            physics.forward()
        if colors is not None:
            floor, agent, sky = np.split(colors, 3)
            lighter = np.clip(floor + 0.1, 0, 1)  # the other squares, as in the published tables
            keys = {"grid_rgb1": floor, "grid_rgb2": lighter, "self_rgb": agent, "skybox_rgb": sky}
            recolor(self.env.scene, {key: value.tolist() for key, value in keys.items()})
        if camera is not None:
            _move_camera(self.env.scene, camera)
        return self.env.frame()


def _move_camera(scene: Scene, camera: Float[np.ndarray, "4"]) -> None:
    """Move the camera away from where the simulator puts it."""
    azimuth, elevation, roll, zoom = camera.tolist()
    position, _ = scene.camera_pose()
    centre = scene.center_of_mass() if scene.trackcom else np.zeros(3)
    radius, across, down = to_sphere(position - centre)
    moved = to_cartesian(np.array([radius * (1 + zoom), across + azimuth, down - elevation])) + centre
    sight = orientation(moved, look_at_point(scene), roll, from_above=scene.domain == "reacher")
    scene.set_camera_pose(moved, sight)


@contextmanager
def open_renderer(config: EnvConfig) -> Iterator[FactorRenderer]:
    """Open a renderer for the task of a run, with the run's settings of rendering."""
    options = {name: value for name, value in vars(config).items() if name not in ("task", "reference")}
    env = DMCEnv(config.task, Shift(ShiftOptions(image_size=config.image_size)), **options)
    side = env.scene.texels("skybox").shape[1]
    factor = max(factor for factor in range(1, max(1, SKY_TEXELS // config.image_size) + 1) if side % factor == 0)
    if factor > 1:
        env.scene.shrink_sky(factor)
    env.reset(seed=0)
    try:
        yield FactorRenderer(env)
    finally:
        env.close()
