"""The runner: fills the slots of a place with the commands of tasks, until all are finished or given up.

A task waits, runs its commands one after the other, and is finished. One that another process works on is in use and
waits for that. A task that died waits behind the others as long as it has retries left; then, or when its input was
refused, it has failed. Nothing about this is written down: a task tells what it is to do next from its own files.
"""

import shlex
import signal
import sys
import time
from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from alda.envs.vector import cause_of_death
from alda.errors import UserError

State = Literal["training", "evaluating", "failed", "in use", "waiting", "stopped", "finished"]
_WRONG_INPUT = 2  # exit code, which no retry changes
_STOPPED = (0, 128 + signal.SIGINT, -signal.SIGINT)  # exit codes of a command that was asked to stop
_RECHECK_SECONDS = 5.0  # between looks whether a task is still in use
_LAST_LINES = 5  # shown of a log


class Task(ABC):
    """Work that one command after the other completes."""

    @property
    @abstractmethod
    def label(self) -> str:
        """Return its name, for people."""

    @property
    @abstractmethod
    def log(self) -> Path:
        """Return the file for what its commands print."""

    @abstractmethod
    def next_command(self) -> list[str] | None:
        """Return the words after `alda`; None when all is done. Raise UserError where files are of another task."""

    def in_use(self) -> bool:
        """Return whether a process outside this runner works on the task."""
        return False

    def progress(self) -> dict[str, str]:
        """Return how far the task is, by columns of a table."""
        return {}


class Job(ABC):
    """A command on its way."""

    @abstractmethod
    def poll(self) -> int | None:
        """Return its exit code, negative for a signal; None while it runs. Never wait."""

    @abstractmethod
    def stop(self) -> None:
        """Ask it to save and end, as Ctrl-C does. Never wait."""

    @abstractmethod
    def kill(self) -> None:
        """End it and its children at once."""


class Place(ABC):
    """Slots for commands, which all end when the process that holds the place is gone.

    jobs: number of slots, which may change. workers: processes that each may use for evaluations. about: both, with
    reasons, for people.
    """

    jobs: int
    workers: int
    about: str

    @abstractmethod
    def start(self, words: Sequence[str], log: Path) -> Job:
        """Run `alda WORDS` and append its output to the log. Raise OSError where that fails."""


@dataclass
class Entry:
    """A task and where it stands. command: under way, or last. deaths: of its commands, in this runner."""

    task: Task
    state: State = "waiting"
    command: list[str] | None = None
    deaths: int = 0
    reason: str = ""
    job: Job | None = None
    log_start: int = 0  # where in the log the command begins
    looked: float = float("-inf")  # when the task was last found in use


class Runner:
    """Runs tasks in a place. say: takes a line about what happened. watch: is called often, with all entries.

    Raises UserError where a task finds files of another one.
    """

    def __init__(
        self,
        tasks: Sequence[Task],
        place: Place,
        retries: int,
        say: Callable[[str], None],
        watch: Callable[[Sequence[Entry]], None] = lambda _: None,
    ) -> None:
        self.place, self.retries, self.say, self.watch = place, retries, say, watch
        self.entries = [Entry(task, "waiting" if task.next_command() else "finished") for task in tasks]
        self.queue = [entry for entry in self.entries if entry.state == "waiting"]
        self.stopping = False

    def run(self, caught: Sequence[int], pause: float = 0.2) -> int:
        """Run until nothing is left to do, or a signal was caught and every command has ended; return an exit code.

        When this is interrupted, as by a second signal, it kills all commands.
        """
        try:
            while True:
                running = [(entry, entry.job) for entry in self.entries if entry.job]
                for entry, job in running:
                    if (code := job.poll()) is not None:
                        self._end(entry, code)
                if caught and not self.stopping:
                    self._stop()
                if not self.stopping:
                    self._fill()
                with suppress(OSError):  # a table that cannot be made now may be later
                    self.watch(self.entries)
                if not self._running() and (self.stopping or not self.queue):
                    break
                time.sleep(pause)
        except BaseException:
            for job in self._running():
                job.kill()
            raise
        if all(entry.state == "finished" for entry in self.entries):
            return 0
        return 128 + caught[0] if caught else 1

    def _running(self) -> list[Job]:
        return [entry.job for entry in self.entries if entry.job]

    def _fill(self) -> None:
        now = time.monotonic()
        for entry in list(self.queue):
            if len(self._running()) >= self.place.jobs:
                return
            if now - entry.looked > _RECHECK_SECONDS:
                self._begin(entry)

    def _begin(self, entry: Entry) -> None:
        """Start the next command of a task, if any."""
        task, before = entry.task, entry.command
        try:
            entry.command = task.next_command()
            if entry.command is None:
                self._settle(entry, "finished")
            elif entry.state in ("training", "evaluating") and entry.command == before:
                self._died(entry, "it ended without having finished")
            elif task.in_use():
                self._wait_for(entry)
            else:
                self._start(entry, entry.command)
        except UserError as error:  # the files are of another task
            self._settle(entry, "failed", str(error))
        except OSError as error:
            self._died(entry, str(error))

    def _start(self, entry: Entry, words: list[str]) -> None:
        log = entry.task.log
        log.parent.mkdir(parents=True, exist_ok=True)
        with log.open("a") as file:
            entry.log_start = file.tell()
            file.write(f"$ alda {shlex.join(words)}\n")
        entry.job = self.place.start(words, log)
        self._settle(entry, "evaluating" if words[0] == "evaluate" else "training")

    def _end(self, entry: Entry, code: int) -> None:
        entry.job = None
        reason = "" if code == 0 else f"{cause_of_death(code)}{_last_words(entry)}"
        if self.stopping and code in _STOPPED:
            self._settle(entry, "finished" if _is_finished(entry.task) else "stopped")
        elif code == _WRONG_INPUT and entry.task.in_use():
            self._wait_for(entry)
        elif code == _WRONG_INPUT or (code and self.stopping):
            self._settle(entry, "failed", reason)
        elif code:
            self._died(entry, reason)
        else:
            self._begin(entry)

    def _died(self, entry: Entry, reason: str) -> None:
        entry.deaths += 1
        if entry.deaths > self.retries:
            self._settle(entry, "failed", reason)
            return
        self._settle(entry, "waiting", reason, f"died, will be tried again ({entry.deaths} of {self.retries})")
        self.queue.append(entry)

    def _wait_for(self, entry: Entry) -> None:
        """Leave a task alone that another process works on, and look at it again later."""
        if entry.state != "in use":
            self._settle(entry, "in use", "", "in use by another process; waits for it")
            self.queue.append(entry)
        entry.looked = time.monotonic()

    def _settle(self, entry: Entry, state: State, reason: str = "", words: str = "") -> None:
        if entry in self.queue:
            self.queue.remove(entry)
        entry.state, entry.reason = state, reason
        self.say(f"{entry.task.label}: {words or state}" + (f": {reason}" if reason else ""))

    def _stop(self) -> None:
        self.stopping = True
        if running := self._running():
            self.say("stopping: every run saves a checkpoint; a second Ctrl-C kills them")
            for job in running:
                job.stop()


def _is_finished(task: Task) -> bool:
    try:
        return task.next_command() is None
    except (UserError, OSError):  # as the next runner will tell
        return False


def _last_words(entry: Entry) -> str:
    try:
        with entry.task.log.open("rb") as log:
            log.seek(entry.log_start)
            text = log.read().decode(errors="replace")
    except OSError:
        return ""
    lines = [line.strip() for line in text.splitlines()[1:] if line.strip()][-_LAST_LINES:]  # without the command
    return f"; its last words: {' | '.join(lines)}" if lines else ""


def this_program() -> list[str]:
    """Return how Python was called for this process, so that its children know what a user's program adds."""
    main = sys.modules["__main__"]
    return ["-m", main.__spec__.name] if main.__spec__ else [str(Path(str(main.__file__)).absolute())]
