"""A run of a study as a task: `alda train`, then `alda evaluate`. What it is to do next is read from its directory."""

from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from statistics import median
from typing import Any

from alda.config import Config
from alda.progress import clock
from alda.sweep.local import Needs
from alda.sweep.runner import Task
from alda.sweep.status import is_locked, is_scored, read_progress, saved_position
from alda.training.replay import replay_bytes
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

    @property
    def kind(self) -> str:
        """'alda/beta_10': runs of a kind differ in task and seed, and learn at about the same pace."""
        return f"{self.config.method}/{self.config.name}"

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
        scored = not self.final or is_scored(self.run_dir, saved["step"], **vars(self.final))
        return None if scored else self.commands()["evaluate"]

    def in_use(self) -> bool:
        return is_locked(self.run_dir)

    def progress(self) -> dict[str, str]:
        found = read_progress(self.run_dir)
        returns = ", ".join(f"{shift} {value:.0f}" for shift, value in found.returns.items())
        seconds = found.seconds_per_step
        return {
            "step": f"{found.step:,}/{self.config.steps:,}",
            "steps/s": f"{1 / seconds:.2f}" if seconds else "",
            "left": clock((self.config.steps - found.step) * seconds) if seconds else "",
            "returns": f"{returns} at step {found.evaluated:,}" if returns else "",
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


def time_left(runs: Sequence[StudyRun], jobs: int) -> float | None:
    """Return seconds until these runs are trained, at the median pace of each kind; None where a kind has none yet."""
    paces: dict[str, list[float]] = {}
    steps: Counter[str] = Counter()
    for run in runs:
        progress = read_progress(run.run_dir)
        steps[run.kind] += max(0, run.config.steps - progress.step)
        if progress.seconds_per_step:
            paces.setdefault(run.kind, []).append(progress.seconds_per_step)
    if any(kind not in paces for kind in +steps):
        return None
    return sum(count * median(paces[kind]) for kind, count in (+steps).items()) / max(1, jobs)


def spoken(settings: dict[str, Any]) -> Iterator[str]:
    """Yield flags and values as words of a command line."""
    for flag, value in settings.items():
        if isinstance(value, bool):
            section, dot, last = flag.rpartition(".")
            yield f"--{section}{dot}{'' if value else 'no-'}{last}"
        else:
            yield f"--{flag}"
            yield from map(str, value if isinstance(value, list) else [value])
