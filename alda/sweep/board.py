"""What a person sees of a study: a live table on a terminal, and in the end a table of all runs."""

import time
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager

from rich.console import Console
from rich.live import Live
from rich.table import Table

from alda.progress import clock, wide_console
from alda.sweep.estimate import Paces, measure, time_left
from alda.sweep.progress import newest_step, read_progress
from alda.sweep.runner import Entry, State
from alda.sweep.study_file import Study

_SECONDS = 1.0  # between looks at the runs
_ORDER: tuple[State, ...] = ("training", "evaluating", "failed", "in use", "waiting", "stopped", "finished")
_OVER = ("failed", "finished")
_FRAME_LINES = 7  # of a table, that are no runs


class Board:
    """A live table of a study, if `live`. jobs: tells how many runs there are at a time."""

    def __init__(self, study: Study, console: Console, jobs: Callable[[], int], live: Live | None) -> None:
        self.study, self.console, self.jobs, self.live = study, console, jobs, live
        self._shown = float("-inf")

    def say(self, line: str) -> None:
        """A line that stays."""
        self.console.print(line, highlight=False, markup=False, soft_wrap=True)

    def watch(self, entries: Sequence[Entry]) -> None:
        if self.live and time.monotonic() - self._shown > _SECONDS:
            self._shown = time.monotonic()
            self.live.update(self.table(entries, max(1, self.console.height - _FRAME_LINES)), refresh=True)

    def table(self, entries: Sequence[Entry], most: int | None = None) -> Table:
        """Every run, or as many as fit in `most` lines, those that need a look first."""
        counts = Counter(entry.state for entry in entries)
        table = Table(
            title=f"{self.study.name}: " + ", ".join(f"{counts[state]} {state}" for state in _ORDER if counts[state])
        )
        for column in ("run", "state", "step", "steps/s", "left", "last returns"):
            words = column in ("run", "state", "last returns")
            table.add_column(column, justify="left" if words else "right", overflow="fold")
        paces = measure(self.study)
        shown = sorted(entries, key=lambda entry: _ORDER.index(entry.state)) if most else list(entries)
        for entry in shown[:most]:
            table.add_row(*_row(entry, paces))
        notes = [
            f"{count} more {state}" for state, count in Counter(e.state for e in shown[len(shown[:most]) :]).items()
        ]
        to_do = [(entry.run, entry.command) for entry in entries if entry.command and entry.state not in _OVER]
        seconds, untold = time_left(paces, to_do, self.jobs())
        if to_do and not seconds:
            notes.append("time left: unknown yet")
        elif to_do:
            notes.append(f"{clock(seconds)} left" + (f", without {', '.join(untold)}" if untold else ""))
        table.caption = "; ".join(notes)
        return table


def _row(entry: Entry, paces: Paces) -> tuple[str, ...]:
    run, progress = entry.run, read_progress(entry.run.run_dir)
    step = newest_step(run, entry.log_start) if entry.state == "training" else progress.step
    speed = f"{progress.steps_per_second:.2f}" if progress.steps_per_second and entry.state == "training" else ""
    left = paces.left(run, entry.command) if entry.command and entry.job else None
    returns = ", ".join(f"{world} {value:.0f}" for world, value in progress.returns.items())
    state = ("waits for room" if entry.job and not entry.placed else entry.state) + (
        f", died {entry.deaths} times" if entry.deaths > 1 else ", died once" if entry.deaths else ""
    )
    return run.label, state, f"{step:,}/{run.config.steps:,}", speed, "" if left is None else clock(left), returns


@contextmanager
def board(study: Study, jobs: Callable[[], int]) -> Iterator[Board]:
    """Live on a terminal; elsewhere there are only the lines that are said."""
    console = wide_console()
    if not console.is_terminal:
        yield Board(study, console, jobs, None)
        return
    with Live(console=console, auto_refresh=False, transient=True) as live:
        yield Board(study, console, jobs, live)
