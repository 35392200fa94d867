"""The Distracting Control Suite against a second, plain implementation, and against what its paper and code say."""

import functools

import numpy as np
import pytest
from conftest import shared
from toy_envs import Numbered

import alda
from alda.envs import SHIFTS
from alda.envs.backgrounds.clips import ProceduralClips, sky_clips
from alda.envs.backgrounds.data import Data
from alda.envs.backgrounds.procedural import ProceduralClip
from alda.envs.rendering import load_suite
from alda.envs.shifts.base import ShiftOptions
from alda.envs.shifts.camera import look_at_point, orientation, to_cartesian, to_sphere
from alda.envs.tasks import split_task
from alda.errors import UserError

load_suite()  # chooses an OpenGL, before the reference loads it
from reference_suite import PARTS, ReferenceSuite, next_frame  # noqa: E402

DOMAINS = ("cartpole_balance", "reacher_easy", "humanoid_walk", "quadruped_walk")
MORE = ("ball_in_cup_catch", "finger_spin", "cheetah_run")
NATIVE = {"profile": "exact", "visuals": "native"}
CLIPS = {0.025: 2, 0.05: 2, 0.1: 4, 0.15: 6, 0.2: 8, 0.3: 60, 0.4: 60, 0.5: 60}


@pytest.fixture(scope="module", autouse=True)
def clips_are_built_once():
    """Generated clips of 800 x 800 take a while, and both sides use the same."""
    build = functools.lru_cache(6)(ProceduralClip)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(ProceduralClips, "__getitem__", lambda self, i: build(self.split, self.numbers[i], self.size))
        yield


@pytest.fixture
def make_reference():
    """The plain implementation of the same environment, with everything closed at the end."""
    made = []

    def make(task, intensity, *, seed=0, parts=PARTS, **options):
        clips = sky_clips(Data(), CLIPS[intensity], 800) if "background" in parts else ()
        made.append(ReferenceSuite(*split_task(task), intensity, seed=seed, clips=clips, parts=parts, **options))
        return made[-1]

    yield make
    for suite in made:
        suite.close()


def actions(env, steps, seed=0):
    rng = np.random.default_rng(seed)
    return [rng.uniform(-1, 1, env.action_space.shape).astype(np.float32) for _ in range(steps)]


def play(env, suite, steps, seed=None):
    """An episode in both; yields after the reset and after every agent step."""
    env.reset(seed=seed)
    suite.reset(seed)
    yield 0
    for t, action in enumerate(actions(env, steps, seed or 0)):
        env.step(action)
        for _ in range(env.action_repeat):
            suite.step(action)
        yield t + 1


def assert_same_pose(env, suite):
    for ours, theirs in zip(env.scene.camera_pose(), suite.camera_pose(), strict=True):
        np.testing.assert_allclose(ours, theirs, rtol=0, atol=1e-12)


def assert_same_picture(env, suite, t=0):
    apart = np.abs(env.render().astype(int) - suite.picture())
    assert apart.max() == 0, f"{np.count_nonzero(apart)} values differ after {t} steps, by at most {apart.max()}"


def tick(env, times=1):
    """Two control steps, and nothing of the physics moves."""
    for _ in range(2 * times):
        env.physics.forward()  # sets the native camera, as a step does
        env.shift.step(env.scene)


@pytest.fixture
def plain_sky(monkeypatch):
    """Gives the sky of environments made from now on these clips."""
    return lambda *lengths: monkeypatch.setattr(
        "alda.envs.shifts.distracting.sky_clips", lambda *_: Numbered(128, *lengths)
    )


# against the second implementation


@pytest.mark.parametrize(
    ("task", "intensity"),
    [
        ("walker_walk", 0.025),
        *((task, 0.2) for task in DOMAINS),
        *(pytest.param(task, 0.2, marks=pytest.mark.slow) for task in MORE),
    ],
)
def test_every_frame_is_that_of_the_plain_implementation(make, make_reference, task, intensity):
    env = make(task, shift=f"distracting_cs:{intensity}", reference=True, seed=3, **NATIVE)
    suite = make_reference(task, intensity, seed=3)
    for steps in (2, 1):  # the second episode goes on with the random streams of the first
        for t in play(env, suite, steps):
            np.testing.assert_allclose(env.physics.get_state(), suite.physics.get_state(), rtol=0, atol=1e-9)
            assert_same_pose(env, suite)
            assert_same_picture(env, suite, t)


@pytest.mark.parametrize("task", ["walker_walk", "reacher_easy"])
@pytest.mark.parametrize("part", ["camera", "color"])
def test_a_part_wanders_to_its_limits_as_in_the_plain_implementation(make, make_reference, task, part):
    env = make(task, shift=f"distracting_{part}:0.2", reference=True, seed=2, profile="fast")
    suite = make_reference(task, 0.2, seed=2, parts=(part,))
    for ticks in (20, 200):
        env.reset()
        suite.reset()
        for _ in range(ticks):
            assert_same_pose(env, suite)
            assert np.array_equal(env.physics.model.mat_rgba, suite.physics.model.mat_rgba)
            tick(env)
            suite.physics.forward()
            suite.parts[part].tick()


def test_after_odd_control_steps_the_reference_shows_the_native_camera(make, make_reference):
    task, repeat = "cartpole_balance", {"action_repeat": 3}
    env = make(task, shift="distracting_cs:0.1", reference=True, **repeat, **NATIVE)
    plain = make(task, **repeat, **NATIVE)
    suite, native = make_reference(task, 0.1), []
    plain.reset(seed=0)
    moves = iter(actions(env, 3))
    for t in play(env, suite, 3, seed=0):
        assert_same_pose(env, suite)
        assert_same_picture(env, suite, t)
        if t > 0:
            plain.step(next(moves))
        native.append(all(map(np.array_equal, env.scene.camera_pose(), plain.scene.camera_pose())))
    assert native == [False, True, False, True]


@pytest.mark.parametrize("task", ["cartpole_balance", "walker_walk"])
def test_by_default_the_camera_is_held_between_its_ticks(make, make_reference, task):
    env = make(task, shift="distracting_camera:0.1", action_repeat=3, profile="fast")
    suite = make_reference(task, 0.1, parts=("camera",), hold=True, moved=0)
    for _ in play(env, suite, 5, seed=0):
        assert_same_pose(env, suite)


@pytest.mark.parametrize(("task", "intensity"), [("walker_walk", 0.025), ("reacher_easy", 0.2)])
def test_the_small_sky_of_the_default_shows_what_the_reference_shows(make, task, intensity):
    ours, theirs = (
        make(task, shift=f"distracting_cs:{intensity}", reference=reference, seed=1, **NATIVE)
        for reference in (False, True)
    )
    for env in (ours, theirs):
        env.reset()
    for action in [None, *actions(ours, 2)]:
        if action is not None:
            ours.step(action)
            theirs.step(action)
        assert all(map(np.array_equal, ours.scene.camera_pose(), theirs.scene.camera_pose()))
        assert np.array_equal(ours.physics.model.mat_rgba, theirs.physics.model.mat_rgba)
        apart = np.abs(ours.render().astype(int) - theirs.render()).mean()
        assert 0 < apart < 4, apart  # of 255; measured: 0.8 to 3.4


# the camera


def test_the_camera_goes_where_the_reference_put_it(make):
    golden = np.load(shared("golden/camera_cartpole_balance.npz"))
    env = make("cartpole_balance", **NATIVE)
    env.reset(seed=0)
    with env.physics.reset_context():
        env.physics.data.qpos[:], env.physics.data.qvel[:] = golden["qpos"], 0
    position, _ = env.scene.camera_pose()
    target, native = look_at_point(env.scene), to_sphere(position)
    np.testing.assert_allclose(target, golden["lookat_point"], atol=1e-6)
    np.testing.assert_allclose(native, golden["native_r_h_v"], atol=1e-6)

    assert len(golden["inputs_dv_dh_roll_zoom"]) == 28
    for row, (dv, dh, roll, zoom) in enumerate(golden["inputs_dv_dh_roll_zoom"]):
        radius, h, v = native
        sphere = np.array([radius * zoom, np.clip(h + dh, -np.pi, 0), np.clip(v + dv, 0, np.pi / 2)])
        position = to_cartesian(sphere)
        matrix = orientation(position, target, float(roll), from_above=False)
        np.testing.assert_allclose(sphere, golden["sphere_r_h_v"][row], atol=1e-6)
        np.testing.assert_allclose(to_sphere(position), sphere, atol=1e-12)
        np.testing.assert_allclose(position, golden["cam_pos"][row], atol=1e-6)
        np.testing.assert_allclose(matrix.ravel(), golden["cam_xmat"][row], atol=1e-6)
        env.scene.set_camera_pose(position, matrix)
        assert np.array_equal(env.scene.picture(), golden["images"][row]), row


@pytest.mark.parametrize("task", ["walker_walk", "cartpole_balance"])
def test_with_hardly_any_intensity_nothing_is_distracted(make, task):
    env, plain = make(task, shift="distracting_camera:1e-15", **NATIVE), make(task, **NATIVE)
    seen = [[e.reset(seed=0)[0], *(e.step(action)[0] for action in actions(e, 2))] for e in (env, plain)]
    for ours, native in zip(env.scene.camera_pose(), plain.scene.camera_pose(), strict=True):
        np.testing.assert_allclose(ours, native, rtol=0, atol=1e-12)
    assert np.array_equal(*seen)


@pytest.mark.parametrize(
    ("task", "intensity"),
    [("walker_walk", 0.1), ("walker_walk", 0.5), ("cartpole_balance", 0.5), ("reacher_easy", 0.5)],
)
def test_the_camera_stays_within_its_limits(make, task, intensity):
    env = make(task, shift=f"distracting_camera:{intensity}", profile="fast")
    env.reset(seed=4)
    env.physics.forward()
    center = env.scene.center_of_mass() if env.scene.trackcom else np.zeros(3)
    radius, *native = to_sphere(env.scene.camera_pose()[0] - center)
    target, reach = look_at_point(env.scene), np.pi / 2 * intensity
    low, high = np.array(native) - reach, np.array(native) + reach
    above = task == "reacher_easy"
    if not above:
        low, high = np.maximum(low, [-np.pi, 0]), np.minimum(high, [0, np.pi / 2])
    places = []
    for _ in range(300):
        tick(env)
        position, matrix = env.scene.camera_pose()
        r, *angles = to_sphere(position - center)
        places.append(position)
        assert radius * (1 - 0.5 * intensity) - 1e-9 < r < radius * (1 + 1.5 * intensity) + 1e-9
        if above:
            angles[0] = native[0]  # at the zenith, where the camera may pass to the other side
        assert (angles > low - 1e-9).all()
        assert (angles < high + 1e-9).all()
        sight = (target - position) / np.linalg.norm(target - position)
        np.testing.assert_allclose(-matrix[:, 2], sight, atol=1e-3 if above else 1e-9)
        level = orientation(position, target, 0.0, from_above=above)
        assert abs(np.arctan2(matrix[:, 0] @ level[:, 1], matrix[:, 0] @ level[:, 0])) < reach + 1e-3
    moves = np.linalg.norm(np.diff(places, axis=0), axis=1)
    assert 0 < moves.max() < 1.01 * 0.4 * intensity * radius / 4  # the limits bend a move
    assert np.ptp(places, axis=0).max() > 5 * moves.max()  # it gets somewhere


@pytest.mark.parametrize("task", ["humanoid_walk", "quadruped_walk"])
def test_a_native_camera_behind_the_limits_wanders_where_it_stands(make, task):
    """Where the reference turns it to the agent's other side, or moves another camera."""
    env = make(task, shift="distracting_camera:0.2", profile="fast")
    plain = make(task, profile="fast")
    plain.reset(seed=0)
    native, center = plain.scene.camera_pose()[0], plain.scene.center_of_mass()
    _, h, v = to_sphere(native - center)
    assert not -np.pi <= h <= 0 or h == -np.pi
    places = []
    for seed in range(5):
        env.reset(seed=seed)
        for _ in range(100):
            tick(env)
            position = env.scene.camera_pose()[0] - env.scene.center_of_mass()
            _, angle, zenith = to_sphere(position)
            assert abs(np.remainder(angle - h + np.pi, 2 * np.pi) - np.pi) < np.pi / 2 * 0.2 + 1e-9
            assert abs(zenith - v) < np.pi / 2 * 0.2 + 1e-9
            places.append(position)
    moves = np.linalg.norm(np.diff(np.reshape(places, (5, 100, 3)), axis=1), axis=-1)
    fastest = 0.4 * 0.2 * np.linalg.norm(native - center) / 4
    assert 0 < moves.max() < 1.01 * fastest  # no jumps


# what an intensity means


def test_an_intensity_has_so_many_clips():
    between = {0.001: 2, 0.03: 2, 0.07: 4, 0.12: 6, 0.16: 8, 0.21: 60, 1.0: 60}
    for intensity, count in (CLIPS | between).items():
        for shift in ("distracting_cs", "distracting_background"):
            clips = SHIFTS[shift](ShiftOptions(intensity)).clips
            assert len(clips) == count
        for shift in ("distracting_camera", "distracting_color"):
            assert SHIFTS[shift](ShiftOptions(intensity)).clips is None
    assert all(np.array_equal(clips[i][0], ProceduralClip("train", i, 128)[0]) for i in (0, 1))


def test_the_usual_intensity_is_that_of_the_paper():
    assert SHIFTS["distracting_cs"](ShiftOptions()).intensity == 0.025


# the sky


@pytest.mark.parametrize("lengths", [(4,), (1, 1, 1), (3, 4, 2)])
def test_the_sky_shows_the_frames_in_that_order(make, plain_sky, lengths):
    plain_sky(*lengths)
    env = make("cartpole_balance", shift="distracting_background", profile="fast")
    starts = set()
    for seed in range(8):
        streams = np.random.default_rng([seed, 1])
        rng = np.random.default_rng(streams.integers(2**63))
        clip = int(rng.integers(len(lengths)))
        index, direction = int(rng.integers(lengths[clip])), 1 if rng.integers(2) else -1
        starts.add((clip, index, direction))
        env.reset(seed=seed)
        for _ in range(9):
            assert env.render()[2, 2].tolist() == Numbered.color(clip, index)
            tick(env)
            index, direction = next_frame(index, direction, lengths[clip])
    assert len(starts) > 1


def test_all_sides_of_the_sky_are_one_image(make, plain_sky):
    plain_sky(1)
    env = make("cartpole_balance", shift="distracting_background", profile="fast")
    env.reset(seed=0)
    position, _ = env.scene.camera_pose()
    position[2] += 20  # above all there is
    for sight in np.vstack([np.eye(3), -np.eye(3)]):
        if abs(sight[2]) < 1:
            matrix = orientation(position, position + sight, 0.0, from_above=False)
            env.scene.set_camera_pose(position, matrix)
            assert (env.render()[:20] == Numbered.color(0, 0)).all()


# parts, stillness, seeds


@pytest.mark.parametrize("part", PARTS)
def test_a_part_alone_moves_as_it_does_among_the_others(make, make_reference, part):
    alone, together = (
        make("cartpole_balance", shift=f"distracting_{name}:0.1", reference=True, **NATIVE) for name in (part, "cs")
    )
    suite = make_reference("cartpole_balance", 0.1, parts=(part,))
    for _ in play(alone, suite, 1, seed=6):
        assert_same_pose(alone, suite)
        assert_same_picture(alone, suite)
    together.reset(seed=6)
    for action in actions(together, 1, seed=6):
        together.step(action)
    ours, theirs = alone.physics.model, together.physics.model
    if part == "camera":
        assert all(map(np.array_equal, alone.scene.camera_pose(), together.scene.camera_pose()))
    if part == "color":
        assert np.array_equal(ours.mat_rgba[:, :3], theirs.mat_rgba[:, :3])
    if part == "background":
        assert np.array_equal(ours.tex_data, theirs.tex_data)
    floors = np.array_equal(ours.mat_rgba[:, 3], theirs.mat_rgba[:, 3])
    assert floors == (part == "background")  # the floor lets the sky through where there is one


@pytest.mark.parametrize("task", ["cartpole_balance", "walker_walk"])
def test_static_distractions_are_chosen_at_reset_and_stay(make, make_reference, task):
    env = make(task, shift="distracting_cs:0.1:static", reference=True, **NATIVE)
    suite = make_reference(task, 0.1, static=True)
    colors, poses = [], []
    for episode in range(2):
        for t in play(env, suite, 2, seed=None if episode else 0):
            assert_same_pose(env, suite)
            assert_same_picture(env, suite, t)
            colors.append(env.physics.model.mat_rgba.copy())
            poses.append(env.scene.camera_pose()[0] - (env.scene.center_of_mass() if env.scene.trackcom else 0))
    for values in (colors, poses):
        first, second = np.array(values[:3]), np.array(values[3:])
        assert np.abs(first - first[0]).max() < 1e-9
        assert np.abs(second - second[0]).max() < 1e-9
        assert np.abs(first[0] - second[0]).max() > 1e-3


# what is refused


@pytest.mark.parametrize("ending", [":0", ":2", ":-0.1", ":x", ":nan", ":", ":0.1:0.2", ":0.1:static:static", ":1e999"])
def test_a_badly_written_shift_is_refused_in_one_sentence(ending):
    with pytest.raises(UserError, match=f"NAME:INTENSITY:static, .*, not 'distracting_cs{ending}'$"):
        alda.make_env("walker_walk", shift=f"distracting_cs{ending}")


def test_a_shift_without_intensity_takes_none():
    for shift in ("color_easy:0.1", "video_hard:static"):
        with pytest.raises(UserError, match=f"write '{shift.split(':')[0]}', not '{shift}'"):
            alda.make_env("walker_walk", shift=shift)


@pytest.mark.parametrize("shift", ["distracting_cs", "distracting_color"])
def test_a_domain_that_the_suite_does_not_cover_is_refused(shift):
    with pytest.raises(UserError, match=f"{shift} does not cover fish, only ball_in_cup, cartpole, .* walker"):
        alda.make_env("fish_swim", shift=shift)
