"""Small environments for processes that must not import PyTorch, and clips that say which they are."""

import os
import sys

import numpy as np

import alda
from alda.errors import UserError

SHAPE = (1, 3, 2, 2)


class Counting:
    """Frames count the steps, starting at the seed; shifts say what goes wrong at the third step."""

    alive = 0

    def __init__(self, shift: str) -> None:
        self.shift, self.drawing_seconds = shift, 0.0
        Counting.alive += 1

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
        self.drawing_seconds += 100.0
        return self._obs(), self.count / 2, self.shift == "ends" and self.t == 2, self.t == 5, {}

    def close(self):
        Counting.alive -= 1

    def _obs(self):
        return np.full(SHAPE, self.count % 256, np.uint8)


def reporting(shift):
    """Make a real environment whose episodes end at once where PyTorch was imported to make it."""
    env = alda.make_env("cartpole_balance", shift=shift, profile="fast", episode_length=40)
    step = env.step
    env.step = lambda action: (*step(action)[:2], "torch" in sys.modules, False, {})
    return env


class Numbered:
    """Clips whose frames have one colour each: red is the clip's number and one, blue the frame's."""

    name = "numbered"

    def __init__(self, side, *lengths):
        self.side, self.lengths = side, lengths

    def __len__(self):
        return len(self.lengths)

    def __getitem__(self, i):
        return [np.full((self.side, self.side, 3), self.color(i, k), np.uint8) for k in range(self.lengths[i])]

    @staticmethod
    def color(clip, frame):
        return [1 + clip, 0, frame]

    def prepare(self):
        pass
