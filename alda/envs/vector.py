"""Environments that take their steps side by side: each slot of a pool plays one episode at a time.

A slot is a process of its own, so that simulating and drawing use all cores; or, in a pool without processes, it is
this process, one slot after the other. Both play the same episodes. A process that dies is replaced, and the episode it
played is played again up to where it was: episodes depend on their seed and actions alone.
"""

import mmap
import os
import pickle
import signal
import socket
import subprocess
import sys
import tempfile
import time
from abc import ABC, abstractmethod
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass, field
from multiprocessing.connection import Connection
from multiprocessing.connection import wait as arrivals
from typing import Any, NamedTuple

import numpy as np
from jaxtyping import UInt8

from alda.envs.worker import drawn
from alda.errors import UserError, WorkerError

MakeEnv = Callable[..., Any]  # (shift=...) -> Gymnasium environment; for processes it must be possible to pickle it
_MOST_DEATHS = 3  # of one slot, at the same step
_ONE_THREAD = {"LP_NUM_THREADS": "0", "OMP_NUM_THREADS": "1", "OPENBLAS_NUM_THREADS": "1"}  # unless set otherwise


class Result(NamedTuple):
    """What came of a reset (reward 0) or a step."""

    obs: UInt8[np.ndarray, "f c h w"]
    reward: float
    terminated: bool
    truncated: bool
    seconds: float  # it took
    drawing: float  # of them


class Pool(ABC):
    """Slots 0 to size - 1. After `reset` or `step` of a slot comes one `result` of it.

    A slot has one episode for every role, so that training may wait while evaluation uses the same processes.
    """

    size: int
    beside: bool
    """Whether slots work while this process does something else."""

    @abstractmethod
    def reset(self, slot: int, shift: str, seed: int, role: str = "") -> None:
        """An episode begins. A slot keeps one environment per role, and makes another when the shift changes."""

    @abstractmethod
    def step(self, slot: int, action: np.ndarray, role: str = "") -> None:
        """The slot's episode goes on."""

    @abstractmethod
    def result(self, slot: int) -> Result:
        """Waits for what came of the last request."""

    @abstractmethod
    def ready(self, *, wait: bool = True) -> list[int]:
        """Slots whose result can be had without waiting for another process; waits until there is one, or not."""

    @abstractmethod
    def close(self) -> None:
        """Ends all environments."""


class LocalPool(Pool):
    """Environments in this process; a request is worked on when its result is asked for."""

    beside = False

    def __init__(self, make: MakeEnv, size: int = 1) -> None:
        self.make, self.size = make, size
        self._envs: dict[tuple[int, str], tuple[str, Any]] = {}  # slot and role -> shift and environment
        self._asked: dict[int, Callable[[], Result]] = {}

    def reset(self, slot: int, shift: str, seed: int, role: str = "") -> None:
        assert slot not in self._asked, f"slot {slot} still owes a result"
        key = slot, role
        if key in self._envs and self._envs[key][0] != shift:
            self._envs.pop(key)[1].close()
        if key not in self._envs:
            self._envs[key] = shift, self.make(shift=shift)
        env = self._envs[key][1]
        self._asked[slot] = lambda: _timed(env, lambda: (env.reset(seed=seed)[0], 0.0, False, False))

    def step(self, slot: int, action: np.ndarray, role: str = "") -> None:
        assert slot not in self._asked, f"slot {slot} still owes a result"
        env = self._envs[slot, role][1]
        self._asked[slot] = lambda: _timed(env, lambda: env.step(action)[:4])

    def result(self, slot: int) -> Result:
        return self._asked.pop(slot)()

    def ready(self, *, wait: bool = True) -> list[int]:
        return list(self._asked)[:1]

    def close(self) -> None:
        for _, env in self._envs.values():
            env.close()
        self._envs.clear()


@dataclass
class _Slot:
    """A process, and the requests that lead to where its episodes are."""

    process: subprocess.Popen[bytes]
    connection: Connection
    shared: mmap.mmap
    histories: dict[str, list[Any]] = field(default_factory=dict)  # role -> a reset and the steps since
    asked: str | None = None  # role whose last request is still to be answered
    deaths: int = 0


class ProcessPool(Pool):
    """One process per slot. `say` gets a line when one dies and is replaced.

    make: can be pickled, and imports no more than environments need. shape: of an observation.
    Raises WorkerError when a process fails for good, UserError where that is the user's to mend.
    """

    beside = True

    def __init__(
        self, make: MakeEnv, size: int, shape: tuple[int, ...], say: Callable[[str], None] = lambda _: None
    ) -> None:
        self.size, self.say = size, say
        self._made, self._shape = pickle.dumps((make, shape)), shape
        self._slots = [self._start() for _ in range(size)]

    def reset(self, slot: int, shift: str, seed: int, role: str = "") -> None:
        self._slots[slot].histories[role] = []
        self._ask(slot, role, ("reset", role, shift, seed))

    def step(self, slot: int, action: np.ndarray, role: str = "") -> None:
        self._ask(slot, role, ("step", role, action))

    def result(self, slot: int) -> Result:
        answer = self._answer(slot)
        it = self._slots[slot]
        result = Result(np.frombuffer(it.shared, np.uint8).reshape(self._shape).copy(), *answer)
        if it.asked is not None and (result.terminated or result.truncated):
            it.histories[it.asked] = []  # this episode will not be played again
        it.asked, it.deaths = None, 0
        return result

    def ready(self, *, wait: bool = True) -> list[int]:
        asked = [it.connection for it in self._slots if it.asked is not None]
        arrived = set(arrivals(asked, None if wait else 0))
        return [i for i, it in enumerate(self._slots) if it.connection in arrived]

    def close(self) -> None:
        for it in self._slots:
            it.connection.close()
        for it in self._slots:
            try:
                it.process.wait(5)
            except subprocess.TimeoutExpired:
                it.process.kill()
                it.process.wait()
        self._slots.clear()

    def _start(self) -> _Slot:
        ours, theirs = socket.socketpair()
        with tempfile.TemporaryFile(dir="/dev/shm" if os.path.isdir("/dev/shm") else None) as file, theirs:
            size = int(np.prod(self._shape))
            file.truncate(size)
            shared = mmap.mmap(file.fileno(), size)
            command = [sys.executable, "-P", "-m", "alda.envs.worker", str(theirs.fileno()), str(file.fileno())]
            process = subprocess.Popen(
                command,
                pass_fds=(theirs.fileno(), file.fileno()),
                process_group=0,  # Ctrl-C is for us; without us it ends by itself
                env={**_ONE_THREAD, **os.environ, "PYTHONPATH": os.pathsep.join(sys.path)},
            )
        it = _Slot(process, Connection(ours.detach()), shared)
        with suppress(ConnectionError):  # if it died at once, the first answer will tell
            it.connection.send_bytes(self._made)
        return it

    def _ask(self, slot: int, role: str, request: Any) -> None:
        it = self._slots[slot]
        assert it.asked is None, f"slot {slot} still owes a result"
        it.histories[role].append(request)
        it.asked = role
        with suppress(ConnectionError):  # the answer will tell
            it.connection.send(request)

    def _answer(self, slot: int) -> tuple[float, bool, bool, float, float]:
        while True:
            try:
                answer = self._slots[slot].connection.recv()
            except (EOFError, ConnectionError):
                self._replace(slot)
            else:
                return self._checked(slot, answer)

    def _checked(self, slot: int, answer: Any) -> tuple[float, bool, bool, float, float]:
        if isinstance(answer[0], str):
            name, message, trace = answer
            if name == "UserError":
                raise UserError(message)
            raise WorkerError(f"{self._name(slot)} failed with {name}: {message}\n{trace.rstrip()}")
        return answer

    def _replace(self, slot: int) -> None:
        """Starts another process in a dead one's place and leads it to the same moment of the same episodes."""
        dead = self._slots[slot]
        dead.connection.close()
        cause = f"{self._name(slot)} died: {cause_of_death(dead.process.wait())}"
        if dead.deaths + 1 == _MOST_DEATHS:
            raise WorkerError(f"{cause}; so did the {dead.deaths} before it, at the same point")
        self.say(f"{cause}; another one plays its episode again")
        self._slots[slot] = new = self._start()
        new.histories, new.asked, new.deaths = dead.histories, dead.asked, dead.deaths + 1
        assert dead.asked is not None
        *past, last = dead.histories[dead.asked]
        others = [request for role, history in dead.histories.items() if role != dead.asked for request in history]
        with suppress(EOFError, ConnectionError):  # dead again, as the next answer will tell
            for request in others + past:
                new.connection.send(request)
                self._checked(slot, new.connection.recv())
            new.connection.send(last)

    def _name(self, slot: int) -> str:
        it = self._slots[slot]
        shift = it.histories[it.asked][0][2] if it.asked is not None else ""
        return f"environment process {slot} ({shift})"


def _timed(env: Any, act: Callable[[], tuple[Any, float, bool, bool]]) -> Result:
    start, before = time.perf_counter(), drawn(env)
    came = act()
    return Result(*came, time.perf_counter() - start, drawn(env) - before)


def default_workers() -> int:
    """One per core, at most 16."""
    return min(count_cores(), 16)


def count_cores() -> int:
    """Those that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def open_pool(
    make: MakeEnv, processes: int, shape: tuple[int, ...], say: Callable[[str], None] = lambda _: None
) -> Pool:
    """A pool of so many processes; with none, this process plays."""
    return ProcessPool(make, processes, shape, say) if processes else LocalPool(make)


def cause_of_death(code: int) -> str:
    """Why a process ended, from its exit code as subprocess has it."""
    if code >= 0:
        return f"it ended with exit code {code}"
    name = signal.Signals(-code).name
    return f"killed by {name}" + (", perhaps for want of memory" if -code == signal.SIGKILL else "")
