"""Studies on a real Ray cluster of two nodes on this machine, one of which is killed. Programs pretend to train."""

import json
import os
import signal
import subprocess
import sys
from contextlib import closing
from dataclasses import replace
from pathlib import Path

import pytest
from conftest import assert_same_run
from studies import FOUR, PRETENDER, TINY, calls, checkpoint, is_gone, step_of, study_of, until

import alda
from alda.commands.sweep import sweep
from alda.errors import UserError
from alda.sweep import ray as place
from alda.sweep import study_run
from alda.sweep.local import Needs
from alda.sweep.ray import RayPlace, Share, choose_share, slots_on
from alda.sweep.runner import Runner

NEEDS = Needs(2e9)
# Keeps a cluster up: a head without cores, a node with one, and one with two and what is said to be a GPU. Reads which
# node is to die, or `add`.
CLUSTER = """
import sys
from ray.cluster_utils import Cluster

watchful = {"health_check_period_ms": 500, "health_check_failure_threshold": 3, "health_check_timeout_ms": 5000}
head = {"num_cpus": 0, "include_dashboard": False, "_system_config": watchful}
cluster = Cluster(initialize_head=True, head_node_args=head)
nodes = [cluster.add_node(num_cpus=1, env_vars={"NODE": "0"}), cluster.add_node(num_cpus=2, num_gpus=1)]
print(cluster.address, flush=True)
for line in sys.stdin:
    if line.strip() == "add":
        nodes[0] = cluster.add_node(num_cpus=1, env_vars={"NODE": "0"})
    else:
        cluster.remove_node(nodes[int(line)], allow_graceful=False)
    print("done", flush=True)
cluster.shutdown()
"""


class Two:
    """A cluster of two nodes, and more when they are added."""

    def __init__(self, folder):
        environment = {**os.environ, "PYTHONPATH": str(Path(alda.__file__).parents[1]), "RAY_USAGE_STATS_ENABLED": "0"}
        self.errors = (folder / "cluster").open("w")
        self.process = subprocess.Popen(
            [sys.executable, "-c", CLUSTER],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=self.errors,
            text=True,
            env=environment,
        )
        self.address = self.process.stdout.readline().strip()

    def do(self, word):
        self.process.stdin.write(f"{word}\n")
        self.process.stdin.flush()
        assert self.process.stdout.readline() == "done\n"

    def close(self):
        self.process.stdin.close()
        self.process.stdout.close()
        self.process.wait()
        self.errors.close()


@pytest.fixture(scope="module")
def two(tmp_path_factory):
    with closing(Two(tmp_path_factory.mktemp("cluster"))) as two:
        yield two


@pytest.fixture
def study(tmp_path, monkeypatch):
    """Four runs; plan(s0=[...]) says what their commands do."""
    study = study_of(tmp_path, FOUR)
    for run in study.runs:
        checkpoint(run, 0, 0)
    (tmp_path / "pretender.py").write_text(PRETENDER)
    plan(study)
    monkeypatch.setattr(place, "this_program", lambda: [str(tmp_path / "pretender.py")])
    monkeypatch.setattr(study_run, "requested", lambda _: None)  # a pretender has no settings
    return study


def plan(study, **words):
    (study.folder.parents[1] / "plan").write_text(json.dumps(words))


def go(runs, two, watch=lambda _: None, needs=NEEDS, **options):
    said = []
    with closing(RayPlace(len(runs), needs, address=two.address, **options)) as nodes:
        made = Runner(runs, nodes, 2, said.append, watch)
        made.run([], pause=0.05)
    return made.entries, said


def test_slots_are_what_nodes_hold():
    cases = [
        ([Share(4, 100e9)], Share(1, 8e9), 4),
        ([Share(4, 20e9)], Share(1, 8e9), 2),
        ([Share(4, 100e9), Share(7, 100e9)], Share(2, 8e9), 5),
        ([Share(1, 100e9), Share(1, 100e9)], Share(2, 8e9), 0),
        ([Share(16, 100e9, 1)], Share(1, 8e9, 1 / 3), 3),
        ([Share(16, 100e9, 2)], Share(1, 8e9, 0.4), 4),  # two of a card: none lies on both
        ([Share(16, 100e9)], Share(1, 8e9, 0.5), 0),
        ([], Share(1, 8e9), 0),
    ]
    for nodes, share, expected in cases:
        assert slots_on(nodes, share) == expected, (nodes, share)


def test_cores_are_shared_by_as_many_runs_as_there_can_be():
    cases = [
        ([Share(16, 100e9, 1)], 0.25, 100, 4),  # four fit on the card: four cores each
        ([Share(16, 100e9, 1)], 0.25, 1, 16),
        ([Share(8, 100e9), Share(4, 100e9)], 0.0, 100, 1),
        ([Share(8, 100e9), Share(4, 100e9)], 0.0, 3, 4),
        ([Share(8, 20e9), Share(4, 100e9)], 0.0, 100, 1),
        ([Share(8, 3e9)], 0.0, 4, 1),  # no room
    ]
    for nodes, gpus, runs, cores in cases:
        assert choose_share(nodes, Share(1, 8e9, gpus), runs) == Share(cores, 8e9, gpus), (nodes, runs)


@pytest.mark.slow
def test_a_lost_nodes_runs_resume_elsewhere_from_their_checkpoints(study, two):
    """One node is killed while both train: nothing that was saved is lost, and nobody else notices."""
    plan(study, **{f"s{seed}": ["hold", "ok"] for seed in range(4)})
    lost_runs, jobs = [], []

    def watch(entries):
        jobs.append(sum(entry.job is not None for entry in entries))
        on_first = [run for run in study.runs for call in calls(run)[-1:] if call["node"] == "0"]
        if on_first and not lost_runs and step_of(on_first[0]) == 10:
            lost_runs.append(on_first[0])
            two.do(0)
        if lost_runs and is_gone(calls(lost_runs[0])[0]["pid"]):
            (study.folder.parents[1] / "go").touch()

    entries, _ = go(study.runs, two, watch)
    assert max(jobs) == 3  # cores
    assert [(entry.state, entry.deaths) for entry in entries] == [("finished", 0)] * 4
    (lost,) = lost_runs
    first, second, *_ = calls(lost)
    assert (first["step"], first["node"]) == (0, "0")
    assert (second["step"], second["node"]) == (10, "1")
    assert (second["threads"], second["gpu"]) == ("1", "")
    for run in study.runs:
        assert run.next_command() is None
        if run is not lost:
            assert [(call["command"], call["step"]) for call in calls(run)] == [("train", 0), ("evaluate", 30)]
    two.do("add")


@pytest.mark.slow
def test_a_killed_command_is_a_death_and_a_killed_ray_process_none(study, two):
    """The latter's command stops, saves and resumes in another one."""
    plan(study, s0=["die", "ok"], s1=["wait", "ok"])
    killed = []

    def watch(_):
        if not killed and (study.runs[1].run_dir / "waiting").exists():
            killed.append(calls(study.runs[1])[0])
            os.kill(killed[0]["parent"], signal.SIGKILL)

    entries, said = go(study.runs, two, watch)
    assert [(entry.state, entry.deaths) for entry in entries] == [("finished", number) for number in (1, 0, 0, 0)]
    (died,) = [line for line in said if "died" in line]
    assert "s0: waiting: died and will be tried again (1 of 2): killed by SIGKILL" in died
    assert is_gone(killed[0]["pid"])


@pytest.mark.slow
def test_commands_stop_and_die_when_asked_to_wherever_they_are(study, two):
    plan(study, s0=["wait"], s1=["wait"], s2=["wait"], s3=["wait"])
    with closing(RayPlace(4, NEEDS, 4, two.address)) as nodes:
        assert nodes.jobs == 4  # as it was told; one of them has no room
        for run in study.runs:
            run.log.touch()
        jobs = [nodes.start(run.next_command(), run.log) for run in study.runs]
        until(lambda: sum((run.run_dir / "waiting").exists() for run in study.runs) == 3, 60)
        assert [job.poll() for job in jobs] == [None] * 4
        at_work = [job for job, run in zip(jobs, study.runs, strict=True) if calls(run)]
        (without_room,) = set(jobs) - set(at_work)
        without_room.send_signal(signal.SIGINT)
        until(lambda: without_room.poll() == -signal.SIGINT)
        at_work[0].send_signal(signal.SIGINT)
        until(lambda: at_work[0].poll() == 130)
        at_work[1].send_signal(signal.SIGINT)
        at_work[1].kill()
        until(lambda: at_work[1].poll() is not None)
        pids = [call["pid"] for run in study.runs for call in calls(run)]
    until(lambda: all(map(is_gone, pids)))  # the last one by the end of the place


@pytest.mark.slow
def test_what_a_node_cannot_start_is_a_death_with_its_reason(study, two, monkeypatch):
    run = study.runs[0]
    run.log.touch()
    with closing(RayPlace(1, NEEDS, 1, two.address)) as nodes, monkeypatch.context() as elsewhere:
        elsewhere.setattr(Path, "cwd", lambda: Path("/nowhere"))
        job = nodes.start(["train"], run.log)
        until(lambda: job.poll() is not None)
    assert job.poll() == 1
    assert "No such file or directory: '/nowhere'" in run.log.read_text()


@pytest.mark.slow
def test_runs_share_a_card(study, two):
    """Ray counts the parts; which card each run sees is what it gives them. There is none here in truth."""
    runs, most, needs = [replace(run, final=None) for run in study.runs], [], Needs(2e9, 4e9, "cuda")
    entries, _ = go(runs, two, lambda entries: most.append(sum(bool(e.job) for e in entries)), needs, gpu_share=0.5)
    assert [entry.state for entry in entries] == ["finished"] * 4
    assert max(most) == 2
    assert {(call["gpu"], call["node"]) for run in runs for call in calls(run)} == {("0", "1")}


@pytest.mark.slow
def test_the_command_ends_with_a_table_or_says_that_nothing_fits(study, two, tmp_path, capsys):
    file = tmp_path / "one.toml"
    file.write_text(FOUR.replace("[0, 1, 2, 3]", "[0]"))
    sweep(file, root=tmp_path / "runs", backend="ray", address=two.address)
    said = capsys.readouterr().out
    assert "runs at a time: 1, on a Ray cluster of 2 nodes; each has 2 cores" in said
    assert "one: 1 finished" in said
    with pytest.raises(UserError, match=r"no node .* has room for a run, which takes 1 core, 1000000.0 GB .*--jobs N"):
        RayPlace(1, Needs(1e15), address=two.address)


def test_a_cluster_that_is_not_there_and_a_missing_ray_are_named(monkeypatch):
    with pytest.raises(UserError, match=r"no Ray cluster at 127\.0\.0\.1:9"):
        RayPlace(1, NEEDS, address="127.0.0.1:9")
    monkeypatch.setitem(sys.modules, "ray", None)
    with pytest.raises(UserError, match=r"--backend ray needs Ray: pip install 'alda\[ray\]'"):
        RayPlace(1, NEEDS)


@pytest.mark.slow
def test_a_real_study_on_a_cluster_ends_as_on_one_machine(two, tmp_path):
    """A node is killed, then the sweep, and the same command goes on: not a number differs from those of an undisturbed
    study on one machine."""
    (tmp_path / "tiny.toml").write_text(TINY)
    command = [sys.executable, "-m", "alda.cli", "sweep", "tiny.toml"]
    alone = subprocess.run([*command, "--root", "alone", "--jobs", "2"], cwd=tmp_path, capture_output=True, text=True)
    assert alone.returncode == 0, alone.stdout
    cluster_wide = [*command, "--root", "wide", "--backend", "ray", "--address", two.address, "--jobs", "2"]
    with (tmp_path / "said").open("w") as said, subprocess.Popen(cluster_wide, cwd=tmp_path, stdout=said) as first:
        until(lambda: len(list((tmp_path / "wide").rglob("metrics.jsonl"))) == 2, 200)
        two.do(0)
        logs = list((tmp_path / "wide").rglob("log.txt"))
        until(lambda: first.poll() is not None or any("resuming" in log.read_text() for log in logs), 200)
        first.kill()
    two.do("add")
    then = subprocess.run(cluster_wide, cwd=tmp_path, capture_output=True, text=True)
    assert then.returncode == 0, then.stdout
    names = [run.relative_to(tmp_path / "alone") for run in (tmp_path / "alone").glob("tiny/*/*/*/*")]
    assert len(names) == 2
    for name in names:
        assert_same_run(tmp_path / "wide" / name, tmp_path / "alone" / name)
        scores = [
            [json.loads(file.read_text())["worlds"] for file in (tmp_path / root / name / "evaluations").iterdir()]
            for root in ("wide", "alone")
        ]
        assert len(scores[0]) == 1
        assert scores[0] == scores[1]
