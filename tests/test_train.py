import dataclasses
import json
import os
import pickle
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
import torch
from conftest import STEPS, config_for
from PIL import Image

import alda.training.trainer
from alda.agents.alda import ALDAConfig
from alda.agents.decoding import TRAVERSED
from alda.config import NEWER_SETTINGS, Config, EnvConfig, load_config, to_json
from alda.envs.backgrounds.data import Data
from alda.envs.rendering import renderer_name
from alda.envs.vector import ProcessPool
from alda.errors import LearningError, UserError, WorkerError
from alda.files import read_tensors
from alda.training.logger import read_metrics
from alda.training.rollout import bootstrap_interval, episode_seeds, play
from alda.training.trainer import Run, train


def records(run_dir: Path) -> list[dict]:
    """Metrics without what depends on the clock."""
    clocked = ("time/", "speed/", "memory/")
    return [{k: v for k, v in row.items() if not k.startswith(clocked)} for row in read_metrics(run_dir)]


def weights(run_dir: Path) -> dict[str, torch.Tensor]:
    latest = json.loads((run_dir / "checkpoints" / "latest.json").read_text())["checkpoint"]
    folder = run_dir / "checkpoints" / latest
    return read_tensors(folder / "agent.safetensors") | read_tensors(folder / "training.safetensors")


def same(a: dict[str, torch.Tensor], b: dict[str, torch.Tensor]) -> bool:
    return a.keys() == b.keys() and all(torch.equal(a[key], b[key]) for key in a)


@pytest.fixture(scope="module")
def uncut(tmp_path_factory):
    """Run directories of whole runs, made once."""
    runs = {}
    for method in ("alda", "sac", "alda_stored"):
        runs[method] = tmp_path_factory.mktemp(method) / "run"
        train(config_for(runs[method], method))
    return runs


def cut_after(monkeypatch, calls: int) -> None:
    """Ctrl-C at the so-manieth moment at which a run takes breath."""
    housekeeping, count = Run.housekeeping, iter(range(10**9))

    def counted(self):
        if next(count) == calls:
            os.kill(os.getpid(), signal.SIGINT)
        housekeeping(self)

    monkeypatch.setattr(Run, "housekeeping", counted)


# Moments in the first evaluation, at random steps, amid catching up, in training and in a later evaluation.
@pytest.mark.parametrize(
    ("method", "calls"),
    [
        pytest.param("alda", 4, marks=pytest.mark.slow),
        ("alda", 20),
        pytest.param("alda", 27, marks=pytest.mark.slow),
        pytest.param("alda", 36, marks=pytest.mark.slow),
        pytest.param("alda", 61, marks=pytest.mark.slow),
        pytest.param("sac", 17, marks=pytest.mark.slow),
        ("sac", 60),
        pytest.param("alda_stored", 24, marks=pytest.mark.slow),
        ("alda_stored", 40),
        pytest.param("alda_stored", 64, marks=pytest.mark.slow),
    ],
)
def test_a_run_cut_anywhere_and_resumed_equals_the_uncut_run(uncut, tmp_path, monkeypatch, capsys, method, calls):
    config = config_for(tmp_path / "run", method)
    with monkeypatch.context() as patch:
        cut_after(patch, calls)
        with pytest.raises(SystemExit) as stopped:
            train(config)
    assert stopped.value.code == 128 + signal.SIGINT
    assert "the same command goes on from here" in capsys.readouterr().out
    assert len(records(tmp_path / "run")) < len(records(uncut[method]))
    train(config)
    assert records(tmp_path / "run") == records(uncut[method])
    assert same(weights(tmp_path / "run"), weights(uncut[method]))


@pytest.fixture(scope="module")
def uncut_pair(tmp_path_factory):
    """A whole run with two environments."""
    run_dir = tmp_path_factory.mktemp("pair") / "run"
    train(pair(run_dir))
    return run_dir


def pair(run_dir: Path, **changes) -> Config:
    return config_for(run_dir, "sac", **{"num_envs": 2, "steps": 32, **changes})


def test_more_environments_keep_the_ratio_of_updates_to_steps(uncut_pair):
    rows = records(uncut_pair)
    assert [r["step"] for r in rows] == [0, 8, 10, 14, 20, 22, 28, 30, 32, 32]  # two steps at a time
    updates = {r["step"]: r["updates"] for r in rows}
    assert (updates[0], updates[8], updates[32]) == (0, 7, 31)  # five in the burst at step 5, then one a step
    assert [r["step"] for r in rows if "train/return" in r] == [22]  # both end at 18, and next at 36
    assert np.isfinite([r["eval/color_hard/return"] for r in rows if "eval/color_hard/return" in r]).all()


# In the first evaluation, at random steps, and in training.
@pytest.mark.parametrize("calls", [*(pytest.param(n, marks=pytest.mark.slow) for n in (4, 14)), 45])
def test_a_run_with_two_environments_can_be_cut_anywhere_too(uncut_pair, tmp_path, monkeypatch, calls):
    with monkeypatch.context() as patch:
        cut_after(patch, calls)
        with pytest.raises(SystemExit):
            train(pair(tmp_path / "run"))
    assert len(records(tmp_path / "run")) < len(records(uncut_pair))
    train(pair(tmp_path / "run"))
    assert records(tmp_path / "run") == records(uncut_pair)
    assert same(weights(tmp_path / "run"), weights(uncut_pair))


def test_a_killed_environment_changes_nothing(uncut_pair, tmp_path, monkeypatch, capsys):
    housekeeping = Run.housekeeping

    def shoot(self):
        housekeeping(self)
        if self.at.step in (6, 20) and not self.evaluating and not hasattr(self, f"shot_{self.at.step}"):
            setattr(self, f"shot_{self.at.step}", True)
            os.kill(self.collector._slots[1].process.pid, signal.SIGKILL)

    with monkeypatch.context() as patch:
        patch.setattr(Run, "housekeeping", shoot)
        train(pair(tmp_path / "run"))
    assert capsys.readouterr().out.count("environment process 1 (train) died: killed by SIGKILL") == 2
    assert records(tmp_path / "run") == records(uncut_pair)
    assert same(weights(tmp_path / "run"), weights(uncut_pair))


def test_an_environment_that_cannot_be_played_ends_the_run_with_a_sentence(tmp_path, monkeypatch, capsys):
    answer, count = ProcessPool._answer, iter(range(10**9))

    def fails(self, slot):
        if next(count) > 12:
            raise WorkerError("environment process 0 (train) failed with ValueError: no")
        return answer(self, slot)

    with monkeypatch.context() as patch:
        patch.setattr(ProcessPool, "_answer", fails)
        with pytest.raises(SystemExit) as stopped:
            train(pair(tmp_path / "run", eval_every=1_000, shifts=("train",)))
    assert stopped.value.code == 1
    assert "failed with ValueError: no; the last checkpoint is kept" in capsys.readouterr().out


def test_evaluation_in_processes_changes_nothing(uncut, tmp_path):
    run = train(config_for(tmp_path / "run", eval_workers=2))
    assert records(run) == records(uncut["alda"])
    assert same(weights(run), weights(uncut["alda"]))


def in_order(rows: list[dict]) -> list[dict]:
    """Beside learning, an evaluation is recorded when it is over: sooner or later."""
    return sorted(rows, key=lambda row: (row["step"], "eval/train/return" in row))


def test_evaluation_beside_learning_changes_nothing(uncut, tmp_path):
    config = config_for(tmp_path / "run", eval_workers=1, eval_beside=True)
    train(config)
    assert in_order(records(tmp_path / "run")) == in_order(records(uncut["alda"]))
    assert same(weights(tmp_path / "run"), weights(uncut["alda"]))


def test_learning_goes_on_while_an_evaluation_is_played(tmp_path, monkeypatch):
    seen = []
    follow = Run.follow_evaluation

    def watched(self, *, wait=False):
        before = self.evaluation
        follow(self, wait=wait)
        if before is not None and self.evaluation is None:
            seen.append((before.when["step"], self.at.step))

    monkeypatch.setattr(Run, "follow_evaluation", watched)
    train(config_for(tmp_path / "run", eval_workers=2, eval_beside=True))
    assert [begun for begun, _ in seen] == [0, 10, 20, 30, 31]
    assert all(over > begun for begun, over in seen[:3])
    assert seen[-1] == (31, 31)


# Amid an evaluation beside random steps, beside the burst, and beside training.
@pytest.mark.parametrize("calls", [*(pytest.param(n, marks=pytest.mark.slow) for n in (12, 20)), 45])
def test_a_run_that_evaluates_beside_learning_can_be_cut_anywhere_too(uncut, tmp_path, monkeypatch, calls):
    config = config_for(tmp_path / "run", eval_workers=1, eval_beside=True)
    with monkeypatch.context() as patch:
        cut_after(patch, calls)
        with pytest.raises(SystemExit):
            train(config)
    train(config if calls == 20 else dataclasses.replace(config, eval_workers=0, eval_beside=False))
    assert in_order(records(tmp_path / "run")) == in_order(records(uncut["alda"]))
    assert same(weights(tmp_path / "run"), weights(uncut["alda"]))


def test_a_run_that_evaluated_beside_learning_can_go_on_where_it_cannot(uncut_pair, tmp_path, monkeypatch, capsys):
    """Its evaluation is finished first: training is to use the same processes."""
    beside = {"eval_workers": 1, "eval_beside": True}
    with monkeypatch.context() as patch:
        cut_after(patch, 55)
        with pytest.raises(SystemExit):
            train(pair(tmp_path / "run", **beside))
    latest = json.loads((tmp_path / "run" / "checkpoints" / "latest.json").read_text())["checkpoint"]
    state = json.loads((tmp_path / "run" / "checkpoints" / latest / "state.json").read_text())
    assert state["evaluation"] is not None  # else this tests nothing
    train(pair(tmp_path / "run", eval_workers=1, eval_beside=False))
    assert "already finished" not in capsys.readouterr().out
    assert in_order(records(tmp_path / "run")) == in_order(records(uncut_pair))
    assert same(weights(tmp_path / "run"), weights(uncut_pair))


def test_every_log_line_says_where_time_went(uncut):
    parts = {"act", "environment", "render", "sample", "update", "evaluation", "checkpoint", "idle", "other"}
    for row in read_metrics(uncut["alda"]):
        if "speed/steps_per_second" in row:
            shares = {name.removeprefix("time/"): row[name] for name in row if name.startswith("time/")}
            assert set(shares) == parts
            assert sum(shares.values()) == pytest.approx(1)  # all in this process
            assert all(share >= 0 for share in shares.values())
            assert shares["render"] > 0
            assert shares["environment"] > 0
            assert (shares["update"] > 0) == (row["updates"] > 0)
    assert {row["updates"] > 0 for row in read_metrics(uncut["alda"])} == {True, False}


def test_every_score_says_what_it_was_made_with(uncut, tmp_path):
    row = records(uncut["alda"])[0]
    world = row["eval/color_hard/world"]
    assert world.pop("simulator").startswith(("mujoco 3.", "mujoco 4."))
    assert world.pop("renderer") == renderer_name()
    look = {"profile": "fast", "visuals": "classic", "reference": False}
    assert world == {**look, "background": "none", "colors": "gaussian-v1"}
    assert row["eval/train/world"]["colors"] == "of the task"
    config = config_for(tmp_path / "run", "sac", steps=6, shifts=("video_hard", "distracting_cs:0.1"))
    run = train(dataclasses.replace(config, env=dataclasses.replace(config.env, image_size=64)))  # clips want as many
    for shift in ("video_hard", "distracting_cs:0.1"):
        assert records(run)[0][f"eval/{shift}/world"]["background"] == "procedural-v1"
    with pytest.raises(UserError, match=r"video9\.mp4"):
        train(config_for(tmp_path / "other", shifts=("video_easy",), data=Data(videos=half_copied(tmp_path))))
    assert not (tmp_path / "other").exists()


def test_a_pending_action_never_mixes_with_an_evaluation(tmp_path, monkeypatch):
    """Cut while the environments move on, and resumed with an evaluation before anything else."""
    send = Run.send_actions

    def cut(self):
        send(self)
        if self.at.step == 16:
            os.kill(os.getpid(), signal.SIGINT)

    with monkeypatch.context() as patch:
        patch.setattr(Run, "send_actions", cut)
        with pytest.raises(SystemExit):
            train(pair(tmp_path / "run", eval_workers=2))
    train(pair(tmp_path / "run", eval_workers=2, steps=16))
    train(pair(tmp_path / "whole", eval_workers=2, steps=16))
    ends = [records(tmp_path / name)[-1] for name in ("run", "whole")]
    assert [end["step"] for end in ends] == [16, 16]
    found, expected = (end["eval/train/returns"] for end in ends)
    assert found == pytest.approx(expected, rel=0.01)  # one update apart; a step is a ninth of an episode


def test_evaluation_can_stay_in_this_process_while_others_collect(uncut_pair, tmp_path, monkeypatch):
    roles = []
    reset = ProcessPool.reset

    def recorded(self, slot, shift, seed, role=""):
        roles.append(role)
        reset(self, slot, shift, seed, role)

    with monkeypatch.context() as patch:
        patch.setattr(ProcessPool, "reset", recorded)
        run = train(pair(tmp_path / "run", eval_workers=0))
    assert set(roles) == {"training"}
    assert records(run) == records(uncut_pair)


def test_training_and_evaluation_play_one_system(tmp_path):
    """lqr draws its springs when it is made."""
    env = EnvConfig(task="lqr_lqr_2_1", episode_length=36, profile="fast")
    config = dataclasses.replace(config_for(tmp_path, "sac", seed=5, shifts=("train",)), env=env)
    training, evaluation = config.make_env(), config.env_maker()(shift="train")
    other = config.make_env(seed=6)
    stiffness = [made.physics.model.jnt_stiffness.tolist() for made in (training, evaluation, other)]
    assert stiffness[0] == stiffness[1] != stiffness[2]


def half_copied(tmp_path: Path) -> Path:
    (tmp_path / "video_easy").mkdir()
    for i in range(9):
        (tmp_path / "video_easy" / f"video{i}.mp4").write_bytes(b"some bytes")
    return tmp_path


def test_a_killed_run_goes_on_from_its_last_checkpoint(uncut, tmp_path, monkeypatch):
    config = config_for(tmp_path / "run")

    class Killed(BaseException):
        pass

    def die(self):  # as with kill -9, nothing is saved
        if self.at.step == 25:
            raise Killed

    with monkeypatch.context() as patch:
        patch.setattr(Run, "housekeeping", die)
        with pytest.raises(Killed):
            train(config)
    assert records(tmp_path / "run")[-1]["step"] == 21  # past the checkpoint at 20; to be dropped
    with (tmp_path / "run" / "metrics.jsonl").open("a") as file:
        file.write('{"step": 24, "cut')
    (tmp_path / "run" / "checkpoints" / "save_000099").mkdir()  # a half-written checkpoint
    train(config)
    assert records(tmp_path / "run") == records(uncut["alda"])
    assert same(weights(tmp_path / "run"), weights(uncut["alda"]))


@pytest.mark.slow
def test_a_longer_run_continues_a_finished_one(uncut, tmp_path):
    train(config_for(tmp_path / "short", steps=20))
    train(config_for(tmp_path / "short"))
    assert same(weights(tmp_path / "short"), weights(uncut["alda"]))


def test_seeds_reproduce_and_differ(tmp_path):
    runs = [
        train(config_for(tmp_path / name, "sac", seed=seed, steps=9))
        for name, seed in zip("abc", (3, 3, 4), strict=True)
    ]
    one, again, other = (weights(run) for run in runs)
    assert same(one, again)
    assert not same(one, other)


def test_records_say_what_was_run_and_what_came_of_it(uncut):
    rows = records(uncut["alda"])
    assert [r["step"] for r in rows] == [0, 7, 10, 14, 20, 21, 28, 30, 31, 31]
    assert [r["sim_step"] for r in rows] == [4 * r["step"] for r in rows]
    updates = {r["step"]: r["updates"] for r in rows}
    assert (updates[0], updates[7], updates[31]) == (0, 6, 30)  # five in the burst at step 5, then one a step
    assert {"critic/loss", "autoencoder/psnr", "actor/entropy", "temperature/value"} <= rows[1].keys()
    assert {"eval/train/return", "eval/color_hard/return", "eval/color_hard/psnr"} <= rows[0].keys()
    assert "train/return" in rows[3]
    clocked = read_metrics(uncut["alda"])[1]
    assert {"time/act", "time/update", "time/environment", "speed/steps_per_second", "memory/host_gb"} <= clocked.keys()
    assert sum(value for key, value in clocked.items() if key.startswith("time/")) <= 1.001
    meta = json.loads((uncut["alda"] / "meta.json").read_text())
    assert meta["renderer"]
    assert meta["versions"]["mujoco"]
    assert load_config(uncut["alda"]).env.profile == "fast"
    assert list((uncut["alda"] / "tensorboard").glob("events*"))


def test_tensorboard_gets_the_same_numbers(uncut):
    from tensorboardX.proto.event_pb2 import Event

    (file,) = (uncut["alda"] / "tensorboard").iterdir()
    content, seen = file.read_bytes(), {}
    while content:  # length, its checksum, the event, its checksum
        size = int.from_bytes(content[:8], "little")
        event, content = Event.FromString(content[12 : 12 + size]), content[16 + size :]
        seen |= {(event.step, value.tag): value.simple_value for value in event.summary.value}
    for row in read_metrics(uncut["alda"]):
        for name in ("critic/loss", "eval/color_hard/return", "train/return", "time/update"):
            if name in row:
                assert seen[row["step"], name] == pytest.approx(row[name], rel=1e-6)
    assert len(seen) > 100


def test_evaluation_changes_nothing_in_training(uncut, tmp_path):
    train(config_for(tmp_path / "run", eval_every=STEPS, shifts=("train",)))
    assert same(weights(tmp_path / "run"), weights(uncut["alda"]))


@pytest.mark.slow
def test_time_based_checkpoints_change_nothing(uncut, tmp_path):
    train(config_for(tmp_path / "run", checkpoint_minutes=0.0))
    assert same(weights(tmp_path / "run"), weights(uncut["alda"]))


def test_a_run_killed_while_it_evaluates_goes_on_from_the_checkpoint_it_wrote_there(uncut, tmp_path, monkeypatch):
    config = config_for(tmp_path / "run", checkpoint_minutes=0.0)

    class Killed(BaseException):
        pass

    housekeeping, seen = Run.housekeeping, []

    def die(self):
        housekeeping(self)  # saves
        if self.at.step == 20 and self.evaluating:
            seen.append(self.evaluating)
            if len(seen) == 12:  # amid the second world
                raise Killed

    with monkeypatch.context() as patch:
        patch.setattr(Run, "housekeeping", die)
        with pytest.raises(Killed):
            train(config)
    assert seen[-1] == "color_hard"
    train(config_for(tmp_path / "run"))
    assert records(tmp_path / "run") == records(uncut["alda"])
    assert same(weights(tmp_path / "run"), weights(uncut["alda"]))


LIMITED = """
import resource, sys
from pathlib import Path
sys.path.insert(0, sys.argv[1])
from test_train import config_for
from alda.training.trainer import train
import alda.training.trainer
evaluate = alda.training.trainer.Run.begin_evaluation
def limited(self):
    if self.at.step == int(sys.argv[4]):
        resource.setrlimit(resource.RLIMIT_FSIZE, (int(sys.argv[3]), resource.RLIM_INFINITY))
    evaluate(self)
alda.training.trainer.Run.begin_evaluation = limited
train(config_for(Path(sys.argv[2])))
"""


@pytest.mark.parametrize(
    ("limit", "step", "message"),
    [
        pytest.param(2_000_000, 20, "warning: no checkpoint at step 20", marks=pytest.mark.slow),
        (200, 20, "stopped at step 20"),
        pytest.param(2_000_000, 31, "at step 31", marks=pytest.mark.slow),
    ],
)
def test_a_full_disk_never_costs_the_last_checkpoint(uncut, tmp_path, limit, step, message):
    """From some moment on no file may be larger than so many bytes, which fails as a full disk does."""
    words = [Path(__file__).parent, tmp_path / "run", limit, step]
    result = subprocess.run(
        [sys.executable, "-c", LIMITED, *map(str, words)], capture_output=True, text=True, timeout=120
    )
    assert message in result.stdout
    assert "Traceback" not in result.stderr
    assert result.returncode == 1
    train(config_for(tmp_path / "run"))
    assert same(weights(tmp_path / "run"), weights(uncut["alda"]))
    assert [row["step"] for row in records(tmp_path / "run")] == [row["step"] for row in records(uncut["alda"])]


def test_fewer_steps_than_were_taken_are_refused(uncut, tmp_path):
    with pytest.raises(UserError, match="is at step 31; --steps cannot be less"):
        train(config_for(uncut["alda"], steps=12))
    (tmp_path / "metrics.jsonl").write_text('{"step": 10}\n')
    with pytest.raises(UserError, match="holds the metrics of a run without its checkpoint"):
        train(config_for(tmp_path))
    assert (tmp_path / "metrics.jsonl").read_text() == '{"step": 10}\n'


@pytest.mark.parametrize("where", ["training", "evaluation"])
def test_a_policy_that_diverged_ends_the_run_with_a_sentence(tmp_path, monkeypatch, capsys, where):
    def nothing(self, obs, state, *, explore):
        return torch.full((1, 1), torch.nan if explore == (where == "training") else 0.0), state

    monkeypatch.setattr(alda.agents.alda.ALDA, "act", nothing)
    with pytest.raises(SystemExit) as stopped:
        train(config_for(tmp_path / "run"))
    assert stopped.value.code == 1
    assert "the policy has diverged" in capsys.readouterr().out


@pytest.mark.parametrize(("envs", "calls"), [(1, 33), pytest.param(2, 26, marks=pytest.mark.slow)])
def test_a_policy_with_a_memory_goes_on_where_it_was_in_the_episode(tmp_path, monkeypatch, envs, calls):
    def config(name):
        return config_for(tmp_path / name, "repo", num_envs=envs, steps=24, shifts=("train",))

    train(config("whole"))
    with monkeypatch.context() as patch:
        cut_after(patch, calls)
        with pytest.raises(SystemExit):
            train(config("cut"))
    folder = tmp_path / "cut" / "checkpoints"
    place = folder / json.loads((folder / "latest.json").read_text())["checkpoint"]
    assert 0 < json.loads((place / "state.json").read_text())["position"]["step"] < 24
    assert read_tensors(place / "training.safetensors")["policy_state/deter"].abs().max() > 0
    train(config("cut"))
    assert records(tmp_path / "cut") == records(tmp_path / "whole")
    assert same(weights(tmp_path / "cut"), weights(tmp_path / "whole"))


@pytest.mark.parametrize("sound", [False, True])
def test_learning_that_makes_no_sense_any_more_ends_the_run_with_a_sentence(tmp_path, monkeypatch, capsys, sound):
    update = alda.agents.alda.ALDA.update

    def fails(self, replay, step):
        if step == 17:
            raise LearningError("it sees nothing", sound=sound)
        return update(self, replay, step)

    with monkeypatch.context() as patch:
        patch.setattr(alda.agents.alda.ALDA, "update", fails)
        with pytest.raises(SystemExit) as stopped:
            train(config_for(tmp_path, shifts=("train",)))
    assert stopped.value.code == 1
    assert "stopped at step 17: it sees nothing; the last checkpoint is kept" in capsys.readouterr().out
    latest = json.loads((tmp_path / "checkpoints" / "latest.json").read_text())["checkpoint"]
    saved = json.loads((tmp_path / "checkpoints" / latest / "state.json").read_text())
    assert saved["position"]["step"] == (17 if sound else 10)


def test_a_run_may_train_in_a_shifted_world_and_be_evaluated_in_the_plain_one(tmp_path):
    config = config_for(tmp_path / "run", "sac", steps=12, train_shift="color_hard", shifts=("train",))
    train(config)
    run = Run(config.resolved(), config.worlds(), [])
    recolored, plain = (config.resolved().make_env(shift) for shift in ("color_hard", "train"))
    seed = int(np.random.SeedSequence([config.seed, 0, 0]).generate_state(1)[0])
    first = run.replay._store["frame"][0]
    assert torch.equal(first, torch.from_numpy(recolored.reset(seed=seed)[0][-1]))
    assert not torch.equal(first, torch.from_numpy(plain.reset(seed=seed)[0][-1]))
    meta = json.loads((tmp_path / "run" / "meta.json").read_text())
    assert meta["trained_in"]["colors"] == config.world("color_hard")["colors"] != config.world("train")["colors"]
    (seed,) = episode_seeds(config.seed, 12, 1)
    played = play(run.agent, plain, seed).total
    assert records(tmp_path / "run")[-1]["eval/train/returns"] == [pytest.approx(played)]
    run.close()


def test_long_catching_up_is_logged_on_its_way(tmp_path):
    config = config_for(tmp_path / "run", "sac", steps=20, eval_every=100, log_every=4, shifts=("train",))
    agent = dataclasses.replace(config.agent, random_steps=10)
    train(dataclasses.replace(config, agent=agent))
    rows = [(row["step"], row["updates"]) for row in records(tmp_path / "run") if "critic/loss" in row]
    assert rows == [(10, 4), (10, 8), (12, 11), (16, 15), (20, 19)]


def test_traversals_are_drawn_at_every_evaluation(uncut):
    pictures = sorted((uncut["alda"] / "traversals").iterdir())
    assert [picture.stem for picture in pictures] == ["000000000", "000000010", "000000020", "000000030", "000000031"]
    with Image.open(pictures[-1]) as picture:
        assert picture.height > 12 * 32  # a row for each latent
        assert picture.width > TRAVERSED * 32
    assert not (uncut["sac"] / "traversals").exists()


def test_videos_show_train_and_shifted_worlds(tmp_path):
    run = train(config_for(tmp_path / "run", steps=6, video_every=100))
    import av

    for shift in ("train", "color_hard"):
        with av.open(str(run / "videos" / f"000000006_{shift}.mp4")) as video:
            frames = [frame.to_ndarray(format="rgb24") for frame in video.decode(video=0)]
        assert len(frames) == 10  # nine steps and the start
        assert frames[0].shape == (128, 256, 3)  # the frame beside its reconstruction


def test_other_settings_in_the_same_place_are_refused(uncut):
    changed = config_for(uncut["alda"])
    changed = dataclasses.replace(changed, agent=dataclasses.replace(changed.agent, beta=50.0), seed=4)
    with pytest.raises(UserError, match=r"other settings \(agent.beta: 100.0 -> 50.0, seed: 3 -> 4\)"):
        train(changed)


def test_a_finished_run_is_left_alone(uncut):
    before = weights(uncut["alda"])
    train(config_for(uncut["alda"]))
    assert same(weights(uncut["alda"]), before)
    assert len(records(uncut["alda"])) == 10


def test_two_processes_cannot_train_in_one_place(tmp_path):
    run_dir = tmp_path / "run"
    run_dir.mkdir()
    holder = (
        "import fcntl, sys, time; f = open(sys.argv[1], 'w'); fcntl.flock(f, 2); print(1, flush=True); time.sleep(60)"
    )
    with subprocess.Popen([sys.executable, "-c", holder, run_dir / ".lock"], stdout=subprocess.PIPE) as other:
        assert other.stdout is not None
        other.stdout.readline()
        with pytest.raises(UserError, match="is being trained by another process"):
            train(config_for(run_dir))
        other.kill()


def test_config_survives_being_written(tmp_path):
    config = config_for(tmp_path).resolved()
    content = to_json(config)
    (tmp_path / "config.json").write_text(json.dumps(content))
    assert load_config(tmp_path) == dataclasses.replace(config, run_dir=tmp_path)
    for damage in (
        {"seed": "one"},
        {"unknown": 1},
        {"agent": {**content["agent"], "betta": 1}},
        {"method": "nonesuch"},
    ):
        (tmp_path / "config.json").write_text(json.dumps({**content, **damage}))
        with pytest.raises(UserError, match="not written by this version"):
            load_config(tmp_path)
    del content["seed"]
    (tmp_path / "config.json").write_text(json.dumps(content))
    with pytest.raises(UserError, match="seed: absent -> 0"):
        load_config(tmp_path)


def test_a_run_of_an_earlier_version_goes_on(uncut, tmp_path):
    """Its config does not name the settings that came later, nor its checkpoint the codes of frames."""
    shutil.copytree(uncut["alda"], tmp_path / "run")
    content = json.loads((tmp_path / "run" / "config.json").read_text())
    for name in NEWER_SETTINGS:
        section, _, key = name.rpartition(".")
        (content[section] if section else content).pop(key, None)
    (tmp_path / "run" / "config.json").write_text(json.dumps(content))
    train(config_for(tmp_path / "run", steps=STEPS + 2))
    assert records(tmp_path / "run")[-1]["step"] == STEPS + 2
    assert "threads" in json.loads((tmp_path / "run" / "config.json").read_text())


def test_recorded_configs_can_be_read():
    paths = sorted((Path(__file__).parents[1] / "results").rglob("config.json"))
    assert paths
    for path in paths:
        assert load_config(path.parent).steps > 0


@pytest.mark.parametrize("workers", [0, 2])
def test_a_decided_config_is_not_decided_again(monkeypatch, workers):
    monkeypatch.setattr("alda.config.check_device", lambda _: None)  # as if there were a GPU
    decided = Config(device="cuda", eval_workers=workers).resolved()
    assert decided.eval_beside == (workers > 0)
    assert decided.resolved() == decided


def test_bad_settings_are_refused_before_anything_is_written(tmp_path):
    for changes, message in (
        ({"steps": 0}, "--steps must be at least 1"),
        ({"shifts": ("color_hrad",)}, "did you mean 'color_hard'"),
        ({"device": "cuda"}, "there is no device cuda here"),
        ({"shifts": ()}, "--shifts needs at least one world"),
        ({"seed": -1}, "--seed must be from 0"),
        ({"checkpoint_minutes": -1.0}, "--checkpoint-minutes must be a number from 0 on"),
        ({"env": EnvConfig(action_repeat=-1)}, "--env.action-repeat must be at least 1"),
        ({"agent": ALDAConfig(actor_update_every=0)}, "--agent.actor-update-every must be at least 1"),
        ({"agent": ALDAConfig(beta=float("inf"))}, "--agent.beta must be a number"),
        ({"agent": ALDAConfig(log_std_bounds=(2.0, -10.0))}, "must be a lower and a higher number"),
        ({"agent": ALDAConfig(discount=1.5)}, "--agent.discount must be from 0 to 1"),
        ({"device": "tpu"}, "unknown device 'tpu'"),
        ({"replay_capacity": 0}, "--replay-capacity must be at least 1"),
        ({"num_envs": 2}, "--steps must be a multiple of --num-envs, which 31 is not of 2"),
        ({"num_envs": 0}, "--num-envs must be at least 1"),
        ({"eval_workers": -1}, "--eval-workers must be from 0"),
        ({"shifts": ("distracting_cs:2",)}, "the intensity of a shift is a number above 0, at most 1, not '2'"),
        ({"env": EnvConfig(task="fish_swim"), "shifts": ("distracting_cs",)}, "distracting_cs does not cover fish"),
    ):
        if changes == {"device": "cuda"} and torch.cuda.is_available():
            continue
        with pytest.raises(UserError, match=message):
            train(dataclasses.replace(config_for(tmp_path / "run"), **changes))
    assert not (tmp_path / "run").exists()


# loading


def test_a_loaded_policy_acts_as_the_trained_one(uncut):
    import alda

    config = load_config(uncut["alda"])
    policy, env = alda.load(uncut["alda"]), config.make_env("color_hard", 0)
    obs, _ = env.reset(seed=0)
    action = policy.act(obs)
    assert action.shape == (1,)
    assert np.array_equal(action, policy.act(obs))
    assert policy.reconstruct(obs).shape == (3, 32, 32)
    assert policy.step == STEPS
    env.close()


def test_damaged_or_foreign_checkpoints_are_refused_and_never_run(uncut, tmp_path):
    import alda

    class Evil:
        def __reduce__(self):
            return (Path.touch, (tmp_path / "hacked",))

    run = tmp_path / "run"
    for damage in (b"", b"garbage", pickle.dumps(Evil())):
        shutil.copytree(uncut["alda"], run)
        (weights_file,) = run.glob("checkpoints/save_*/agent.safetensors")
        weights_file.write_bytes(damage)
        with pytest.raises(UserError, match="is damaged"):
            alda.load(run)
        shutil.rmtree(run)
    assert not (tmp_path / "hacked").exists()
    with pytest.raises(UserError, match="is not a run directory"):
        alda.load(tmp_path)


def test_a_checkpoint_of_another_version_is_refused(uncut, tmp_path):
    shutil.copytree(uncut["alda"], tmp_path / "run")
    (file,) = (tmp_path / "run").glob("checkpoints/save_*/state.json")
    state = json.loads(file.read_text())
    file.write_text(json.dumps({**state, "position": {**state["position"], "novelty": 1}}))
    with pytest.raises(UserError, match="is from another version of alda"):
        train(config_for(tmp_path / "run"))


def test_a_run_without_its_replay_can_be_evaluated_but_not_continued(uncut, tmp_path):
    import alda

    shutil.copytree(uncut["alda"], tmp_path / "run")
    shutil.rmtree(tmp_path / "run" / "checkpoints" / "replay")
    assert alda.load(tmp_path / "run").step == STEPS
    with pytest.raises(UserError, match="can be evaluated, but not continued"):
        train(config_for(tmp_path / "run", steps=40))


# evaluation


def test_bootstrap_interval_agrees_with_scipy():
    from scipy.stats import bootstrap

    values = np.random.default_rng(0).normal(500, 100, 20)
    truth = bootstrap((values,), np.mean, method="percentile", n_resamples=20_000, rng=0).confidence_interval
    assert bootstrap_interval(values.tolist()) == pytest.approx((truth.low, truth.high), abs=3)
    assert bootstrap_interval([7.0, 7.0]) == (7.0, 7.0)


def test_evaluation_seeds_are_shared_by_worlds_and_change_with_time():
    assert episode_seeds(0, 10, 3) == episode_seeds(0, 10, 5)[:3]
    assert set(episode_seeds(0, 10, 3)).isdisjoint(episode_seeds(0, 20, 3))


def test_an_episode_adds_up_its_rewards_and_leaves_the_random_stream_alone(uncut):
    import alda

    policy = alda.load(uncut["alda"])
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
    env.close()


@pytest.mark.slow
def test_a_process_killed_for_real_goes_on(uncut, tmp_path):
    code = "import sys; sys.path.insert(0, sys.argv[1]); from test_train import *; train(config_for(Path(sys.argv[2])))"
    command = [sys.executable, "-c", code, str(Path(__file__).parent), str(tmp_path / "run")]
    for delay in (4, 5, 6):
        process = subprocess.Popen(command)
        time.sleep(delay)
        process.kill()
        process.wait()
    subprocess.run(command, check=True)
    assert same(weights(tmp_path / "run"), weights(uncut["alda"]))
