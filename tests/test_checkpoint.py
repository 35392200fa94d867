"""Files of a run, and signals: what is damaged is named, what is not is kept, and nothing foreign is ever run."""

import json
import os
import pickle
import pty
import shutil
import signal
import subprocess
import sys
from contextlib import suppress
from pathlib import Path

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
    forget_digests,
    latest,
    position,
    records,
)

import alda
import alda.training.checkpoint
import alda.training.trainer
from alda.agents import make_agent
from alda.config import load_config
from alda.errors import UserError
from alda.provenance import load_spec
from alda.training.checkpoint import load_checkpoint, load_weights, save_checkpoint
from alda.training.logger import Logger, read_metrics
from alda.training.replay import Replay
from alda.training.run_lock import collected_signals
from alda.training.trainer import train


def loaded(run_dir):
    """An agent and a replay, as a run has them before it loads a checkpoint."""
    config = load_config(run_dir)
    spec = load_spec(run_dir, config)
    return make_agent(config.agent, spec), Replay(spec, STEPS, 0.99)


def load(run_dir):
    return load_checkpoint(run_dir, *loaded(run_dir))


# signals and locks


@pytest.mark.parametrize(
    ("sent", "caught", "before"),
    [
        ((signal.SIGHUP, signal.SIGHUP), [signal.SIGHUP], signal.SIG_DFL),
        ((signal.SIGINT, signal.SIGHUP), [signal.SIGINT], signal.SIG_DFL),
        ((signal.SIGHUP,), [], signal.SIG_IGN),  # as under nohup
    ],
)
def test_a_hangup_is_collected_once_and_stays_ignored(heard, sent, caught, before):
    """A terminal that closes sends one, and its shell another."""
    signal.signal(signal.SIGHUP, before)
    with collected_signals() as collected:
        for number in sent:
            os.kill(os.getpid(), number)
    assert collected == caught
    assert signal.getsignal(signal.SIGHUP) == before


def test_a_closed_terminal_saves_the_run_and_the_same_command_resumes_it(heard, whole, tmp_path, monkeypatch):
    ours, theirs = pty.openpty()
    terminal = os.fdopen(theirs, "w")

    def hang_up(_):
        os.close(ours)
        os.kill(os.getpid(), signal.SIGHUP)

    with monkeypatch.context() as patch:
        patch.setattr(sys, "stdout", terminal)
        end = ended(patch, config_for(tmp_path / "run"), lambda t: t.at.step == 16, hang_up)
    with suppress(OSError):  # as it tries once more
        terminal.close()
    assert end.code == 128 + signal.SIGHUP
    assert position(tmp_path / "run")["step"] == 16
    train(config_for(tmp_path / "run"))
    assert_same_run(tmp_path / "run", whole())


def test_two_processes_cannot_train_in_one_place(tmp_path):
    code = (
        "import fcntl, sys, time; f = open(sys.argv[1], 'w'); fcntl.flock(f, 2); print(1, flush=True); time.sleep(60)"
    )
    with subprocess.Popen([sys.executable, "-c", code, tmp_path / ".lock"], stdout=subprocess.PIPE) as other:
        assert other.stdout is not None
        other.stdout.readline()
        with pytest.raises(UserError, match="is being trained by another process"):
            train(config_for(tmp_path))
        other.kill()


@pytest.mark.parametrize("take_over", [lambda lock: lock.write_text("another's"), Path.unlink])
def test_a_run_that_another_process_may_have_taken_over_is_left_to_it(whole, tmp_path, monkeypatch, capsys, take_over):
    """As after a network was gone for so long that its file system gave the lock to another machine."""
    run, kept = tmp_path / "run", []

    def act(_):
        kept.append((latest(run), records(run)))
        take_over(run / ".lock")

    assert ended(monkeypatch, config_for(run), lambda t: t.at.step == 16, act).code == 1
    assert "another process may have taken the run over" in capsys.readouterr().out
    assert [(latest(run), records(run))] == kept
    assert list((run / "checkpoints").glob("save_*")) == [latest(run)]
    train(config_for(run))
    assert_same_run(run, whole())


def linked(victim, place):
    if place.is_dir():
        shutil.rmtree(place)
    place.unlink(missing_ok=True)
    place.symlink_to(victim)


@pytest.mark.parametrize("place", [".lock", "checkpoints", "checkpoints/replay", "tensorboard", "metrics.jsonl"])
def test_links_in_a_run_directory_lead_nowhere(run, tmp_path, place):
    victim = tmp_path / "victim"
    if place in (".lock", "metrics.jsonl"):
        victim.write_bytes((run / place).read_bytes())
    else:
        shutil.copytree(run / place, victim)
        (victim / "000000000000-000000000001.safetensors").touch()
    before = {path: path.read_bytes() for path in (victim, *victim.rglob("*")) if path.is_file()}
    linked(victim, run / place)
    with suppress(UserError, OSError):
        train(config_for(run, steps=STEPS + 2))
    assert {path: path.read_bytes() for path in (victim, *victim.rglob("*")) if path.is_file()} == before


def test_a_lock_that_is_no_file_is_refused(run):
    (run / ".lock").unlink()
    os.mkfifo(run / ".lock")
    with pytest.raises(OSError, match=r"\.lock"):
        train(config_for(run))


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
    with pytest.raises(UserError, match=r"metrics.jsonl is damaged at line 2 .*put a copy in its place"):
        read_metrics(tmp_path)


def test_lines_that_a_checkpoint_counts_are_not_forgotten(run, capsys):
    """Without them the run is refused as it is; without the file it goes on."""
    metrics = run / "metrics.jsonl"
    content = metrics.read_bytes()
    for damage in (content[:-5], b"", pickle.dumps(content), content.replace(b"{", b"(", 1)):
        metrics.write_bytes(damage)
        with pytest.raises(UserError, match=r"has lost lines|is damaged at line 1"):
            Logger(run, saved={"sums": {}, "counts": {}, "lines": content.count(b"\n")})
        assert metrics.read_bytes() == damage
    metrics.unlink()
    train(config_for(run, steps=STEPS + 2))
    assert "note: metrics.jsonl is gone; a new one begins" in capsys.readouterr().out
    assert [row["step"] for row in records(run)] == [33, 33]


def test_lines_are_on_disk_before_a_checkpoint_counts_them(tmp_path, monkeypatch):
    flushed, fsync = [], os.fsync

    def recorded(number):
        flushed.append(Path(os.readlink(f"/proc/self/fd/{number}")).name)
        fsync(number)

    with monkeypatch.context() as patch:
        patch.setattr(os, "fsync", recorded)
        train(config_for(tmp_path, steps=3))
    moments = [i for i, name in enumerate(flushed) if name == ".partial.latest.json"]
    lines = [i for i, name in enumerate(flushed) if name == "metrics.jsonl"]
    assert len(moments) == 3  # at the start, and after two evaluations
    assert len(lines) == len(records(tmp_path)) == 3
    assert moments[0] < lines[0] < moments[1] < lines[1] < lines[2] < moments[2]
    assert flushed[moments[2] - 4 : moments[2]] == ["replay", "save_000003", "checkpoints", tmp_path.name]
    assert flushed[moments[2] + 1] == "checkpoints"


def test_numbers_that_tensorboard_cannot_write_end_nothing(tmp_path):
    logger = Logger(tmp_path)
    logger.write({"step": 3}, {"a": 1.0, "b": float("nan")})
    with file_limit(0):
        logger.close()
    assert read_metrics(tmp_path) == [{"step": 3, "a": 1.0, "b": None}]


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
def test_a_flipped_bit_is_noticed(run, name):
    file = FILES[name](run)
    content = file.read_bytes()
    for place in (0, len(content) // 3, len(content) - 2):
        file.write_bytes(content[:place] + bytes([content[place] ^ 1]) + content[place + 1 :])
        for read in (load,) if name in ("training.safetensors", "replay") else (load, alda.load):
            with pytest.raises(UserError, match=rf"{name} is damaged"):
                read(run)


def test_a_checkpoint_of_an_earlier_version_has_no_digests(run):
    forget_digests(run)
    assert "sha256" not in (latest(run) / "state.json").read_text()
    load(run)


@pytest.mark.parametrize("name", FILES)
def test_a_damaged_or_foreign_file_is_named_and_nothing_of_it_runs(run, tmp_path, name):
    file = FILES[name](run)
    half = file.read_bytes()[: file.stat().st_size // 2]
    for damage in (b"", half, b"null", b"[1]", b'"x"', b"{}", bytes(100), pickle.dumps(Evil(tmp_path))):
        file.write_bytes(damage)
        with pytest.raises(UserError, match=rf"{name} is damaged .*put a copy in its place"):
            load(run)
    assert not (tmp_path / "hacked").exists()


@pytest.mark.parametrize("error", [PermissionError(13, "no"), OSError(5, "no"), torch.OutOfMemoryError("no")])
def test_what_is_no_damage_is_not_called_so(run, monkeypatch, error):
    """Neither a file that may not be opened nor memory that is short."""
    both, opened = loaded(run), open

    def fails(path, *how, **options):
        if Path(path).name == "agent.safetensors":
            raise error
        return opened(path, *how, **options)

    monkeypatch.setattr("builtins.open", fails)
    with pytest.raises(type(error), match="no"):
        load_checkpoint(run, *both)


@pytest.mark.parametrize(
    ("change", "cause"),
    [
        (lambda state: state.pop("random"), "KeyError: 'random'"),
        (lambda state: state["position"].update(novelty=1), "TypeError: .*'novelty'"),
        (lambda state: state["position"].update(updates_left=10**12), "ValueError: 1000000000000 updates are left"),
        (lambda state: state["position"].update(step="7"), "Type.*Error: .*"),
        (lambda state: state["replay"].update(files=[[0, 10**12]]), "ValueError: it has no slots 0 to 1000000000000"),
        (lambda state: state["replay"].update(files=[]), "ValueError: .*"),
        (lambda state: state["logger"].update(lines=-1), "ValueError: .*"),
        (lambda state: state.update(agent={}), "KeyError: .*"),
    ],
)
def test_a_state_of_another_shape_is_refused(run, change, cause):
    forget_digests(run)
    state = json.loads((latest(run) / "state.json").read_text())
    change(state)
    (latest(run) / "state.json").write_text(json.dumps(state))
    with pytest.raises(UserError, match=rf"is damaged or from another version of alda \({cause}"):
        train(config_for(run, steps=STEPS + 1))


def changed(file, change):
    content = json.loads(file.read_text())
    change(content)
    file.write_text(json.dumps(content))


ABSURD = {
    "negative": ("config.json", lambda c: c["agent"].update(hidden_dim=-1), "hidden-dim must be at least 1"),
    "huge": ("config.json", lambda c: c["agent"].update(hidden_dim=10**9), "no agent can be made"),
    "null": ("meta.json", lambda c: c["spec"].update(action_dim=None), "its spec is not three whole numbers"),
    "word": ("meta.json", lambda c: c.update(versions="x"), "versions, trained_in and overlays are not"),
    "picture": ("meta.json", lambda c: c["spec"].update(image_size=20_000), "name different observations"),
    "weights": ("config.json", lambda c: c["agent"].update(embed_dim=9), "holds another agent than config.json says"),
}


@pytest.mark.parametrize("name", ABSURD)
def test_an_absurd_run_directory_is_refused_in_one_sentence(run, name):
    file, change, sentence = ABSURD[name]
    changed(run / file, change)
    with pytest.raises(UserError, match=sentence) as raised:
        alda.load(run)
    assert "\n" not in str(raised.value)


@pytest.mark.parametrize("file", ["config.json", "meta.json", "checkpoints/latest.json", "state", "agent"])
@pytest.mark.parametrize("kind", ["pipe", "/dev/zero", "deep"])
def test_pipes_devices_and_deep_files_are_refused_at_once(run, file, kind):
    names = {"state": "state.json", "agent": "agent.safetensors"}
    path = latest(run) / names[file] if file in names else run / file
    path.unlink()
    if kind == "pipe":
        os.mkfifo(path)
    elif kind == "deep":
        path.write_text("[" * 10_000)
    else:
        path.symlink_to(kind)
    with pytest.raises(UserError, match=path.name):
        alda.load(run)


def test_what_others_put_beside_the_files_of_a_run_is_left_alone(run, tmp_path):
    places = ("checkpoints/save_best", "checkpoints/save_000001.zip", "tensorboard/events", "evaluations/a.json")
    for place in places:
        (run / place).parent.mkdir(exist_ok=True)
        (run / place).write_bytes(pickle.dumps(Evil(tmp_path)))
    train(config_for(run, steps=STEPS + 1))
    assert all((run / place).exists() for place in places)
    assert not (tmp_path / "hacked").exists()
    assert list((run / "checkpoints").glob("save_??????")) == [latest(run)]


def test_weights_are_those_of_the_next_checkpoint_when_training_replaces_the_one_being_read(run, monkeypatch):
    read, before = alda.training.checkpoint.read_tensors, latest(run)

    def replaced(path):
        if path.parent == before and before.exists():
            before.rename(before.with_name("save_000099"))
            file = run / "checkpoints" / "latest.json"
            file.write_text(file.read_text().replace(before.name, "save_000099"))
        return read(path)

    monkeypatch.setattr(alda.training.checkpoint, "read_tensors", replaced)
    assert load_weights(run, loaded(run)[0]) == STEPS


def test_an_interruption_right_after_a_checkpoint_is_complete_leaves_it_there(run, monkeypatch):
    write = alda.training.checkpoint.write_json

    def interrupted(path, content):
        digest = write(path, content)
        if path.name == "latest.json":
            raise KeyboardInterrupt
        return digest

    agent, replay = loaded(run)
    state = load_checkpoint(run, agent, replay)
    with monkeypatch.context() as patch:
        patch.setattr(alda.training.checkpoint, "write_json", interrupted)
        with pytest.raises(KeyboardInterrupt):
            save_checkpoint(run, agent, replay, state)
    again, _ = both = loaded(run)
    load_checkpoint(run, *both)
    assert equal(again.state_dict(), agent.state_dict())


def test_a_first_checkpoint_that_cannot_be_written_ends_the_run_at_once(tmp_path, monkeypatch, capsys):
    def full(*_):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(alda.training.trainer, "save_checkpoint", full)
    with pytest.raises(SystemExit, match="1"):
        train(config_for(tmp_path))
    assert "stopped at step 0: [Errno 28] No space left on device; there is no checkpoint" in capsys.readouterr().out
    assert records(tmp_path) == []


def test_a_run_directory_that_vanishes_ends_the_run_and_is_not_made_again(tmp_path, monkeypatch, capsys):
    config = config_for(tmp_path / "run")
    assert (
        ended(monkeypatch, config, lambda t: t.at.step == 3, lambda t: (shutil.rmtree(t.run_dir), t.save())).code == 1
    )
    assert ".lock is gone" in capsys.readouterr().out
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize("place", ["checkpoints", "checkpoints/replay", "config.json", "meta.json"])
def test_what_vanishes_while_training_is_said_and_written_anew(whole, tmp_path, monkeypatch, capsys, place):
    run = tmp_path / "run"

    def vanish(trainer):
        path = run / place
        shutil.rmtree(path) if path.is_dir() else path.unlink()
        trainer.save()
        raise Killed

    ended(monkeypatch, config_for(run), lambda t: t.at.step == 16, vanish)
    assert f"warning: {place}" in capsys.readouterr().out
    train(config_for(run))
    assert_same_run(run, whole())
    assert json.loads((run / "meta.json").read_text()).keys() == json.loads((whole() / "meta.json").read_text()).keys()


@pytest.mark.parametrize("kept", [None, 2])
def test_metrics_that_vanish_while_training_are_said_to_be_lost(tmp_path, monkeypatch, capsys, kept):
    run = tmp_path / "run"
    metrics = run / "metrics.jsonl"

    def cut(_):
        lines = metrics.read_bytes().splitlines(keepends=True)
        metrics.unlink()
        if kept:
            metrics.write_bytes(b"".join(lines[:kept]) + b'{"st')

    assert ended(monkeypatch, config_for(run), lambda t: t.at.step == 16, cut).code == 1
    assert f"was changed by something else; {kept or 0} lines of it are left" in capsys.readouterr().out
    assert [row["step"] for row in records(run)][(kept or 0) :] == [20, 21, 28, 30, 31, 31]
    train(config_for(run))  # it counts the lines that are there


def test_a_run_without_its_replay_can_be_evaluated_but_not_continued(run):
    shutil.rmtree(run / "checkpoints" / "replay")
    assert alda.load(run).step == STEPS
    with pytest.raises(UserError, match="can be evaluated, but not continued"):
        train(config_for(run, steps=40))
