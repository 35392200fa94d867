import numpy as np
import pytest
from conftest import SPEC, make_agent

from alda.analysis.latents.studio import CAMERA, CAMERA_REACH, open_studio, read_joints
from alda.analysis.paired_rollouts import twins
from alda.config import Config, EnvConfig
from alda.envs import make_env
from alda.envs.shifts.color import recolor
from alda.policy import Policy

JOINTS = {
    "walker_walk": [
        "rootz",
        "rooty",
        *(f"{side}_{part}" for side in ("right", "left") for part in ("hip", "knee", "ankle")),
    ],
    "cartpole_balance": ["slider", "hinge_1"],
    "ball_in_cup_catch": ["cup_x", "cup_z", "ball_x", "ball_z"],
    "finger_spin": ["proximal", "distal", "hinge"],
}


@pytest.mark.parametrize("task", JOINTS)
def test_a_studio_shows_what_the_task_shows(task):
    env = make_env(task, seed=3)
    env.reset(seed=3)
    joints, frame = read_joints(env), env.frame()
    env.close()
    with open_studio(EnvConfig(task=task)) as studio:
        assert [joint.name for joint in studio.joints] == JOINTS[task]
        drawn = studio.picture(joints)
        different = (np.abs(drawn.astype(int) - frame) > 8).mean()
        assert different < (0.001 if task != "walker_walk" else 0.02)  # whose floor moves on with the body
        away = studio.picture(joints, camera=CAMERA_REACH)
        assert (away != drawn).mean() > 0.3
        np.testing.assert_array_equal(studio.picture(joints, camera=np.zeros(len(CAMERA))), drawn)
        np.testing.assert_array_equal(studio.picture(joints), drawn)  # the camera is back in its place
        assert (studio.picture(joints + 0.3) != drawn).any()


def test_colors_are_those_of_the_colour_worlds():
    colors = np.linspace(0.05, 0.85, 9)
    with open_studio(EnvConfig(task="cartpole_balance")) as studio:
        start = read_joints(studio.env)
        drawn = studio.picture(start, colors)
        other = studio.picture(start, colors[::-1].copy())
        assert (other != drawn).mean() > 0.5
        np.testing.assert_array_equal(studio.picture(start, colors), drawn)
    env = make_env("cartpole_balance", seed=0)
    env.reset(seed=0)
    keys = ("grid_rgb1", "self_rgb", "skybox_rgb")
    setting = dict(zip(keys, colors.reshape(3, 3).tolist(), strict=True))
    env.physics.data.qvel[:] = 0
    env.frame()
    recolor(env.scene, {**setting, "grid_rgb2": (colors[:3] + 0.1).tolist()})
    assert np.abs(drawn.astype(int) - env.frame()).max() <= 3  # whose sky has sixteen times as many texels
    env.close()


@pytest.mark.parametrize(("size", "texels"), [(84, 400), (300, 800)])
def test_the_sky_is_shrunk_by_what_divides_it(size, texels):
    with open_studio(EnvConfig(task="cartpole_balance", image_size=size)) as studio:
        assert studio.env.scene.texels("skybox").shape == (6 * texels, texels, 3)
        assert studio.picture(read_joints(studio.env)).shape == (3, size, size)


def test_joints_without_limits_are_angles_from_minus_pi_to_pi():
    env = make_env("cartpole_balance", seed=0)
    env.reset(seed=0)
    env.physics.data.qpos[:] = [0.7, 7.0]
    np.testing.assert_allclose(read_joints(env), [0.7, 7 - 2 * np.pi])
    env.physics.data.qpos[:] = [-1.8, -3.5]
    np.testing.assert_allclose(read_joints(env), [-1.8, 2 * np.pi - 3.5])
    env.close()


@pytest.mark.parametrize(("task", "least", "most"), [("walker_walk", 0.04, 0.12), ("cartpole_balance", 0.008, 0.03)])
def test_the_mask_is_where_the_body_changes_colour(task, least, most):
    env = make_env(task, seed=1)
    env.reset(seed=1)
    mask, before = env.scene.agent_mask(), env.frame()
    assert least < mask.mean() < most
    model = env.physics.model
    model.mat_rgba[model.name2id("self", "material"), :3] = [0, 1, 0]
    changed = (np.abs(env.frame().astype(int) - before) > 60).any(0)
    env.close()
    assert changed[mask].mean() > 0.6
    edge = mask | np.roll(mask, 1, 0) | np.roll(mask, -1, 0) | np.roll(mask, 1, 1) | np.roll(mask, -1, 1)
    above_floor = np.arange(64)[:, None] < 34  # mirrored by the floor below
    assert not (changed & ~edge & above_floor).any()


def test_twins_are_the_same_states_in_every_world():
    config = Config(env=EnvConfig(task="cartpole_balance", episode_length=24))
    env = config.make_env("color_hard", 5)
    agent = make_agent("sac", spec=SPEC.__class__(frames=3, image_size=64, action_dim=1))
    policy, played = Policy(agent, config, SPEC, 0), []
    steps = []
    for twin in twins(policy, ("train", "color_hard"), [3, 5]):
        if twin.seed == 3:  # another episode before, in the same environments, changes nothing
            continue
        steps.append(twin)
        played.append(read_joints(twin.env))
    assert len(steps) == 6
    seen, _ = env.reset(seed=5)
    for twin, joints in zip(steps, played, strict=True):
        np.testing.assert_array_equal(twin.seen[1], seen)
        np.testing.assert_array_equal(read_joints(env), joints)
        np.testing.assert_array_equal(twin.action, policy.act(twin.seen[0]))
        assert (twin.seen[0] != twin.seen[1]).mean() > 0.5
        seen, *_ = env.step(twin.action)
    env.close()
