"""A run of a study as a task: `alda train`, then `alda evaluate`. What it is to do next is read from its directory."""

import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from statistics import fmean
from typing import Any

from alda.config import Config
from alda.errors import UserError
from alda.files import read_json
from alda.progress import clock
from alda.sweep.local import Needs
from alda.sweep.runner import Task
from alda.training.checkpoint import read_state
from alda.training.logger import read_metrics
from alda.training.replay import replay_bytes
from alda.training.run_lock import only_one
from alda.training.trainer import requested
from alda.types import EnvSpec

_ACTIONS = 6  # walker's; a frame is two thousand times as large as an action
_HOST, _DEVICE = 2e9, 4e9  # bytes that a run takes besides its replay, at the methods' own sizes


@dataclass(frozen=True)
class Final:
    """How a trained run is scored. Equal seeds give equal starting states for every method and shift."""

    shifts: tuple[str, ...]
    episodes: int = 100
    seed: int = 0


@dataclass(frozen=True)
class StudyRun(Task):
    """A run of a study: trained, then evaluated. words: of `alda train`. config: as it understands them.

    workers: processes that play its evaluations, unless the study says how many do.
    """

    words: tuple[str, ...]
    config: Config
    final: Final | None = None
    workers: int = 1

    @property
    def run_dir(self) -> Path:
        assert self.config.run_dir is not None
        return self.config.run_dir

    @property
    def label(self) -> str:
        """'walker_walk/alda/beta_10/s0'"""
        return str(Path(*self.run_dir.parts[-4:]))

    @property
    def log(self) -> Path:
        return self.run_dir / "log.txt"

    @cached_property
    def settled(self) -> Config:
        """The config with everything decided."""
        return self.config.resolved()

    def commands(self) -> dict[str, list[str]]:
        """Return the words of `alda` for each part of the run, by name."""
        workers = ["--eval-workers", str(self.workers)] if self.config.eval_workers is None else []
        words = {"train": ["train", *self.words, *workers]}
        if final := self.final:
            numbers = {"episodes": final.episodes, "seed": final.seed, "workers": self.workers}
            flags = spoken({"shifts": list(final.shifts), **numbers})
            words["evaluate"] = ["evaluate", str(self.run_dir), *flags]
        return words

    def next_command(self) -> list[str] | None:
        """Training is over when the checkpoint is that of the last step, evaluated; see Task."""
        saved, steps = saved_position(self.run_dir), self.config.steps
        if saved:
            requested(self.config)  # refuses a run with other settings
        if min(saved.values(), default=-1) < steps:
            return self.commands()["train"]
        scored = not self.final or is_scored(self.run_dir, saved["step"], self.final)
        return None if scored else self.commands()["evaluate"]

    def in_use(self) -> bool:
        try:
            with only_one(self.run_dir):
                return False
        except UserError:
            return True
        except OSError:  # no such directory, or one that cannot be written, as will be found there
            return False

    def progress(self) -> dict[str, str]:
        """Return the newest step, the pace since the run learns with all that it includes, and the newest returns."""
        try:
            rows = read_metrics(self.run_dir)
        except (UserError, OSError):  # a damaged file, as the run itself will tell
            rows = []
        step = max([saved_position(self.run_dir).get("step", 0), *(row["step"] for row in rows)])
        speeds = [row.get("speed/steps_per_second") for row in rows if row.get("updates")]
        seconds = [1 / speed for speed in speeds if speed]
        returns = ""
        for row in rows:
            if means := {name.split("/")[1]: row[name] for name in row if re.fullmatch("eval/[^/]+/return", name)}:
                returns = ", ".join(f"{shift} {mean:.0f}" for shift, mean in means.items() if mean is not None)
                returns += f" at step {row['step']:,}"
        return {
            "step": f"{step:,}/{self.config.steps:,}",
            "steps/s": f"{1 / fmean(seconds):.2f}" if seconds else "",
            "left": clock((self.config.steps - step) * fmean(seconds)) if seconds else "",
            "returns": returns,
        }

    def replay_size(self) -> int:
        """Return bytes of the replay in the end, in memory and about as many on disk."""
        config = self.config
        spec = EnvSpec(config.env.frames, config.env.image_size, _ACTIONS)
        return replay_bytes(spec, min(config.replay_capacity, config.steps), config.num_envs)

    def needs(self) -> Needs:
        """Return what the run takes with its whole replay."""
        replay, device = self.replay_size(), self.settled.device or "cpu"
        if device == "cpu":
            return Needs(_HOST + replay)
        on_host = self.settled.replay_device == "cpu"
        return Needs(_HOST + replay * on_host, _DEVICE + replay * (not on_host), device)


def needs_of(runs: Sequence[StudyRun]) -> Needs:
    """Return what the largest of some runs takes."""
    memory, gpu_memory, devices = zip(*(run.needs() for run in runs), strict=True)
    return Needs(max(memory), max(gpu_memory), next((name for name in devices if name != "cpu"), "cpu"))


def saved_position(run_dir: Path) -> dict[str, int]:
    """Return agent steps taken and evaluated at a run's newest checkpoint; nothing where it has none."""
    try:
        position = read_state(run_dir)["position"]
        return {name: int(position[name]) for name in ("step", "evaluated")}
    except (UserError, OSError, ValueError, KeyError, TypeError):
        return {}


def is_scored(run_dir: Path, step: int, final: Final) -> bool:
    """Return whether the final evaluation of this step is there."""
    for file in (run_dir / "evaluations").glob(f"step_{step:09d}_seed_{final.seed}*.json"):
        try:
            record = read_json(file)
            asked = (record["episodes"], record["seed"]) == (final.episodes, final.seed)
            if asked and set(final.shifts) <= set(record["worlds"]):
                return True
        except (UserError, OSError, ValueError, KeyError, TypeError):
            continue
    return False


def spoken(settings: dict[str, Any]) -> Iterator[str]:
    """Yield flags and values as words of a command line."""
    for flag, value in settings.items():
        if isinstance(value, bool):
            section, dot, last = flag.rpartition(".")
            yield f"--{section}{dot}{'' if value else 'no-'}{last}"
        else:
            yield f"--{flag}"
            yield from map(str, value if isinstance(value, list) else [value])
