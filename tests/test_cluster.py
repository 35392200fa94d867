"""Studies on a real Ray cluster of two nodes on this machine, one of which is killed. Programs pretend to train."""

import hashlib
import json
import os
import signal
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from pathlib import Path

import psutil
import pytest
import ray
import ray.exceptions
from test_study import checkpoint, run_of, study_of
from test_sweep import TINY, quick, until  # noqa: F401 (a fixture that all tests here use)

import alda
from alda.errors import UserError
from alda.sweep import cluster, keeper
from alda.sweep.attempts import read_attempts
from alda.sweep.cluster import Node, RayBackend, Share, choose_share, slots_on
from alda.sweep.keeper import Keeper
from alda.sweep.progress import next_command
from alda.sweep.runner import Runner
from alda.sweep.sweep import sweep
from alda.training.logger import read_metrics

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
        nodes.append(cluster.add_node(num_cpus=1))
    else:
        cluster.remove_node(nodes[int(line)], allow_graceful=False)
    print("done", flush=True)
cluster.shutdown()
"""
# Goes on from its checkpoint and writes one at every step, unless `plan` has another word for this command: it then
# holds at step 10 until there is a file `go`, waits until it is asked to stop, or dies.
PRETENDER = """
import json, os, signal, sys, time
from pathlib import Path

def save(run, step):
    place = run / "checkpoints" / "save_000001"
    place.mkdir(parents=True, exist_ok=True)
    partial = place / "partial"
    partial.write_text(json.dumps({"position": {"step": step, "evaluated": step}}))
    partial.rename(place / "state.json")
    (run / "checkpoints" / "latest.json").write_text(json.dumps({"checkpoint": "save_000001"}))

command, *words = sys.argv[1:]
run = Path(words[0] if command == "evaluate" else words[words.index("--run-dir") + 1])
latest = run / "checkpoints" / "save_000001" / "state.json"
step = json.loads(latest.read_text())["position"]["step"] if latest.exists() else 0
plan = json.loads(Path(__file__).with_name("plan").read_text()).get(run.name, [])
said = (run / "calls").read_text().splitlines() if (run / "calls").exists() else []
word = plan[len(said)] if len(said) < len(plan) else "ok"
with (run / "calls").open("a") as calls:
    gpu = os.environ.get("CUDA_VISIBLE_DEVICES", "")
    call = {"command": command, "step": step, "node": os.environ.get("NODE", "1"), "gpu": gpu, "ray": os.getppid(),
            "threads": os.environ["OMP_NUM_THREADS"], "pid": os.getpid()}
    calls.write(json.dumps(call) + chr(10))
print("this is", word, flush=True)
if word == "die":
    os.kill(os.getpid(), signal.SIGKILL)
elif word == "wait":
    try:
        time.sleep(60)
    except KeyboardInterrupt:
        sys.exit(130)
elif command == "train":
    for step in range(step + 1, 31):
        save(run, step)
        while word == "hold" and step == 10 and not Path(__file__).with_name("go").exists():
            time.sleep(0.05)
else:
    (run / "evaluations").mkdir(exist_ok=True)
    record = {"episodes": 7, "seed": 5, "worlds": {"train": {}}}
    (run / "evaluations" / "step_000000030_seed_5.json").write_text(json.dumps(record))
"""
STUDY = """
presets = ["sac"]
tasks = ["cartpole_balance"]
seeds = [0, 1, 2, 3]
[settings]
steps = 30
device = "cpu"
[final]
shifts = ["train"]
episodes = 7
seed = 5
"""
ROOM = 200e9  # bytes


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
    study = study_of(tmp_path, STUDY)
    for run in study.runs:
        checkpoint(run, 0, 0)
    file = tmp_path / "pretender.py"
    file.write_text(PRETENDER)
    (tmp_path / "plan").write_text("{}")
    monkeypatch.setattr(cluster, "this_program", lambda: [str(file)])
    return study


def plan(study, **words):
    (study.folder.parents[1] / "plan").write_text(json.dumps(words))


def calls(run):
    file = run.run_dir / "calls"
    return [json.loads(line) for line in file.read_text().splitlines()] if file.exists() else []


def is_gone(pid):
    return not psutil.pid_exists(pid) or psutil.Process(pid).status() == psutil.STATUS_ZOMBIE


def go(study, two, watch=lambda _: None, retries=2, **options):
    said = []
    with closing(RayBackend(study.runs, address=two.address, **options)) as backend:
        made = Runner(study, [next_command(run) for run in study.runs], backend, retries, said.append, watch)
        made.go([], pause=0.05)
    return made, said


def test_slots_are_what_nodes_hold():
    cases = [
        ([Node(4, 100e9)], Share(1, 8e9), 4),
        ([Node(4, 20e9)], Share(1, 8e9), 2),
        ([Node(4, 100e9), Node(7, 100e9)], Share(2, 8e9), 5),
        ([Node(1, 100e9), Node(1, 100e9)], Share(2, 8e9), 0),
        ([Node(16, 100e9, 1)], Share(1, 8e9, 1 / 3), 3),
        ([Node(16, 100e9, 2)], Share(1, 8e9, 0.4), 4),  # two of a card: none lies on both
        ([Node(16, 100e9)], Share(1, 8e9, 0.5), 0),
        ([], Share(1, 8e9), 0),
    ]
    for nodes, share, expected in cases:
        assert slots_on(nodes, share) == expected, (nodes, share)


def test_cores_are_shared_by_as_many_runs_as_there_can_be():
    cases = [
        ([Node(16, 100e9, 1)], 0.25, 100, 4),  # four fit on the card: four cores each
        ([Node(16, 100e9, 1)], 0.25, 1, 16),
        ([Node(8, 100e9), Node(4, 100e9)], 0.0, 100, 1),
        ([Node(8, 100e9), Node(4, 100e9)], 0.0, 3, 4),
        ([Node(8, 20e9), Node(4, 100e9)], 0.0, 100, 1),
        ([Node(8, 3e9)], 0.0, 4, 1),  # no room
    ]
    for nodes, gpus, runs, cores in cases:
        assert choose_share(nodes, Share(1, 8e9, gpus), runs) == Share(cores, 8e9, gpus), (nodes, runs)


def test_a_lost_nodes_runs_go_on_elsewhere_from_their_checkpoints(study, two):
    """One node is killed while both train: nothing that was saved is lost, and nobody else notices."""
    plan(study, **{f"s{seed}": ["hold"] for seed in range(4)})
    lost_runs, jobs = [], []

    def watch(entries):
        jobs.append(sum(entry.job is not None for entry in entries))
        on_first = [run for run in study.runs for call in calls(run)[-1:] if call["node"] == "0"]
        if on_first and not lost_runs and next_step(on_first[0]) == 10:
            lost_runs.append(on_first[0])
            two.do(0)
        if any(entry.losses for entry in entries if entry.run in lost_runs):
            (study.folder.parents[1] / "go").touch()

    made, said = go(study, two, watch)
    assert max(jobs) == 3  # cores
    assert [entry.state for entry in made.entries] == ["finished"] * 4
    assert [entry.deaths for entry in made.entries] == [0] * 4
    (lost,) = lost_runs
    told = [line for line in said if ": lost" in line]  # of others too, if Ray gave them to the node when it was dead
    assert f"{lost.label}: lost, goes on from its last checkpoint: its node is gone" in told
    assert not any("its node is gone" in line for line in told if lost.label not in line)
    first, second, _ = calls(lost)
    assert (first["step"], first["node"]) == (0, "0")
    assert second["step"] == 10
    assert (second["threads"], second["gpu"]) == ("1", "")
    assert second["node"] == "1"
    for run in study.runs:
        assert next_command(run) is None
        if run is not lost:
            assert [(call["command"], call["step"]) for call in calls(run)] == [("train", 0), ("evaluate", 30)]
    assert lost.label in [row["run"] for row in read_attempts(study.folder) if row["code"] is None]
    two.do("add")


def next_step(run):
    return json.loads((run.run_dir / "checkpoints/save_000001/state.json").read_text())["position"]["step"]


def test_deaths_are_told_with_what_died(study, two):
    """A command, or Ray's own process that looks after it, on a node that lives."""
    plan(study, s0=["die"], s1=["wait"])
    killed = []

    def watch(_):
        if calls(study.runs[1]) and not killed:
            killed.append(calls(study.runs[1])[0])
            os.kill(killed[0]["ray"], signal.SIGKILL)

    made, said = go(study, two, watch)
    assert [entry.state for entry in made.entries] == ["finished"] * 4
    assert [entry.deaths for entry in made.entries] == [1, 1, 0, 0]
    by_itself, with_ray = sorted(line for line in said if "died" in line)
    assert "s0: died, will be tried again (1 of 2): killed by SIGKILL, perhaps for want" in by_itself
    assert "s1: died, will be tried again (1 of 2): it ended with exit code 1; its last words: " in with_ray
    until(lambda: is_gone(killed[0]["pid"]))


def test_a_keeper_that_is_called_again_waits_for_the_same_command(tmp_path):
    """And tells it once to stop, as a second signal would interrupt the saving."""
    program = tmp_path / "program.py"
    program.write_text(
        "import signal, time\nfrom pathlib import Path\nhere = Path(__file__)\n"
        "signal.signal(signal.SIGINT, lambda *_: here.with_name('told').open('a').write('x'))\n"
        "here.with_name('begun').open('a').write('x')\n"
        "while not here.with_name('go').exists():\n    time.sleep(0.02)\nraise SystemExit(7)\n"
    )
    (tmp_path / "log").touch()
    there = Keeper(1, [str(program)])
    with ThreadPoolExecutor() as threads:
        first = threads.submit(there.run, [], tmp_path / "log", tmp_path)
        until(lambda: (tmp_path / "begun").exists())
        there.stop()
        until(lambda: (tmp_path / "told").exists())
        second = threads.submit(there.run, [], tmp_path / "log", tmp_path)
        assert first.result() == -1  # its caller does not hear it any more
        (tmp_path / "go").touch()
        assert second.result() == 7
    assert (tmp_path / "begun").read_text() == (tmp_path / "told").read_text() == "x"


def test_whatever_else_ray_ends_a_command_for_is_a_death(study, two, monkeypatch):
    log = study.runs[0].run_dir / "log.txt"
    log.touch()

    def ended(self, call):
        raise ray.exceptions.OutOfMemoryError("the node was short of memory")

    with closing(RayBackend(study.runs, 1, two.address)) as backend, monkeypatch.context() as patch:
        job = backend.start(["train"], log)
        patch.setattr(cluster.RayJob, "_result", ended)
        assert job.poll() == 1
    assert "the node was short of memory" in log.read_text()


def test_the_command_ends_with_a_table(tmp_path, study, two, capsys):
    file = tmp_path / "one.toml"
    file.write_text(STUDY.replace("[0, 1, 2, 3]", "[0]"))
    sweep(file, root=tmp_path / "runs", backend="ray", address=two.address)
    said = capsys.readouterr().out
    assert "1 run at a time on 2 nodes of a Ray cluster (what has room, as nodes come and go); each has 2 cores" in said
    assert "one: 1 finished" in said
    with pytest.raises(UserError, match="--address and --gpu-share are for --backend ray"):
        sweep(file, address=two.address)
    with pytest.raises(UserError, match=r"--gpu-share must be from 0\.0001 to 1"):
        sweep(file, backend="ray", gpu_share=1e-9)


@pytest.mark.slow
def test_runs_share_a_card(study, two, monkeypatch):
    """Ray counts the parts; which card each run sees is what it gives them."""
    gpu_study = study_of(study.folder.parents[1], STUDY.replace('device = "cpu"', ""))
    monkeypatch.setattr(RayBackend, "_gpu_share", lambda self, memory: pytest.fail("the share was given"))
    most = []
    made, _ = go(gpu_study, two, lambda entries: most.append(sum(bool(e.job) for e in entries)), gpu_share=0.5)
    assert [entry.state for entry in made.entries] == ["finished"] * 4
    assert max(most) == 2
    assert {(call["gpu"], call["node"]) for run in gpu_study.runs for call in calls(run)} == {("0", "1")}


@pytest.mark.slow
def test_the_size_of_a_card_is_asked_for_or_said(study, two):
    """There is none here in truth."""
    gpu_study = study_of(study.folder.parents[1], STUDY.replace('device = "cpu"', ""))
    with pytest.raises(
        UserError, match=r"the size of a GPU of the cluster is not known \(ValueError: .*; use --gpu-share"
    ):
        go(gpu_study, two)


def test_commands_stop_and_die_when_asked_to_wherever_they_are(study, two):
    plan(study, s0=["wait"], s1=["wait"], s2=["wait"], s3=["wait"])
    with closing(RayBackend(study.runs, 4, two.address)) as backend:
        assert backend.jobs == 4  # as it was told; one of them has no room
        for run in study.runs:
            (run.run_dir / "log.txt").touch()
        jobs = [backend.start(run.train_words(backend.workers), run.run_dir / "log.txt") for run in study.runs]
        until(lambda: sum(bool(calls(run)) for run in study.runs) == 3)
        assert [job.poll() for job in jobs] == [None] * 4
        at_work = [job for job, run in zip(jobs, study.runs, strict=True) if calls(run)]
        (without_room,) = set(jobs) - set(at_work)
        without_room.stop()
        assert without_room.poll() == -signal.SIGINT
        at_work[0].stop()
        until(lambda: at_work[0].poll() is not None)
        assert at_work[0].poll() == 130
        at_work[1].kill()
        pids = [call["pid"] for run in study.runs for call in calls(run)]
    until(lambda: all(map(is_gone, pids)))  # the last one by the end of the backend


def test_a_folder_that_a_node_does_not_see_is_named(tmp_path, monkeypatch):
    monkeypatch.setattr(keeper, "_SEEN_SECONDS", 0.2)
    there = Keeper(1, ["pretender.py"])
    with pytest.raises(FileNotFoundError, match=r"has no .*log.txt: a study must lie in a folder that all nodes share"):
        there.run([], tmp_path / "nowhere" / "log.txt", tmp_path)


def test_what_a_node_cannot_start_is_a_death_with_its_reason(study, two, monkeypatch):
    log = study.runs[0].run_dir / "log.txt"
    log.touch()
    with closing(RayBackend(study.runs, 1, two.address)) as backend:
        with monkeypatch.context() as elsewhere:
            elsewhere.setattr(Path, "cwd", lambda: Path("/nowhere"))
            job = backend.start(["train"], log)
        until(lambda: job.poll() is not None)
    assert job.poll() == 1
    assert "No such file or directory: '/nowhere'" in log.read_text()


def test_without_room_nothing_is_begun(tmp_path, two, monkeypatch):
    run = run_of(tmp_path, device="cpu")
    monkeypatch.setattr(cluster, "bytes_of_a_run", lambda *_: (1e15, 0.0))
    with pytest.raises(UserError, match=r"no node .* has room for a run, which takes 1 core, 1000000.0 GB .*--jobs N"):
        RayBackend([run], address=two.address)


def test_a_cluster_that_is_not_there_is_named(tmp_path):
    with pytest.raises(UserError, match=r"no Ray cluster at 127\.0\.0\.1:9"):
        RayBackend([run_of(tmp_path)], address="127.0.0.1:9")


def test_ray_is_an_extra(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "ray", None)
    with pytest.raises(UserError, match=r"--backend ray needs Ray: pip install 'alda\[ray\]'"):
        RayBackend([run_of(tmp_path)])


@pytest.mark.slow
def test_a_real_study_on_a_cluster_ends_as_on_one_machine(two, tmp_path):
    """A node is killed, then the sweep, and the same command goes on: not a number differs from those of an undisturbed
    study on one machine."""
    (tmp_path / "tiny.toml").write_text(TINY)
    sweep = [sys.executable, "-m", "alda.cli", "sweep", "tiny.toml"]
    alone = subprocess.run([*sweep, "--root", "alone", "--jobs", "2"], cwd=tmp_path, capture_output=True, text=True)
    assert alone.returncode == 0, alone.stdout
    cluster_wide = [*sweep, "--root", "wide", "--backend", "ray", "--address", two.address, "--jobs", "2"]
    with (tmp_path / "said").open("w") as said, subprocess.Popen(cluster_wide, cwd=tmp_path, stdout=said) as first:
        until(lambda: len(list((tmp_path / "wide").rglob("metrics.jsonl"))) == 2, 200)
        two.do(0)
        until(lambda: "lost, goes on" in (tmp_path / "said").read_text(), 100)
        first.kill()
    two.do("add")
    then = subprocess.run(cluster_wide, cwd=tmp_path, capture_output=True, text=True)
    assert then.returncode == 0, then.stdout
    names = [run.relative_to(tmp_path / "alone") for run in (tmp_path / "alone").glob("tiny/*/*/*/*")]
    assert len(names) == 2
    for name in names:
        assert final_records(tmp_path / "wide" / name) == final_records(tmp_path / "alone" / name)


def final_records(run):
    """Metrics but for times, scores, and the digest of every file of weights."""
    rows = [{k: v for k, v in row.items() if not k.startswith(("time/", "speed/"))} for row in read_metrics(run)]
    scores = [json.loads(file.read_text())["worlds"] for file in (run / "evaluations").iterdir()]
    for world in scores[0].values():
        world.pop("seconds", None)
    latest = json.loads((run / "checkpoints" / "latest.json").read_text())["checkpoint"]
    weights = [file.read_bytes() for file in sorted((run / "checkpoints" / latest).glob("*.safetensors"))]
    return rows, scores, [hashlib.sha256(weight).hexdigest() for weight in weights]
