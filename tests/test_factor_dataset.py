import numpy as np
import pytest
from conftest import SPEC, make_agent

import alda
from alda.analysis.latents.factor_dataset import CAMERA, CAMERA_REACH, draw_samples, open_renderer, read_joints
from alda.analysis.latents.readout import read_latents
from alda.analysis.paired_rollouts import evenly_spread, paired_rollouts
from alda.config import Config, EnvConfig
from alda.envs.shifts.color import recolor
from alda.errors import UserError
from alda.policy import Policy

WALKER = ["rootz", "rooty", *(f"{side}_{part}" for side in ("right", "left") for part in ("hip", "knee", "ankle"))]
JOINTS = {
    "walker_walk": WALKER,
    "cartpole_balance": ["slider", "hinge_1"],
    "ball_in_cup_catch": ["cup_x", "cup_z", "ball_x", "ball_z"],
    "finger_spin": ["proximal", "distal", "hinge"],
}


@pytest.mark.parametrize("task", JOINTS)
def test_a_renderer_shows_what_the_task_shows(task, make):
    env = make(task, seed=3)
    env.reset(seed=3)
    joints, frame = read_joints(env), env.frame()
    with open_renderer(EnvConfig(task=task)) as renderer:
        assert [joint.name for joint in renderer.joints] == JOINTS[task]
        drawn = renderer.render(joints)
        different = (np.abs(drawn.astype(int) - frame) > 8).mean()
        assert different < (0.001 if task != "walker_walk" else 0.02)  # whose floor moves on with the body
        assert (renderer.render(joints, camera=CAMERA_REACH) != drawn).mean() > 0.3
        np.testing.assert_array_equal(renderer.render(joints, camera=np.zeros(len(CAMERA))), drawn)
        np.testing.assert_array_equal(renderer.render(joints), drawn)  # the camera is back in its place
        assert (renderer.render(joints + 0.3) != drawn).any()


def test_colors_are_those_of_the_colour_shifts(make):
    colors = np.linspace(0.05, 0.85, 9)
    with open_renderer(EnvConfig(task="cartpole_balance")) as renderer:
        start = read_joints(renderer.env)
        drawn = renderer.render(start, colors)
        other = renderer.render(start, colors[::-1].copy())
        assert (other != drawn).mean() > 0.5
        np.testing.assert_array_equal(renderer.render(start, colors), drawn)
    env = make("cartpole_balance", seed=0)
    env.reset(seed=0)
    keys = ("grid_rgb1", "self_rgb", "skybox_rgb")
    setting = dict(zip(keys, colors.reshape(3, 3).tolist(), strict=True))
    env.physics.data.qvel[:] = 0
    env.frame()
    recolor(env.scene, {**setting, "grid_rgb2": (colors[:3] + 0.1).tolist()})
    assert np.abs(drawn.astype(int) - env.frame()).max() <= 3  # whose sky has sixteen times as many texels


def test_the_sky_is_shrunk_by_what_divides_it():
    with open_renderer(EnvConfig(task="cartpole_balance", image_size=84)) as renderer:
        assert renderer.env.scene.texels("skybox").shape == (6 * 400, 400, 3)  # not 800 / 3
        assert renderer.render(read_joints(renderer.env)).shape == (3, 84, 84)


def test_joints_without_limits_are_angles_from_minus_pi_to_pi(make):
    env = make("cartpole_balance", seed=0)
    env.reset(seed=0)
    for angle, told in ((7.0, 7 - 2 * np.pi), (-3.5, 2 * np.pi - 3.5)):
        env.physics.data.qpos[:] = [0.7, angle]
        np.testing.assert_allclose(read_joints(env), [0.7, told])


@pytest.mark.parametrize(("task", "least", "most"), [("walker_walk", 0.04, 0.12), ("cartpole_balance", 0.008, 0.03)])
def test_the_mask_is_where_the_body_changes_colour(task, least, most, make):
    env = make(task, seed=1)
    env.reset(seed=1)
    mask, before = env.scene.agent_mask(), env.frame()
    assert least < mask.mean() < most
    model = env.physics.model
    model.mat_rgba[model.name2id("self", "material"), :3] = [0, 1, 0]
    changed = (np.abs(env.frame().astype(int) - before) > 60).any(0)
    assert changed[mask].mean() > 0.6
    edge = mask | np.roll(mask, 1, 0) | np.roll(mask, -1, 0) | np.roll(mask, 1, 1) | np.roll(mask, -1, 1)
    above_floor = np.arange(64)[:, None] < 34  # mirrored by the floor below
    assert not (changed & ~edge & above_floor).any()


def test_paired_rollouts_show_the_same_states_under_every_shift():
    config = Config(env=EnvConfig(task="cartpole_balance", episode_length=24))
    env = config.make_env("color_hard", 5)
    agent = make_agent("sac", spec=SPEC.__class__(frames=3, image_size=64, action_dim=1))
    policy = Policy(agent, config, SPEC, 0)
    # another episode before, in the same environments, changes nothing
    rollouts = paired_rollouts(policy, ("train", "color_hard"), [3, 5])
    steps = [(step, read_joints(step.env)) for step in rollouts if step.seed == 5]
    assert len(steps) == 6
    seen, _ = env.reset(seed=5)
    for step, joints in steps:
        np.testing.assert_array_equal(step.seen[1], seen)
        np.testing.assert_array_equal(read_joints(env), joints)
        np.testing.assert_array_equal(step.action, policy.act(step.seen[0]))
        assert (step.seen[0] != step.seen[1]).mean() > 0.5
        seen, *_ = env.step(step.action)
    env.close()
    assert evenly_spread(range(6), 3) == [0, 2, 5]


@pytest.mark.slow
def test_samples_have_independent_known_sources(trained):
    def begin(words, steps):
        return lambda *_: None

    policy = alda.load(trained("alda"))
    kinds = ("colors", "camera")
    drawn, again = (draw_samples(policy, 20, nuisances=kinds, twice=10, seed=1, begin=begin) for _ in range(2))
    np.testing.assert_array_equal(drawn.frame, again.frame)
    assert drawn.joint_names == ("slider", "hinge_1")
    assert drawn.nuisance.shape == (20, 13) == (20, len(drawn.nuisance_names))
    assert all(len(np.unique(column)) == 20 for column in drawn.nuisance.T)
    assert (np.abs(drawn.nuisance[:, 9:]) <= CAMERA_REACH).all()
    assert len(np.unique(drawn.joints[:, 0])) == 20
    assert len(drawn.elsewhere) == 10
    assert (drawn.elsewhere != drawn.frame[:10]).mean() > 0.5
    visited = draw_samples(policy, 20, independent=False, seed=1, begin=begin)
    assert len(visited.frame) == len(np.unique(visited.joints, axis=0)) == 20  # of 16 episodes of 9 states
    assert read_latents(policy, drawn.frame).dtype == np.int64
    with pytest.raises(UserError, match="--nuisances are colors and camera"):
        draw_samples(policy, 40, nuisances=("colours",), begin=begin)
    for parameter in policy.agent.parameters():
        parameter.data.fill_(np.nan)
    with pytest.raises(UserError, match="the encoder has diverged"):
        read_latents(policy, drawn.frame)
