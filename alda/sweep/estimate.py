"""What a study still takes: time, by the speeds that its own runs have shown, and disk."""

import heapq
import shutil
from collections.abc import Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from statistics import mean, median
from typing import NamedTuple

import torch

from alda.agents import AgentConfig, make_agent
from alda.progress import clock
from alda.sweep.attempts import read_attempts
from alda.sweep.progress import Command, read_progress
from alda.sweep.study_file import Study, StudyRun
from alda.training.replay import replay_bytes
from alda.types import EnvSpec

ToDo = tuple[StudyRun, Command]  # a run, and what it is to do next
_ACTIONS = 6  # walker's; a frame is two thousand times as large as an action
_MOMENTS = 2  # that Adam keeps of every weight it moves


@dataclass(frozen=True)
class Paces:
    """How fast the runs of a study have been.

    updates: seconds per update, with all that training does besides, by kind of run: the median over those that have
    learned. measured: how many have. scoring: seconds that a final evaluation took, the median; None: there was none.
    tried: kinds of which none has learned, and whose pace is that of a trial.
    """

    updates: dict[str, float]
    measured: int
    scoring: float | None
    tried: tuple[str, ...] = ()

    def left(self, run: StudyRun, command: Command) -> float | None:
        """Seconds until a run is finished; None where no run of its kind has learned."""
        scoring = (self.scoring or 0.0) if run.final else 0.0
        if command == "evaluate":
            return scoring
        if run.kind not in self.updates:
            return None
        updates = updates_of(run) - read_progress(run.run_dir).updates
        return max(0, updates) * self.updates[run.kind] + scoring


class Disk(NamedTuple):
    """Bytes: written so far, and when all runs are finished. rest: of one run besides its checkpoint, None where no
    finished run tells."""

    now: int
    end: int
    replay: int
    rest: int | None


def measure(study: Study) -> Paces:
    """By the metrics of its runs and the record of its commands."""
    paces: dict[str, list[float]] = {}
    for run in study.runs:
        if pace := read_progress(run.run_dir).seconds_per_update:
            paces.setdefault(run.kind, []).append(pace)
    scored = [
        row["seconds"] for row in read_attempts(study.folder) if row["command"] == "evaluate" and row["code"] == 0
    ]
    known = {kind: median(of_kind) for kind, of_kind in paces.items()}
    return Paces(known, sum(map(len, paces.values())), median(scored) if scored else None)


def supplemented(paces: Paces, updates: dict[str, float], scoring: float | None) -> Paces:
    """With what was tried, where nothing was measured."""
    tried = tuple(sorted(updates.keys() - paces.updates.keys()))
    return Paces(updates | paces.updates, paces.measured, paces.scoring or scoring, tried)


def time_left(paces: Paces, to_do: Sequence[ToDo], jobs: int) -> tuple[float, list[str]]:
    """Seconds until the last of these is finished, begun in this order, so many at a time; and the kinds of runs that
    are left out of it, as none of them has learned yet."""
    left = [(run.kind, paces.left(run, command)) for run, command in to_do]
    untold = {kind for kind, seconds in left if seconds is None}
    return makespan([seconds for _, seconds in left if seconds is not None], jobs), sorted(untold)


def makespan(seconds: Sequence[float], jobs: int) -> float:
    """When the last of some jobs ends, if each begins in this order as soon as one of the slots is free."""
    ends = [0.0] * max(1, jobs)  # a cluster may have no room for a while
    for each in seconds:
        heapq.heappush(ends, heapq.heappop(ends) + each)
    return max(ends)


def disk(study: Study, finished: Sequence[StudyRun]) -> Disk:
    """What the study's folder holds and will: checkpoints, computed, and the rest, as finished runs have it."""
    rests = [_size_of(run.run_dir) - _size_of(run.run_dir / "checkpoints") for run in finished]
    rest = round(mean(rests)) if rests else None
    checkpoints = sum(replay_size(run) + weights_size(run) for run in study.runs)
    replay = max(map(replay_size, study.runs))
    return Disk(_size_of(study.folder), checkpoints + (rest or 0) * len(study.runs), replay, rest)


def replay_size(run: StudyRun) -> int:
    """Bytes of a run's replay in the end, in memory and about as many on disk."""
    config = run.config
    spec = EnvSpec(config.env.frames, config.env.image_size, _ACTIONS)
    return replay_bytes(spec, min(config.replay_capacity, config.steps), config.num_envs)


def updates_of(run: StudyRun) -> int:
    """Learning steps of the whole run."""
    return _learning(run.config.agent, run.config.env.frames, run.config.env.image_size, run.config.steps)[0]


def weights_size(run: StudyRun) -> int:
    """Bytes of a run's weights and of what its optimisers keep."""
    return _learning(run.config.agent, run.config.env.frames, run.config.env.image_size, run.config.steps)[1]


@cache
def _learning(config: AgentConfig, frames: int, size: int, steps: int) -> tuple[int, int]:
    """Updates, and bytes of weights with their optimisers'."""
    spec = EnvSpec(frames, size, _ACTIONS)
    try:
        with torch.device("meta"):  # shapes alone
            agent = make_agent(config, spec)
    except (NotImplementedError, RuntimeError):  # a method that computes with its first weights
        agent = make_agent(config, spec)
    moved = [weight for adam in agent.optimizers.values() for group in adam.param_groups for weight in group["params"]]
    kept = sum(weight.nbytes for weight in agent.state_dict().values()) + _MOMENTS * sum(w.nbytes for w in moved)
    return sum(agent.updates_due(step) for step in range(steps)), kept


def outlook(study: Study, paces: Paces, to_do: Sequence[ToDo], jobs: int) -> Iterator[str]:
    """Time and disk in lines for people, each with what it is from."""
    seconds, untold = time_left(paces, to_do, jobs)
    sources = [f"the pace of the runs of this study that have learned ({paces.measured})"] * bool(paces.measured)
    sources += [f"a short trial of {', '.join(paces.tried)}, alone"] * bool(paces.tried)
    if sources and to_do:
        yield f"time left: about {clock(seconds)}, by {' and '.join(sources)}"
        if untold:
            yield f"  without the runs of {', '.join(untold)}: none of these has learned yet"
        if paces.scoring is None and any(run.final for run, _ in to_do):
            yield "  without final evaluations: there has been none yet"
    elif to_do:
        yield "time left: unknown until a run of this study has learned; --dry-run tries each kind of run"
    waiting = {run.run_dir for run, _ in to_do}
    space = disk(study, [run for run in study.runs if run.run_dir not in waiting])
    free = shutil.disk_usage(
        next(folder for folder in (study.folder, *study.folder.absolute().parents) if folder.exists())
    ).free
    rest = (
        "pictures and records come on top"
        if space.rest is None
        else f"{space.rest / 1e6:.1f} MB of pictures and records"
    )
    yield (
        f"disk: {space.end / 1e9:.2f} GB when all is finished, of which {space.now / 1e9:.2f} are written; "
        f"{free / 1e9:.1f} GB free"
    )
    yield f"  a run: up to {space.replay / 1e9:.2f} GB of replay, its weights (twice while it saves), {rest}"
    if space.end - space.now > free:
        yield "  warning: that is more than is free"


def _size_of(folder: Path) -> int:
    size = 0
    for path in folder.rglob("*"):
        with suppress(OSError):  # gone meanwhile
            size += path.lstat().st_size if not path.is_dir() else 0
    return size
