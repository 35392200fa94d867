import json
import os
import signal
import subprocess
import sys
import time
from dataclasses import replace
from itertools import pairwise
from pathlib import Path
from statistics import mean, median

import psutil
import pytest
from conftest import SMALL

from alda.agents.alda import ALDAConfig
from alda.bench import bench, bench_agents
from alda.bench.subject import Plan, Subject
from alda.bench.table import in_proportion
from alda.bench.turns import Child
from alda.config import EnvConfig
from alda.errors import UserError, WorkerError
from alda.training.logger import Logger, read_metrics

AGENT = ALDAConfig(**{**SMALL, "random_steps": 2})
ENV = EnvConfig(task="cartpole_balance", profile="fast")
PLAN = Plan(rounds=2, seconds=0.05, lap=4, laps=2)


@pytest.fixture(scope="module")
def record(tmp_path_factory):
    """A small agent, measured; what was printed is kept beside it."""
    file = tmp_path_factory.mktemp("bench") / "bench.json"
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("OMP_NUM_THREADS", "1")
        returned = bench_agents({"small": AGENT}, ENV, PLAN, device="cpu", out=file)
    written = json.loads(file.read_text())
    assert written == json.loads(json.dumps(returned))
    return written


@pytest.mark.slow
def test_the_record_has_everything_that_was_promised(record):
    assert record["task"] == "cartpole_balance"
    assert record["machine"]["versions"]["torch"]
    assert record["plan"]["steps"] == 12
    pair = record["methods"]["small"]
    assert set(pair) == {"plain", "fast", "ratio"}
    for speed in ("plain", "fast"):
        one = pair[speed]
        assert all(one["per_second"][what] > 0 for what in ("updates", "environment", "training"))
        assert 0 < one["drawing_share"] < 1
        assert one["start_seconds"] >= 0
        assert one["threads"] == 1
        assert {"update", "act", "environment", "evaluation", "other"} <= set(one["time_shares"])
        assert len(one["blocks"]["updates"]) == len(one["blocks"]["environment"]) == len(one["laps"]) == 2
        assert one["memory"]["host"] > 100e6
        assert one["memory"]["device"] == 0
        assert one["long_run"]["steps"] == 500_000
        assert one["long_run"]["host"] > one["long_run"]["replay"] > 6.1e9
    assert (pair["plain"]["workers"], pair["plain"]["memory"]["workers"]) == (0, 0)
    assert pair["fast"]["workers"] == 1  # no more than episodes
    assert pair["fast"]["memory"]["workers"] > 50e6


@pytest.mark.slow
def test_rates_and_ratios_are_what_the_blocks_say(record):
    pair = record["methods"]["small"]
    for what in ("updates", "environment", "training"):
        rates = {}
        for speed in ("plain", "fast"):
            one = pair[speed]
            if what == "training":
                rates[speed] = [in_proportion(lap) for lap in one["laps"]]
            else:
                rates[speed] = [block["count"] / block["seconds"] for block in one["blocks"][what]]
            assert one["per_second"][what] == median(rates[speed])
        ratio, (plain, fast) = pair["ratio"][what], (rates["plain"], rates["fast"])
        assert ratio["of_medians"] == median(fast) / median(plain)
        ordered = [plain[0], fast[0], plain[1], fast[1]]
        apart = [b / a if i % 2 == 0 else a / b for i, (a, b) in enumerate(pairwise(ordered))]
        assert (ratio["lowest"], ratio["highest"]) == (min(apart), max(apart))
    assert pair["ratio"]["memory"]["host"] == pair["fast"]["memory"]["host"] / pair["plain"]["memory"]["host"]
    for speed in ("plain", "fast"):
        shares = pair[speed]["time_shares"]
        assert sum(shares.values()) == pytest.approx(1, abs=0.01)
        assert shares["update"] == pytest.approx(mean(lap["shares"]["update"] for lap in pair[speed]["laps"]))


def test_what_a_short_lap_does_once_counts_as_in_a_long_one():
    lap = {"count": 100, "seconds": 10.0, "shares": {"update": 0.75, "checkpoint": 0.2, "other": 0.05}}
    assert in_proportion(lap) == pytest.approx(100 / (7.5 + 2.5 * 100 / 10_000))
    assert in_proportion({**lap, "count": 20_000}) == 2_000


@pytest.mark.parametrize(("lap", "episodes"), [(4, (1, 2)), (8, (2, 2)), (40, (4, 5)), (1_000, (20, 25))])
def test_evaluation_takes_half_as_many_steps_as_training(lap, episodes, tmp_path):
    plan = replace(PLAN, lap=lap)
    assert plan.evaluation == episodes
    config = Subject("small", AGENT, "plain", ENV, "cpu", plan).training(tmp_path)
    assert config.eval_episodes * config.env.episode_length == config.eval_every // 2 * config.env.action_repeat
    assert (config.eval_workers, config.eval_every, config.log_every, config.steps) == (0, lap, lap, 3 * lap)


@pytest.mark.slow
def test_waiting_for_a_turn_is_not_part_of_a_lap(tmp_path, monkeypatch):
    """A run waits after it has written a line, where its clock for the next one has not begun."""
    from alda.training.trainer import train

    waited, clock, flush = 0.0, time.monotonic, Logger.flush

    def slow_flush(*words):
        nonlocal waited
        values = flush(*words)
        waited += 200
        return values

    monkeypatch.setattr(time, "monotonic", lambda: clock() + waited)
    monkeypatch.setattr(Logger, "flush", slow_flush)
    run_dir = train(Subject("small", AGENT, "plain", ENV, "cpu", PLAN).training(tmp_path / "run"))
    speeds = [row["speed/steps_per_second"] for row in read_metrics(run_dir) if "speed/steps_per_second" in row]
    assert len(speeds) == 3
    assert all(PLAN.lap / speed < 200 for speed in speeds)


def test_a_process_that_dies_or_fails_ends_in_a_sentence(tmp_path):
    subject = Subject("small", AGENT, "plain", ENV, "cpu", PLAN)
    child = Child(subject)
    child.process.kill()
    with pytest.raises(WorkerError, match="the process that measured small plain died: killed by SIGKILL"):
        child.answer()
    child.close()
    (tmp_path / "file").touch()
    child = Child(subject)
    child.answer()
    with pytest.raises(WorkerError, match="measured small plain failed with NotADirectoryError"):
        child.ask((subject, tmp_path / "file" / "run"))
    child.close()
    assert child.process.poll() is not None


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"methods": ("alta",)}, "unknown method 'alta'; did you mean 'alda'?"),
        ({"methods": ()}, "at least one method"),
        ({"task": "walker_wolk"}, "did you mean 'walker_walk'"),
        ({"rounds": 0}, "--rounds must be at least 1, not 0"),
        ({"laps": 0}, "--laps must be at least 1, not 0"),
        ({"batch_size": 0}, "--batch-size must be at least 1, not 0"),
        ({"seconds": 0.0}, "--seconds must be more than 0"),
        ({"seconds": float("nan")}, "--seconds must be more than 0"),
        ({"lap": 0}, "--lap must be an even number from 4 on, not 0"),
        ({"lap": 7}, "--lap must be an even number"),
        ({"device": "tpu"}, "unknown device 'tpu'"),
    ],
)
def test_wrong_input_is_refused(options, message):
    with pytest.raises(UserError, match=message.replace("?", r"\?")):
        bench(**options)


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_stopped_command_leaves_no_process_and_no_file(heard, tmp_path, number):
    command = [sys.executable, "-m", "alda.cli", "bench", "--rounds", "1", "--seconds", "0.01"]
    env = {**os.environ, "TMPDIR": str(tmp_path)}
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL, env=env, process_group=0)
    began, children = time.monotonic(), []
    while len(children) < 2 and time.monotonic() - began < 30:
        time.sleep(0.1)
        children = psutil.Process(process.pid).children(recursive=True)
    assert len(children) == 2
    process.send_signal(number)
    assert process.wait(20) == 128 + number
    assert psutil.wait_procs(children, timeout=10)[1] == []
    assert [path for path in Path(tmp_path).iterdir() if path.name.startswith("alda-bench")] == []
