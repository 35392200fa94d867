"""A process that plays environments for another one. It never imports PyTorch; OpenGL starts with its first picture.

Started as `python -m alda.envs.worker SOCKET MEMORY`, two inherited file descriptors: a connection that brings requests
and takes answers, and the shared memory in which an observation is left.
"""

import mmap
import os
import pickle
import signal
import sys
import traceback
from collections.abc import Callable
from contextlib import suppress
from multiprocessing.connection import Connection
from typing import Any

import numpy as np


def serve(connection: Connection, memory: int) -> None:
    """Answers requests until the connection is closed.

    The first says how environments are made and the shape of an observation. Then come ("reset", environment's key,
    seed) and ("step", key, action), a key being (shift, role); an answer is (reward, terminated, truncated), or an
    exception as (name of its class, message, traceback).
    """
    make, shape = pickle.loads(connection.recv_bytes())
    shared = np.frombuffer(mmap.mmap(memory, int(np.prod(shape))), np.uint8).reshape(shape)
    envs: dict[Any, Any] = {}
    while True:
        request = connection.recv()
        try:
            connection.send(_answer(request, make, envs, shared))
        except Exception as error:
            connection.send((type(error).__name__, str(error), traceback.format_exc()))


def _answer(request: Any, make: Callable[..., Any], envs: dict[Any, Any], shared: np.ndarray) -> Any:
    kind, key, what = request
    if kind == "reset":
        if key not in envs:
            envs[key] = make(shift=key[0])
        obs, _ = envs[key].reset(seed=what)
        shared[:] = obs
        return 0.0, False, False
    obs, reward, terminated, truncated, _ = envs[key].step(what)
    shared[:] = obs
    return float(reward), bool(terminated), bool(truncated)


def main() -> None:
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is for the process that asked; without it we end as well
    with suppress(EOFError, ConnectionError):
        serve(Connection(int(sys.argv[1])), int(sys.argv[2]))
    sys.stdout.flush()
    os._exit(0)  # OpenGL's own clean-up at exit is noisy


if __name__ == "__main__":
    main()
