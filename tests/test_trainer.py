"""A run: its records, and that it ends with the same numbers whatever stops it and whoever plays its episodes."""

import dataclasses
import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from conftest import (
    STEPS,
    Killed,
    assert_same_run,
    config_for,
    ended,
    equal,
    file_limit,
    interrupt,
    latest,
    play,
    position,
    records,
    tensors,
)
from PIL import Image

import alda
from alda.agents.base import Agent, AgentConfig
from alda.agents.decoding import TRAVERSED
from alda.agents.sac import SAC
from alda.config import EnvConfig
from alda.envs.rendering import renderer_name
from alda.envs.vector import Pool, _Here
from alda.errors import LearningError, UserError, WorkerError
from alda.provenance import PACKAGES
from alda.training.checkpoint import Position
from alda.training.collector import Collector
from alda.training.logger import read_metrics
from alda.training.replay import Replay
from alda.training.rollout import episode_seeds
from alda.training.tensors import read_tensors
from alda.training.timing import Stopwatch
from alda.training.trainer import Trainer, train
from alda.types import EnvSpec

PAIR = {"num_envs": 2, "steps": 32}
RECURRENT = {"steps": 16, "eval_every": 100, "shifts": ("train",)}


# stopping and resuming


@pytest.mark.parametrize(
    ("method", "changes", "when"),
    [
        pytest.param("sac", {}, lambda t: t.evaluator.shift, id="first evaluation"),
        pytest.param("sac", {}, lambda t: t.at.updates == 3, id="amid catching up"),
        pytest.param("alda_stored", {}, lambda t: t.at.step == 16, id="stored codes"),
        pytest.param("sac", PAIR, lambda t: t.at.step == 16, id="two environments"),
        pytest.param("repo", RECURRENT, lambda t: t.at.step == 13, id="policy with a memory"),
        pytest.param("alda", {}, lambda t: t.at.step == 3, id="random steps", marks=pytest.mark.slow),
        pytest.param("alda", {}, lambda t: t.at.step == 25, id="training", marks=pytest.mark.slow),
        pytest.param("alda", {}, lambda t: t.evaluator.shift == "color_hard", id="shift", marks=pytest.mark.slow),
        pytest.param("alda_stored", {}, lambda t: t.at.updates == 3, id="codes, early", marks=pytest.mark.slow),
        pytest.param("repo", {**RECURRENT, **PAIR}, lambda t: t.at.step == 16, id="memories", marks=pytest.mark.slow),
    ],
)
def test_a_run_stopped_anywhere_and_resumed_equals_an_uninterrupted_one(
    whole, tmp_path, monkeypatch, capsys, method, changes, when
):
    config = config_for(tmp_path / "run", method, **changes)
    assert ended(monkeypatch, config, when, interrupt).code == 130
    assert "the same command resumes the run" in capsys.readouterr().out
    assert len(records(tmp_path / "run")) < len(records(whole(method, **changes)))
    if method == "repo":  # the memory of an episode, amid which it was stopped
        assert read_tensors(latest(tmp_path / "run") / "training.safetensors")["policy_state/deter"].abs().max() > 0
    train(config)
    assert_same_run(tmp_path / "run", whole(method, **changes))


def test_a_killed_run_resumes_from_its_last_checkpoint(whole, tmp_path, monkeypatch):
    def kill(_):
        raise Killed

    run = tmp_path / "run"
    ended(monkeypatch, config_for(run), lambda t: t.at.step == 25, kill)
    assert records(run)[-1]["step"] == 21  # after the checkpoint at 20; to be dropped
    with (run / "metrics.jsonl").open("a") as file:
        file.write('{"step": 24, "cut')
    (run / "checkpoints" / "save_000099").mkdir()  # a half-written checkpoint
    train(config_for(run))
    assert_same_run(run, whole())


def test_a_checkpoint_written_amid_an_evaluation_repeats_it(whole, tmp_path, monkeypatch):
    def kill(trainer):
        trainer.save()
        raise Killed

    ended(monkeypatch, config_for(tmp_path / "run"), lambda t: t.evaluator.shift and t.at.step == 20, kill)
    assert position(tmp_path / "run")["evaluated"] == 10
    train(config_for(tmp_path / "run"))
    assert_same_run(tmp_path / "run", whole())


@pytest.mark.parametrize(("limit", "step"), [(200, 20), (200_000, 31)])
def test_a_full_disk_never_costs_the_last_checkpoint(whole, tmp_path, monkeypatch, capsys, limit, step):
    """From some moment on no file may be larger, so metrics cannot be written, or checkpoints cannot."""
    disk, run = file_limit(limit), tmp_path / "run"
    moment = lambda t: t.at.step == step and t.evaluator.shift  # noqa: E731
    assert ended(monkeypatch, config_for(run), moment, lambda _: disk.__enter__()).code == 1
    disk.__exit__()
    said = capsys.readouterr().out
    assert f"stopped at step {step}" in said if limit == 200 else f"warning: no checkpoint at step {step}" in said
    train(config_for(run))
    assert equal(tensors(run), tensors(whole()))
    assert [row["step"] for row in records(run)] == [row["step"] for row in records(whole())]


def test_a_longer_run_continues_a_finished_one_and_a_finished_one_is_left_alone(whole, tmp_path, capsys):
    train(config_for(tmp_path, steps=20))
    for _ in range(2):
        train(config_for(tmp_path))
        assert equal(tensors(tmp_path), tensors(whole()))
    assert "already finished at step 31" in capsys.readouterr().out


@pytest.mark.slow
def test_a_chosen_action_never_mixes_with_an_evaluation(tmp_path, monkeypatch):
    """Stopped while the environments take their step, and resumed with an evaluation before anything else."""
    settings = {**PAIR, "eval_workers": 2}
    act = Collector.act

    def interrupted(self):
        act(self)
        if self.at.step == 16:
            interrupt(self)

    with monkeypatch.context() as patch:
        patch.setattr(Collector, "act", interrupted)
        with pytest.raises(SystemExit):
            train(config_for(tmp_path / "run", "sac", **settings))
    ends = []
    for name in ("run", "whole"):
        train(config_for(tmp_path / name, "sac", **{**settings, "steps": 16}))
        ends.append(records(tmp_path / name)[-1])
    assert [end["step"] for end in ends] == [16, 16]
    assert ends[0]["eval/train/returns"] == pytest.approx(ends[1]["eval/train/returns"], rel=0.01)  # one update apart


@pytest.mark.slow
def test_real_processes_survive_whatever_happens_to_them():
    script = Path(__file__).parents[1] / "scripts" / "inject_faults.py"
    subprocess.run([sys.executable, script, "--times", "1"], check=True)


# what must not matter, and what must


@pytest.mark.parametrize(
    ("base", "changes"),
    [
        ({}, {"threads": 1, "checkpoint_minutes": 0.0}),  # training plays in a process, where there are two cores
        (PAIR, {"eval_workers": 2}),  # the processes of training play evaluations too
    ],
)
def test_who_plays_and_when_is_saved_changes_nothing(whole, tmp_path, base, changes):
    assert_same_run(train(config_for(tmp_path / "run", **base, **changes)), whole(**base))


def test_evaluation_changes_nothing_in_training_and_seeds_do(whole, tmp_path):
    rare = train(config_for(tmp_path / "rare", eval_every=STEPS))
    learned = [{k: v for k, v in tensors(run).items() if not k.startswith("logger")} for run in (rare, whole())]
    assert equal(*learned)
    begun = [train(config_for(tmp_path / f"{seed}", steps=6, eval_every=STEPS, seed=seed)) for seed in (3, 4)]
    assert not equal(*map(tensors, begun))


def test_several_environments_keep_the_ratio_of_updates_to_steps(whole):
    rows = records(whole(**PAIR))
    assert [r["step"] for r in rows] == [0, 8, 10, 14, 20, 22, 28, 30, 32, 32]  # two steps at a time
    updates = {r["step"]: r["updates"] for r in rows}
    assert (updates[0], updates[8], updates[32]) == (0, 7, 31)  # five at step 5 to catch up, then one a step
    assert [r["step"] for r in rows if "train/return" in r] == [22]  # both episodes end at 18, and next at 36


def test_long_catching_up_is_logged_on_its_way(tmp_path):
    config = config_for(tmp_path / "run", steps=20, eval_every=100, log_every=4)
    train(dataclasses.replace(config, agent=dataclasses.replace(config.agent, random_steps=10)))
    rows = [(row["step"], row["updates"]) for row in records(tmp_path / "run") if "critic/loss" in row]
    assert rows == [(10, 4), (10, 8), (12, 11), (16, 15), (20, 19)]


class Remembering(Agent):
    """An agent whose policy state counts the steps of an episode."""

    def __init__(self):
        super().__init__(AgentConfig())
        self.states = []

    def initial_state(self, num_envs):
        return torch.zeros(num_envs, 1)

    def observe(self, replay, obs):
        return obs

    def act(self, obs, state, *, explore):
        self.states.append(state[:, 0].tolist())
        return torch.zeros(len(obs), 1), state + 1

    def update(self, replay, step):
        return {}


class Lasting:
    """An environment whose episodes have so many steps."""

    def __init__(self, steps):
        self.steps = steps

    def reset(self, *, seed):
        self.left = self.steps
        return np.zeros((3, 3, 2, 2), np.uint8), {}

    def step(self, action):
        self.left -= 1
        return np.zeros((3, 3, 2, 2), np.uint8), 0.0, False, self.left == 0, {}


def test_a_policy_state_begins_with_each_episode_and_no_sooner(tmp_path):
    lengths = iter((2, 3))
    pool = Pool(lambda shift: Lasting(next(lengths)))
    pool._slots = [_Here(lambda shift: Lasting(next(lengths))) for _ in range(2)]
    replay, agent = Replay(EnvSpec(3, 2, 1), 20, 0.9, num_envs=2), Remembering()
    at = Position(step=2_000, episodes=[0, 0], totals=[0.0, 0.0])
    collector = Collector(config_for(tmp_path, **PAIR), agent, pool, replay, at, Stopwatch())
    for _ in range(5):
        collector.act()
        collector.step()
    assert agent.states == [[0, 0], [1, 1], [0, 2], [1, 0], [0, 1]]
    assert (at.step, at.begun, at.episodes) == (2_010, 5, [4, 3])


def test_training_and_evaluation_play_one_system(tmp_path):
    """lqr draws its springs when it is made."""
    env = EnvConfig(task="lqr_lqr_2_1", episode_length=36, profile="fast")
    config = dataclasses.replace(config_for(tmp_path, seed=5), env=env)
    made = config.make_env(), config.env_maker()(shift="train"), config.make_env(seed=6)
    stiffness = [env.physics.model.jnt_stiffness.tolist() for env in made]
    assert stiffness[0] == stiffness[1] != stiffness[2]


def test_a_run_may_train_under_a_shift_and_be_evaluated_without_it(tmp_path):
    config = config_for(tmp_path / "run", steps=12, train_shift="color_hard").resolved()
    train(config)
    trainer = Trainer(config, config.eval_conditions(), [])
    recolored, plain = (config.make_env(shift) for shift in ("color_hard", "train"))
    seed = int(np.random.SeedSequence([config.seed, 0, 0]).generate_state(1)[0])
    first = trainer.replay._store["frame"][0]
    assert torch.equal(first, torch.from_numpy(recolored.reset(seed=seed)[0][-1]))
    assert not torch.equal(first, torch.from_numpy(plain.reset(seed=seed)[0][-1]))
    (seed,) = episode_seeds(config.seed, 12, 1)
    played = play(trainer.agent, plain, seed).total
    assert records(tmp_path / "run")[-1]["eval/train/returns"] == [pytest.approx(played)]
    trainer.close()


# records


def test_records_say_what_was_run_and_what_came_of_it(whole):
    rows = records(whole("alda"))
    assert [r["step"] for r in rows] == [0, 7, 10, 14, 20, 21, 28, 30, 31, 31]
    assert [r["sim_step"] for r in rows] == [4 * r["step"] for r in rows]
    assert [r["updates"] for r in rows if r["step"] in (0, 7, 31)] == [0, 6, 30, 30]
    assert {"critic/loss", "autoencoder/psnr", "actor/entropy", "temperature/value"} <= rows[1].keys()
    assert {"eval/train/return", "eval/color_hard/return", "eval/color_hard/psnr"} <= rows[0].keys()
    assert "train/return" in rows[3]
    world = rows[0]["eval/color_hard/world"]
    assert world.pop("simulator").startswith(("mujoco 3.", "mujoco 4."))
    assert world.pop("renderer") == renderer_name()
    look = {"profile": "fast", "visuals": "classic", "reference": False}
    assert world == {**look, "background": "none", "colors": "gaussian-v1"}
    assert rows[0]["eval/train/world"]["colors"] == "of the task"
    meta = json.loads((whole("alda") / "meta.json").read_text())
    assert meta["versions"].keys() == {"python", *PACKAGES}
    assert meta["trained_in"] == rows[0]["eval/train/world"]
    pictures = sorted((whole("alda") / "traversals").iterdir())
    assert [picture.stem for picture in pictures] == ["000000000", "000000010", "000000020", "000000030", "000000031"]
    with Image.open(pictures[-1]) as picture:
        assert picture.height > 12 * 32  # a row for each latent
        assert picture.width > TRAVERSED * 32


def test_every_log_line_says_where_time_went(whole):
    parts = {"act", "environment", "render", "sample", "update", "evaluation", "checkpoint", "idle", "other"}
    rows = [row for row in read_metrics(whole()) if "speed/steps_per_second" in row]
    assert len(rows) == 5
    for row in rows:
        shares = {name.removeprefix("time/"): row[name] for name in row if name.startswith("time/")}
        assert set(shares) == parts
        assert sum(shares.values()) == pytest.approx(1)  # all in this process
        assert min(shares.values()) >= 0
        assert min(shares["render"], shares["environment"], shares["update"], row["memory/host_gb"]) > 0


def test_tensorboard_gets_the_same_numbers(whole):
    from tensorboardX.proto.event_pb2 import Event

    (file,) = (whole() / "tensorboard").iterdir()
    content, seen = file.read_bytes(), {}
    while content:  # length, its checksum, the event, its checksum
        size = int.from_bytes(content[:8], "little")
        event, content = Event.FromString(content[12 : 12 + size]), content[16 + size :]
        seen |= {(event.step, value.tag): value.simple_value for value in event.summary.value}
    for row in read_metrics(whole()):
        for name in {"critic/loss", "eval/train/return", "train/return", "time/update"} & row.keys():
            assert seen[row["step"], name] == pytest.approx(row[name], rel=1e-6)
    assert len(seen) > 100


def test_videos_show_every_shift(tmp_path):
    import av

    run = train(config_for(tmp_path / "run", "alda", steps=6, video_every=100))
    for shift in ("train", "color_hard"):
        with av.open(str(run / "videos" / f"000000006_{shift}.mp4")) as video:
            frames = [frame.to_ndarray(format="rgb24") for frame in video.decode(video=0)]
        assert len(frames) == 10  # nine steps and the start
        assert frames[0].shape == (128, 256, 3)  # the frame beside its reconstruction


# endings


def diverged(explore_only):
    def act(self, obs, state, *, explore):
        return torch.full((len(obs), 1), torch.nan if explore == explore_only else 0.0), state

    return lambda patch: patch.setattr(SAC, "act", act)


def refuses(sound):
    update = SAC.update

    def fails(self, replay, step):
        if step == 17:
            raise LearningError("it sees nothing", sound=sound)
        return update(self, replay, step)

    return lambda patch: patch.setattr(SAC, "update", fails)


def breaks(patch):
    result, calls = Pool.result, iter(range(10**9))

    def fails(self, slot):
        if next(calls) > 38:
            raise WorkerError("environment process 0 failed")
        return result(self, slot)

    patch.setattr(Pool, "result", fails)


@pytest.mark.parametrize(
    ("cause", "message", "saved"),
    [
        (diverged(True), "the policy has diverged", 0),
        (diverged(False), "the policy has diverged", 0),
        (refuses(False), "stopped at step 17: it sees nothing; the last checkpoint is kept", 10),
        (refuses(True), "stopped at step 17: it sees nothing; the last checkpoint is kept", 17),
        (breaks, "environment process 0 failed; the last checkpoint is kept", 10),
    ],
)
def test_what_ends_a_run_is_said_in_a_sentence(tmp_path, monkeypatch, capsys, cause, message, saved):
    cause(monkeypatch)
    with pytest.raises(SystemExit) as ended:
        train(config_for(tmp_path))
    assert ended.value.code == 1
    assert message in capsys.readouterr().out
    assert position(tmp_path)["step"] == saved


def test_what_would_spoil_another_run_is_refused(whole, tmp_path):
    run = whole()
    changed = config_for(run, seed=4)
    changed = dataclasses.replace(changed, agent=dataclasses.replace(changed.agent, discount=0.5))
    with pytest.raises(UserError, match=r"other settings \(agent.discount: 0.99 -> 0.5, seed: 3 -> 4\)"):
        train(changed)
    with pytest.raises(UserError, match="is at step 31; --steps cannot be less"):
        train(config_for(run, steps=12))
    (tmp_path / "metrics.jsonl").write_text('{"step": 10}\n')
    with pytest.raises(UserError, match="holds the metrics of a run without its checkpoint"):
        train(config_for(tmp_path))
    (tmp_path / "file").touch()
    with pytest.raises(UserError, match="is a file; choose another --run-dir"):
        train(config_for(tmp_path / "file"))


# episodes


def test_an_episode_adds_up_its_rewards_and_leaves_the_random_stream_alone(whole):
    policy = alda.load(whole("alda"))
    env = policy.config.make_env()
    torch.manual_seed(1)
    before = torch.get_rng_state()
    episode = play(policy.agent, env, seed=5, keep=True)
    assert torch.equal(torch.get_rng_state(), before)
    obs, _ = env.reset(seed=5)
    total = 0.0
    for seen in episode.observations[:-1]:
        assert np.array_equal(obs, seen)
        obs, reward, *_ = env.step(policy.act(obs))
        total += reward
    assert (episode.total, episode.length) == (total, 9)
    assert policy.reconstruct(obs).shape == (3, 32, 32)
    assert policy.step == STEPS
    env.close()


def test_evaluation_seeds_are_shared_by_shifts_and_change_with_time():
    assert episode_seeds(0, 10, 3) == episode_seeds(0, 10, 5)[:3]
    assert set(episode_seeds(0, 10, 3)).isdisjoint(episode_seeds(0, 20, 3))
