"""How far a run is, read from its directory alone: metrics, checkpoint, evaluations, and the log of its commands."""

import json
import re
from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import lru_cache
from pathlib import Path
from typing import Any, Literal

from alda.config import Config
from alda.errors import UserError
from alda.sweep.study_file import StudyRun
from alda.training.logger import read_metrics
from alda.training.run_lock import only_one
from alda.training.trainer import requested

Command = Literal["train", "evaluate"]
_TAIL = 2_000  # letters of a log that are looked at
_STEP = re.compile(r"step ([\d,]+)/")  # as console.Display writes it


@dataclass(frozen=True)
class Progress:
    """What the metrics of a run say. returns: newest means, by world. seconds_per_update: everything included."""

    step: int = 0
    updates: int = 0
    steps_per_second: float | None = None
    seconds_per_update: float | None = None
    returns: dict[str, float] = field(default_factory=dict)


def read_progress(run_dir: Path) -> Progress:
    """As far as the metrics go; nothing, where there are none or a line is just being written."""
    try:
        stamp = (run_dir / "metrics.jsonl").stat()
    except OSError:
        return Progress()
    return _progress(run_dir, (stamp.st_mtime_ns, stamp.st_size))


@lru_cache(maxsize=1_000)
def _progress(run_dir: Path, _stamp: tuple[int, int]) -> Progress:
    try:
        return summarize(read_metrics(run_dir))
    except (ValueError, OSError, KeyError, TypeError):
        return Progress()


def summarize(rows: Sequence[dict[str, Any]]) -> Progress:
    """Of lines of metrics. A line says how many steps a second there were since the line before with a speed."""
    returns: dict[str, float] = {}
    speed, seconds, learned, step, updates = None, 0.0, 0, 0, 0
    for row in rows:
        for name, value in row.items():
            if name.startswith("eval/") and name.endswith("/return") and value is not None:
                returns[name.removeprefix("eval/").removesuffix("/return")] = float(value)
        if "speed/steps_per_second" in row:
            if now := row["speed/steps_per_second"]:
                speed = float(now)
                if row["updates"] > updates:  # what was learned from; steps at random are faster
                    seconds += (row["step"] - step) / speed
                    learned += row["updates"] - updates
            step, updates = row["step"], row["updates"]
    last = rows[-1] if rows else {}
    return Progress(
        int(last.get("step", 0)),
        int(last.get("updates", 0)),
        speed,
        seconds / learned if learned else None,
        returns,
    )


def newest_step(run: StudyRun, log_start: int) -> int:
    """The step that the log names last, which is newer than that of the metrics, or the latter."""
    told = _STEP.findall(log_since(run.run_dir, log_start)[-_TAIL:])
    step = int(told[-1].replace(",", "")) if told else 0
    return max(step, read_progress(run.run_dir).step)


def log_since(run_dir: Path, start: int) -> str:
    """What the log says from there on; nothing, where it is gone."""
    try:
        with (run_dir / "log.txt").open("rb") as log:
            log.seek(start)
            return log.read().decode(errors="replace")
    except OSError:
        return ""


def next_command(run: StudyRun) -> Command | None:
    """What is still to do; None where all is done.

    Training is over when the checkpoint is that of the last step, evaluated. Raises UserError where the directory holds
    a run with other settings.
    """
    saved = _saved_position(run.run_dir)
    if saved:
        config = run.run_dir / "config.json"
        _check_settings(run.config, config.stat().st_mtime_ns if config.exists() else None)
    steps = run.config.steps
    if not saved or saved["step"] < steps or saved["evaluated"] < steps:
        return "train"
    if run.final and not _is_scored(run, saved["step"]):
        return "evaluate"
    return None


@lru_cache(maxsize=1_000)
def _check_settings(config: Config, _written: int | None) -> None:
    requested(config)  # refuses what differs


def _saved_position(run_dir: Path) -> dict[str, int]:
    """Where the run's newest checkpoint is; empty, where it has none."""
    folder = run_dir / "checkpoints"
    try:
        place = json.loads((folder / "latest.json").read_text())["checkpoint"]
        position = json.loads((folder / place / "state.json").read_text())["position"]
        return {name: int(position[name]) for name in ("step", "evaluated")}
    except (OSError, ValueError, KeyError, TypeError):
        return {}


def _is_scored(run: StudyRun, step: int) -> bool:
    """Whether the final evaluation of this step is there, in all its worlds."""
    assert run.final is not None
    for file in (run.run_dir / "evaluations").glob(f"step_{step:09d}_seed_{run.final.seed}*.json"):
        try:
            record = json.loads(file.read_text())
            numbers = record["episodes"], record["seed"], set(run.final.shifts) - set(record["worlds"])
        except (OSError, ValueError, KeyError, TypeError):
            continue
        if numbers == (run.final.episodes, run.final.seed, set()):
            return True
    return False


def in_use(run_dir: Path) -> bool:
    """Whether a process trains the run."""
    if not run_dir.is_dir():
        return False
    try:
        with only_one(run_dir):
            return False
    except UserError:
        return True
    except OSError:  # a place that cannot be written, as will be found there
        return False
