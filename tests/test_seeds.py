"""Several seeds of one config side by side: each ends as it would alone. Real processes."""

import os
import signal
from dataclasses import replace
from pathlib import Path
from threading import Thread

import pytest
from conftest import assert_same_run, config_for
from studies import until

from alda import presets
from alda.commands import train as command
from alda.commands.train import train
from alda.config import Config
from alda.errors import UserError
from alda.sweep import local
from alda.training.trainer import train as train_one

# a user's program, whose preset a child must know as well
PROGRAM = """
import sys
sys.path.insert(0, {tests!r})
from pathlib import Path
from conftest import config_for
from alda import cli, presets
presets._VARIANTS["short"] = ("", config_for(Path("unused"), "sac", **{short!r}))
cli.main()
"""
SHORT = {"steps": 12, "eval_every": 6, "shifts": ("train",), "name": "short"}


@pytest.fixture(autouse=True)
def program(monkeypatch, tmp_path):
    """One thread, as in this process, see conftest; and a preset that is small."""
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    file = tmp_path / "program.py"
    file.write_text(PROGRAM.format(tests=str(Path(__file__).parent), short=SHORT))
    monkeypatch.setattr(local, "this_program", lambda: [str(file)])
    monkeypatch.setitem(presets._VARIANTS, "short", ("", short(Path("unused"))))


def short(run_dir: Path, **changes) -> Config:
    return config_for(run_dir, "sac", **{**SHORT, **changes})


@pytest.fixture(scope="module")
def alone(tmp_path_factory):
    """Return a function from a seed to the directory of its single run."""
    return lambda seed: train_one(short(tmp_path_factory.mktemp("alone") / "run", seed=seed))


def go(run_dir: Path, *words: str) -> int:
    """Return the exit code."""
    try:
        train(["short", *words, "--run-dir", str(run_dir)])
    except SystemExit as ended:
        return int(ended.code or 0)
    return 0


def test_a_seed_that_fails_leaves_the_others_alone(alone, tmp_path, capsys):
    runs = tmp_path / "runs"
    (runs / "s4").mkdir(parents=True)
    (runs / "s4" / "metrics.jsonl").write_text('{"step": 5, "updates": 1}\n')  # without a checkpoint: refused
    assert go(runs, "--seeds", "3", "4") == 1
    lines = capsys.readouterr().out.splitlines()
    assert_same_run(runs / "s3", alone(3))
    assert any(line.endswith("s3: finished") for line in lines)
    assert any("s4: failed: it ended with exit code 2" in line and "without its checkpoint" in line for line in lines)
    assert lines[-1] == "the same command goes on with what is unfinished"


@pytest.mark.slow
def test_ctrl_c_stops_all_and_the_same_command_resumes_bit_for_bit(heard, alone, tmp_path, capsys):
    runs = tmp_path / "runs"

    def press():
        until(lambda: all((runs / f"s{seed}" / "metrics.jsonl").exists() for seed in (3, 4)), 120)
        os.kill(os.getpid(), signal.SIGINT)

    thread = Thread(target=press)
    thread.start()
    assert go(runs, "--seeds", "3", "4") == 128 + signal.SIGINT
    thread.join()
    assert "stopped" in capsys.readouterr().out
    assert go(runs, "--seeds", "3", "4") == 0
    for seed in (3, 4):
        assert "resuming sac" in (runs / f"s{seed}" / "log.txt").read_text()
        assert_same_run(runs / f"s{seed}", alone(seed))


def test_wrong_input_is_refused_before_anything_begins(tmp_path):
    with pytest.raises(UserError, match="did you mean 'color_hard'"):
        go(tmp_path / "runs", "--seeds", "1", "2", "--shifts", "color_hrad")
    assert not (tmp_path / "runs").exists()


def test_a_seed_is_the_run_it_would_be_alone(tmp_path, monkeypatch):
    """In its directory, whether one is given or not, and with its share of the workers if the words leave them open."""
    started = []
    monkeypatch.setattr(command, "run_all", lambda title, runs, place: started.append((runs, place)))
    monkeypatch.setattr(local, "count_cores", lambda: 4)
    monkeypatch.delenv("OMP_NUM_THREADS")
    monkeypatch.setattr(command, "parse", lambda words: replace(presets.parse(words), eval_workers=None))
    train(["short", "--seeds", "7", "8", "--run-dir", str(tmp_path)])
    (runs, place) = started[0]
    assert (place.jobs, place.threads, place.workers) == (2, 2, 2)
    for seed, run in zip((7, 8), runs, strict=True):
        words = run.commands()["train"][1:]
        assert presets.parse(words) == short(tmp_path / f"s{seed}", seed=seed, eval_workers=2)
    given = presets.parse(["short", "--seeds", "7", "8"])
    monkeypatch.setattr(command, "parse", lambda words: replace(given, run_dir=None))
    train(["short", "--seeds", "7", "8"])
    assert started[1][0][0].run_dir == Path("runs/cartpole_balance/sac/short/s7")
