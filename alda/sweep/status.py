"""What run directories tell of a study: what is finished, how far each run is and how fast, and tables of it."""

import json
import time
from collections import Counter
from collections.abc import Sequence
from contextlib import nullcontext, suppress
from functools import lru_cache
from pathlib import Path
from statistics import fmean
from typing import Any, NamedTuple

from rich.live import Live
from rich.table import Table

from alda.errors import UserError
from alda.progress import wide_console
from alda.sweep.runner import Entry, Place, Runner, State, Task
from alda.training.logger import read_metrics
from alda.training.run_lock import collected_signals, exit_at_sigterm, only_one

_SECONDS = 1.0  # between looks at the runs
_ORDER: tuple[State, ...] = ("training", "evaluating", "failed", "in use", "waiting", "stopped", "finished")
_FRAME_LINES = 7  # of a table, that are no runs


class Progress(NamedTuple):
    """How far a run is. seconds_per_step: mean since it learns, everything included. returns: newest means, by shift,
    of the evaluation at step `evaluated`."""

    step: int = 0
    seconds_per_step: float | None = None
    evaluated: int = 0
    returns: dict[str, float] = {}  # noqa: RUF012 (never changed)


def read_progress(run_dir: Path) -> Progress:
    """Return the progress of a run; of a run without metrics, or with damaged ones, none."""
    stamps = []
    for file in (run_dir / "metrics.jsonl", run_dir / "checkpoints" / "latest.json"):
        with suppress(OSError):
            stamps.append((file.stat().st_mtime_ns, file.stat().st_size))
    return _read_progress(run_dir, tuple(stamps))


@lru_cache(maxsize=1_000)
def _read_progress(run_dir: Path, _stamps: tuple[tuple[int, int], ...]) -> Progress:
    try:
        return summarize(read_metrics(run_dir), saved_position(run_dir).get("step", 0))
    except (ValueError, OSError, KeyError, TypeError):
        return Progress()


def summarize(rows: Sequence[dict[str, Any]], saved: int = 0) -> Progress:
    """Return what lines of metrics, and the step of a checkpoint, tell of a run."""
    newest = max([saved, *(row["step"] for row in rows)])
    speeds = [row["speed/steps_per_second"] for row in rows if row.get("speed/steps_per_second") and row["updates"]]
    evaluated, returns = 0, {}
    for row in rows:
        for name, value in row.items():
            if name.startswith("eval/") and name.endswith("/return") and value is not None:
                evaluated, returns[name.split("/")[1]] = row["step"], value
    return Progress(newest, fmean(1 / speed for speed in speeds) if speeds else None, evaluated, returns)


def saved_position(run_dir: Path) -> dict[str, int]:
    """Return agent steps taken and evaluated at a run's newest checkpoint; nothing where it has none."""
    folder = run_dir / "checkpoints"
    try:
        place = json.loads((folder / "latest.json").read_text())["checkpoint"]
        position = json.loads((folder / place / "state.json").read_text())["position"]
        return {name: int(position[name]) for name in ("step", "evaluated")}
    except (OSError, ValueError, KeyError, TypeError):
        return {}


def is_scored(run_dir: Path, step: int, *, shifts: Sequence[str], episodes: int, seed: int) -> bool:
    """Return whether an evaluation of this step under all these shifts is there."""
    for file in (run_dir / "evaluations").glob(f"step_{step:09d}_seed_{seed}*.json"):
        try:
            record = json.loads(file.read_text())
            if (record["episodes"], record["seed"]) == (episodes, seed) and set(shifts) <= set(record["worlds"]):
                return True
        except (OSError, ValueError, KeyError, TypeError):
            continue
    return False


def is_locked(run_dir: Path) -> bool:
    """Return whether a process trains the run."""
    try:
        with only_one(run_dir):
            return False
    except UserError:
        return True
    except OSError:  # no such directory, or one that cannot be written, as will be found there
        return False


def run_all(title: str, tasks: Sequence[Task], place: Place, retries: int = 0) -> int:
    """Run tasks, show how they do, and return the exit code: 0 when all are finished, 1 when some are not, and 128 plus
    its number after a signal. A second signal kills all commands. Raise UserError where files are of other tasks."""
    board = Board(title)
    with exit_at_sigterm(), collected_signals() as caught, board.live or nullcontext():
        runner = Runner(tasks, place, retries, board.say, board.watch)
        if any(entry.state != "finished" for entry in runner.entries):
            board.say(place.about)
        code = runner.run(caught)
    board.console.print(table(title, runner.entries))
    for entry in runner.entries:
        if entry.state == "failed":
            board.say(f"{entry.task.label}: failed: {entry.reason}; its log: {entry.task.log}")
    if code:
        board.say("the same command goes on with what is unfinished")
    return code


class Board:
    """A live table of tasks on a terminal; elsewhere lines about what they have reached."""

    def __init__(self, title: str) -> None:
        self.title, self.console = title, wide_console()
        terminal = self.console.is_terminal
        self.live = Live(console=self.console, auto_refresh=False, transient=True) if terminal else None
        self._shown = float("-inf")
        self._news: dict[str, str] = {}

    def say(self, line: str) -> None:
        """Print a line that stays."""
        self.console.print(line, highlight=False, markup=False, soft_wrap=True)

    def watch(self, entries: Sequence[Entry]) -> None:
        if time.monotonic() - self._shown < _SECONDS:
            return
        self._shown = time.monotonic()
        if self.live:
            most = max(1, self.console.height - _FRAME_LINES)
            self.live.update(table(self.title, entries, most), refresh=True)
            return
        for entry in entries:
            label, news = entry.task.label, entry.task.progress().get("returns", "") if entry.job else ""
            if news and news != self._news.get(label):
                self._news[label] = news
                self.say(f"{label}: {news}")


def table(title: str, entries: Sequence[Entry], most: int | None = None) -> Table:
    """Return a table of all tasks, or of as many as fit in `most` lines, those that need a look first."""
    counts = Counter(entry.state for entry in entries)
    states = ", ".join(f"{counts[state]} {state}" for state in _ORDER if counts[state])
    made = Table(title=f"{title}: {states}", title_justify="left", caption_justify="left")
    ordered = sorted(entries, key=lambda entry: _ORDER.index(entry.state)) if most else list(entries)
    progress = [entry.task.progress() for entry in ordered[:most]]
    columns = list(dict.fromkeys(name for one in progress for name in one))
    for column in ("run", "state", *columns):
        made.add_column(column, overflow="fold")
    for entry, one in zip(ordered, progress, strict=False):
        deaths = f", died {entry.deaths} times" if entry.deaths > 1 else ", died once" if entry.deaths else ""
        made.add_row(entry.task.label, entry.state + deaths, *(one.get(name, "") for name in columns))
    more = Counter(entry.state for entry in ordered[len(progress) :])
    made.caption = "; ".join(f"{count} more {state}" for state, count in more.items())
    return made
