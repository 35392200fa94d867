"""Small environments for processes that must not import PyTorch."""

import os
import sys

import numpy as np

import alda
from alda.errors import UserError

SHAPE = (1, 3, 2, 2)


class Counting:
    """Frames count the steps, starting at the seed; shifts say what goes wrong at the third step."""

    def __init__(self, shift: str) -> None:
        self.shift = shift

    def reset(self, *, seed):
        self.count, self.t = seed, 0
        return self._obs(), {}

    def step(self, action):
        self.t += 1
        self.count += 1 + int(action[0])
        if self.t == 3 and self.shift == "raises":
            raise ValueError("the third step is wrong")
        if self.t == 3 and self.shift == "refuses":
            raise UserError("this cannot be played")
        if self.t == 3 and self.shift == "dies":
            os._exit(7)
        return self._obs(), self.count / 2, self.shift == "ends" and self.t == 2, self.t == 5, {}

    def close(self):
        pass

    def _obs(self):
        return np.full(SHAPE, self.count % 256, np.uint8)


def make(shift):
    return Counting(shift)


class Reporting:
    """A real world whose reward tells whether PyTorch was imported to make it."""

    def __init__(self, shift: str) -> None:
        self.env = alda.make_env("cartpole_balance", shift=shift, profile="fast")

    def reset(self, *, seed):
        return self.env.reset(seed=seed)

    def step(self, action):
        obs, _, terminated, truncated, info = self.env.step(action)
        return obs, float("torch" in sys.modules), terminated, truncated, info

    def close(self):
        self.env.close()
