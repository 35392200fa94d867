"""The runner, on a program that pretends to train; child processes; what run directories tell; a real sweep."""

import json
import os
import shutil
import signal
import subprocess
import sys
from contextlib import ExitStack, suppress
from dataclasses import replace
from threading import Thread
from types import SimpleNamespace

import psutil
import pytest
from studies import FOUR, PRETENDER, TINY, calls, checkpoint, is_gone, metrics, step_of, study_of, until

from alda.commands.sweep import sweep
from alda.errors import UserError
from alda.sweep import child, local, study_run
from alda.sweep.local import LocalPlace, Machine, Needs, choose_slots
from alda.sweep.runner import Entry, Runner
from alda.sweep.status import table
from alda.sweep.study_run import StudyRun
from alda.training.run_lock import collected_signals, only_one

COMPARE = study_run.requested  # takes time, and is tested by itself


@pytest.fixture(autouse=True)
def quick(monkeypatch):
    monkeypatch.setattr(study_run, "requested", lambda _: None)


@pytest.fixture
def compare(monkeypatch):
    monkeypatch.setattr(study_run, "requested", COMPARE)


@pytest.fixture(scope="module")
def study(tmp_path_factory):
    return study_of(tmp_path_factory.mktemp("study"), FOUR)


@pytest.fixture
def place(study):
    """Return the folder of the file."""
    return study.folder.parents[1]


@pytest.fixture
def four(study, place, monkeypatch):
    """Return the runs, begun; plan(s0=[...]) says what their commands do, in place of this program's."""
    shutil.rmtree(study.folder, ignore_errors=True)
    for run in study.runs:
        checkpoint(run, 0, 0)
    (place / "pretender.py").write_text(PRETENDER)
    monkeypatch.setattr(local, "this_program", lambda: [str(place / "pretender.py")])
    plan(study)
    return [replace(run, final=None) for run in study.runs]


def plan(study, **words):
    (study.folder.parents[1] / "plan").write_text(json.dumps(words))


@pytest.fixture
def go(study, four):
    """Run runs in so many slots; return the entries and what was said."""

    def go(runs=four, jobs=2, retries=2, caught=(), watch=lambda _: None, **words):
        plan(study, **words)
        said = []
        made = Runner(runs, LocalPlace(jobs, 3, 4, "about"), retries, said.append, watch)
        made.run(caught, pause=0.01)
        return made.entries, said

    return go


def states(entries):
    return [entry.state for entry in entries]


def test_every_run_is_trained_and_scored_in_the_slots_there_are_and_once(go, study, four):
    runs, most = [replace(run, workers=4) for run in study.runs], []
    checkpoint(runs[3], 30, 30)
    entries, said = go(runs, watch=lambda entries: most.append(sum(entry.job is not None for entry in entries)))
    assert states(entries) == ["finished"] * 4
    assert max(most) == 2
    for run in runs:
        commands = ["evaluate"] if run is runs[3] else ["train", "evaluate"]
        assert [(call["command"], call["threads"], call["workers"]) for call in calls(run)] == [
            (command, "3", "4") for command in commands
        ]
    log = (runs[0].run_dir / "log.txt").read_text()
    assert log.startswith("$ alda train sac --env.task cartpole_balance")
    assert log.count("line one") == 2
    s0 = runs[0].label
    assert [line for line in said if s0 in line] == [f"{s0}: {now}" for now in ("training", "evaluating", "finished")]
    entries, said = go(runs)
    assert (states(entries), said) == (["finished"] * 4, [])


def test_what_died_is_tried_again_behind_the_others(go, four):
    entries, said = go(jobs=1, s0=["die", "ok"])
    assert states(entries) == ["finished"] * 4
    assert [line[-12:-10] for line in said if line.endswith(": training")] == ["s0", "s1", "s2", "s3", "s0"]
    (died,) = [line for line in said if "died" in line]
    assert died.startswith(f"{four[0].label}: waiting: died and will be tried again (1 of 2): killed by SIGKILL")
    assert died.endswith("its last words: line one | line two | this is die")


@pytest.mark.parametrize(
    ("word", "retries", "count", "reason"),
    [
        ("1", 2, 3, "it ended with exit code 1; its last words: line one | line two | this is 1"),
        ("2", 2, 1, "it ended with exit code 2"),  # wrong input
        ("nothing", 1, 2, "it ended without having finished"),
    ],
)
def test_what_always_dies_is_given_up_and_disturbs_no_other(go, four, word, retries, count, reason):
    entries, _ = go(s2=[word], retries=retries)
    assert states(entries) == ["finished", "finished", "failed", "finished"]
    assert len(calls(four[2])) == count
    assert entries[2].reason.startswith(reason)


def test_a_run_that_another_process_trains_waits_for_it_and_takes_no_slot(go, four):
    lock, seen = ExitStack(), []

    def watch(entries):
        seen.append(entries[0].state)
        if states(entries[1:]) == ["finished"] * 3 and seen.count("in use") > 30:
            lock.close()

    lock.enter_context(only_one(four[0].run_dir))
    entries, said = go(jobs=1, watch=watch)
    assert states(entries) == ["finished"] * 4
    assert (
        len([line for line in said if line == f"{four[0].label}: in use: another process works on it; waits for that"])
        == 1
    )


def test_a_place_that_cannot_be_written_or_watched_fails_alone(go, four):
    (four[3].run_dir / "log.txt").mkdir()

    def watch(_):
        raise OSError("stale file handle")

    entries, _ = go(retries=1, watch=watch)
    assert states(entries) == ["finished"] * 3 + ["failed"]
    assert "Is a directory" in entries[3].reason
    assert entries[3].deaths == 2


def test_settings_that_changed_meanwhile_fail_alone(go, four, compare):
    config = four[1].run_dir / "config.json"
    changed = json.loads(config.read_text()) | {"log_every": 7}
    entries, _ = go(four[:3], jobs=1, watch=lambda _: config.write_text(json.dumps(changed)))
    assert states(entries) == ["finished", "failed", "finished"]
    assert "log_every: 7 -> 500" in entries[1].reason


def are_waiting(runs):
    return all((run.run_dir / "waiting").exists() for run in runs)


def test_ctrl_c_saves_every_run_and_the_next_sweep_resumes(heard, go, four):
    def press(_):
        if are_waiting(four[:2]) and not caught:
            os.kill(os.getpid(), signal.SIGINT)

    with collected_signals() as caught:
        entries, said = go(s0=["wait", "ok"], s1=["wait", "ok"], caught=caught, watch=press)
    assert states(entries) == ["stopped", "stopped", "waiting", "waiting"]
    assert [step_of(run) for run in four] == [15, 15, 0, 0]
    assert "stopping: every run saves a checkpoint; a second Ctrl-C kills them" in said
    assert states(go()[0]) == ["finished"] * 4
    assert [calls(run)[-1]["step"] for run in four] == [15, 15, 0, 0]


def test_a_second_ctrl_c_kills(heard, go, four, monkeypatch):
    """Commands that do not listen to the first."""
    jobs, send = [], subprocess.Popen.send_signal
    deaf = lambda job, number: number == signal.SIGKILL and send(job, number)  # noqa: E731
    monkeypatch.setattr(subprocess.Popen, "send_signal", deaf)

    def press(entries):
        jobs[:] = [entry.job for entry in entries if entry.job] or jobs
        if are_waiting(four[:2]):
            os.kill(os.getpid(), signal.SIGINT)

    with pytest.raises(KeyboardInterrupt), collected_signals() as caught:
        go(s0=["wait"], s1=["wait"], caught=caught, watch=press)
    assert [job.wait() for job in jobs] == [-signal.SIGKILL] * 2
    assert signal.getsignal(signal.SIGINT) == signal.default_int_handler


# child processes


@pytest.mark.parametrize("handled", [signal.SIGHUP, signal.SIGINT])
def test_a_child_whose_parent_is_gone_gets_the_signal_that_interrupts_no_saving(monkeypatch, handled, heard):
    """A second SIGINT acts at once, a second SIGHUP does not; what does not handle that gets SIGINT. On a full disk."""
    sent = []
    monkeypatch.setattr(os, "kill", lambda pid, number: sent.append((pid, number)))
    signal.signal(handled, lambda *_: None)
    with open("/dev/full", "w") as full, monkeypatch.context() as patch:
        patch.setattr(sys, "stdout", full)
        child._stop_with(os.getppid() + 1)
        with suppress(OSError):  # as it tries once more
            full.close()
    assert sent == [(os.getpid(), handled)]


def test_a_child_of_a_killed_parent_saves(study, place, four):
    plan(study, s0=["wait"])
    words = ["train", "--run-dir", str(four[0].run_dir)]
    code = (
        "import sys, time; from pathlib import Path; from alda.sweep.local import start_process\n"
        f"job = start_process({words!r}, Path({str(place / 'log')!r}), {{'OMP_NUM_THREADS': '1'}}, "
        f"[{str(place / 'pretender.py')!r}])\ntime.sleep(60)"
    )
    with subprocess.Popen([sys.executable, "-c", code]) as parent:
        until(lambda: are_waiting(four[:1]), 60)
        (started,) = psutil.Process(parent.pid).children()
        assert os.getpgid(started.pid) != os.getpgid(parent.pid)  # Ctrl-C does not reach it
        parent.kill()
    until(lambda: is_gone(started.pid))
    assert step_of(four[0]) == 15


def test_children_are_called_as_this_program_was(monkeypatch):
    """So that methods which a user's program adds are known."""
    for name, file, expected in (
        ("alda.cli", None, ["-m", "alda.cli"]),
        (None, "mine.py", [os.path.abspath("mine.py")]),
    ):
        main = SimpleNamespace(__spec__=name and SimpleNamespace(name=name), __file__=file)
        monkeypatch.setitem(sys.modules, "__main__", main)
        assert local.this_program() == expected


def test_gpus_are_given_to_runs_in_turn(study, four):
    plan(study, s0=["wait"])
    where, words = LocalPlace(4, 1, 1, "", ["2", "5"]), ["train", "--run-dir", str(four[0].run_dir)]
    jobs = [where.start(words, four[0].log) for _ in range(4)]
    until(lambda: len(calls(four[0])) == 4)
    assert sorted(call["gpu"] for call in calls(four[0])) == ["2", "2", "5", "5"]
    jobs[1].kill()
    jobs[1].wait()
    jobs.append(where.start(words, four[0].log))
    until(lambda: len(calls(four[0])) == 5)
    assert calls(four[0])[-1]["gpu"] == "5"
    for job in jobs:
        job.kill()
        job.wait()


# the command


def call(folder, **options):
    """Return its exit code."""
    try:
        sweep(folder / "test.toml", root=folder / "runs", jobs=2, **options)
    except SystemExit as ended:
        return ended.code
    return 0


def test_the_exit_code_is_0_only_if_all_are_finished(study, place, four, capsys):
    plan(study, s1=["2"])
    assert call(place) == 1
    said = capsys.readouterr().out
    assert "4 runs in" in said
    assert "runs at a time: 2 (as asked for), each with" in said
    assert "3 finished, 1 failed" in said
    assert f"{four[1].label}: failed: it ended with exit code 2" in said
    assert "the same command goes on with what is unfinished" in said
    plan(study)
    assert call(place) == 0
    assert "4 finished" in capsys.readouterr().out


def test_a_signal_is_the_exit_code(study, place, four):
    plan(study, s0=["wait"], s1=["wait"])

    def press():
        until(lambda: are_waiting(four[:2]))
        os.kill(os.getpid(), signal.SIGTERM)

    Thread(target=press).start()
    assert call(place) == 128 + signal.SIGTERM


def test_what_cannot_be_swept_is_refused_before_anything_starts(study, place, four, tmp_path, compare):
    for options in ({"retries": -1}, {"gpu_share": 2.0}, {"address": "x:1"}):
        with pytest.raises(UserError, match=r"--retries from 0 on|--gpu-share"):
            call(place, **options)
    with only_one(study.folder), pytest.raises(UserError, match="is being filled by another sweep of this study"):
        call(place)
    other = tmp_path / "test.toml"
    other.write_text(FOUR.replace("steps = 30", "steps = 30\nlog-every = 9"))
    with pytest.raises(UserError, match=r"other settings \(log_every: 500 -> 9\).*Or give the changed study another"):
        sweep(other, root=place / "runs")
    assert not any(map(calls, four))


def test_a_dry_run_is_a_script_of_what_is_left(study, place, four, capsys):
    checkpoint(four[1], 30, 30)
    shutil.rmtree(four[2].run_dir)
    assert call(place, dry_run=True) == 0
    lines = capsys.readouterr().out.splitlines()
    script = [line.split()[1] for line in lines if line.startswith("alda ")]
    assert script == ["train", "evaluate", "evaluate", "train", "evaluate", "train", "evaluate"]
    assert [line.split()[3] for line in lines if line.startswith("# finished: alda ")] == ["train"]
    assert any(line.endswith("0 finished, 3 begun, 1 not begun") for line in lines)
    assert not any(map(calls, four))
    assert not (study.folder / ".lock").exists()


# what run directories tell


def test_pace_and_returns_are_those_of_the_metrics(four):
    """Steps at random are left out of the pace, and bursts of updates without steps."""
    run = four[0]
    rows = [
        {"step": 0, "updates": 0, "eval/train/return": 10.0, "eval/color_hard/return": 5.0},
        {"step": 10, "updates": 0, "speed/steps_per_second": 50.0},
        {"step": 10, "updates": 60, "speed/steps_per_second": 0.0},
        {"step": 15, "updates": 140, "speed/steps_per_second": 2.0},
        {"step": 15, "updates": 140, "eval/train/return": 812.4, "eval/color_hard/return": None},
        {"step": 20, "updates": 190, "speed/steps_per_second": 0.5},
    ]
    metrics(run.run_dir, *rows[:3])
    assert run.progress() == {"step": "10/30", "steps/s": "", "left": "", "returns": "train 10, color_hard 5 at step 0"}
    metrics(run.run_dir, *rows)  # a second and a quarter for each of ten steps
    assert run.progress() == {"step": "20/30", "steps/s": "0.80", "left": "0:00:12", "returns": "train 812 at step 15"}
    checkpoint(run, 25, 15)
    assert run.progress()["step"] == "25/30"
    (run.run_dir / "metrics.jsonl").write_text('{"step": 3, "world": {}\n{}\n')
    assert run.progress()["step"] == "25/30"


def test_the_table_shows_every_run_or_those_in_some_states(four):
    entries = [Entry(run, "failed" if run is four[2] else "finished", deaths=int(run is four[2])) for run in four]
    metrics(four[2].run_dir, {"step": 30, "updates": 9, "speed/steps_per_second": 2.0, "eval/train/return": 812.4})
    rows = list(zip(*(column.cells for column in table("test", entries).columns), strict=True))
    assert [row[0] for row in rows] == [run.label for run in four]
    assert rows[2] == (four[2].label, "failed, died once", "30/30", "2.00", "0:00:00", "train 812 at step 30")
    short = table("test", entries, only=["failed"])
    assert list(short.columns[0].cells) == [four[2].label]
    assert short.title == "test: 3 finished, 1 failed"


def test_a_run_is_trained_then_scored_then_finished(study, four):
    """With the checkpoint of the evaluated last step, and the final evaluation of its step, seed, episodes, shifts."""
    run = study.runs[0]
    for step, evaluated, expected in ((20, 20, "train"), (30, 20, "train"), (30, 30, "evaluate")):
        checkpoint(run, step, evaluated)
        assert run.next_command()[0] == expected
    assert replace(run, config=replace(run.config, steps=31)).next_command()[0] == "train"
    assert replace(run, final=None).next_command() is None
    (run.run_dir / "evaluations").mkdir()
    right = {"episodes": 7, "seed": 5, "worlds": {"train": {}, "color_hard": {}}}
    for name, record, expected in (
        ("step_000000020_seed_5", right, ["evaluate"]),
        ("step_000000030_seed_5", right | {"episodes": 1}, ["evaluate"]),
        ("step_000000030_seed_5", right | {"worlds": {"color_hard": {}}}, ["evaluate"]),
        ("step_000000030_seed_55", right | {"seed": 55}, ["evaluate"]),
        ("step_000000030_seed_5", [], ["evaluate"]),
        ("step_000000030_seed_5~2", right, []),
    ):
        (run.run_dir / "evaluations" / f"{name}.json").write_text(json.dumps(record))
        assert (run.next_command() or [])[:1] == expected
    (run.run_dir / "checkpoints" / "latest.json").write_text("{")
    assert run.next_command()[0] == "train"


def test_slots_are_as_many_as_cores_memory_and_gpus_hold():
    host, card = Needs(8.2e9, 0.0), Needs(2e9, 10.2e9, "cuda")
    cases = {
        (host, Machine(2, 100e9), None): (2, 1, 1),
        (host, Machine(64, 50e9), None): (6, 10, 10),
        (host, Machine(64, 500e9), None): (9, 7, 7),
        (host, Machine(64, 3e9), None): (1, 64, 16),
        (host, Machine(64, 500e9), 3): (3, 21, 16),
        (host, Machine(2, 500e9), 5): (5, 1, 1),
        (host, Machine(8, 500e9, (), 3), 2): (2, 3, 4),
        (card, Machine(16, 128e9, (75e9,)), None): (7, 2, 2),
        (card, Machine(16, 128e9, (15e9, 25e9)), None): (3, 5, 5),
        (card, Machine(16, 9e9, (75e9,)), None): (4, 4, 4),
    }
    for (needs, machine, jobs), expected in cases.items():
        found = choose_slots(9, needs, machine, jobs)
        assert (found.jobs, found.threads, found.workers) == expected
    about = choose_slots(9, host, Machine(64, 50e9)).about
    assert about.startswith("runs at a time: 6 (64 cores; 50.0 GB of memory, 8.2 a run; 9 runs to do), each with 10")


def test_a_run_needs_its_replay_where_that_lives(four, monkeypatch):
    """An episode takes a slot more than it has steps: 30 steps, and as long as a stack of 3 at both ends."""
    run = four[0]
    slot = 3 * 64 * 64 + 4 * 6 + 4 + 1 + 1 + 8 + 8
    assert run.replay_size() == (30 + 2 * 3) * slot
    longer = replace(run, config=replace(run.config, steps=500_000))
    assert longer.replay_size() == (500_000 + 2_000 + 6) * slot
    assert replace(longer, config=replace(longer.config, replay_capacity=1_000)).replay_size() == (1_004 + 6) * slot
    assert run.needs() == (2e9 + 36 * slot, 0.0, "cpu")
    for beside, expected in (("cuda", (2e9, 4e9 + 36 * slot, "cuda")), ("cpu", (2e9 + 36 * slot, 4e9, "cuda"))):
        settled = replace(run.settled, device="cuda", replay_device=beside)
        monkeypatch.setattr(StudyRun, "settled", settled)
        assert replace(run).needs() == expected


@pytest.mark.slow
def test_a_real_study_survives_a_killed_sweep(tmp_path):
    """SIGKILL in the middle of training; the same command then finishes, and once more finds nothing to do."""
    (tmp_path / "tiny.toml").write_text(TINY)
    command = [sys.executable, "-m", "alda.cli", "sweep", "tiny.toml", "--jobs", "2"]
    runs = [tmp_path / "runs" / "tiny" / "cartpole_balance" / method / "default" / "s0" for method in ("alda", "sac")]
    with subprocess.Popen(command, cwd=tmp_path, stdout=subprocess.DEVNULL) as first:
        until(lambda: all((run / "metrics.jsonl").exists() for run in runs), 200)
        started = psutil.Process(first.pid).children(recursive=True)
        first.kill()
    assert len(started) >= 2
    until(lambda: all(is_gone(process.pid) for process in started), 60)
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr
    assert "tiny: 2 finished" in done.stdout
    for run in runs:
        (record,) = [json.loads(file.read_text()) for file in (run / "evaluations").iterdir()]
        assert list(record["worlds"]) == ["train", "color_hard"]
        assert (record["step"], record["episodes"]) == (12, 2)
        rows = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
        assert [row["step"] for row in rows if "eval/train/return" in row] == [0, 6, 12]
    again = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True)
    assert again.returncode == 0
    assert "2 runs in runs/tiny: 2 finished" in again.stdout
