"""Environments played on request: in the process that asks, or in one that serves it over a connection.

The latter never imports PyTorch, and ends when the connection does, so it never outlives the one that started it.
"""

import os
import sys
import time
import traceback
from collections.abc import Callable
from contextlib import suppress
from multiprocessing.connection import Connection
from typing import Any, NamedTuple

import numpy as np
from jaxtyping import UInt8

MakeEnv = Callable[..., Any]  # (shift=...) -> Gymnasium environment


class Result(NamedTuple):
    """Outcome of a step, or of a reset (reward 0)."""

    obs: UInt8[np.ndarray, "f c h w"]
    reward: float
    terminated: bool
    truncated: bool
    seconds: float  # taken
    drawing: float  # seconds of them spent on drawing, where the environment says


class Player:
    """One environment per role, made anew when the role's shift changes."""

    def __init__(self, make: MakeEnv) -> None:
        self.make = make
        self._envs: dict[str, tuple[str, Any]] = {}  # role -> shift and environment

    def play(self, role: str, begin: tuple[str, int] | None, action: np.ndarray | None = None) -> Result:
        """Begin an episode of a shift and a seed, or take a step of the role's episode."""
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
            obs, reward, terminated, truncated, _ = env.step(action)
        drawing = getattr(env, "drawing_seconds", 0.0) - drawn
        return Result(obs, float(reward), bool(terminated), bool(truncated), time.perf_counter() - start, drawing)

    def close(self) -> None:
        for _, env in self._envs.values():
            env.close()
        self._envs.clear()


def serve(descriptor: int) -> None:
    """Answer requests on an open connection until it is closed; then end this process.

    The first message says how environments are made. Then come the arguments of Player.play; an answer is a Result, or
    an exception as (name of its class, message, traceback).
    """
    connection = Connection(descriptor)
    with suppress(EOFError, ConnectionError):
        player = Player(connection.recv())
        while True:
            request = connection.recv()
            try:
                answer: Any = player.play(*request)
            except Exception as error:
                answer = type(error).__name__, str(error), traceback.format_exc()
            connection.send(answer)
    sys.stdout.flush()
    os._exit(0)  # OpenGL's own clean-up at exit is noisy
