import json
import os
import signal
import socket
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from threading import Timer

import psutil
import pytest
from conftest import config_for, records
from conftest import equal as same
from conftest import tensors as weights
from test_pool import gone

from alda.config import Config, to_json
from alda.errors import UserError
from alda.progress import Display, displays
from alda.sweep import gpu_sharing
from alda.sweep import seeds as side_by_side
from alda.sweep.gpu_sharing import shared_gpu
from alda.sweep.seeds import Told, train_seeds
from alda.training.trainer import train


@pytest.fixture(autouse=True)
def one_thread(monkeypatch):
    """As in this process, see conftest."""
    monkeypatch.setenv("OMP_NUM_THREADS", "1")


def short(run_dir: Path, **changes) -> Config:
    return config_for(run_dir, "sac", **{"steps": 12, "eval_every": 6, "shifts": ("train",), **changes})


@pytest.fixture(scope="module")
def alone(tmp_path_factory):
    """Run directories of single runs, by seed."""
    folder = tmp_path_factory.mktemp("alone")
    return {seed: train(short(folder / f"s{seed}", seed=seed)) for seed in (3, 4)}


def equal(run_dir: Path, other: Path) -> bool:
    configs = [json.loads((folder / "config.json").read_text()) for folder in (run_dir, other)]
    return configs[0] == configs[1] and records(run_dir) == records(other) and same(weights(run_dir), weights(other))


@pytest.fixture
def when_said(monkeypatch):
    """Something to do, once, when a seed has said something that contains these words."""
    say, waiting = Display.say, {}

    def heard(self, message):
        say(self, message)
        for words in [words for words in waiting if words in self._name + message]:
            waiting.pop(words)()

    monkeypatch.setattr(Display, "say", heard)
    return waiting.__setitem__


@pytest.fixture
def started(monkeypatch):
    """The processes of seeds, in the order of their start."""
    start, children = side_by_side._start, []

    def recorded(*words):
        children.append(start(*words))
        return children[-1]

    monkeypatch.setattr(side_by_side, "_start", recorded)
    return children


def test_a_seed_that_fails_leaves_the_others_alone(alone, tmp_path, when_said, started, capsys):
    """And each of those ends as it would have alone."""
    train(short(tmp_path / "s5", steps=1, seed=6))
    when_said("seed 4: step 0", lambda: started[1].process.kill())
    with pytest.raises(SystemExit) as ended:
        train_seeds(short(tmp_path, seeds=(3, 4, 5)))
    assert ended.value.code == 1
    assert equal(tmp_path / "s3", alone[3])
    lines = capsys.readouterr().out.splitlines()
    assert "seed 3: finished" in lines
    assert any(line.startswith("seed 4: failed, killed by SIGKILL, perhaps for want of memory") for line in lines)
    (refused,) = [line for line in lines if line.startswith("seed 5: failed, it ended with exit code 1; its last")]
    assert "s5 holds a run with other settings (seed: 6 -> 5)" in refused
    assert lines[-1] == "2 of 3 seeds failed; the same command goes on with what is unfinished"


def test_ctrl_c_stops_all_and_the_same_command_goes_on(alone, tmp_path, when_said, capsys):
    config, begun = short(tmp_path, seeds=(3, 4)), []

    def begin():
        begun.append(1)
        if len(begun) == 2:
            os.kill(os.getpid(), signal.SIGINT)

    for seed in (3, 4):
        when_said(f"seed {seed}: step 0", begin)
    with pytest.raises(SystemExit) as ended:
        train_seeds(config)
    assert ended.value.code == 128 + signal.SIGINT
    lines = capsys.readouterr().out.splitlines()
    cut = [seed for seed in (3, 4) if f"seed {seed}: finished" not in lines]  # both, unless one was far ahead
    for seed in cut:
        assert f"seed {seed}: the same command resumes the run" in lines
        assert len(records(tmp_path / f"s{seed}")) < len(records(alone[seed]))
    train_seeds(config)
    lines = capsys.readouterr().out.splitlines()
    assert all(any(line.startswith(f"seed {seed}: resuming sac") for line in lines) for seed in cut)
    for seed in (3, 4):
        assert equal(tmp_path / f"s{seed}", alone[seed])


def test_a_killed_command_leaves_saved_runs_and_no_process(tmp_path):
    words = "--env.task cartpole_balance --env.episode-length 20 --env.profile fast --agent.batch-size 2"
    words += " --agent.random-steps 4 --agent.hidden-dim 16 --shifts train --eval-workers 1 --log-every 3 --seeds 3"
    command = [sys.executable, "-m", "alda.cli", "train", "alda", *words.split(), "--run-dir", str(tmp_path)]
    latest = tmp_path / "s3" / "checkpoints" / "latest.json"
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True, process_group=0) as parent:
        assert any(line.startswith("seed 3: step 0: mean return") for line in parent.stdout)
        processes = [process.pid for process in psutil.Process(parent.pid).children(recursive=True)]
        assert len(processes) == 2  # one trains, one plays for it
        assert os.getpgid(processes[0]) != os.getpgid(parent.pid)  # Ctrl-C does not reach it
        deadline = time.monotonic() + 20
        while not latest.exists() and time.monotonic() < deadline:
            time.sleep(0.05)
        before = latest.read_text()
        parent.kill()
    assert gone(processes)
    assert latest.read_text() != before


def test_a_second_signal_acts_at_once(tmp_path, monkeypatch):
    """Here on processes that do not listen."""
    sleeping, ends = [], []

    def start(config, modules, display, *_):
        sleeping.append(subprocess.Popen(["sleep", "60"]))
        ours, theirs = socket.socketpair()
        ends.append(theirs)
        if len(sleeping) == 2:
            os.kill(os.getpid(), signal.SIGTERM)
            Timer(0.5, os.kill, (os.getpid(), signal.SIGTERM)).start()
        return side_by_side._Child(display, sleeping[-1], ours, tempfile.TemporaryFile())

    monkeypatch.setattr(side_by_side, "_start", start)
    before = signal.getsignal(signal.SIGTERM)
    with pytest.raises(SystemExit) as ended:
        train_seeds(short(tmp_path, seeds=(1, 2)))
    assert ended.value.code == 128 + signal.SIGTERM
    assert [process.returncode for process in sleeping] == [-signal.SIGKILL] * 2
    assert signal.getsignal(signal.SIGTERM) == before
    for end in ends:
        end.close()


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"seeds": (1, 2, 1)}, "--seeds must differ from one another, not 1 2 1"),
        ({"seeds": (0, -1)}, "--seed must be from 0"),
        ({"seeds": (1, 2), "steps": 0}, "--steps must be at least 1"),
        ({"seeds": (1, 2), "shifts": ("color_hrad",)}, "did you mean 'color_hard'"),
    ],
)
def test_wrong_input_is_refused_before_anything_begins(tmp_path, monkeypatch, changes, message):
    monkeypatch.delattr(side_by_side, "_start")
    with pytest.raises(UserError, match=message):
        train_seeds(short(tmp_path / "runs", **changes))
    assert not (tmp_path / "runs").exists()


def test_a_seed_is_the_run_it_would_be_alone(tmp_path, monkeypatch):
    monkeypatch.setattr(side_by_side, "default_workers", lambda: 5)
    shares = [side_by_side._alone(Config(seeds=seeds), 7) for seeds in ((7, 8), tuple(range(9)))]
    assert [share.eval_workers for share in shares] == [2, 1]
    assert all(to_json(share) == to_json(Config(seed=7)) | {"eval_workers": share.eval_workers} for share in shares)
    assert shares[0].resolved().run_dir == Config(seed=7).resolved().run_dir
    assert side_by_side._alone(Config(seeds=(7, 8), eval_workers=5, run_dir=tmp_path), 8) == Config(
        seed=8, eval_workers=5, run_dir=tmp_path / "s8"
    )


def test_a_run_never_waits_for_who_shows_it():
    ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    told = Told(theirs, 100, 100)
    for i in range(5_000):
        told.say(f"line {i}")
        told.show(i, "training", "")
    heard = []
    while heard[-1:] != [["show", 7, "training", "train 5"]]:
        told.show(7, "training", "train 5")  # comes when what was said before has been read
        heard.append(json.loads(ours.recv(1_000)))
    assert [words for words in heard if words[0] == "say"][-100:] == [["say", f"line {i}"] for i in range(4_900, 5_000)]
    ours.close()
    told.say("nobody hears this")
    theirs.close()


def test_several_runs_are_shown_by_name(capsys):
    with displays(["seed 1: ", "seed 22: "], 10) as shown:
        shown[1].say("hello [you]")
        shown[0].show(1, "training", "")  # not yet half a minute
    assert capsys.readouterr().out == "seed 22: hello [you]\n"


# gpu_sharing


@pytest.fixture
def daemon(tmp_path, monkeypatch):
    """What a stand-in for the daemon of MPS was called with, and where."""
    log = tmp_path / "calls"
    control = tmp_path / "bin" / "nvidia-cuda-mps-control"
    control.parent.mkdir()
    control.write_text(f'#!/bin/sh\necho "$* $(test "$1" = -d || cat) $CUDA_MPS_PIPE_DIRECTORY" >> {log}\n')
    control.chmod(0o755)
    monkeypatch.setenv("PATH", f"{control.parent}:{os.environ['PATH']}")
    monkeypatch.delenv("CUDA_MPS_PIPE_DIRECTORY", raising=False)
    monkeypatch.setattr(gpu_sharing, "_OF_ANOTHER", tmp_path / "nonesuch")
    monkeypatch.setattr(gpu_sharing, "_TRIAL", "")

    def calls():
        return [line.split() for line in log.read_text().splitlines()] if log.exists() else []

    return calls


def test_processes_share_a_gpu_under_a_daemon_of_their_own(daemon):
    said = []
    with shared_gpu("cuda", said.append) as sharing:
        pipe = sharing.environment["CUDA_MPS_PIPE_DIRECTORY"]
        assert daemon() == [["-d", pipe]]
        assert Path(pipe).is_dir()
    assert daemon() == [["-d", pipe], ["quit", "-t", "5", pipe]]
    assert not Path(pipe).parent.exists()
    assert not said


def test_a_daemon_outlives_a_killed_command_until_the_last_seed_has_ended(daemon):
    code = (
        "import subprocess, time; from alda import gpu_sharing; gpu_sharing._TRIAL = ''\n"
        "with gpu_sharing.shared_gpu('cuda', print) as sharing:\n"
        "    print(subprocess.Popen(['sleep', '60'], pass_fds=sharing.kept_open).pid, flush=True); time.sleep(60)"
    )
    with subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE) as parent:
        seed = psutil.Process(int(parent.stdout.readline()))
        parent.kill()
    assert len(daemon()) == 1
    seed.kill()
    deadline = time.monotonic() + 20
    while len(daemon()) < 2 and time.monotonic() < deadline:
        time.sleep(0.05)
    assert [call[0] for call in daemon()] == ["-d", "quit"]


def test_a_gpu_is_shared_without_a_daemon_where_none_works(daemon, monkeypatch, tmp_path):
    said = []
    monkeypatch.setattr(gpu_sharing, "_TRIAL", "raise SystemExit(1)")
    with shared_gpu("cuda", said.append) as sharing:
        assert sharing == ({}, ())
        assert [call[0] for call in daemon()] == ["-d", "quit"]
    monkeypatch.setenv("PATH", str(tmp_path))
    with shared_gpu("cuda", said.append) as sharing:
        assert sharing == ({}, ())
    assert ["take turns on the GPU" in line for line in said] == [True, True]


def test_no_daemon_is_started_where_one_runs_or_there_is_no_gpu(daemon, monkeypatch, tmp_path):
    with shared_gpu("cpu", print) as sharing:
        assert sharing == ({}, ())
    monkeypatch.setattr(gpu_sharing, "_OF_ANOTHER", tmp_path)
    with shared_gpu("cuda", print) as sharing:
        assert sharing == ({}, ())
    assert daemon() == []
