"""A process that plays environments for another one. It never imports PyTorch; OpenGL starts with its first picture.

Started as `python -m alda.envs.worker SOCKET MEMORY`, two inherited file descriptors: a connection that brings requests
and takes answers, and the shared memory in which an observation is left.
"""

import mmap
import os
import pickle
import sys
import time
import traceback
from collections.abc import Callable
from contextlib import suppress
from multiprocessing.connection import Connection
from typing import Any

import numpy as np


def serve(connection: Connection, memory: int) -> None:
    """Answers requests until the connection is closed.

    The first says how environments are made and the shape of an observation. Then come ("reset", role, shift, seed) and
    ("step", role, action); an answer is (reward, terminated, truncated, seconds it took, of them drawing), or an
    exception as (name of its class, message, traceback). A role has one environment, which is replaced when its shift
    changes.
    """
    make, shape = pickle.loads(connection.recv_bytes())
    shared = np.frombuffer(mmap.mmap(memory, int(np.prod(shape))), np.uint8).reshape(shape)
    envs: dict[str, tuple[str, Any]] = {}  # role -> shift and environment
    while True:
        request = connection.recv()
        try:
            connection.send(_answer(request, make, envs, shared))
        except Exception as error:
            connection.send((type(error).__name__, str(error), traceback.format_exc()))


def _answer(request: Any, make: Callable[..., Any], envs: dict[str, tuple[str, Any]], shared: np.ndarray) -> Any:
    kind, role, *what = request
    start = time.perf_counter()
    if kind == "reset":
        shift, seed = what
        if role in envs and envs[role][0] != shift:
            envs.pop(role)[1].close()
        if role not in envs:
            envs[role] = shift, make(shift=shift)
        env = envs[role][1]
        before, came = drawn(env), (env.reset(seed=seed)[0], 0.0, False, False)
    else:
        env = envs[role][1]
        before, came = drawn(env), env.step(*what)[:4]
    shared[:], reward, terminated, truncated = came
    return float(reward), bool(terminated), bool(truncated), time.perf_counter() - start, drawn(env) - before


def drawn(env: Any) -> float:
    """Seconds that an environment has drawn so far, where it says."""
    return getattr(env, "drawing_seconds", 0.0)


def main() -> None:
    with suppress(EOFError, ConnectionError):
        serve(Connection(int(sys.argv[1])), int(sys.argv[2]))
    sys.stdout.flush()
    os._exit(0)  # OpenGL's own clean-up at exit is noisy


if __name__ == "__main__":
    main()
