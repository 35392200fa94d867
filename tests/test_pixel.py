"""Environments of other packages: what is seen of them, and all that can be done with a run on one."""

import dataclasses
import json

import gymnasium
import numpy as np
import pytest
from conftest import assert_same_run, config_for, ended, interrupt
from PIL import Image

import alda
from alda.commands.analyze import trajectory
from alda.commands.evaluate import evaluate
from alda.commands.picture import picture
from alda.config import EnvConfig
from alda.envs import SHIFTS, covers
from alda.envs.pixel import newest_picture
from alda.envs.tasks import action_repeat_of, is_foreign
from alda.errors import UserError
from alda.training.trainer import train

DOT = "toy_gym:ToyDot-v0"


def test_pictures_are_found_in_every_layout():
    image = np.random.default_rng(0).integers(256, size=(20, 30, 3), dtype=np.uint8)
    older = np.zeros_like(image)
    for obs in (
        image,
        image.transpose(2, 0, 1),
        np.stack([older, image]),
        np.stack([older, image]).transpose(0, 3, 1, 2),
        np.concatenate([older, image], -1),
        np.concatenate([older, image], -1).transpose(2, 0, 1),
    ):
        assert np.array_equal(newest_picture(obs), image)
    gray = image[..., 0]
    for obs in (gray, gray[..., None], gray[None], np.stack([older[..., 0], gray])):
        assert np.array_equal(newest_picture(obs), gray[..., None].repeat(3, -1))
    for obs in (image.astype(np.float32), np.zeros(4, np.uint8), 3, {"pixels": image}):
        assert newest_picture(obs) is None


@pytest.mark.parametrize("task", [DOT, "toy_gym:ToyDotPixels-v0"])
def test_frames_actions_and_ends_are_those_of_the_environment(make, task):
    env, own = make(task, seed=3, action_repeat=2), gymnasium.make(DOT, render_mode="rgb_array")
    obs, _ = env.reset()
    own.reset(seed=3)
    assert (obs.shape, obs.dtype) == ((3, 3, 64, 64), np.uint8)
    rng, ends = np.random.default_rng(0), []
    for _ in range(6):
        expected = np.asarray(Image.fromarray(own.render()).resize((64, 64), Image.Resampling.BOX)).transpose(2, 0, 1)
        assert np.array_equal(obs[-1], expected)
        action = rng.uniform(-1, 1, 2).astype(np.float32)
        obs, reward, terminated, truncated, _ = env.step(action)
        assert reward == pytest.approx(sum(own.step(action + 1)[1] for _ in range(2)), rel=1e-5)
        ends.append((terminated, truncated))
    assert ends == [(False, False)] * 5 + [(False, True)]
    assert make(task, episode_length=3).reset()[0].shape == obs.shape


def test_shifts_change_the_picture_alone_and_repeat_with_the_seed(make):
    plain = make(DOT).reset(seed=1)[0]
    for shift in ("recolor", "recolor:0.5", "crop_jitter", "crop_jitter:0.3:static"):
        first, second = (make(DOT, shift=shift) for _ in range(2))
        seen = [env.reset(seed=1)[0] for env in (first, second)]
        assert np.array_equal(*seen)
        assert not np.array_equal(seen[0], plain)
        steps = [env.step(np.zeros(2, np.float32)) for env in (first, second)]
        assert np.array_equal(steps[0][0], steps[1][0])
    assert make("cartpole_balance", shift="recolor", profile="fast").reset()[0].std() > 0
    assert [name for name in SHIFTS if covers(name, DOT)] == ["train", "recolor", "crop_jitter"]


@pytest.mark.parametrize(
    ("task", "shift", "sentence"),
    [
        ("toy_gym:NoSuch-v0", "train", "cannot be made"),
        ("no_such_module:X-v0", "train", "cannot be made"),
        ("toy_gym:ToyDiscrete-v0", "train", "need a list of continuous ones"),
        (DOT, "color_hard", "color_hard needs a simulator of dm_control"),
    ],
)
def test_what_cannot_be_played_is_refused_in_a_sentence(task, shift, sentence):
    with pytest.raises(UserError, match=sentence):
        alda.make_env(task, shift=shift)


def test_names_tell_tasks_of_the_suite_from_other_environments():
    assert is_foreign("CarRacing-v3")
    assert is_foreign("package.module:space/Id-v0")
    assert not any(map(is_foreign, ("walker_walk", "walker_wolk", "CarRacing", "")))
    assert (action_repeat_of(DOT), action_repeat_of("finger_spin")) == (1, 2)


def test_a_run_is_trained_resumed_evaluated_and_looked_at(tmp_path, monkeypatch, capsys):
    """Bit for bit after an interruption; its evaluations in processes; analyses that need a simulator say so."""

    def config(name):
        env = EnvConfig(task=DOT, action_repeat=2, image_size=44)
        return dataclasses.replace(config_for(tmp_path / name, "sac_ae"), env=env, shifts=("train", "recolor"))

    whole = train(config("whole"))
    assert ended(monkeypatch, config("run"), lambda t: t.at.step == 16, interrupt).code == 130
    assert_same_run(train(config("run")), whole)
    assert json.loads((whole / "meta.json").read_text())["trained_in"]["simulator"].startswith("gymnasium ")
    record = evaluate(whole, shifts=("train", "crop_jitter:0.3"), episodes=2, workers=1)
    assert len(record["worlds"]["train"]["returns"]) == 2
    assert picture(whole, shift="recolor").exists()
    with pytest.raises(UserError, match="is no task of dm_control, whose simulator this reads"):
        trajectory(whole)
