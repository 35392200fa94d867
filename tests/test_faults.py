"""Whatever happens to a run, it ends in a sentence, and the same command goes on to the same records."""

import json
import os
import pickle
import pty
import resource
import shutil
import signal
import subprocess
import sys
from contextlib import suppress
from pathlib import Path

import numpy as np
import pytest
from conftest import config_for
from test_train import in_order, records, same, weights

import alda
import alda.training.checkpoint
import alda.training.trainer
from alda.agents import make_agent
from alda.config import load_config
from alda.errors import UserError
from alda.progress import Display, lasting_console
from alda.provenance import load_spec
from alda.training.checkpoint import load_checkpoint, load_weights
from alda.training.logger import DamagedMetrics, Logger, read_metrics
from alda.training.replay import Replay
from alda.training.run_lock import collected_signals
from alda.training.trainer import Run, train
from alda.video import write_video


def short(run_dir, **changes):
    return config_for(run_dir, "sac", **{"steps": 14, "eval_every": 6, "log_every": 3, **changes})


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    """The directory of a run that nothing disturbed."""
    return train(short(tmp_path_factory.mktemp("whole") / "run"))


@pytest.fixture
def run(whole, tmp_path):
    """A copy of it, to be damaged."""
    return Path(shutil.copytree(whole, tmp_path / "run"))


def latest(run_dir):
    folder = run_dir / "checkpoints"
    return folder / json.loads((folder / "latest.json").read_text())["checkpoint"]


def loaded(run_dir):
    """An agent and a replay, as a run has them before it loads a checkpoint."""
    spec = load_spec(run_dir)
    return make_agent(load_config(run_dir).agent, spec), Replay(spec, 14, 0.99)


def equal(run_dir, other):
    return in_order(records(run_dir)) == in_order(records(other)) and same(weights(run_dir), weights(other))


class Killed(BaseException):
    """As with kill -9, nothing is saved."""


def at_breath(monkeypatch, calls, act):
    """Does something at the so-manieth moment at which a run takes breath."""
    housekeeping, count = Run.housekeeping, iter(range(10**9))

    def counted(self):
        if next(count) == calls:
            act(self)
        housekeeping(self)

    monkeypatch.setattr(Run, "housekeeping", counted)


# the terminal


@pytest.fixture(params=["terminal", "pipe", "disk"])
def nowhere(request):
    """A stream that cannot be written any more: its terminal is closed, its reader has ended, its disk is full."""
    if request.param == "disk":
        stream = open("/dev/full", "w")  # noqa: SIM115 (closed below)
    else:
        other, end = pty.openpty() if request.param == "terminal" else os.pipe()
        stream = os.fdopen(end, "w")
        os.close(other)
    with pytest.raises(OSError, match="Errno"):
        print("this is lost", file=stream, flush=True)
    yield stream
    with suppress(OSError):  # as it tries once more
        stream.close()


def test_words_that_nobody_can_read_end_nothing(nowhere, monkeypatch):
    monkeypatch.setattr(sys, "stdout", nowhere)
    display = Display(10, 10)
    with display:
        display.say("hello")
        display.show(1, "training", "")
    for _ in range(200):  # more than is kept for later
        lasting_console(width=50).print("x" * 50, highlight=False)


def test_words_come_again_when_there_is_room_again(tmp_path, monkeypatch):
    with (tmp_path / "log").open("w") as log:
        monkeypatch.setattr(sys, "stdout", log)
        console = lasting_console()
        with file_limit(0):
            console.print("first")
        console.print("second")
    assert (tmp_path / "log").read_text() == "first\nsecond\n"


class file_limit:  # noqa: N801 (a context, read as words)
    """From here on no file of this process may be larger, which fails as a full disk does."""

    def __init__(self, size):
        self.size = size

    def __enter__(self):
        self.before = resource.getrlimit(resource.RLIMIT_FSIZE)
        resource.setrlimit(resource.RLIMIT_FSIZE, (self.size, self.before[1]))

    def __exit__(self, *error):
        resource.setrlimit(resource.RLIMIT_FSIZE, self.before)


def test_unwritten_words_are_no_failure():
    code = "from alda.progress import lasting_console as c; c().print('a'); c().print('b')"
    with open("/dev/full", "w") as full:
        ended = subprocess.run([sys.executable, "-c", code], stdout=full, stderr=subprocess.PIPE)
    assert (ended.returncode, ended.stderr) == (0, b"")


def test_a_hangup_is_collected_once(heard):
    """A terminal that closes sends one, and its shell another."""
    before = signal.getsignal(signal.SIGHUP)
    with collected_signals() as caught:
        for number in (signal.SIGHUP, signal.SIGHUP):
            os.kill(os.getpid(), number)
    assert caught == [signal.SIGHUP]
    with collected_signals() as caught:
        for number in (signal.SIGINT, signal.SIGHUP):
            os.kill(os.getpid(), number)
    assert caught == [signal.SIGINT]
    assert signal.getsignal(signal.SIGHUP) == before


def test_a_hangup_that_is_ignored_stays_so():
    before = signal.signal(signal.SIGHUP, signal.SIG_IGN)
    with collected_signals() as caught:
        os.kill(os.getpid(), signal.SIGHUP)
    signal.signal(signal.SIGHUP, before)
    assert caught == []


def test_a_closed_terminal_saves_the_run_and_the_same_command_goes_on(heard, whole, tmp_path, monkeypatch):
    ours, theirs = pty.openpty()
    terminal = os.fdopen(theirs, "w")

    def hang_up(_):
        os.close(ours)
        os.kill(os.getpid(), signal.SIGHUP)

    with monkeypatch.context() as patch:
        patch.setattr(sys, "stdout", terminal)
        at_breath(patch, 38, hang_up)
        with pytest.raises(SystemExit) as ended:
            train(short(tmp_path / "run"))
    assert ended.value.code == 128 + signal.SIGHUP
    with pytest.raises(OSError, match="Errno 5"):
        print("this is lost", file=terminal, flush=True)
    with suppress(OSError):  # as it tries once more
        terminal.close()
    step = json.loads((latest(tmp_path / "run") / "state.json").read_text())["position"]["step"]
    assert step % 6 != 0  # no checkpoint that would have been written anyway
    train(short(tmp_path / "run"))
    assert equal(tmp_path / "run", whole)


def test_a_run_that_another_process_has_taken_over_is_left_to_it(whole, tmp_path, monkeypatch, capsys):
    """As after a network was gone for so long that its file system gave the lock to another machine."""
    run_dir, kept = tmp_path / "run", []

    def take_over(run):
        kept.append(latest(run_dir))
        (run_dir / ".lock").write_text("another's")

    with monkeypatch.context() as patch:
        at_breath(patch, 30, take_over)
        with pytest.raises(SystemExit) as ended:
            train(short(run_dir))
    assert ended.value.code == 1
    assert f"another process has taken {run_dir} over" in capsys.readouterr().out
    assert latest(run_dir) == kept[0]
    assert [path.name for path in (run_dir / "checkpoints").glob("save_*")] == [kept[0].name]
    train(short(run_dir))
    assert equal(run_dir, whole)


def test_an_interruption_right_after_a_checkpoint_is_whole_leaves_it_there(run, monkeypatch):
    write = alda.training.checkpoint.write_json

    def interrupted(path, content):
        write(path, content)
        if path.name == "latest.json":
            raise KeyboardInterrupt

    agent, replay = loaded(run)
    state = load_checkpoint(run, agent, replay)
    with monkeypatch.context() as patch:
        patch.setattr(alda.training.checkpoint, "write_json", interrupted)
        with pytest.raises(KeyboardInterrupt):
            alda.training.checkpoint.save_checkpoint(run, agent, replay, state)
    again, again_replay = loaded(run)
    load_checkpoint(run, again, again_replay)
    assert same(again.state_dict(), agent.state_dict())


# metrics


@pytest.mark.parametrize(
    "tail",
    [b'{"st', b'{"step": 9, "eval/train/world": {"a": 1}', b"\0\0\0", b'{"step": 9, "a"\0\0\0', b'{"step": 9}\0'],
)
def test_a_half_written_last_line_is_left_out(tmp_path, tail):
    (tmp_path / "metrics.jsonl").write_bytes(b'{"step": 3}\n' + tail)
    assert read_metrics(tmp_path) == [{"step": 3}]


@pytest.mark.parametrize("line", [b"nonsense", b'{"step": 9, "a', b"3", b'{"a": 1}', pickle.dumps(3), b"[" * 100_000])
def test_another_line_that_cannot_be_read_is_named(tmp_path, line):
    (tmp_path / "metrics.jsonl").write_bytes(b'{"step": 3}\n' + line + b'\n{"step": 5}\n')
    with pytest.raises(UserError, match=r"metrics.jsonl is damaged at line 2 .*put a copy in its place") as raised:
        read_metrics(tmp_path)
    assert isinstance(raised.value, ValueError)


def test_lines_that_a_checkpoint_counts_are_not_forgotten(run, capsys):
    """Without them the run is refused as it is; without the file it goes on."""
    metrics = run / "metrics.jsonl"
    content = metrics.read_bytes()
    saved = {"sums": {}, "counts": {}, "lines": content.count(b"\n")}
    for damage in (content[:-5], b"", pickle.dumps(content), content.replace(b"{", b"(", 1)):
        metrics.write_bytes(damage)
        with pytest.raises(DamagedMetrics, match=r"has lost lines|is damaged at line 1"):
            Logger(run, saved=saved)
        assert metrics.read_bytes() == damage
    metrics.unlink()
    train(short(run, steps=16))
    assert "note: metrics.jsonl is not there any more; it begins anew" in capsys.readouterr().out
    assert [row["step"] for row in records(run)] == [15, 16, 16]


def test_lines_are_on_disk_before_a_checkpoint_counts_them(tmp_path, monkeypatch):
    flushed, fsync = [], os.fsync

    def recorded(number):
        flushed.append(Path(os.readlink(f"/proc/self/fd/{number}")).name)
        fsync(number)

    with monkeypatch.context() as patch:
        patch.setattr(os, "fsync", recorded)
        train(short(tmp_path, steps=3))
    moments = [i for i, name in enumerate(flushed) if name == ".latest.json.partial"]
    lines = [i for i, name in enumerate(flushed) if name == "metrics.jsonl"]
    assert len(moments) == 3  # at the start, and after two evaluations
    assert len(lines) == len(records(tmp_path)) == 3
    assert moments[0] < lines[0] < moments[1] < lines[1] < lines[2] < moments[2]
    assert flushed[moments[2] - 4 : moments[2]] == ["replay", "save_000003", "checkpoints", tmp_path.name]
    assert flushed[moments[2] + 1] == "checkpoints"


# checkpoints


class Evil:
    def __init__(self, place):
        self.place = place

    def __reduce__(self):
        return (Path.touch, (self.place / "hacked",))


FILES = {
    "latest.json": lambda run: run / "checkpoints" / "latest.json",
    "state.json": lambda run: latest(run) / "state.json",
    "agent.safetensors": lambda run: latest(run) / "agent.safetensors",
    "training.safetensors": lambda run: latest(run) / "training.safetensors",
    "replay": lambda run: next((run / "checkpoints" / "replay").iterdir()),
}


@pytest.mark.parametrize("name", FILES)
def test_a_damaged_or_foreign_file_is_named_and_nothing_of_it_runs(run, tmp_path, name):
    agent, spec = make_agent(load_config(run).agent, load_spec(run)), load_spec(run)
    file = FILES[name](run)
    half = file.read_bytes()[: file.stat().st_size // 2]
    for damage in (b"", half, b"null", b"[1]", b'"x"', b"{}", bytes(100), pickle.dumps(Evil(tmp_path))):
        file.write_bytes(damage)
        with pytest.raises(UserError, match=rf"{name} is damaged \(.*put a copy in its place"):
            load_checkpoint(run, agent, Replay(spec, 14, 0.99))
    assert not (tmp_path / "hacked").exists()


def test_a_state_without_one_of_its_parts_is_refused(run):
    file = latest(run) / "state.json"
    state = json.loads(file.read_text())
    for part in ("random", "logger"):
        file.write_text(json.dumps({name: value for name, value in state.items() if name != part}))
        with pytest.raises(UserError, match=rf"is damaged or is from another version of alda \(KeyError: '{part}'\)"):
            train(short(run, steps=16))


@pytest.mark.parametrize("name", ["config.json", "metrics.jsonl"])
def test_nothing_of_foreign_records_runs(run, tmp_path, name):
    (run / name).write_bytes(pickle.dumps(Evil(tmp_path)) + b"\n")
    with pytest.raises(UserError, match=name):
        train(short(run, steps=16))
    assert not (tmp_path / "hacked").exists()


def test_what_others_put_beside_the_files_of_a_run_is_left_alone(run, tmp_path):
    places = ("checkpoints/save_best", "checkpoints/save_000001.zip", "tensorboard/events", "evaluations/a.json")
    for place in places:
        (run / place).parent.mkdir(exist_ok=True)
        (run / place).write_bytes(pickle.dumps(Evil(tmp_path)))
    train(short(run, steps=16))
    assert all((run / place).exists() for place in places)
    assert not (tmp_path / "hacked").exists()
    assert latest(run) in list((run / "checkpoints").glob("save_??????"))


def test_weights_are_those_of_the_next_checkpoint_when_training_replaces_the_one_being_read(run, monkeypatch):
    read, before, spec = alda.training.checkpoint.read_tensors, latest(run), load_spec(run)

    def replaced(path):
        if path.parent == before and before.exists():
            before.rename(before.with_name("save_000099"))
            (run / "checkpoints" / "latest.json").write_text('{"checkpoint": "save_000099"}')
        return read(path)

    monkeypatch.setattr(alda.training.checkpoint, "read_tensors", replaced)
    assert load_weights(run, make_agent(load_config(run).agent, spec)) == 14


@pytest.mark.slow
def test_a_run_killed_before_its_first_evaluation_is_over_goes_on(whole, tmp_path, monkeypatch):
    """Beside which it had learned."""

    def die(self):
        if self.at.step == 4:
            raise Killed

    with monkeypatch.context() as patch:
        patch.setattr(Run, "follow_evaluation", lambda self, wait=False: None)
        patch.setattr(Run, "housekeeping", die)
        with pytest.raises(Killed):
            train(short(tmp_path / "run", eval_workers=1, eval_beside=True))
    assert [row["step"] for row in records(tmp_path / "run")] == [3]
    train(short(tmp_path / "run"))
    assert equal(tmp_path / "run", whole)


def test_a_first_checkpoint_that_cannot_be_written_ends_the_run_at_once(tmp_path, monkeypatch, capsys):
    def full(*_):
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr(alda.training.trainer, "save_checkpoint", full)
        with pytest.raises(SystemExit) as ended:
            train(short(tmp_path))
    assert ended.value.code == 1
    assert "stopped at step 0: [Errno 28] No space left on device; there is no checkpoint" in capsys.readouterr().out
    assert records(tmp_path) == []


def test_a_run_directory_that_vanishes_ends_the_run_and_is_not_made_again(tmp_path, monkeypatch, capsys):
    with monkeypatch.context() as patch:
        at_breath(patch, 30, lambda self: (shutil.rmtree(self.run_dir), self.save()))
        with pytest.raises(SystemExit) as ended:
            train(short(tmp_path / "run"))
    assert ended.value.code == 1
    said = capsys.readouterr().out
    assert "warning: no checkpoint at step" in said
    assert said.rstrip().endswith("there is no checkpoint")
    assert not (tmp_path / "run").exists()


def test_a_place_that_is_no_folder_or_cannot_be_written_is_said(tmp_path):
    (tmp_path / "file").touch()
    with pytest.raises(UserError, match="is a file; choose another --run-dir"):
        train(short(tmp_path / "file"))
    with pytest.raises(OSError, match=r"/proc/self/task/\.lock"):
        train(short(Path("/proc/self/task")))


@pytest.mark.slow
def test_a_killed_evaluation_changes_nothing(whole, tmp_path, monkeypatch, capsys):
    shot = []

    def shoot(self, *, wait=False):
        if self.at.step == 6 and self.evaluation is not None and not shot:
            shot.append(os.kill(self.stage._slots[0].process.pid, signal.SIGKILL))
        follow(self, wait=wait)

    follow = Run.follow_evaluation
    with monkeypatch.context() as patch:
        patch.setattr(Run, "follow_evaluation", shoot)
        train(short(tmp_path / "run", eval_workers=1))
    assert "environment process 0 (train) died: killed by SIGKILL" in capsys.readouterr().out
    assert equal(tmp_path / "run", whole)


def test_a_video_on_a_full_disk_fails_as_a_file_does(tmp_path):
    noise = np.random.default_rng(0).integers(256, size=(40, 64, 64, 3), dtype=np.uint8)
    with file_limit(1_000), pytest.raises(OSError, match="Errno"):
        write_video(tmp_path / "clip", list(noise), 10)


def test_numbers_for_tensorboard_that_cannot_be_written_end_nothing(tmp_path, monkeypatch):
    logger = Logger(tmp_path)
    logger.write({"step": 3}, {"a": 1.0})
    close = logger._board.close

    def fails():
        close()
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(logger._board, "close", fails)
    logger.close()
    assert read_metrics(tmp_path) == [{"step": 3, "a": 1.0}]
