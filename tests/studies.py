"""Studies for tests, and a program that pretends to train and evaluate and does what a plan says."""

import json
import time

import psutil

from alda.config import to_json
from alda.sweep.study_file import read_study

# `plan` beside it says by seed what each command does: ok, wait (until it is asked to stop, and then save step 15),
# hold (at step 10 until there is a file `go`), die (by SIGKILL), nothing, or an exit code; the last one is repeated.
PRETENDER = """
import json, os, signal, sys, time
from pathlib import Path

def save(run, step):
    place = run / "checkpoints" / "save_000001"
    place.mkdir(parents=True, exist_ok=True)
    (place / "partial").write_text(json.dumps({"position": {"step": step, "evaluated": step}}))
    (place / "partial").rename(place / "state.json")
    (run / "checkpoints" / "latest.json").write_text(json.dumps({"checkpoint": "save_000001"}))

command, *words = sys.argv[1:]
run = Path(words[0] if command == "evaluate" else words[words.index("--run-dir") + 1])
latest = run / "checkpoints" / "save_000001" / "state.json"
step = json.loads(latest.read_text())["position"]["step"] if latest.exists() else 0
plan = json.loads(Path(__file__).with_name("plan").read_text()).get(run.name, ["ok"])
with (run / "calls").open("a") as calls:
    calls.write(json.dumps({
        "command": command, "step": step, "workers": words[-1], "threads": os.environ["OMP_NUM_THREADS"],
        "gpu": os.environ.get("CUDA_VISIBLE_DEVICES"), "node": os.environ.get("NODE", "1"),
        "pid": os.getpid(), "parent": os.getppid()}) + chr(10))
word = plan[min(len((run / "calls").read_text().splitlines()), len(plan)) - 1]
print("line one", "line two", f"this is {word}", sep="\\n", flush=True)
if word == "die":
    os.kill(os.getpid(), signal.SIGKILL)
elif word == "wait":
    try:
        (run / "waiting").touch()
        time.sleep(60)
    except KeyboardInterrupt:
        save(run, 15)
        sys.exit(130)
elif word not in ("ok", "hold", "nothing"):
    sys.exit(int(word))
elif word != "nothing" and command == "train":
    for step in (10, 30):
        save(run, max(step, 10))
        while word == "hold" and step == 10 and not Path(__file__).with_name("go").exists():
            time.sleep(0.05)
elif word != "nothing":
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
device = "cpu"
[final]
shifts = ["train"]
episodes = 7
seed = 5
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


def study_of(folder, text, name="test"):
    file = folder / f"{name}.toml"
    file.write_text(text)
    return read_study(file, folder / "runs")


def checkpoint(run, step, evaluated):
    """Write what tells a study how far a run is."""
    place = run.run_dir / "checkpoints" / "save_000001"
    place.mkdir(parents=True, exist_ok=True)
    (run.run_dir / "config.json").write_text(json.dumps(to_json(run.settled)))
    (place / "state.json").write_text(json.dumps({"position": {"step": step, "evaluated": evaluated}}))
    (place.parent / "latest.json").write_text(json.dumps({"checkpoint": place.name}))


def step_of(run):
    return json.loads((run.run_dir / "checkpoints/save_000001/state.json").read_text())["position"]["step"]


def metrics(run_dir, *rows):
    run_dir.mkdir(parents=True, exist_ok=True)
    (run_dir / "metrics.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))


def calls(run):
    """Return what the pretender's commands of a run wrote down."""
    file = run.run_dir / "calls"
    return [json.loads(line) for line in file.read_text().splitlines()] if file.exists() else []


def until(true, seconds=30):
    deadline = time.monotonic() + seconds
    while not true() and time.monotonic() < deadline:
        time.sleep(0.02)
    assert true()


def is_gone(pid):
    return not psutil.pid_exists(pid) or psutil.Process(pid).status() == psutil.STATUS_ZOMBIE
