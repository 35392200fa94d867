"""The scheduler: fills the slots of a backend with what is still to do, until all runs are finished or given up.

A run waits, trains, is evaluated, and is finished. One that another process trains is in use, and waits for that. What
died waits again, behind the others, as long as there are retries; then, or when refused as wrong input, it has failed.
"""

import shlex
import signal
import time
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass
from typing import Literal

from alda.envs.vector import cause_of_death
from alda.errors import UserError
from alda.sweep.attempts import write_attempt
from alda.sweep.backend import Backend, Job, Lost
from alda.sweep.progress import Command, in_use, log_since, next_command, read_progress
from alda.sweep.study_file import Study, StudyRun

State = Literal["waiting", "in use", "training", "evaluating", "finished", "failed", "stopped"]
_STATE_OF: dict[Command, State] = {"train": "training", "evaluate": "evaluating"}
_WRONG_INPUT = 2  # exit code, which no retry changes
_STOPPED = (0, 128 + signal.SIGINT, -signal.SIGINT)  # how a command ends that was asked to
_RECHECK_SECONDS = 5.0  # whether a run is still in use
_LAST_LINES = 5  # shown of a log
_LOSSES = 10  # in a row, without a step further, until they count as a death


@dataclass
class Entry:
    """A run, and where it stands. command: that is on its way, or next. deaths: of its commands, in this sweep."""

    run: StudyRun
    state: State = "waiting"
    command: Command | None = "train"
    deaths: int = 0
    losses: int = 0
    """In a row, of the nodes that it was on, without a step further."""
    lost_at: int = -1
    reason: str = ""
    job: Job | None = None
    placed: bool = False
    """Whether the command has begun, or waits for room."""
    began: float = 0.0
    log_start: int = 0
    """Where in the log the command begins."""
    looked: float = float("-inf")
    """When the run was last found in use."""


class Runner:
    """Runs a study. commands: what each run is to do next, None where it is finished. say: takes a line about what
    happened. watch: is called often, with all entries."""

    def __init__(
        self,
        study: Study,
        commands: Sequence[Command | None],
        backend: Backend,
        retries: int,
        say: Callable[[str], None],
        watch: Callable[[Sequence[Entry]], None] = lambda _: None,
    ) -> None:
        self.study, self.backend, self.retries, self.say, self.watch = study, backend, retries, say, watch
        self.entries = [
            Entry(run, "waiting" if command else "finished", command)
            for run, command in zip(study.runs, commands, strict=True)
        ]
        self.queue = [entry for entry in self.entries if entry.command]
        self.stopping = False
        self.had_room = True

    @property
    def running(self) -> list[Entry]:
        return [entry for entry in self.entries if entry.job]

    def go(self, caught: Sequence[int], pause: float = 0.2) -> None:
        """Until nothing is left to do, or a signal was caught and every command has ended.

        Where it fails, or a second signal comes, it kills them.
        """
        try:
            while True:
                for entry in self.running:
                    self._look_at(entry)
                if caught and not self.stopping:
                    self._stop()
                if not self.stopping:
                    self._fill()
                with suppress(OSError):  # what cannot be looked at now may be later
                    self.watch(self.entries)
                if not self.running and (self.stopping or not self.queue):
                    return
                time.sleep(pause)
        except BaseException:
            for entry in self.running:
                assert entry.job is not None
                entry.job.kill()
            raise

    def _look_at(self, entry: Entry) -> None:
        assert entry.job is not None
        if not entry.placed and entry.job.placed:
            entry.placed, entry.began = True, time.time()
        try:
            if (code := entry.job.poll()) is not None:
                self._ended(entry, code)
        except Lost as error:
            self._lost(entry, str(error))

    def _fill(self) -> None:
        now = time.monotonic()
        room = self.backend.jobs > 0
        if self.queue and not room and self.had_room:
            self.say("no node has room for a run: waiting for one")
        self.had_room = room
        for entry in list(self.queue):
            if len(self.running) >= self.backend.jobs:
                return
            if now - entry.looked > _RECHECK_SECONDS:
                self._begin(entry)

    def _begin(self, entry: Entry, after: Command | None = None) -> None:
        """What is to do next in a run, if anything. after: what has just ended as if it were done."""
        run = entry.run
        try:
            entry.command = next_command(run)
            if entry.command is None:
                self._settle(entry, "finished")
            elif entry.command == after:
                self._died(entry, "it ended without having finished")
            elif entry.command == "train" and in_use(run.run_dir):
                self._wait_for(entry)
            else:
                self._start(entry, entry.command)
        except UserError as error:  # the run in the directory is another one
            self._settle(entry, "failed", str(error))
        except OSError as error:
            self._died(entry, str(error))

    def _start(self, entry: Entry, command: Command) -> None:
        run, workers = entry.run, self.backend.workers
        words = run.train_words(workers) if command == "train" else run.evaluate_words(workers)
        run.run_dir.mkdir(parents=True, exist_ok=True)
        log = run.run_dir / "log.txt"
        with log.open("a") as file:
            entry.log_start = file.tell()
            file.write(f"$ alda {shlex.join(words)}\n")
        entry.job, entry.began, entry.placed = self.backend.start(words, log), time.time(), False
        self._settle(entry, _STATE_OF[command])

    def _ended(self, entry: Entry, code: int) -> None:
        done, entry.job = entry.command, None
        reason = "" if code == 0 else f"{cause_of_death(code)}{_last_words(entry)}"
        self._record(entry, code, reason)
        if self.stopping and code in _STOPPED:
            self._settle(entry, "finished" if _is_finished(entry.run) else "stopped")
        elif code == _WRONG_INPUT and in_use(entry.run.run_dir):
            self._wait_for(entry)
        elif code == _WRONG_INPUT or (code and self.stopping):
            self._settle(entry, "failed", reason)
        elif code:
            self._died(entry, reason)
        else:
            self._begin(entry, after=done)

    def _lost(self, entry: Entry, reason: str) -> None:
        """Its node is gone, which says nothing about the run: it is the next to begin elsewhere."""
        entry.job = None
        self._record(entry, None, reason)
        if self.stopping:
            self._settle(entry, "stopped", reason)
            return
        step = read_progress(entry.run.run_dir).step
        entry.losses, entry.lost_at = (entry.losses + 1 if step == entry.lost_at else 1), step
        if entry.losses == _LOSSES:
            entry.losses = 0
            self._died(entry, f"{reason}, {_LOSSES} times in a row")
            return
        self._settle(entry, "waiting", reason, "lost, goes on from its last checkpoint")
        self.queue.insert(0, entry)

    def _died(self, entry: Entry, reason: str) -> None:
        entry.deaths += 1
        if entry.deaths > self.retries:
            self._settle(entry, "failed", reason)
            return
        self._settle(entry, "waiting", reason, f"died, will be tried again ({entry.deaths} of {self.retries})")
        self.queue.append(entry)

    def _wait_for(self, entry: Entry) -> None:
        """Another process trains this run: it is left alone, and looked at again later."""
        if entry.state != "in use":
            self._settle(entry, "in use", "", "in use by another process; waits for it")
            self.queue.append(entry)
        entry.looked = time.monotonic()

    def _settle(self, entry: Entry, state: State, reason: str = "", words: str = "") -> None:
        if entry in self.queue:
            self.queue.remove(entry)
        entry.state, entry.reason = state, reason
        self.say(f"{entry.run.label}: {words or state}" + (f": {reason}" if reason else ""))

    def _stop(self) -> None:
        self.stopping = True
        if self.running:
            self.say("stopping: every run saves a checkpoint; a second Ctrl-C kills them")
        for entry in self.running:
            assert entry.job is not None
            entry.job.stop()

    def _record(self, entry: Entry, code: int | None, reason: str) -> None:
        times = {"began": round(entry.began, 1), "seconds": round(time.time() - entry.began, 1)}
        what = {"run": entry.run.label, "command": entry.command}
        try:
            write_attempt(self.study.folder, **what, **times, code=code, reason=reason)
        except OSError as error:
            self.say(f"warning: no record of this attempt ({error})")


def _is_finished(run: StudyRun) -> bool:
    try:
        return next_command(run) is None
    except (UserError, OSError):  # as the next sweep will tell
        return False


def _last_words(entry: Entry) -> str:
    lines = log_since(entry.run.run_dir, entry.log_start).splitlines()[1:]  # after the command itself
    last = [line.strip() for line in lines if line.strip()][-_LAST_LINES:]
    return f"; its last words: {' | '.join(last)}" if last else ""
