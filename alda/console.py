"""What a person sees while a run goes on: a live bar on a terminal, plain lines anywhere else."""

import time
from types import TracebackType

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, ProgressColumn, Task, TextColumn, TimeRemainingColumn
from rich.text import Text

_PLAIN_SECONDS = 30.0  # between plain lines


class Display:
    """Progress of a run in agent steps. Use as a context; `advance` may be called as often as one likes."""

    def __init__(self, total: int, done: int) -> None:
        self.console = Console()
        self._live = self.console.is_terminal
        self._total, self._printed = total, time.monotonic()
        self._start = (done, time.monotonic())
        self._bar = Progress(
            TextColumn("{task.description}"),
            BarColumn(bar_width=None),
            MofNCompleteColumn(),
            TextColumn("steps"),
            _Speed(),
            TimeRemainingColumn(),
            TextColumn("{task.fields[news]}"),
            console=self.console,
            speed_estimate_period=120,
        )
        self._task = self._bar.add_task("training", total=total, completed=done, news="")

    def __enter__(self) -> "Display":
        if self._live:
            self._bar.start()
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self._bar.stop()

    def say(self, message: str) -> None:
        """A line that stays."""
        self.console.print(message, highlight=False, markup=False, soft_wrap=True)

    def advance(self, step: int, doing: str, news: str) -> None:
        """The run is at `step`, doing this; news is the newest of its results."""
        self._bar.update(self._task, completed=step, description=doing, news=news)
        if not self._live and time.monotonic() - self._printed > _PLAIN_SECONDS:
            self._printed = time.monotonic()
            first, since = self._start
            rate = (step - first) / (time.monotonic() - since)
            left = f"{_clock((self._total - step) / rate)} left" if rate else "time left unknown"
            self.say(f"{doing}: step {step:,} of {self._total:,}, {rate:.1f} steps/s, {left}  {news}")


class _Speed(ProgressColumn):
    def render(self, task: Task) -> Text:
        return Text(f"{task.speed:.1f}/s" if task.speed else "-/s")


def _clock(seconds: float) -> str:
    minutes, seconds = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02d}:{seconds:02d}"
