"""Environments side by side: each slot of a pool plays one episode at a time, in a process of its own or in this one.

gymnasium.vector steps and resets all its environments together. A pool moves each on its own: every episode has a shift
and a seed, results are collected as they arrive, with the time that drawing took, and the process that asked goes on
with other work. An episode depends on its seed and actions alone, so results are equal for any number of processes.
"""

import os
import signal
import subprocess
import sys
from contextlib import suppress
from multiprocessing import Pipe
from multiprocessing.connection import wait as arrivals
from typing import Any

import numpy as np

from alda.envs.worker import MakeEnv, Player, Result
from alda.errors import UserError, WorkerError

_WORK = "import sys; from alda.envs.worker import serve; serve(int(sys.argv[1]))"
_ONE_THREAD = {"LP_NUM_THREADS": "0", "OMP_NUM_THREADS": "1", "OPENBLAS_NUM_THREADS": "1"}  # unless set otherwise


class Pool:
    """Slots 0 to size - 1; each `reset` or `step` of a slot is followed by one `result` of it.

    make: makes an environment of a shift; for processes it can be pickled, and imports no more than environments need.
    processes: one slot each; 0: one slot, played by this process when its result is asked for. `beside` says whether
    slots work while this process does something else. A slot has one episode for every role, so that training may wait
    while evaluation uses the same processes.

    Raises WorkerError where a process dies or fails, UserError where that is the user's to mend.
    """

    def __init__(self, make: MakeEnv, processes: int = 0) -> None:
        self.beside = processes > 0
        self._slots: list[Any] = [_Process(make, i) for i in range(processes)] or [_Here(make)]
        self._asked: set[int] = set()

    @property
    def size(self) -> int:
        return len(self._slots)

    def reset(self, slot: int, shift: str, seed: int, role: str = "") -> None:
        """Begin an episode."""
        self._ask(slot, role, (shift, seed))

    def step(self, slot: int, action: np.ndarray, role: str = "") -> None:
        """Take a step of the role's episode."""
        self._ask(slot, role, None, action)

    def result(self, slot: int) -> Result:
        """Wait for the outcome of the last request."""
        self._asked.remove(slot)
        return self._slots[slot].receive()

    def ready(self) -> list[int]:
        """Wait for a result; return the slots that have one."""
        if not self.beside:
            return list(self._asked)
        slots = {self._slots[i].connection: i for i in self._asked}
        return sorted(slots[connection] for connection in arrivals(list(slots)))

    def close(self) -> None:
        """End all environments and processes."""
        for slot in self._slots:
            slot.close()
        self._slots.clear()

    def _ask(self, slot: int, *request: Any) -> None:
        assert slot not in self._asked, f"slot {slot} still owes a result"
        self._asked.add(slot)
        self._slots[slot].send(request)


class _Here:
    """A slot in this process."""

    def __init__(self, make: MakeEnv) -> None:
        self.player = Player(make)

    def send(self, request: tuple[Any, ...]) -> None:
        self.request = request

    def receive(self) -> Result:
        return self.player.play(*self.request)

    def close(self) -> None:
        self.player.close()


class _Process:
    """A slot in a process of its own, which ends when its connection is closed, by us or by our death."""

    def __init__(self, make: MakeEnv, number: int) -> None:
        self.number, self.shifts, self.role = number, dict[str, str](), ""
        self.connection, theirs = Pipe()
        with theirs:
            self.process = subprocess.Popen(
                [sys.executable, "-P", "-c", _WORK, str(theirs.fileno())],
                pass_fds=(theirs.fileno(),),
                process_group=0,  # Ctrl-C is for us
                env={**_ONE_THREAD, **os.environ, "PYTHONPATH": os.pathsep.join(sys.path)},
            )
        self._send(make)

    def send(self, request: tuple[Any, ...]) -> None:
        self.role, begin = request[:2]
        if begin:
            self.shifts[self.role] = begin[0]
        self._send(request)

    def receive(self) -> Result:
        name = f"environment process {self.number} ({self.shifts[self.role]})"
        try:
            answer = self.connection.recv()
        except (EOFError, ConnectionError):
            raise WorkerError(f"{name} died: {cause_of_death(self.process.wait())}") from None
        if isinstance(answer, Result):
            return answer
        error, message, trace = answer
        if error == "UserError":
            raise UserError(message)
        raise WorkerError(f"{name} failed with {error}: {message}\n{trace.rstrip()}")

    def close(self) -> None:
        self.connection.close()
        try:
            self.process.wait(5)
        except subprocess.TimeoutExpired:
            self.process.kill()
            self.process.wait()

    def _send(self, message: Any) -> None:
        with suppress(ConnectionError):  # of a process that died: receiving says so
            self.connection.send(message)


def default_workers() -> int:
    """One per core, at most 16."""
    return min(count_cores(), 16)


def count_cores() -> int:
    """Return how many cores this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def cause_of_death(code: int) -> str:
    """Return why a process ended, from its exit code as subprocess has it."""
    if code >= 0:
        return f"it ended with exit code {code}"
    name = signal.Signals(-code).name
    return f"killed by {name}" + (", perhaps for want of memory" if -code == signal.SIGKILL else "")
