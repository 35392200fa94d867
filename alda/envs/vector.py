"""Environments side by side: each slot of a pool plays one episode at a time, in a process of its own or in this one.

gymnasium.vector steps and resets all its environments together. A pool moves each on its own: every episode has a shift
and a seed, results are collected as they arrive, with the time that drawing took, and the process that asked goes on
with other work. An episode depends on its seed and actions alone, so results are equal for any number of processes.

Processes that play never import PyTorch, and end when their connection does, so they never outlive the one that started
them.
"""

import os
import signal
import subprocess
import sys
import time
import traceback
from collections.abc import Callable
from contextlib import suppress
from multiprocessing import Pipe
from multiprocessing.connection import Connection
from multiprocessing.connection import wait as arrivals
from typing import Any, NamedTuple

import numpy as np
from jaxtyping import UInt8

from alda.errors import UserError, WorkerError

MakeEnv = Callable[..., Any]  # (shift=...) -> Gymnasium environment
_SERVE = "import sys; from alda.envs.vector import serve; serve(int(sys.argv[1]))"
_ONE_THREAD = {"OMP_NUM_THREADS": "1", "OPENBLAS_NUM_THREADS": "1"}  # unless set otherwise


class Result(NamedTuple):
    """Outcome of a step, or of a reset (reward 0)."""

    obs: UInt8[np.ndarray, "f c h w"]
    reward: float
    terminated: bool
    truncated: bool
    seconds: float  # taken
    drawing: float  # seconds of them spent on drawing, where the environment says


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


class _Process:
    """A slot in a process of its own, which ends when its connection is closed, by us or by our death."""

    def __init__(self, make: MakeEnv, number: int) -> None:
        self.name = f"environment process {number}"
        self.connection, theirs = Pipe()
        with theirs:
            self.process = subprocess.Popen(
                [sys.executable, "-P", "-c", _SERVE, str(theirs.fileno())],
                pass_fds=(theirs.fileno(),),
                process_group=0,  # Ctrl-C is for us
                env={**_ONE_THREAD, **os.environ, "PYTHONPATH": os.pathsep.join(sys.path)},
            )
        self.send(make)

    def send(self, message: Any) -> None:
        with suppress(ConnectionError):  # of a process that died: receiving says so
            self.connection.send(message)

    def receive(self) -> Result:
        try:
            answer = self.connection.recv()
        except (EOFError, ConnectionError):
            raise WorkerError(f"{self.name} died: {cause_of_death(self.process.wait())}") from None
        if isinstance(answer, Result):
            return answer
        error, message, trace = answer
        if error == "UserError":
            raise UserError(message)
        raise WorkerError(f"{self.name} failed with {error}: {message}\n{trace.rstrip()}")

    def close(self) -> None:
        self.connection.close()
        try:
            self.process.wait(5)
        except subprocess.TimeoutExpired:
            self.process.kill()
            self.process.wait()


class _Here:
    """A slot in the process that plays it: one environment per role, made anew when the role's shift changes."""

    def __init__(self, make: MakeEnv) -> None:
        self.make = make
        self._envs: dict[str, tuple[str, Any]] = {}  # role -> shift and environment

    def send(self, request: tuple[Any, ...]) -> None:
        self.request = request

    def receive(self) -> Result:
        """Begin an episode of a shift and a seed, or take a step of the role's episode."""
        role, begin, *action = self.request
        start = time.perf_counter()
        if begin and (role not in self._envs or self._envs[role][0] != begin[0]):
            if role in self._envs:
                self._envs.pop(role)[1].close()
            self._envs[role] = begin[0], self.make(shift=begin[0])
        env = self._envs[role][1]
        drawn = getattr(env, "drawing_seconds", 0.0)
        if begin:
            obs, reward, terminated, truncated = env.reset(seed=begin[1])[0], 0.0, False, False
        else:
            obs, reward, terminated, truncated, _ = env.step(*action)
        drawing = getattr(env, "drawing_seconds", 0.0) - drawn
        return Result(obs, float(reward), bool(terminated), bool(truncated), time.perf_counter() - start, drawing)

    def close(self) -> None:
        for _, env in self._envs.values():
            env.close()
        self._envs.clear()


def serve(descriptor: int) -> None:
    """Answer requests on an open connection until it is closed; then end this process.

    The first message says how environments are made. An answer is a Result, or an exception as (name of its class,
    message, traceback).
    """
    connection = Connection(descriptor)
    with suppress(EOFError, ConnectionError):
        slot = _Here(connection.recv())
        while True:
            slot.send(connection.recv())
            try:
                answer: Any = slot.receive()
            except Exception as error:
                answer = type(error).__name__, str(error), traceback.format_exc()
            connection.send(answer)
    sys.stdout.flush()
    os._exit(0)  # OpenGL's own clean-up at exit is noisy


def default_workers() -> int:
    """Return one per core, at most 16."""
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
