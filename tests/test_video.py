"""video_easy and video_hard against exact fractions and pictures of the reference."""

from fractions import Fraction

import numpy as np
import pytest
from conftest import shared
from toy_envs import Numbered

from alda.envs import SHIFTS
from alda.envs.backgrounds.procedural import SPLITS, ProceduralClip
from alda.envs.shifts.base import ShiftOptions
from alda.envs.shifts.video import green_screen

VIDEOS = ("video_easy", "video_hard")
GREEN = np.array([51, 204, 51], np.uint8)


@pytest.fixture
def numbered(monkeypatch):
    """Gives environments made from now on these clips."""
    return lambda *lengths: monkeypatch.setattr("alda.envs.shifts.video.video_clips", lambda *_: Numbered(64, *lengths))


def playing(env) -> tuple[int, int]:
    """Clip and frame of a numbered video, as the sky shows them; twice the same."""
    clip, _, frame = env.render()[1, 32].tolist()
    assert env.render()[1, 32].tolist() == Numbered.color(clip - 1, frame)
    return clip - 1, frame


def zeros(env):
    return np.zeros(env.action_space.shape, np.float32)


# what counts as green


def exact(rgb) -> tuple[Fraction, Fraction, Fraction]:
    """Hue in degrees, saturation and value of 255, without rounding; the hue of a grey is 0."""
    r, g, b = (Fraction(int(c)) for c in rgb)
    largest, chroma = max(r, g, b), max(r, g, b) - min(r, g, b)
    if chroma == 0:
        return Fraction(0), Fraction(0), largest
    if largest == r:
        hue = 60 * ((g - b) / chroma % 6)
    elif largest == g:
        hue = 60 * ((b - r) / chroma + 2)
    else:
        hue = 60 * ((r - g) / chroma + 4)
    return hue, 255 * chroma / largest, largest


def inside(rgb) -> bool:
    hue, saturation, value = exact(rgb)
    return 100 <= hue <= 185 and 80 <= saturation <= 255 and 70 <= value <= 255


def test_green_is_what_exact_arithmetic_says():
    rng = np.random.default_rng(1)
    colors = rng.integers(256, size=(6_000, 3), dtype=np.uint8)
    near = np.clip(rng.normal((60, 120, 80), (40, 50, 50), (6_000, 3)), 0, 255).astype(np.uint8)  # mostly greenish
    corners = np.stack(np.meshgrid(*[[0, 69, 70, 71, 254, 255]] * 3), -1).reshape(-1, 3).astype(np.uint8)
    for group in (colors, near, corners):
        ours = green_screen(group[None])[0]
        assert ours.any()
        assert not ours.all()
        assert ours.tolist() == [inside(rgb) for rgb in group]


def test_all_bounds_are_inclusive():
    on = {"hue 100": (100, 200, 50), "saturation 80": (175, 255, 175), "value 70": (0, 70, 0), "hue 185": (0, 220, 240)}
    assert exact(on["hue 185"])[0] == 185
    assert exact(on["saturation 80"])[1] == 80
    assert exact(on["value 70"])[2] == 70
    assert exact(on["hue 100"])[0] == 100
    off = [(101, 200, 50), (176, 255, 176), (0, 69, 0), (0, 219, 240)]
    assert green_screen(np.array([list(on.values())], np.uint8)).all()
    assert not green_screen(np.array([off], np.uint8)).any()


# what is painted green, and what takes its place


@pytest.mark.parametrize("shift", VIDEOS)
def test_the_green_scene_is_drawn_as_by_the_reference(make, shift):
    golden = np.load(shared("golden/color_hard_cartpole_balance.npz"))
    env = make("cartpole_balance", shift=shift, profile="exact", visuals="native")
    env.reset(seed=0)
    with env.physics.reset_context():
        env.physics.data.qpos[:], env.physics.data.qvel[:] = golden["qpos"], golden["qvel"]
    assert np.array_equal(env.scene.picture(), golden[f"green_{shift}"])


@pytest.mark.parametrize(("task", "easy", "hard"), [("walker_walk", 0.59, 0.93), ("ball_in_cup_catch", 0.76, 0.99)])
def test_as_much_is_replaced_as_measured_in_the_reference(make, task, easy, hard):
    """Shares of the picture at another pose: a fallen walker shows up to 0.2 more of the sky."""
    for shift, share in (("video_easy", easy), ("video_hard", hard)):
        env = make(task, shift=shift)
        env.reset(seed=0)
        assert green_screen(env.scene.picture()).mean() == pytest.approx(share, abs=0.02)


@pytest.mark.parametrize("task", ["walker_walk", "cartpole_balance"])
def test_sky_and_floor_turn_green_and_nothing_else(make, task):
    plain = make(task)
    plain.reset(seed=0)
    for shift in VIDEOS:
        env = make(task, shift=shift)
        env.reset(seed=0)
        assert (env.scene.texels("skybox") == GREEN).all()
        assert (env.scene.texels("grid") == GREEN).all() == (shift == "video_hard")
        if shift == "video_easy":
            assert np.array_equal(env.scene.texels("grid"), plain.scene.texels("grid"))
        assert np.array_equal(env.physics.model.mat_rgba, plain.physics.model.mat_rgba)
        assert np.array_equal(env.physics.model.geom_rgba, plain.physics.model.geom_rgba)
        assert all(map(np.array_equal, env.scene.camera_pose(), plain.scene.camera_pose()))
        untouched = ~green_screen(env.scene.picture()) & (env.scene.picture() == plain.render()).all(-1)
        assert untouched.mean() > (0.2 if shift == "video_easy" else 0.002)


@pytest.mark.parametrize("shift", VIDEOS)
def test_a_picture_is_video_where_it_is_green_and_drawing_elsewhere(make, numbered, shift):
    numbered(5)
    env = make("walker_walk", shift=shift)
    env.reset(seed=0)
    for step in range(1, 3):
        obs, *_ = env.step(zeros(env))
        drawing = env.scene.picture()
        mask = np.array([[inside(rgb) for rgb in row] for row in drawing])
        assert 0.3 < mask.mean() < 0.99
        frame = env.render()
        assert (frame[mask] == [1, 0, step]).all()
        assert np.array_equal(frame[~mask], drawing[~mask])
        assert np.array_equal(obs[-1], frame.transpose(2, 0, 1))


# which frame plays


@pytest.mark.parametrize("repeat", [1, 2, 4])
def test_a_video_starts_at_reset_and_moves_with_agent_steps(make, numbered, repeat):
    numbered(4)
    env = make("cartpole_balance", shift="video_hard", action_repeat=repeat, profile="fast")
    for _ in range(2):
        env.reset()
        assert playing(env) == (0, 0)
        for step in range(1, 10):  # over and over
            env.step(zeros(env))
            assert playing(env) == (0, step % 4)


def test_every_clip_plays_and_seeds_choose_it(make, numbered):
    numbered(3, 4, 5)
    env, twin = (make("cartpole_balance", shift="video_easy", profile="fast") for _ in range(2))
    chosen = []
    for _ in range(30):
        env.reset()
        chosen.append(playing(env)[0])
    assert set(chosen) == {0, 1, 2}
    again = []
    for _ in range(5):
        twin.reset()
        again.append(playing(twin)[0])
    assert again == chosen[:5]  # both have the usual seed
    for each in (env, twin):
        each.reset(seed=8)
    assert playing(env) == playing(twin)


# the clips


def test_test_clips_are_of_the_test_split_and_no_two_are_equal():
    clips = {shift: SHIFTS[shift](ShiftOptions()).clips for shift in VIDEOS}
    assert {shift: len(c) for shift, c in clips.items()} == {"video_easy": 10, "video_hard": 100}
    shown = [(clip.split, clip.numbers[i], clip.size) for clip in clips.values() for i in range(len(clip))]
    assert sorted(shown) == [("test", i, 64) for i in range(SPLITS["test"])]
    assert np.array_equal(clips["video_hard"][3][7], ProceduralClip("test", 13, 64)[7])
