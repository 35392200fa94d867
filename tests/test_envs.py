import json
import os
import runpy
import subprocess
import sys
import warnings
from importlib.util import find_spec
from itertools import pairwise

import gymnasium
import numpy as np
import pytest
from conftest import shared
from gymnasium.utils.env_checker import check_env
from PIL import Image

import alda
from alda.commands.envs import envs, preview
from alda.envs import SHIFTS, covers
from alda.envs.backgrounds.data import Data
from alda.envs.rendering import load_suite, renderer_name
from alda.envs.shifts.color import DEFAULT, draw_table, recolor
from alda.envs.tasks import TASKS, split_task
from alda.errors import UserError


def roll(env, seed, steps=4):
    """Frames, rewards and physics of a seeded episode under seeded actions."""
    obs = [env.reset(seed=seed)[0]]
    rng, rewards = np.random.default_rng(seed), []
    for _ in range(steps):
        o, reward, *_ = env.step(rng.uniform(-1, 1, env.action_space.shape).astype(np.float32))
        obs.append(o)
        rewards.append(reward)
    return np.stack(obs), rewards, env.physics.get_state().copy()


def test_the_task_list_is_that_of_the_suite():
    assert sorted(TASKS.values()) == sorted(load_suite().ALL_TASKS)
    assert split_task("ball_in_cup_catch") == ("ball_in_cup", "catch")
    assert split_task("humanoid_CMU_run") == ("humanoid_CMU", "run")


def id_of(task, shift):
    return f"alda/{task}-v0" if shift == "train" else f"alda/{task}-{shift}-v0"


EVERY = {task: [id_of(task, shift) for shift in SHIFTS if covers(shift, task)] for task in TASKS}
# Under every shift a task of another domain.
FIRST = [
    id_of(task, shift)
    for task, shift in {
        "fish_swim": "train",
        "acrobot_swingup": "color_easy",
        "swimmer_swimmer6": "color_hard",
        "hopper_hop": "video_easy",
        "cheetah_run": "video_hard",
        "humanoid_walk": "distracting_cs",
        "finger_turn_hard": "distracting_camera",
        "quadruped_fetch": "distracting_color",
        "reacher_hard": "distracting_background",
    }.items()
]
REST = [name for names in EVERY.values() for name in names if name not in FIRST]


def test_every_task_and_shift_has_a_gymnasium_id():
    assert sorted(FIRST + REST) == sorted(name for name in gymnasium.registry if name.startswith("alda/"))
    assert {"alda/walker_walk-v0", "alda/walker_walk-color_hard-v0"} <= {*REST}


@pytest.mark.parametrize("name", [*FIRST, *(pytest.param(name, marks=pytest.mark.slow) for name in REST)])
def test_gymnasium_checker_finds_nothing_and_every_domain_moves(name):
    env = gymnasium.make(name, render_mode="rgb_array", profile="fast").unwrapped
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        check_env(env)
    first, _ = env.reset(seed=0)
    state = env.physics.get_state()
    frames = []
    for _ in range(6):
        obs, reward, *_ = env.step(env.action_space.high)
        assert np.isfinite(reward)
        frames.append(obs[-1])
    assert not np.array_equal(env.physics.get_state(), state)
    assert np.isfinite(env.physics.get_state()).all()
    assert obs[-1].std() > 1
    assert any(not np.array_equal(frame, first[-1]) for frame in frames)  # lqr's masses may be out of sight
    env.close()


def test_environments_without_a_seed_differ_and_render_in_every_way(make):
    first, second = (make("cartpole_balance", shift="color_hard", profile="fast", seed=None) for _ in range(2))
    assert not np.array_equal(first.reset()[0], second.reset()[0])
    kept = gymnasium.make("alda/cartpole_balance-v0", render_mode="rgb_array_list", profile="fast")
    kept.reset(seed=0)
    kept.step(kept.action_space.high)
    assert len(kept.render()) == 2
    kept.close()


@pytest.mark.parametrize("start", ["spawn", "fork", "forkserver"])
def test_gymnasium_plays_several_in_processes_of_its_own(make, start):
    """With the same frames as alone; forked after this process has drawn."""
    make("cartpole_balance").reset()
    context = {"context": start}
    name = "alda/cartpole_balance-distracting_cs-v0"
    many = gymnasium.make_vec(
        name, num_envs=2, vectorization_mode="async", vector_kwargs=context, profile="fast", episode_length=40
    )
    try:
        obs, _ = many.reset(seed=[3, 4])
        alone = make("cartpole_balance", shift="distracting_cs", profile="fast", episode_length=40)
        assert np.array_equal(obs[1], alone.reset(seed=4)[0])
        obs, rewards, *_ = many.step(np.full((2, 1), 0.5, np.float32))
        seen, reward, *_ = alone.step(np.full(1, 0.5, np.float32))
        assert np.array_equal(obs[1], seen)
        assert rewards[1] == pytest.approx(reward)
    finally:
        many.close()


def test_an_episode_length_that_the_repeat_does_not_divide_is_kept(make):
    assert make("finger_spin", profile="fast").episode_length == 1_000
    env = make("cartpole_balance", episode_length=10, action_repeat=4, profile="fast")
    env.reset(seed=0)
    ends = [env.step(np.zeros(1, np.float32))[1:4:2] for _ in range(3)]
    assert [truncated for _, truncated in ends] == [False, False, True]
    assert ends[2][0] == pytest.approx(ends[0][0] / 2, rel=0.1)  # two control steps in place of four
    assert env.physics.time() == pytest.approx(10 * 0.01)


def test_a_task_that_ends_itself_terminates(make):
    env = make("lqr_lqr_2_1", profile="fast")
    env.reset(seed=0)
    with env.physics.reset_context():
        env.physics.data.qpos[:] = env.physics.data.qvel[:] = 0
    *_, terminated, truncated, _ = env.step(np.zeros(1, np.float32))
    assert terminated
    assert not truncated


def test_reward_is_summed_over_repeated_actions(make):
    env = make("walker_walk", profile="fast")
    assert env.metadata["render_fps"] == 10  # videos play in real time: 4 x 0.025 s
    suite = load_suite().load("walker", "walk", task_kwargs={"random": 5})
    env.reset(seed=5)
    suite.reset()
    np.testing.assert_array_equal(env.physics.get_state(), suite.physics.get_state())
    action = np.linspace(-0.5, 0.5, 6)
    expected = sum(suite.step(action).reward for _ in range(4))
    assert env.step(action.astype(np.float32))[1] == pytest.approx(expected, abs=1e-6)
    np.testing.assert_allclose(env.physics.get_state(), suite.physics.get_state(), atol=1e-6)


def test_actions_are_scaled_to_the_bounds_of_the_task(make):
    env = make("quadruped_walk", profile="fast", action_repeat=1)
    env.reset(seed=0)
    bounds = env.physics.model.actuator_ctrlrange
    assert bounds.max() > 1  # otherwise this would test nothing
    for action, column in ((-1.0, 0), (1.0, 1)):
        env.step(np.full(env.action_space.shape, action, np.float32))
        np.testing.assert_allclose(env.physics.control(), bounds[:, column])


def test_the_stack_moves_by_one_frame_which_is_what_the_camera_sees(make):
    env = make("cartpole_balance", profile="exact")
    obs, _, _ = roll(env, 0)
    assert np.array_equal(obs[0][0], obs[0][2])
    for before, after in pairwise(obs):
        assert np.array_equal(after[:-1], before[1:])
        assert not np.array_equal(after[-1], before[-1])
    picture, first = env.physics.render(64, 64, camera_id=0), env.render()
    assert np.array_equal(obs[-1][-1], picture.transpose(2, 0, 1))
    env.step(np.ones(1, np.float32))
    assert not np.array_equal(env.render(), picture)
    assert np.array_equal(first, picture)  # a picture stays what it was


@pytest.fixture(scope="module")
def plain():
    env = alda.make_env("walker_walk", profile="fast")
    yield roll(env, 7)
    env.close()


@pytest.mark.parametrize("shift", [*SHIFTS, "distracting_cs:0.5", "distracting_cs:0.2:static"])
def test_frames_depend_on_seed_and_actions_alone_and_physics_not_on_the_shift(make, plain, shift):
    env, twin = (make("walker_walk", shift=shift, seed=seed, profile="fast") for seed in (7, 9))
    at_construction = env.reset()[0]
    roll(twin, 3)  # another history
    first, again, other = roll(env, 7), roll(twin, 7), roll(env, 8)
    assert np.array_equal(first[0], again[0])
    assert np.array_equal(first[0][0], at_construction)
    assert not np.array_equal(first[0], other[0])
    assert first[1] == again[1] == plain[1]
    assert np.array_equal(first[2], plain[2])
    assert np.array_equal(first[0], plain[0]) == (shift == "train")
    assert np.array_equal(env.render(), env.render())  # drawing changes nothing
    assert np.array_equal(env.render().transpose(2, 0, 1), other[0][-1, -1])
    assert not np.array_equal(env.reset()[0], env.reset()[0])


@pytest.mark.parametrize("bad", [np.array([2.0]), np.array([np.nan]), np.zeros(3)])
def test_actions_outside_their_range_are_refused(make, bad):
    env = make("cartpole_balance", profile="fast")
    env.reset(seed=0)
    with pytest.raises(ValueError, match=r"actions are \(1,\) numbers in \[-1, 1\]"):
        env.step(bad)


def test_what_is_asked_out_of_turn_is_refused(make):
    env, still = make("cartpole_balance", profile="fast", episode_length=8), np.zeros(1)
    with pytest.raises(UserError, match="cannot take a step before the first reset"):
        env.step(still)
    env.reset()
    while not env.step(still)[3]:
        pass
    with pytest.raises(UserError, match="cannot take a step after the end of an episode"):
        env.step(still)
    env.reset()
    env.close()
    for late in (lambda: env.step(still), env.reset):
        with pytest.raises(UserError, match="after it was closed"):
            late()


@pytest.mark.parametrize(
    ("first", "works"),
    [("mujoco", True), ("torch, mujoco", True), ("dm_control.suite", False), ("OpenGL.GL", False)],
)
def test_what_was_imported_first_works_or_is_told(first, works):
    code = f"import {first}, alda; alda.make_env('cartpole_balance', profile='fast').reset()"
    env = {name: value for name, value in os.environ.items() if name not in ("MUJOCO_GL", "PYOPENGL_PLATFORM")}
    ended = subprocess.run([sys.executable, "-c", code], env=env, capture_output=True, text=True)
    if not works and "DISPLAY" not in env:
        assert ended.stderr.splitlines()[-1].startswith("alda.errors.UserError: dm_control or OpenGL was imported")
    else:
        assert ended.returncode == 0, ended.stderr


def test_values_of_other_types_are_refused_in_a_sentence():
    """In a process of its own, as the types of arguments are checked in this one before anything else."""
    code = """if True:
        import alda

        for wrong in ({"episode_length": x} for x in (float("nan"), float("inf"), 1.5, True, "8")):
            try:
                alda.make_env("cartpole_balance", profile="fast", **wrong)
            except alda.errors.UserError as error:
                assert "episode_length must be a whole number" in str(error)
            else:
                raise AssertionError(wrong)
        try:
            alda.make_env("cartpole_balance", data="videos")
        except alda.errors.UserError as error:
            assert "data must be an alda.Data" in str(error)
    """
    subprocess.run([sys.executable, "-c", code], check=True)


def test_the_renderer_can_be_asked_for_its_name_while_an_environment_draws(make):
    """As the first environment of a process asks, between its textures and its first picture."""
    renderer_name.cache_clear()
    first, second = (make("cartpole_balance", shift="distracting_cs", profile="fast") for _ in range(2))
    assert np.array_equal(first.reset(seed=4)[0], second.reset(seed=4)[0])


@pytest.mark.parametrize(("threads", "code"), [("0", 0), ("2", 7)])
def test_a_forked_process_draws_or_says_that_it_cannot(make, monkeypatch, threads, code):
    make("cartpole_balance", profile="fast").reset()
    monkeypatch.setenv("LP_NUM_THREADS", threads)
    child = os.fork()
    if child == 0:  # where an exception must not leave the test
        try:
            alda.make_env("cartpole_balance", profile="fast").reset()
        except UserError as error:
            os._exit(7 if "spawn" in str(error) else 8)
        os._exit(0)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == code


def test_unknown_names_are_refused_with_the_nearest_known():
    with pytest.raises(UserError, match="unknown task 'walker_wolk'; did you mean 'walker_walk'"):
        alda.make_env("walker_wolk")
    with pytest.raises(UserError, match="unknown shift 'colour_hard'; did you mean 'color_hard'"):
        alda.make_env("walker_walk", shift="colour_hard")
    with pytest.raises(UserError, match="unknown rendering profile 'neer'; did you mean 'near'"):
        alda.make_env("walker_walk", profile="neer")
    for option in ("action_repeat", "frames", "image_size", "episode_length"):
        with pytest.raises(UserError, match=f"{option} must be a(t least 1| whole number, at least 1), not 0"):
            alda.make_env("walker_walk", **{option: 0})


def test_profiles_differ_as_documented(make):
    exact, near, fast = (
        roll(make("walker_walk", profile=p), 0, 20)[0][:, -1].astype(int) for p in ("exact", "near", "fast")
    )
    assert 0 < np.abs(near - exact).mean() < 1
    assert (np.abs(near - exact).max(1) > 8).mean() < 0.03
    assert np.abs(fast - exact).mean() > np.abs(near - exact).mean()


# colours


def xml_with(setting):
    """The suite's own colour definitions with other numbers, for MuJoCo's compiler."""
    rgb = {key: " ".join(map(str, value)) for key, value in setting.items()}
    return f"""<mujoco><asset>
      <texture name="grid" type="2d" builtin="checker" rgb1="{rgb["grid_rgb1"]}" rgb2="{rgb["grid_rgb2"]}"
               width="300" height="300" mark="edge" markrgb=".2 .3 .4"/>
      <texture name="skybox" type="skybox" builtin="gradient" rgb1="{rgb["skybox_rgb"]}" rgb2="0 0 0"
               width="800" height="800" mark="random" markrgb="1 1 1"/>
    </asset></mujoco>"""


@pytest.mark.parametrize("task", ["walker_walk", "fish_swim"])  # their textures are stored in different orders
def test_recolouring_in_place_equals_compiling_with_those_colours(make, task):
    import mujoco

    model = make(task, visuals="native").physics.model
    env = make(task, visuals="native")
    physics = env.physics
    for setting in [DEFAULT, *draw_table("color_hard")[:2]]:
        recolor(env.scene, setting)
        compiled = mujoco.MjModel.from_xml_string(xml_with(setting))
        for name in ("grid", "skybox"):
            first, size = (
                physics.model.tex_adr[physics.model.name2id(name, "texture")],
                {"grid": 300 * 300, "skybox": 6 * 800 * 800}[name] * 3,
            )
            texels = physics.model.tex_data[first : first + size]
            start = compiled.tex_adr[mujoco.mj_name2id(compiled, mujoco.mjtObj.mjOBJ_TEXTURE, name)]
            assert np.array_equal(texels, compiled.tex_data[start : start + size])
        np.testing.assert_allclose(
            physics.model.mat_rgba[physics.model.name2id("self", "material")], [*setting["self_rgb"], 1], atol=1e-7
        )
    recolor(env.scene, DEFAULT)
    assert np.array_equal(physics.model.tex_data, model.tex_data)


@pytest.mark.parametrize(("settings", "images"), [("settings", "images"), ("easy_settings", "easy_images")])
def test_colour_renders_equal_the_reference(make, settings, images):
    golden = np.load(shared("golden/color_hard_cartpole_balance.npz"))
    env = make("cartpole_balance", profile="exact", visuals="native")
    for setting, expected in zip(json.loads(str(golden[settings])), golden[images], strict=True):
        env.reset(seed=0)
        recolor(env.scene, setting)
        with env.physics.reset_context():
            env.physics.data.qpos[:] = golden["qpos"]
            env.physics.data.qvel[:] = golden["qvel"]
        assert np.array_equal(env.render(), expected)


@pytest.mark.parametrize("name", ["color_easy", "color_hard"])
def test_our_tables_have_the_published_statistics(name):
    # means and standard deviations over the 100 published entries; a draw of 100 scatters around them
    published = {
        "color_easy": {"grid_rgb1": (0.196, 0.091), "self_rgb": (0.503, 0.100), "skybox_rgb": (0.604, 0.104)},
        "color_hard": {"grid_rgb1": (0.222, 0.169), "self_rgb": (0.496, 0.185), "skybox_rgb": (0.587, 0.188)},
    }[name]
    table = draw_table(name)
    assert len(table) == 100
    for key, (mean, spread) in published.items():
        drawn = np.array([setting[key] for setting in table])
        assert drawn.mean() == pytest.approx(mean, abs=0.03)
        assert drawn.std(0).mean() == pytest.approx(spread, abs=0.03)
        assert drawn.min() >= 0
        assert drawn.max() <= 1
    gap = np.array([np.subtract(s["grid_rgb2"], s["grid_rgb1"]) for s in table])
    np.testing.assert_allclose(gap, 0.1, atol=1e-12)


def test_an_original_table_can_be_given(make, tmp_path):
    settings = [{**DEFAULT, "skybox_rgb": [1.0, 0.0, 0.0]}]
    (tmp_path / "color_hard.json").write_text(json.dumps(settings))
    for table in (tmp_path, tmp_path / "color_hard.json"):
        env = make("cartpole_balance", shift="color_hard", data=Data(color_table=table))
        assert env.shift.table == settings
    red, plain = (
        make("cartpole_balance", shift=s, data=Data(color_table=tmp_path)).reset(seed=0)[0][-1].astype(int)
        for s in ("color_hard", "train")
    )
    sky = (slice(None), slice(0, 4))
    assert (red - plain)[0][sky[1]].mean() > 20
    assert (red - plain)[2][sky[1]].mean() < -20


@pytest.mark.parametrize(
    "content",
    ["not json", "{}", "[]", "[3]", '[{"grid_rgb1": [0, 0, 0]}]']
    + [json.dumps([DEFAULT, {**DEFAULT, "self_rgb": rgb}]) for rgb in ([0, 2, 0], [0, -1, 0], [0, 1], 1, "red")],
)
def test_a_bad_table_is_refused_in_one_sentence(tmp_path, content):
    for name in ("t.json", "none.json"):
        (tmp_path / "t.json").write_text(content)
        with pytest.raises(UserError, match=r"the colour table .* (could not be read|must be a JSON list)") as error:
            alda.make_env("walker_walk", shift="color_hard", data=Data(color_table=tmp_path / name))
        assert "\n" not in str(error.value)


@pytest.mark.skipif(find_spec("triton") is None, reason="triton is not installed")
def test_a_process_that_has_drawn_can_still_import_triton():
    """PyTorch's CUDA build has triton, whose LLVM and Mesa's end in a segmentation fault in the other order."""
    code = "from alda.envs import make_env; make_env('cartpole_balance').reset(); import triton; print('alive')"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert (done.returncode, done.stdout) == (0, "alive\n"), done.stderr


# in other people's hands


@pytest.mark.slow
def test_stable_baselines3_trains_its_sac_on_our_frames():
    from stable_baselines3 import SAC
    from stable_baselines3.common.env_checker import check_env as check_for_sb3

    def make():
        env = gymnasium.make("alda/cartpole_balance-color_hard-v0", profile="fast", episode_length=200)
        return gymnasium.wrappers.ReshapeObservation(env, (9, 64, 64))

    env = make()
    check_for_sb3(env)
    few = {"buffer_size": 100, "learning_starts": 60, "train_freq": 4, "batch_size": 32}
    model = SAC("CnnPolicy", env, seed=0, device="cpu", policy_kwargs={"net_arch": [32]}, **few)
    before = {name: p.clone() for name, p in model.policy.named_parameters()}
    model.learn(100)
    assert {name for name, p in model.policy.named_parameters() if p.equal(before[name])} == set()

    seen, twin = model.replay_buffer, make()
    for t in range(100):
        if t % 50 == 0:
            obs, _ = twin.reset(seed=0 if t == 0 else None)
        np.testing.assert_array_equal(seen.observations[t, 0], obs)
        obs, reward, _, truncated, _ = twin.step(model.policy.unscale_action(seen.actions[t, 0]))
        np.testing.assert_array_equal(seen.next_observations[t, 0], obs)
        assert seen.rewards[t, 0] == pytest.approx(reward)
        assert (seen.dones[t, 0], seen.timeouts[t, 0]) == (t % 50 == 49, truncated)
    env.close()
    twin.close()


# MuJoCo's versions: `make test` has 3.17, `make test-mujoco4` has 4.0


def test_only_what_this_mujoco_lacks_is_taken_out():
    import mujoco

    load_suite()
    from dm_control.mujoco.wrapper.mjbindings import sizes

    shipped = runpy.run_path(sizes.__file__)["array_sizes"]
    structs = {"mjmodel": mujoco.MjModel, "mjdata": mujoco.MjData}
    for table, names in shipped.items():
        dropped = set(names) - set(sizes.array_sizes[table])
        assert dropped == {name for name in names if not hasattr(structs[table], name)}


# what people look at


def test_the_list_names_every_task_and_shift(capsys):
    envs()
    text = capsys.readouterr().out
    for name in (*TASKS, *SHIFTS):
        assert name in text
    said = [kind.__doc__ for kind in SHIFTS.values()]
    assert len(set(said)) == len(said)
    assert all(line and "\n" not in line for line in said)


def test_the_preview_shows_frames_of_every_shift_at_their_times(tmp_path, capsys):
    shifts = ("train", "video_hard", "distracting_cs:0.2")
    out = tmp_path / "p.png"
    preview(out=out, task="cartpole_balance", shifts=shifts, times=3, every=2, seed=4)
    with Image.open(out) as picture:
        pixels = np.asarray(picture)
    frames = {}
    for shift in shifts:
        env = alda.make_env("cartpole_balance", shift=shift, seed=4)
        frames[shift] = env.reset(seed=4)[0][-1].transpose(1, 2, 0).repeat(2, 0).repeat(2, 1)
        env.close()
    rows = [4 + 15 + i * 132 for i in range(3)]
    left = next(
        x for x in range(pixels.shape[1]) if np.array_equal(pixels[rows[0] : rows[0] + 128, x], frames["train"][:, 0])
    )
    for top, shift in zip(rows, shifts, strict=True):
        assert np.array_equal(pixels[top : top + 128, left : left + 128], frames[shift])
        later = pixels[top : top + 128, left + 264 : left + 392]
        assert later.shape == (128, 128, 3)
        assert not np.array_equal(later, frames[shift])
    assert "written to" in capsys.readouterr().out


def test_the_preview_draws_what_covers_the_task_and_refuses_the_rest(tmp_path):
    preview(out=tmp_path / "p.png", task="fish_swim", times=1)
    with Image.open(tmp_path / "p.png") as picture:
        assert picture.height == 4 + 15 + 7 * 132 + 1  # the suite's parts do not cover fish; heights are even
    for words, message in (
        ({"task": "fish_swim", "shifts": ("distracting_cs",)}, "does not cover fish"),
        ({"shifts": ("video_hrad",)}, "did you mean 'video_hard'"),
        ({"task": "walker_wolk"}, "did you mean 'walker_walk'"),
        ({"times": 0}, "--times and --every must be at least 1"),
        ({"image_size": 32, "shifts": ("video_easy",)}, "images of at least 64 pixels, not 32"),
        ({"out": tmp_path / "p.jpg"}, r"written as \.png"),
    ):
        with pytest.raises(UserError, match=message):
            preview(**{"out": tmp_path / "p.png", **words})
