"""What a person sees while a run goes on: a live bar on a terminal, plain lines anywhere else."""

import atexit
import io
import os
import sys
import time
from collections import deque
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, nullcontext, suppress
from types import TracebackType
from typing import IO, Any, cast

from rich.console import Console
from rich.progress import BarColumn, Progress, TextColumn
from rich.table import Column

_PLAIN_SECONDS = 30.0  # between plain lines
_WINDOW_SECONDS = 60.0  # over which speeds are measured


class Display:
    """Progress of a run. Use as a context; `advance` may be called as often as one likes.

    steps, updates: what the whole run takes. Learning is what takes time, so updates tell how much is left.
    name, board: where several runs are shown together, what each line begins with and where their live lines are.
    """

    def __init__(self, steps: int, updates: int, name: str = "", board: Progress | None = None) -> None:
        self.console = board.console if board else lasting_console()
        self._live = self.console.is_terminal
        self._steps, self._updates, self._name = steps, updates, name
        self._seen: deque[tuple[float, int, int]] = deque()  # time, step, updates
        self._printed = time.monotonic()
        self._bar = board or Progress(
            TextColumn("{task.description}"),
            BarColumn(bar_width=16),
            TextColumn("{task.fields[news]}", table_column=Column(overflow="fold")),
            console=self.console,
            refresh_per_second=4,
        )
        self._task = self._bar.add_task(f"{name}training", total=steps, news="")

    def __enter__(self) -> "Display":
        if self._live:
            self._bar.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._live:
            self._bar.stop()

    def say(self, message: str) -> None:
        """A line that stays."""
        self.console.print(self._name + message, highlight=False, markup=False, soft_wrap=True)

    def advance(self, step: int, updates: int, doing: str, news: str) -> None:
        """The run has taken so many steps and updates and is doing this; news is the newest of its results."""
        now = time.monotonic()
        if self._seen and now - self._seen[-1][0] < 0.25:
            return
        self._seen.append((now, step, updates))
        while now - self._seen[0][0] > _WINDOW_SECONDS:
            self._seen.popleft()
        self.show(step, f"{doing}  step {step:,}/{self._steps:,}  {self._speed()}", news)

    def show(self, step: int, text: str, news: str) -> None:
        """The live line, or a plain one now and then."""
        now = time.monotonic()
        if self._live:
            self._bar.update(self._task, completed=step, description=self._name + text, news=news)
        elif now - self._printed > _PLAIN_SECONDS:
            self._printed = now
            self.say(f"{text}  {news}")

    def hide(self) -> None:
        """Ends the live line; what was said stays."""
        self._bar.remove_task(self._task)

    def _speed(self) -> str:
        """Speeds over the window; that of learning from where learning began in it."""
        (before, first, _), (now, step, updates) = self._seen[0], self._seen[-1]
        if now == before:
            return ""
        learning = [seen for seen in self._seen if seen[2] > self._seen[0][2]]
        spent, learned = (now - learning[0][0], updates - learning[0][2]) if learning else (0.0, 0)
        rate = learned / spent if spent else 0.0
        text = f"{(step - first) / (now - before):.1f} steps/s, {rate:.1f} updates/s"
        return f"{text}, {clock((self._updates - updates) / rate)} left" if rate else text


@contextmanager
def displays(names: Sequence[str], steps: int) -> Iterator[list[Display]]:
    """Of several runs, one live line each."""
    console = lasting_console()
    wide = Column(no_wrap=console.width >= 120, overflow="ellipsis")  # then results fit, and only shares of time do not
    board = Progress(
        TextColumn("{task.description}  {task.fields[news]}", table_column=wide), console=console, refresh_per_second=4
    )
    shown = [Display(steps, 0, name, board) for name in names]
    with board if board.console.is_terminal else nullcontext():
        yield shown


def wide_console() -> Console:
    """For tables: as wide as the terminal, or wide enough where there is none."""
    console = lasting_console()
    return console if console.is_terminal else lasting_console(width=160)


def lasting_console(width: int | None = None) -> Console:
    """Of standard output. Where that cannot be written any more (a closed terminal or pipe, a full disk), what is
    printed is lost, and nothing else."""
    return Console(file=cast(IO[str], _Lasting(sys.stdout)), width=width)


class _Lasting(io.TextIOBase):
    def __init__(self, stream: Any) -> None:
        self._stream = stream

    @property
    def encoding(self) -> str | None:  # type: ignore[override]
        return self._stream.encoding

    def fileno(self) -> int:
        return self._stream.fileno()

    def isatty(self) -> bool:
        return self._stream.isatty()

    def write(self, text: str) -> int:
        with suppress(OSError):
            self._stream.write(text)
        return len(text)

    def flush(self) -> None:
        with suppress(OSError):
            self._stream.flush()


@atexit.register
def _forget_unwritten() -> None:
    """What is still unwritten when the process ends would turn its exit code into 120."""
    for stream in (sys.stdout, sys.stderr):
        try:
            stream.flush()
        except (OSError, ValueError):
            with suppress(OSError, ValueError):
                os.dup2(os.open(os.devnull, os.O_WRONLY), stream.fileno())


def clock(seconds: float) -> str:
    minutes, seconds = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02d}:{seconds:02d}"
