import json
import os
import signal
import tempfile
from dataclasses import replace
from importlib import import_module
from statistics import median

import pytest
import torch
from conftest import SMALL
from rich.console import Console

from alda.agents.alda import ALDAConfig
from alda.commands.bench import Plan, bench, measure, measure_training, ratio, steps_per_second, training_run
from alda.config import Config, EnvConfig
from alda.errors import UserError

PLAN = Plan(rounds=2, seconds=0.05, lap=4, laps=2)
AGENT = ALDAConfig(**{**SMALL, "random_steps": 2})
module = import_module("alda.commands.bench")
CONFIG = Config(
    agent=AGENT, env=EnvConfig(task="cartpole_balance", profile="fast"), device="cpu", speed="plain"
).resolved()


@pytest.mark.slow
def test_a_record_says_how_fast_both_speeds_are():
    torch.set_num_threads(2)
    record = measure({"one thread": replace(CONFIG, threads=1), "small": CONFIG}, PLAN, Console(quiet=True))
    threads = [record["methods"][name]["fast"]["threads"] for name in ("one thread", "small")]
    assert threads == [1, 2]
    assert (record["task"], record["plan"]["steps"]) == ("cartpole_balance", 12)
    assert record["machine"]["versions"]["torch"]
    pair = record["methods"]["small"]
    for speed in ("plain", "fast"):
        one = pair[speed]
        assert len(one["blocks"]["updates"]) == len(one["blocks"]["environment"]) == len(one["laps"]) == 2
        for what, blocks in one["blocks"].items():
            assert one["per_second"][what] == median(block["count"] / block["seconds"] for block in blocks)
        assert one["per_second"]["training"] == median(map(steps_per_second, one["laps"]))
        assert all(block["count"] % 2 == 0 and block["seconds"] >= 0.05 for block in one["blocks"]["updates"])
        assert 0 < one["drawing_share"] < 1
        assert one["start_seconds"] >= 0
        assert sum(one["time_shares"].values()) == pytest.approx(1, abs=0.01)


def test_rates_are_compared_and_laps_scaled_by_hand():
    assert ratio([1.0, 2.0, 4.0], [3.0, 4.0, 6.0]) == {"of_medians": 2.0, "lowest": 1.0, "highest": 3.0}
    lap = {"count": 100, "seconds": 10.0, "shares": {"update": 0.75, "checkpoint": 0.2, "other": 0.05}}
    assert steps_per_second(lap) == pytest.approx(100 / (7.5 + 2.5 * 100 / 10_000))
    assert steps_per_second({**lap, "count": 20_000}) == 2_000


@pytest.mark.parametrize(("lap", "episodes"), [(4, (1, 2)), (8, (2, 2)), (40, (4, 5)), (1_000, (20, 25))])
def test_evaluation_takes_half_as_many_steps_as_training(lap, episodes, tmp_path):
    plan = replace(PLAN, lap=lap)
    assert plan.evaluation == episodes
    run = training_run(CONFIG, plan, tmp_path)
    assert run.eval_episodes * run.env.episode_length == run.eval_every // 2 * run.env.action_repeat
    assert (run.eval_workers, run.eval_every, run.log_every, run.steps) == (0, lap, lap, 3 * lap)
    assert training_run(replace(CONFIG, speed="fast"), plan, tmp_path).eval_workers > 0


def test_the_first_lap_of_training_does_not_count(tmp_path, monkeypatch):
    lines = [{"step": 4, "speed/steps_per_second": 1.0}, {"step": 4, "eval/train/return": 3.0}]
    lines += [{"step": step, "speed/steps_per_second": 2.0, "time/update": 0.9} for step in (8, 12)]
    (tmp_path / "metrics.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    monkeypatch.setattr(module, "train", lambda config: config.run_dir)
    laps = measure_training(training_run(CONFIG, PLAN, tmp_path))
    assert laps == [{"count": 4, "seconds": 2.0, "shares": {"update": 0.9}}] * 2


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"methods": ("alta",)}, r"unknown method 'alta'; did you mean 'alda'\?"),
        ({"methods": ()}, "at least one method"),
        ({"rounds": 0}, "--rounds and --laps must be at least 1"),
        ({"batch_size": 0}, "batch-size must be at least 1, not 0"),
        ({"seconds": float("nan")}, "--seconds must be more than 0"),
        ({"lap": 0}, "--lap must be an even number from 4 on, not 0"),
    ],
)
def test_wrong_input_is_refused(options, message):
    with pytest.raises(UserError, match=message):
        bench(**options)


def test_a_stopped_command_leaves_no_file(tmp_path, monkeypatch):
    def stopped(config):
        assert config.run_dir.is_relative_to(tmp_path)
        config.run_dir.mkdir()
        os.kill(os.getpid(), signal.SIGTERM)

    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    monkeypatch.setattr(module, "_measure_parts", lambda configs, _: {speed: {} for speed in configs})
    monkeypatch.setattr(module, "measure_training", stopped)
    before = signal.getsignal(signal.SIGTERM)
    try:
        with pytest.raises(SystemExit, match="143"):
            bench(device="cpu")
    finally:
        signal.signal(signal.SIGTERM, before)
    assert not any(tmp_path.iterdir())
