"""Inject faults at random moments of a tiny real run, resume it after each, and compare the end with a run left alone.

Half a minute each. Metrics (but times), weights and optimisers must be equal, bit for bit.
"""

import json
import os
import pty
import re
import resource
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field
from itertools import count, zip_longest
from pathlib import Path

import numpy as np
import psutil
import torch
import tyro
from rich.progress import Progress
from rich.table import Table

from alda.progress import wide_console
from alda.training.logger import read_metrics
from alda.training.tensors import read_tensors

STEPS = 120
WORDS = f"""train sac --env.task cartpole_balance --env.episode-length 80 --env.profile fast --env.image-size 44
    --agent.batch-size 8 --agent.hidden-dim 16 --agent.embed-dim 8 --agent.random-steps 20 --steps {STEPS}
    --eval-every 30 --eval-episodes 1 --log-every 2 --shifts train color_hard --num-envs 2 --eval-workers 2
    --video-every 0 --checkpoint-minutes 0.03 --device cpu --seed 3"""
CLOCKED = ("time/", "speed/", "memory/")
TELLING = ("warning", "stopped", "the same command", "environment process", "alda:", "already", "Traceback")


@dataclass
class Attempt:
    """Execution of the command on a run directory. reader: process that reads its output, where that is no file."""

    process: subprocess.Popen[bytes]
    run_dir: Path
    reader: subprocess.Popen[bytes] | None
    rng: np.random.Generator


@dataclass
class Outcome:
    """Outcome of all faults of a kind. repeated: agent steps, at most. lost: lines of metrics, tensors, tracebacks."""

    injected: int = 0
    said: Counter[str] = field(default_factory=Counter)
    repeated: int = 0
    lost: int = 0


def kill_and_cut(it: Attempt) -> None:
    """Leave what a power cut does: half a line, zeros, and a checkpoint that was just begun."""
    it.process.kill()
    it.process.wait()
    with (it.run_dir / "metrics.jsonl").open("ab") as file:
        file.write(b'{"step": 119, "updates": 99}\n'[: it.rng.integers(1, 28)] + bytes(int(it.rng.integers(50))))
    (it.run_dir / "checkpoints" / "save_000999").mkdir()


def fill_disk(it: Attempt) -> None:
    """Let no file grow beyond a limit, which fails as a full disk does."""
    resource.prlimit(it.process.pid, resource.RLIMIT_FSIZE, (int(it.rng.integers(40_000)), resource.RLIM_INFINITY))


def kill_worker(it: Attempt) -> None:
    """Kill one of the processes that play training and evaluation."""
    it.rng.choice(psutil.Process(it.process.pid).children()).kill()


def train_again(it: Attempt) -> str:
    it.process.send_signal(signal.SIGSTOP)  # or it would be over before the second one has started
    second = subprocess.run(command(it.run_dir), capture_output=True, text=True, check=False)
    it.process.send_signal(signal.SIGCONT)
    return f"to the second: {second.stderr} ({second.returncode}); to the first: "


def vanish(*names: str) -> Callable[[Attempt], None]:
    """Return what deletes files or folders of the run."""

    def delete(it: Attempt) -> None:
        for name in names:
            path = it.run_dir / name
            shutil.rmtree(path) if path.is_dir() else path.unlink(missing_ok=True)

    return delete


def flip_a_bit(it: Attempt) -> str:
    """Kill the run, damage a file of its checkpoint, and see it refused; then undo the damage."""
    it.process.kill()
    it.process.wait()
    file = it.rng.choice(sorted(path for path in (it.run_dir / "checkpoints").rglob("*") if path.is_file()))
    content = file.read_bytes()
    place = int(it.rng.integers(len(content)))
    file.write_bytes(content[:place] + bytes([content[place] ^ 1 << it.rng.integers(8)]) + content[place + 1 :])
    second = subprocess.run(command(it.run_dir), capture_output=True, text=True, check=False)
    file.write_bytes(content)
    told = re.sub(r"\(.*\)", "(...)", second.stderr)
    return f"{re.sub('[0-9]{3,}', 'N', told)} ({second.returncode}); mended: "


FAULTS: dict[str, Callable[[Attempt], str | None]] = {
    "killed": lambda it: it.process.kill(),
    "killed amid a line": kill_and_cut,
    "Ctrl-C": lambda it: it.process.send_signal(signal.SIGINT),
    "terminal closed": lambda it: it.reader and it.reader.kill(),
    "pipe closed": lambda it: it.reader and it.reader.kill(),
    "disk full": fill_disk,
    "environment killed": kill_worker,
    "trained twice at once": train_again,
    "lock deleted": vanish(".lock"),
    "checkpoints deleted": vanish("checkpoints"),
    "replay deleted": vanish("checkpoints/replay"),
    "records deleted": vanish("config.json", "meta.json"),
    "a bit flipped": flip_a_bit,
}


def command(run_dir: Path) -> list[str]:
    return [sys.executable, "-m", "alda.cli", *WORDS.split(), "--run-dir", str(run_dir)]


def start(run_dir: Path, log: Path, fault: str | None, rng: np.random.Generator) -> Attempt:
    """Start the command, which prints into the log, through a terminal or pipe where that is to be closed."""
    reader, login = None, ["setsid", "--ctty"] if fault == "terminal closed" else []
    theirs = written = os.open(log, os.O_WRONLY | os.O_CREAT | os.O_TRUNC)
    if fault in ("terminal closed", "pipe closed"):
        ours, theirs = pty.openpty() if fault == "terminal closed" else os.pipe()
        reader = subprocess.Popen(["cat"], stdin=ours, stdout=written, stderr=subprocess.DEVNULL)
        os.close(ours)
        os.close(written)
    process = subprocess.Popen([*login, *command(run_dir)], stdin=theirs, stdout=theirs, stderr=theirs)
    os.close(theirs)
    return Attempt(process, run_dir, reader, rng)


def attempt(run_dir: Path, fault: str | None, outcome: Outcome, rng: np.random.Generator) -> int:
    """Run the command, with a fault after a random step and moment; return its exit code."""
    log = run_dir.with_suffix(".log")
    after, moment = int(rng.integers(newest_step(run_dir), STEPS + 1)), rng.uniform(0, 0.3)
    it = start(run_dir, log, fault, rng)
    while it.process.poll() is None and ("sac on" not in log.read_text() or newest_step(run_dir) < after):
        time.sleep(0.01)
    time.sleep(moment)
    hit = fault is not None and it.process.poll() is None
    said = FAULTS[fault or ""](it) if hit else None
    code = it.process.wait()
    (it.reader or it.process).wait()
    text = log.read_text()
    outcome.lost += "Traceback" in text
    if hit:
        outcome.injected += 1
        outcome.repeated = max(outcome.repeated, newest_step(run_dir) - saved(run_dir)[0])
        told = dict.fromkeys(line for line in text.splitlines() if line.startswith(TELLING))
        words = (said or "") + ("; ".join(told) or "nothing")
        words = re.sub(r"(?<!\w)/\S+", "RUN", re.sub(r"(?<=step )[\d,]+", "N", words)).replace("\n", "")
        outcome.said[f"{words} ({code})"] += 1
    return code


def newest_step(run_dir: Path) -> int:
    return max((row["step"] for row in read_metrics(run_dir)), default=-1)


def saved(run_dir: Path) -> tuple[int, dict[str, torch.Tensor]]:
    """Return the step of the checkpoint and all its tensors."""
    latest = run_dir / "checkpoints" / "latest.json"
    place = latest.with_name(json.loads(latest.read_text())["checkpoint"])
    tensors = read_tensors(place / "agent.safetensors") | read_tensors(place / "training.safetensors")
    return json.loads((place / "state.json").read_text())["position"]["step"], tensors


def records(run_dir: Path) -> list[dict[str, object]]:
    """Return metrics without what depends on the clock."""
    return [{k: v for k, v in row.items() if not k.startswith(CLOCKED)} for row in read_metrics(run_dir)]


def count_lost(run_dir: Path, whole: Path) -> int:
    """Count lines of metrics and tensors that differ from those of the whole run."""
    (_, tensors), (_, same) = saved(run_dir), saved(whole)
    lines = sum(found != expected for found, expected in zip_longest(records(run_dir), records(whole)))
    return lines + sum(name not in tensors or not torch.equal(tensors[name], same[name]) for name in same)


def main(times: int = 3, seed: int = 0, faults: tuple[str, ...] = ()) -> None:
    """Inject faults of each kind into a tiny real run and resume it. Exit code 1 if it ends unlike a run left alone.

    Args:
        times: Faults of each kind.
        seed: Seed of the moments at which they happen.
        faults: Kinds (none: all).
    """
    rng, outcomes = np.random.default_rng(seed), {fault: Outcome() for fault in faults or FAULTS}
    table = Table("fault", "injected", "what was said (exit code)", "steps repeated at most", "records lost")
    with tempfile.TemporaryDirectory() as folder, Progress() as bars:
        bar = bars.add_task("a run left alone", total=len(outcomes) * times)
        whole, number = Path(folder, "whole"), count()
        assert attempt(whole, None, Outcome(), rng) == 0, whole.with_suffix(".log").read_text()
        for fault, outcome in outcomes.items():
            while outcome.injected < times:
                run_dir, code = Path(folder, f"{next(number)}"), 1
                while code:
                    before = outcome.injected
                    code = attempt(run_dir, fault if before < times else None, outcome, rng)
                    bars.update(bar, description=fault, advance=outcome.injected - before)
                    if code and outcome.injected == before:
                        sys.exit(f"this run cannot be resumed: {run_dir.with_suffix('.log').read_text()}")
                outcome.lost += count_lost(run_dir, whole)
            said = "\n".join(f"{n} x {words}" for words, n in outcome.said.most_common())
            table.add_row(fault, str(outcome.injected), said, str(outcome.repeated), str(outcome.lost))
    wide_console().print(table)
    sys.exit(any(outcome.lost for outcome in outcomes.values()))


if __name__ == "__main__":
    tyro.cli(main)
