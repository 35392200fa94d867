"""The runner: fills the slots of a place with the commands of tasks, until all are finished or given up.

A task waits, runs its commands one after the other, and is finished. One that another process works on is in use and
waits for that. A task that died waits behind the others as long as it has retries left; then, or when its input was
refused, it has failed. Nothing about this is written down: a task tells what it is to do next from its own files.
"""

import shlex
import signal
import subprocess
import time
from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from alda.envs.vector import cause_of_death
from alda.errors import UserError
from alda.files import open_regular
from alda.sweep.local import LocalPlace
from alda.sweep.ray import RayJob, RayPlace

Place = LocalPlace | RayPlace  # slots for commands, which all end when the process that holds the place is gone
Job = subprocess.Popen[bytes] | RayJob  # a command on its way, no method of which waits
State = Literal["training", "evaluating", "failed", "in use", "waiting", "stopped", "finished"]
_WRONG_INPUT = 2  # exit code, which no retry changes
_STOPPED = (0, 128 + signal.SIGINT, -signal.SIGINT)  # exit codes of a command that was asked to stop
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


@dataclass
class Entry:
    """A task and where it stands. command: under way, or last. deaths: of its commands, in this runner."""

    task: Task
    state: State = "waiting"
    command: list[str] | None = None
    deaths: int = 0
    reason: str = ""
    job: Job | None = None


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
        self.stopping = False

    def run(self, caught: Sequence[int], pause: float = 0.2) -> int:
        """Run until nothing is left to do, or a signal was caught and every command has ended; return an exit code.

        When this is interrupted, as by a second signal, it kills all commands.
        """
        try:
            while True:
                for entry in self.entries:
                    if entry.job and (code := entry.job.poll()) is not None:
                        self._end(entry, code)
                if caught and not self.stopping:
                    self._stop()
                if not self.stopping:
                    self._fill()
                with suppress(OSError):  # a table that cannot be made now may be later
                    self.watch(self.entries)
                if not self._running() and (self.stopping or not self._waiting()):
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

    def _waiting(self) -> list[Entry]:
        """Return what is left to begin, those that died behind the others."""
        waiting = [entry for entry in self.entries if entry.state in ("waiting", "in use")]
        return sorted(waiting, key=lambda entry: entry.deaths)

    def _fill(self) -> None:
        free = self.place.jobs - len(self._running())
        for entry in self._waiting():
            if free <= 0:
                return
            self._begin(entry)
            free -= entry.job is not None

    def _begin(self, entry: Entry) -> None:
        """Start the next command of a task, if any."""
        task, before = entry.task, entry.command
        try:
            if task.in_use():
                if entry.state != "in use":
                    self._settle(entry, "in use", "another process works on it; waits for that")
                return
            entry.command = task.next_command()
            if entry.command is None:
                self._settle(entry, "finished")
            elif entry.state in ("training", "evaluating") and entry.command == before:
                self._died(entry, "it ended without having finished")
            else:
                task.log.parent.mkdir(parents=True, exist_ok=True)
                with open_regular(task.log, "a") as log:
                    log.write(f"$ alda {shlex.join(entry.command)}\n")
                entry.job = self.place.start(entry.command, task.log)
                self._settle(entry, "evaluating" if entry.command[0] == "evaluate" else "training")
        except UserError as error:  # the files are of another task
            self._settle(entry, "failed", str(error))
        except OSError as error:
            self._died(entry, str(error))

    def _end(self, entry: Entry, code: int) -> None:
        entry.job = None
        reason = f"{cause_of_death(code)}{_last_words(entry.task.log)}"
        if self.stopping and code in _STOPPED:
            self._settle(entry, "stopped")
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
        else:
            again = f"died and will be tried again ({entry.deaths} of {self.retries})"
            self._settle(entry, "waiting", f"{again}: {reason}")

    def _settle(self, entry: Entry, state: State, reason: str = "") -> None:
        entry.state, entry.reason = state, reason
        self.say(f"{entry.task.label}: {state}" + (f": {reason}" if reason else ""))

    def _stop(self) -> None:
        self.stopping = True
        if running := self._running():
            self.say("stopping: every run saves a checkpoint; a second Ctrl-C kills them")
            for job in running:
                job.send_signal(signal.SIGINT)


def _last_words(log: Path) -> str:
    try:
        text = log.read_text(errors="replace").rpartition("$ alda ")[-1]
    except OSError:
        return ""
    lines = [line.strip() for line in text.splitlines()[1:] if line.strip()][-_LAST_LINES:]  # without the command
    return f"; its last words: {' | '.join(lines)}" if lines else ""
