"""Published returns, to hold runs against: published.csv has a mean over seeds a line.

Marks, not targets: papers differ in simulator, image size, action repeat and backgrounds, and the same method under the
same shift moves by a factor of two between them. Columns: value, low, high: mean return and its 95 % interval; spread:
standard deviation over seeds; steps: agent steps; preset: the variant, where it is not the method at its defaults;
simulator: what the released code asks for. Empty: not stated, or not known for certain.

ALDA's figure 5 averages steps 450,000 to 500,000. There SAC+AE on finger_spin rises from about 720 to about 960, where
a seed drops out of the mean.
"""

import csv
import math
from functools import cache
from importlib.resources import files
from typing import Any, NamedTuple

from alda.envs.shifts.distracting import USUAL_INTENSITY

TASKS = ("cartpole_balance", "walker_walk", "ball_in_cup_catch", "finger_spin")
PAPER_STEPS = 500_000  # agent steps of a run in ALDA's paper
_WORDS = ("source", "method", "preset", "task", "shift")
_SUITE = "distracting_cs"


class Published(NamedTuple):
    """A mean return over seeds. None: not stated, or not known for certain."""

    source: str
    method: str  # as in alda.agents.AGENTS
    task: str
    shift: str
    value: int
    steps: int | None  # agent steps
    image_size: int
    action_repeat: int | None
    band: tuple[int, int] | None = None
    spread: int | None = None
    preset: str = ""  # as in alda.presets
    seeds: int = 5
    simulator: str | None = None

    @property
    def interval(self) -> tuple[float, float] | None:
        """The 95 % band as stated, or the value +- 1.96 standard deviations of a mean over seeds; None: neither."""
        if self.band is not None:
            return float(self.band[0]), float(self.band[1])
        if self.spread is None:
            return None
        half = 1.96 * self.spread / math.sqrt(self.seeds)
        return self.value - half, self.value + half


@cache
def all_published() -> tuple[Published, ...]:
    """Return every line of published.csv: ALDA's paper comes first."""
    with files("alda.analysis.runs").joinpath("published.csv").open() as file:
        return tuple(map(_read, csv.DictReader(file)))


def _read(row: dict[str, str]) -> Published:
    words: dict[str, Any] = {name: row.pop(name) for name in _WORDS}
    simulator = row.pop("simulator") or None
    numbers: dict[str, Any] = {name: int(text) if text else None for name, text in row.items()}
    low, high = numbers.pop("low"), numbers.pop("high")
    return Published(**words, **numbers, simulator=simulator, band=None if low is None else (low, high))


def published(method: str, task: str, shift: str, preset: str = "") -> list[Published]:
    """Return what is known of a method, at its defaults or in a named variant, on a task under a shift.

    ALDA's figure 5 does not state the intensity of DistractingCS: the released code measures ALDA at 0.025, and SVEA's
    returns look like those at 0.1. So its numbers stand beside both.
    """
    shifts = {f"{_SUITE}:{USUAL_INTENSITY}" if shift == _SUITE else shift}
    if shifts <= {f"{_SUITE}:0.025", f"{_SUITE}:0.1"}:
        shifts.add(_SUITE)
    wanted = (method, task, preset)
    return [
        mark for mark in all_published() if (mark.method, mark.task, mark.preset) == wanted and mark.shift in shifts
    ]
