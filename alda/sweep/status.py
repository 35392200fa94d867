"""Tasks run to their end while a table shows how they do."""

import time
from collections import Counter
from collections.abc import Sequence
from contextlib import nullcontext

from rich.live import Live
from rich.table import Table

from alda.progress import wide_console
from alda.sweep.runner import Entry, Place, Runner, Task
from alda.training.run_lock import collected_signals

_SECONDS = 5.0  # between looks at the runs


def run_all(title: str, tasks: Sequence[Task], place: Place, retries: int = 0) -> int:
    """Run tasks, show how they do, and return the exit code: 0 when all are finished, 1 when some are not, and 128 plus
    its number after a signal. A second Ctrl-C kills all commands. Raise UserError where files are of other tasks."""
    board = Board(title)
    with collected_signals() as caught, board.live or nullcontext():
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
            self.live.update(table(self.title, entries, only=("training", "evaluating", "failed")), refresh=True)
            return
        for entry in entries:
            label, news = entry.task.label, entry.task.progress().get("returns", "") if entry.job else ""
            if news and news != self._news.get(label):
                self._news[label] = news
                self.say(f"{label}: {news}")


def table(title: str, entries: Sequence[Entry], only: Sequence[str] = ()) -> Table:
    """Return a table of all tasks, or of those in certain states; its title counts them all."""
    counts = Counter(entry.state for entry in entries)
    made = Table(title=f"{title}: {', '.join(f'{n} {state}' for state, n in counts.items())}", title_justify="left")
    rows = [(entry, entry.task.progress()) for entry in entries if not only or entry.state in only]
    columns = list(dict.fromkeys(name for _, progress in rows for name in progress))
    for column in ("run", "state", *columns):
        made.add_column(column, overflow="fold")
    for entry, progress in rows:
        deaths = f", died {entry.deaths} times" if entry.deaths > 1 else ", died once" if entry.deaths else ""
        made.add_row(entry.task.label, entry.state + deaths, *(progress.get(name, "") for name in columns))
    return made
