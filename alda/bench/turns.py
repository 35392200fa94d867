"""Processes that measure in turns: while one does, all others wait."""

import os
import socket
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

from alda.bench.subject import Plan, Subject
from alda.envs.vector import cause_of_death
from alda.errors import UserError, WorkerError

Pair = dict[str, Subject]  # plain and fast
Say = Callable[[str], None]


def measure(pair: Pair, say: Say) -> dict[str, dict[str, Any]]:
    """What the processes of both speeds answered, by speed."""
    measured: dict[str, dict[str, Any]] = {speed: {} for speed in pair}
    rounds = next(iter(pair.values())).plan.rounds
    with _children(pair) as children:
        for speed, child in children.items():
            say(f"{child.subject}: first updates, as many as it takes to be ready")
            measured[speed] = {"start": child.ask((child.subject, None)), "updates": [], "environment": []}
        for number in range(rounds):
            for what in ("updates", "environment"):
                for speed, child in children.items():
                    say(f"{child.subject}: {what}, block {number + 1} of {rounds}")
                    measured[speed][what].append(child.ask(what))
    for speed, result in _measure_training(pair, say).items():
        measured[speed]["training"] = result
    return measured


def _measure_training(pair: Pair, say: Say) -> dict[str, Any]:
    plan = next(iter(pair.values())).plan
    with tempfile.TemporaryDirectory(prefix="alda-bench-") as folder, _children(pair) as children:
        for lap in range(1 + plan.laps):
            for speed, child in children.items():
                say(f"{child.subject}: training, agent steps {lap * plan.lap:,} to {(lap + 1) * plan.lap:,}")
                child.ask("go on" if lap else (child.subject, Path(folder, speed)))
        results = {}
        for speed, child in children.items():
            say(f"{child.subject}: training, last evaluation")
            results[speed] = child.ask("go on")
    return results


def turns_of(plan: Plan) -> int:
    """How often `measure` says something."""
    return 2 * (1 + 2 * plan.rounds + 1 + plan.laps + 1)


class Child:
    """A process for one subject; it lives until it is closed. threads: that it computes with; None: as this one."""

    def __init__(self, subject: Subject, threads: int | None = None) -> None:
        self.subject = subject
        environment = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)}
        if threads:
            environment["OMP_NUM_THREADS"] = str(threads)
        ours, theirs = socket.socketpair()
        with theirs:
            self.process = subprocess.Popen(
                [sys.executable, "-P", "-m", "alda.bench.child", str(theirs.fileno())],
                pass_fds=(theirs.fileno(),),
                stdin=subprocess.PIPE,  # its end tells the child of ours
                process_group=0,  # Ctrl-C is for us
                env=environment,
            )
        self._connection = Connection(ours.detach())

    def ask(self, request: Any) -> Any:
        """Waits for the answer. Raises UserError or WorkerError where there is none."""
        with suppress(ConnectionError):  # the answer will tell
            self._connection.send(request)
        return self.answer()

    def answer(self) -> Any:
        try:
            worked, *what = self._connection.recv()
        except (EOFError, ConnectionError):
            raise WorkerError(
                f"the process that measured {self.subject} died: {cause_of_death(self.process.wait())}"
            ) from None
        if worked:
            return what[0]
        name, message, trace = what
        if name == "UserError":
            raise UserError(message)
        detail = "" if name == "WorkerError" else f"\n{trace.rstrip()}"
        raise WorkerError(f"the process that measured {self.subject} failed with {name}: {message}{detail}")

    def close(self) -> None:
        self._connection.close()
        self.process.kill()
        self.process.wait()
        assert self.process.stdin is not None
        self.process.stdin.close()


@contextmanager
def _children(pair: Pair) -> Iterator[dict[str, Child]]:
    children: dict[str, Child] = {}
    try:
        for speed, subject in pair.items():
            children[speed] = Child(subject)
        for child in children.values():
            child.answer()  # has imported what it needs
        yield children
    finally:
        for child in children.values():
            child.close()
