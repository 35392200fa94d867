"""The scheduler, on a program that only pretends to train and does what a plan says. The last test is a real sweep."""

import json
import os
import pickle
import shutil
import signal
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path
from threading import Thread
from types import SimpleNamespace

import psutil
import pytest
from test_study import checkpoint, metrics, study_of

from alda.errors import UserError
from alda.progress import clock
from alda.sweep import estimate, processes, progress, runner
from alda.sweep.attempts import read_attempts, write_attempt
from alda.sweep.backend import Backend, Job, Lost
from alda.sweep.board import board
from alda.sweep.estimate import disk, measure
from alda.sweep.gpu_sharing import Sharing
from alda.sweep.processes import LocalBackend, Slots
from alda.sweep.progress import next_command, read_progress
from alda.sweep.runner import Runner
from alda.sweep.study_file import Final, read_study
from alda.sweep.sweep import sweep
from alda.training.run_lock import collected_signals, exit_at_sigterm, only_one

# Trains, as far as a scheduler can see: `plan` beside it says by seed what each command does. A word is ok, wait (until
# it is asked to stop, and then saves half), die (by SIGKILL), or an exit code; the last one is repeated.
PRETENDER = """
import json, os, signal, sys, time
from pathlib import Path

def save(run, step):
    place = run / "checkpoints" / "save_000001"
    place.mkdir(parents=True, exist_ok=True)
    (place / "state.json").write_text(json.dumps({"position": {"step": step, "evaluated": step}}))
    (run / "checkpoints" / "latest.json").write_text(json.dumps({"checkpoint": "save_000001"}))

command, *words = sys.argv[1:]
run = Path(words[0] if command == "evaluate" else words[words.index("--run-dir") + 1])
plan = json.loads(Path(__file__).with_name("plan").read_text()).get(run.name, ["ok"])
with (run / "calls").open("a") as calls:
    calls.write(f"{command} {os.environ['OMP_NUM_THREADS']} {os.getppid()} {words[-1]}\\n")
word = plan[min(len((run / "calls").read_text().splitlines()), len(plan)) - 1]
print("line one", "line two", f"this is {word}", sep="\\n", flush=True)
if word == "die":
    os.kill(os.getpid(), signal.SIGKILL)
elif word == "wait":
    (run / "waiting").touch()
    try:
        time.sleep(60)
    except KeyboardInterrupt:
        save(run, 15)
        sys.exit(130)
elif word == "nothing":
    pass
elif word != "ok":
    sys.exit(int(word))
elif command == "train":
    save(run, 30)
else:
    (run / "evaluations").mkdir(exist_ok=True)
    record = {"episodes": 7, "seed": 5, "worlds": {"train": {}}}
    (run / "evaluations" / "step_000000030_seed_5.json").write_text(json.dumps(record))
"""
FOUR = """
presets = ["sac"]
tasks = ["cartpole_balance"]
seeds = [0, 1, 2, 3]
[settings]
steps = 30
"""


TINY = """
presets = ["alda", "sac"]
tasks = ["cartpole_balance"]
seeds = [0]
[settings]
steps = 12
device = "cpu"
eval-every = 6
eval-episodes = 1
log-every = 3
shifts = ["train"]
env.episode-length = 20
env.profile = "fast"
agent.random-steps = 4
agent.batch-size = 2
agent.hidden-dim = 16
[final]
shifts = ["train", "color_hard"]
episodes = 2
"""  # real runs


COMPARE = progress._check_settings  # takes time, and is tested by itself


@pytest.fixture(autouse=True)
def quick(monkeypatch):
    monkeypatch.setattr(runner, "_RECHECK_SECONDS", 0.05)
    monkeypatch.setattr(progress, "_check_settings", lambda *_: None)


@pytest.fixture
def compare(monkeypatch):
    monkeypatch.setattr(progress, "_check_settings", COMPARE)


@pytest.fixture(scope="module")
def study(tmp_path_factory):
    return study_of(tmp_path_factory.mktemp("study"), FOUR)


@pytest.fixture
def place(study):
    """Folder of the file."""
    return study.folder.parents[1]


@pytest.fixture
def four(study):
    """The study, begun."""
    shutil.rmtree(study.folder, ignore_errors=True)
    for run in study.runs:
        checkpoint(run, 0, 0)
    return study


@pytest.fixture
def scored(four):
    """The same, with final evaluations."""
    return replace(four, runs=[replace(run, final=Final(("train",), 7, 5)) for run in four.runs])


@pytest.fixture
def program(place, monkeypatch):
    """A pretender in place of this program; call it to write the plan."""
    file = place / "pretender.py"
    file.write_text(PRETENDER)
    monkeypatch.setattr(processes, "this_program", lambda: [str(file)])

    def plan(**words):
        (place / "plan").write_text(json.dumps(words))

    plan()
    return plan


@pytest.fixture
def go(four, program):
    """Runs a study with so many slots; what was said."""
    backends = []

    def go(study=four, jobs=2, retries=2, caught=(), watch=lambda _: None, **plan):
        program(**plan)
        backends.append(LocalBackend(Slots(jobs, 3, 4, "about"), Sharing({}, ())))
        said: list[str] = []
        made = Runner(study, [next_command(run) for run in study.runs], backends[-1], retries, said.append, watch)
        made.go(caught, pause=0.01)
        return made, said

    yield go
    for backend in backends:
        backend.close()


def calls(run):
    file = run.run_dir / "calls"
    return [line.split() for line in file.read_text().splitlines()] if file.exists() else []


def states(made):
    return [entry.state for entry in made.entries]


def test_every_run_is_trained_and_scored_in_the_slots_there_are(go, scored):
    most = []
    made, said = go(scored, jobs=2, watch=lambda entries: most.append(sum(entry.job is not None for entry in entries)))
    assert states(made) == ["finished"] * 4
    assert max(most) == 2
    for run in scored.runs:
        assert [call[0] for call in calls(run)] == ["train", "evaluate"]
        assert {call[1] for call in calls(run)} == {"3"}  # threads
        assert {call[3] for call in calls(run)} == {"4"}  # workers
        log = (run.run_dir / "log.txt").read_text()
        assert log.startswith("$ alda train sac --env.task cartpole_balance")
        assert log.count("line one") == 2
        assert next_command(run) is None
    s0 = scored.runs[0].label
    assert [line for line in said if s0 in line] == [
        f"{s0}: {state}" for state in ("training", "evaluating", "finished")
    ]
    assert [(row["command"], row["code"]) for row in read_attempts(scored.folder) if row["run"] == s0] == [
        ("train", 0),
        ("evaluate", 0),
    ]


def test_running_it_again_does_what_is_left(go, scored):
    checkpoint(scored.runs[0], 30, 30)
    go(scored)
    again, said = go(scored)
    assert states(again) == ["finished"] * 4
    assert said == []
    assert [len(calls(run)) for run in scored.runs] == [1, 2, 2, 2]


def test_a_killed_run_is_tried_again_and_disturbs_no_other(go, four):
    made, said = go(s1=["die", "ok"])
    assert states(made) == ["finished"] * 4
    assert [len(calls(run)) for run in four.runs] == [1, 2, 1, 1]
    (died,) = [line for line in said if "died" in line]
    assert died.startswith(
        f"{four.runs[1].label}: died, will be tried again (1 of 2): killed by SIGKILL, perhaps for want"
    )
    assert died.endswith("its last words: line one | line two | this is die")
    (row,) = [row for row in read_attempts(four.folder) if row["code"]]
    assert (row["code"], row["run"]) == (-9, four.runs[1].label)


def test_what_died_lets_the_others_go_first(go, four):
    _, said = go(jobs=1, s0=["die", "ok"])
    assert [line[-12:-10] for line in said if line.endswith(": training")] == ["s0", "s1", "s2", "s3", "s0"]


def test_a_run_that_always_dies_is_given_up_after_the_retries(go, four):
    made, said = go(s2=["1"], retries=2)
    assert states(made) == ["finished", "finished", "failed", "finished"]
    assert len(calls(four.runs[2])) == 3
    assert made.entries[2].reason == "it ended with exit code 1; its last words: line one | line two | this is 1"
    assert [line.split(": ")[1] for line in said if "s2" in line and "train" not in line.split(": ")[1]] == [
        "died, will be tried again (1 of 2)",
        "died, will be tried again (2 of 2)",
        "failed",
    ]


def test_wrong_input_is_not_tried_again(go, four):
    made, _ = go(s0=["2"])
    assert states(made) == ["failed", "finished", "finished", "finished"]
    assert len(calls(four.runs[0])) == 1
    assert "exit code 2" in made.entries[0].reason


def test_an_end_without_a_result_counts_as_a_death(go, four):
    made, _ = go(s0=["nothing"], retries=1)
    assert states(made)[0] == "failed"
    assert made.entries[0].reason == "it ended without having finished"
    assert len(calls(four.runs[0])) == 2


def test_a_run_that_another_process_trains_waits_for_it(go, four):
    """And takes no slot meanwhile."""
    run, lock = four.runs[0], None
    seen = []

    def watch(entries):
        nonlocal lock
        seen.append(entries[0].state)
        if lock and all(entry.state == "finished" for entry in entries[1:]) and seen.count("in use") > 30:
            lock.__exit__(None, None, None)
            lock = None

    lock = only_one(run.run_dir)
    lock.__enter__()
    made, said = go(jobs=1, watch=watch)
    assert states(made) == ["finished"] * 4
    assert next(line for line in said if run.label in line) == f"{run.label}: in use by another process; waits for it"
    assert len([line for line in said if "in use" in line]) == 1


def test_a_place_that_cannot_be_written_fails_alone(go, four):
    (four.runs[3].run_dir / "log.txt").mkdir()
    made, _ = go(retries=1)
    assert states(made) == ["finished"] * 3 + ["failed"]
    assert "Is a directory" in made.entries[3].reason
    assert made.entries[3].deaths == 2


def test_a_run_directory_that_is_none_fails_alone(go, four):
    shutil.rmtree(four.runs[3].run_dir)
    four.runs[3].run_dir.write_text("a file")
    paces = measure(four)
    assert list(estimate.outlook(four, paces, [(four.runs[3], "train")], 0))
    made, _ = go(retries=0, watch=lambda _: [read_progress(run.run_dir) for run in four.runs])
    assert states(made) == ["finished"] * 3 + ["failed"]
    four.runs[3].run_dir.unlink()


def test_a_table_that_cannot_be_made_ends_nothing(go, four):
    def watch(_):
        raise OSError("stale file handle")

    assert states(go(watch=watch)[0]) == ["finished"] * 4


def test_a_run_that_loses_every_node_without_a_step_is_given_up_in_the_end(four, program):
    """Nodes that are lost are nobody's fault, unless a run brings them down."""

    class Losing(Job):
        def poll(self):
            raise Lost("its node is gone")

        stop = kill = lambda self: None

    class Nodes(Backend):
        jobs, workers, about = 4, 1, ""
        started = 0

        def start(self, words, log):
            self.started += 1
            return Losing()

        def close(self):
            pass

    nodes, said = Nodes(), []
    made = Runner(four, [next_command(run) for run in four.runs], nodes, 1, said.append)
    made.go([], pause=0.0)
    assert states(made) == ["failed"] * 4
    assert nodes.started == 4 * 2 * runner._LOSSES
    assert made.entries[0].reason == f"its node is gone, {runner._LOSSES} times in a row"


def test_settings_that_changed_meanwhile_fail_alone(go, four, compare):
    config = four.runs[1].run_dir / "config.json"
    changed = json.loads(config.read_text()) | {"log_every": 7}
    made, _ = go(jobs=1, watch=lambda _: config.write_text(json.dumps(changed)))
    assert states(made) == ["finished", "failed", "finished", "finished"]
    assert "log_every: 7 -> 500" in made.entries[1].reason


def waiting(runs):
    return all((run.run_dir / "waiting").exists() for run in runs)


def test_ctrl_c_saves_every_run_and_the_next_sweep_goes_on(heard, go, four):
    def press(_):
        if waiting(four.runs[:2]) and not caught:
            os.kill(os.getpid(), signal.SIGINT)

    with collected_signals() as caught:
        made, said = go(s0=["wait", "ok"], s1=["wait", "ok"], caught=caught, watch=press)
    assert states(made) == ["stopped", "stopped", "waiting", "waiting"]
    assert [json.loads((run.run_dir / "checkpoints/save_000001/state.json").read_text()) for run in four.runs[:2]] == [
        {"position": {"step": 15, "evaluated": 15}}
    ] * 2
    assert "stopping: every run saves a checkpoint; a second Ctrl-C kills them" in said
    assert states(go()[0]) == ["finished"] * 4


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_second_signal_kills(heard, go, four, number):
    jobs = []

    def press(entries):
        jobs[:] = [entry.job for entry in entries if entry.job] or jobs
        if waiting(four.runs[:2]):
            for entry in entries[:2]:
                entry.job.stop = lambda: None  # does not listen
            os.kill(os.getpid(), number)

    before = signal.getsignal(number)
    with pytest.raises((SystemExit, KeyboardInterrupt)), exit_at_sigterm(), collected_signals() as caught:
        go(s0=["wait"], s1=["wait"], caught=caught, watch=press)
    assert [job.process.returncode for job in jobs] == [-signal.SIGKILL] * 2
    assert signal.getsignal(number) == before


def test_a_full_disk_costs_the_record_of_attempts_and_nothing_else(go, four):
    (four.folder / "attempts.jsonl").symlink_to("/dev/full")
    made, said = go()
    assert states(made) == ["finished"] * 4
    assert sum(line.startswith("warning: no record of this attempt ([Errno 28]") for line in said) == 4


def test_an_attempt_is_recorded_after_one_that_was_cut_off(tmp_path):
    for number in range(3):
        write_attempt(tmp_path, command="train", seconds=float(number), code=0)
        if number == 1:
            with (tmp_path / "attempts.jsonl").open("ab") as file:
                file.write(b'{"command": "train", "made": {"a": 1}' + bytes(3))
    assert [row["seconds"] for row in read_attempts(tmp_path)] == [0.0, 1.0, 2.0]
    (tmp_path / "attempts.jsonl").write_bytes(pickle.dumps(3) + b"\n[1]\n")
    assert read_attempts(tmp_path) == []


@pytest.mark.parametrize("handler", ["SIGHUP", "SIGINT"])
def test_what_a_killed_sweep_started_is_told_so_by_a_signal_that_interrupts_no_saving(tmp_path, handler, heard):
    """A second SIGINT acts at once, a second SIGHUP does not; what does not listen to that gets SIGINT."""
    program = tmp_path / "program.py"
    program.write_text(
        f"import signal, sys, time\nsignal.signal(signal.{handler}, lambda number, _: sys.exit(int(number)))\n"
        "open(__file__ + 'begun', 'w').close()\ntime.sleep(60)\n"
    )
    ours, theirs = os.pipe()
    child = Path(processes.__file__).with_name("child.py")
    process = subprocess.Popen(
        [sys.executable, str(child), str(ours), str(program)], pass_fds=[ours], stdout=subprocess.DEVNULL
    )
    os.close(ours)
    until(lambda: Path(f"{program}begun").exists())
    os.close(theirs)
    assert process.wait(20) == getattr(signal, handler)


def test_what_a_killed_sweep_started_stops_though_the_disk_is_full(tmp_path):
    program = tmp_path / "program.py"
    program.write_text(
        "import time\nfrom pathlib import Path\nhere = Path(__file__)\nhere.with_name('begun').touch()\n"
        "try:\n    time.sleep(60)\nexcept KeyboardInterrupt:\n    here.with_name('saved').touch()\n"
    )
    ours, theirs = os.pipe()
    child = Path(processes.__file__).with_name("child.py")
    with open("/dev/full", "w") as log:
        command = [sys.executable, str(child), str(ours), str(program)]
        process = subprocess.Popen(command, stdout=log, stderr=log, pass_fds=[ours])
    os.close(ours)
    until(lambda: (tmp_path / "begun").exists())
    os.close(theirs)
    process.wait(20)
    assert (tmp_path / "saved").exists()


def test_what_a_killed_sweep_started_stops_and_saves(place, four, program):
    """In the process that starts it there is no time to say goodbye."""
    program(s0=["wait"])
    child = Path(processes.__file__).with_name("child.py")
    words = [str(place / "pretender.py"), "train", "--run-dir", str(four.runs[0].run_dir)]
    code = (
        "import os, subprocess, sys, time; ends = os.pipe()\n"
        f"subprocess.Popen([sys.executable, {str(child)!r}, str(ends[0]), *{words!r}], pass_fds=ends[:1])\n"
        "time.sleep(60)"
    )
    threads = {**os.environ, "OMP_NUM_THREADS": "1"}
    with subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.DEVNULL, env=threads) as parent:
        until(lambda: waiting(four.runs[:1]))
        (started,) = psutil.Process(parent.pid).children()
        parent.kill()
    until(lambda: not started.is_running() or started.status() == psutil.STATUS_ZOMBIE)
    position = json.loads((four.runs[0].run_dir / "checkpoints/save_000001/state.json").read_text())["position"]
    assert position["step"] == 15


def until(true, seconds=20):
    deadline = time.monotonic() + seconds
    while not true() and time.monotonic() < deadline:
        time.sleep(0.02)
    assert true()


def test_commands_are_run_as_this_program_was(monkeypatch):
    """So that methods which a program of one's own adds are known."""
    for name, file, expected in (
        ("alda.cli", None, ["-m", "alda.cli"]),
        (None, "mine.py", [os.path.abspath("mine.py")]),
    ):
        main = SimpleNamespace(__spec__=name and SimpleNamespace(name=name), __file__=file)
        monkeypatch.setitem(sys.modules, "__main__", main)
        assert processes.this_program() == expected


def test_gpus_are_given_to_runs_in_turn(tmp_path, program):
    program()
    tell = tmp_path / "tell.py"
    tell.write_text("import os, time; print(os.environ['CUDA_VISIBLE_DEVICES'], flush=True); time.sleep(60)")
    backend = LocalBackend(Slots(4, 1, 1, ""), Sharing({}, ()), ["2", "5"], [str(tell)])
    jobs = [backend.start([], tmp_path / f"{i}") for i in range(4)]
    until(lambda: all((tmp_path / f"{i}").read_text() for i in range(4)))
    assert [(tmp_path / f"{i}").read_text().strip() for i in range(4)] == ["2", "5", "2", "5"]
    jobs[1].kill()
    assert backend.start([], tmp_path / "4").gpu == "5"
    backend.close()
    for job in backend._jobs:
        job.kill()


# the command


def call(folder, **options):
    """Its exit code."""
    try:
        sweep(folder / "test.toml", root=folder / "runs", jobs=2, **options)
    except SystemExit as ended:
        return ended.code
    return 0


def test_the_exit_code_is_0_only_if_all_are_finished(place, four, program, capsys):
    program(s1=["2"])
    assert call(place) == 1
    said = capsys.readouterr().out
    assert "test: 4 runs in" in said
    assert "2 runs at a time (as --jobs says)" in said
    assert "1 failed, 3 finished" in said
    assert "failed: it ended with exit code 2" in said
    assert "the same command goes on with what is unfinished" in said
    program()
    assert call(place) == 0
    assert "4 finished" in capsys.readouterr().out


def test_a_signal_is_the_exit_code(place, four, program):
    program(s0=["wait"], s1=["wait"])

    def press():
        until(lambda: waiting(four.runs[:2]))
        os.kill(os.getpid(), signal.SIGTERM)

    Thread(target=press).start()
    assert call(place) == 128 + signal.SIGTERM


def test_two_sweeps_of_a_study_at_once_are_refused(place, four, program):
    with only_one(four.folder), pytest.raises(UserError, match="another sweep of this study goes on in"):
        call(place)
    assert not any(calls(run) for run in four.runs)


def test_a_dry_run_starts_nothing(place, four, program, capsys):
    assert call(place, dry_run=True, trial=False) == 0
    lines = capsys.readouterr().out.splitlines()
    assert len([line for line in lines if line.startswith("alda train sac")]) == 4
    assert not any(calls(run) for run in four.runs)
    assert not (four.folder / ".lock").exists()


def test_other_settings_are_refused_before_anything_starts(tmp_path, place, four, program, compare):
    file = tmp_path / "test.toml"
    file.write_text(FOUR.replace("steps = 30", "steps = 30\nlog-every = 9"))
    with pytest.raises(UserError, match=r"other settings \(log_every: 500 -> 9\).*Or give the changed study another"):
        sweep(file, root=place / "runs")
    assert not any(calls(run) for run in four.runs)


def test_options_that_make_no_sense_are_refused(place, program):
    for options in ({"retries": -1}, {"jobs": 0}):
        with pytest.raises(UserError, match="--jobs must be at least 1, and --retries from 0 on"):
            sweep(place / "test.toml", **options)


def test_the_table_shows_every_run_or_those_that_need_a_look(go, scored, capsys, monkeypatch):
    made, _ = go(scored, s2=["1"], retries=0)
    (scored.runs[0].run_dir / "metrics.jsonl").write_text(
        '{"step": 30, "updates": 0, "speed/steps_per_second": 2.0}\n'
        '{"step": 30, "updates": 0, "eval/train/return": 812.4}\n'
    )
    with board(scored, lambda: 2) as shown:
        assert shown.live is None
        shown.console.print(shown.table(made.entries))
        said = capsys.readouterr().out
        assert "test: 1 failed, 3 finished" in said
        assert all(run.label in said for run in scored.runs)
        assert "30/30" in said
        assert "train 812" in said
        shown.console.print(shown.table(made.entries, 1))
        said = capsys.readouterr().out
        assert scored.runs[2].label in said
        assert scored.runs[0].label not in said
        assert "3 more finished" in said
        made.entries[0].state, made.entries[0].command = "stopped", "train"
        shown.console.print(shown.table(made.entries))
        assert "time left: unknown yet" in capsys.readouterr().out
        (scored.runs[0].run_dir / "metrics.jsonl").write_text(
            '{"step": 15, "updates": 0, "speed/steps_per_second": 2.0}\n'
        )
        metrics(scored.runs[1].run_dir, {"step": 30, "updates": 30, "speed/steps_per_second": 0.1})
        monkeypatch.setattr(estimate, "updates_of", lambda run: 30)
        shown.console.print(shown.table(made.entries))
        scoring = measure(scored).scoring
        assert f"{clock(30 * 10 + scoring)} left" in capsys.readouterr().out


@pytest.mark.slow
def test_a_real_study_survives_a_killed_sweep(tmp_path):
    """SIGKILL in the middle of training; the same command then finishes, and once more finds nothing to do."""
    (tmp_path / "tiny.toml").write_text(TINY)
    command = [sys.executable, "-m", "alda.cli", "sweep", "tiny.toml", "--jobs", "2"]
    runs = [tmp_path / "runs" / "tiny" / "cartpole_balance" / method / "default" / "s0" for method in ("alda", "sac")]
    with subprocess.Popen(command, cwd=tmp_path, stdout=subprocess.DEVNULL) as first:
        until(lambda: all((run / "metrics.jsonl").exists() for run in runs), 120)
        started = psutil.Process(first.pid).children(recursive=True)
        first.kill()
    assert len(started) >= 2
    until(lambda: not any(process.is_running() and process.status() != psutil.STATUS_ZOMBIE for process in started), 60)
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr
    assert "tiny: 2 finished" in done.stdout
    for run in runs:
        (record,) = [json.loads(file.read_text()) for file in (run / "evaluations").iterdir()]
        assert list(record["worlds"]) == ["train", "color_hard"]
        assert (record["step"], record["episodes"]) == (12, 2)
        rows = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
        assert [row["step"] for row in rows if "eval/train/return" in row] == [0, 6, 12]
    study = read_study(tmp_path / "tiny.toml", tmp_path / "runs")
    space = disk(study, study.runs)
    assert space.now == pytest.approx(space.end, rel=0.1)
    assert measure(study).updates.keys() == {"alda/default", "sac/default"}
    again = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True)
    assert again.returncode == 0
    assert "2 runs in runs/tiny, 2 finished" in again.stdout
