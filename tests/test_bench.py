import os
import signal
import subprocess
import sys
import time
from dataclasses import replace
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


def test_ratios_are_of_medians_and_of_neighbours_in_time():
    assert ratio([1.0, 2.0, 4.0], [3.0, 4.0, 6.0]) == {"of_medians": 2.0, "lowest": 1.0, "highest": 3.0}


def test_what_a_short_lap_does_once_counts_as_in_a_long_one():
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


def test_the_first_lap_of_training_does_not_count(tmp_path):
    laps = measure_training(training_run(CONFIG, PLAN, tmp_path / "run"))
    assert [lap["count"] for lap in laps] == [4, 4]
    assert all(lap["seconds"] > 0 for lap in laps)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"methods": ("alta",)}, r"unknown method 'alta'; did you mean 'alda'\?"),
        ({"methods": ()}, "at least one method"),
        ({"task": "walker_wolk"}, "did you mean 'walker_walk'"),
        ({"rounds": 0}, "--rounds and --laps must be at least 1"),
        ({"laps": 0}, "--rounds and --laps must be at least 1"),
        ({"batch_size": 0}, "batch-size must be at least 1, not 0"),
        ({"seconds": float("nan")}, "--seconds must be more than 0"),
        ({"lap": 0}, "--lap must be an even number from 4 on, not 0"),
        ({"lap": 7}, "--lap must be an even number"),
        ({"device": "tpu"}, "unknown device 'tpu'"),
    ],
)
def test_wrong_input_is_refused(options, message):
    with pytest.raises(UserError, match=message):
        bench(**options)


def test_a_stopped_command_leaves_no_file(tmp_path):
    command = [
        sys.executable,
        "-m",
        "alda.cli",
        "bench",
        "--methods",
        "alda_laptop",
        *["--rounds", "1", "--seconds", "0.01", "--laps", "99"],
    ]
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL, env={**os.environ, "TMPDIR": str(tmp_path)})
    began = time.monotonic()
    while not any(tmp_path.glob("alda-bench-*/plain/metrics.jsonl")) and time.monotonic() - began < 120:
        time.sleep(0.1)
    process.send_signal(signal.SIGTERM)
    assert process.wait(20) == 128 + signal.SIGTERM
    assert not any(tmp_path.glob("alda-bench-*"))
