"""Progress of a run: a live bar on a terminal, plain lines anywhere else."""

import math
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext, suppress
from typing import IO, Any, cast

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn
from rich.table import Column

_SHORTEST_SECONDS = 0.25  # between changes of the live line
_PLAIN_SECONDS = 30.0  # between plain lines
_WINDOW_SECONDS = 60.0  # over which speeds are measured


class Display:
    """Progress of a run. `advance` may be called as often as one likes, in the context `live`.

    steps, updates: of the whole run. Learning takes most of the time, so updates tell how much is left.
    """

    def __init__(self, steps: int, updates: int) -> None:
        self.console, self._steps = lasting_console(), steps
        self._printed, self._shown = time.monotonic(), -math.inf
        self._bar = Progress(
            TextColumn("{task.description}", markup=False),
            BarColumn(bar_width=16),
            TextColumn("{task.fields[news]}", markup=False, table_column=Column(overflow="fold")),
            console=self.console,
            refresh_per_second=4,
            speed_estimate_period=_WINDOW_SECONDS,
            get_time=time.monotonic,
        )
        self.live: AbstractContextManager[Any] = self._bar if self.console.is_terminal else nullcontext()
        self._task = self._bar.add_task("training", total=steps, news="")
        self._learning = self._bar.add_task("", total=updates, visible=False, news="")

    def say(self, message: str) -> None:
        """Print a line that stays."""
        self.console.print(message, highlight=False, markup=False, soft_wrap=True)

    def advance(self, step: int, updates: int, doing: str, news: str) -> None:
        """Show the steps and updates that a run has taken, what it is doing, and its newest results."""
        now = time.monotonic()
        if now - self._shown < _SHORTEST_SECONDS:
            return
        self._shown = now
        self._bar.update(self._task, completed=step, news=news)
        self._bar.update(self._learning, completed=updates)
        text = f"{doing}  step {step:,}/{self._steps:,}  {self._speed()}"
        if self.console.is_terminal:
            self._bar.update(self._task, description=text)
        elif now - self._printed > _PLAIN_SECONDS:
            self._printed = now
            self.say(f"{text}  {news}")

    def _speed(self) -> str:
        """Return the speeds of the last minute, and the time left at that of learning."""
        tasks = {task.id: task for task in self._bar.tasks}
        steps, learning = tasks[self._task], tasks[self._learning]
        text = f"{steps.speed or 0:.1f} steps/s, {learning.speed or 0:.1f} updates/s"
        left = learning.time_remaining
        return text if left is None else f"{text}, {clock(float(left))} left"


def wide_console() -> Console:
    """Return a console for tables: as wide as the terminal, or wide enough where there is none."""
    console = lasting_console()
    return console if console.is_terminal else lasting_console(width=160)


def lasting_console(width: int | None = None) -> Console:
    """Return a console of standard output that drops what cannot be written: a terminal or pipe may be closed, a disk
    full. Words in brackets are words, as in names of folders."""
    return Console(file=cast(IO[str], _Lasting(sys.stdout)), width=width, markup=False, emoji=False)


class _Lasting:
    """Stream that drops what it cannot write."""

    def __init__(self, stream: Any) -> None:
        self._stream = stream

    def __getattr__(self, name: str) -> Any:
        return getattr(self._stream, name)

    def write(self, text: str) -> int:
        with suppress(OSError):
            self._stream.write(text)
        return len(text)

    def flush(self) -> None:
        with suppress(OSError):
            self._stream.flush()


def clock(seconds: float) -> str:
    """Return a duration as hours, minutes and seconds: 1:02:03."""
    minutes, seconds = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02d}:{seconds:02d}"


Begin = Callable[[str, int | None], Callable[..., None]]  # see progress


@contextmanager
def progress(*, transient: bool = False) -> Iterator[Begin]:
    """Show a bar for each stage of a command: begin(words, steps) returns the function to call after every step.

    That function takes new words, or none. steps: None where they cannot be counted. transient: remove the bars at
    the end.
    """
    columns = (TextColumn("{task.description}", markup=False), BarColumn(), MofNCompleteColumn())
    with Progress(
        *columns, TimeElapsedColumn(), TimeRemainingColumn(), console=wide_console(), transient=transient
    ) as bars:

        def begin(words: str, steps: int | None) -> Callable[..., None]:
            if bars.tasks and bars.tasks[-1].total is None:
                bars.update(bars.tasks[-1].id, total=1, completed=1)
            bar = bars.add_task(words, total=steps)

            def step(now: str = words) -> None:
                bars.update(bar, advance=1, description=now)

            return step

        yield begin
