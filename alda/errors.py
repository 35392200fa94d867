"""Errors that are addressed to people, and the checks of settings that every config shares."""

import math
from collections.abc import Collection
from typing import Any


class UserError(Exception):
    """Something the user can put right. The message says what was wrong and what to do; the command
    line prints it without a traceback and exits with code 2."""


class LearningError(Exception):
    """Learning cannot continue: the message says why, and what to do; exits with code 1.

    sound: whether what was learned so far is worth a checkpoint.
    """

    def __init__(self, message: str, *, sound: bool) -> None:
        super().__init__(message)
        self.sound = sound


class TakenOverError(Exception):
    """Another process has taken the run directory over, so this one must not write there; exits with code 1."""


class WorkerError(Exception):
    """A process that plays environments or measures has failed; exits with code 1."""


def check_numbers(config: Any, section: str = "", from_zero: Collection[str] = ()) -> None:
    """Raise UserError for a number that no setting can be: an infinite or negative one, or a whole one that is 0.

    section: of the command line, as in --SECTION.beta. from_zero: whole numbers that may be 0, as seeds and counts of
    what can be left out.
    """
    for name, value in vars(config).items():
        flag = flag_of(name, section)
        if isinstance(value, int) and not isinstance(value, bool):
            if name in from_zero and not 0 <= value < 2**32:
                raise UserError(f"{flag} must be from 0 to 2^32 - 1, not {value}")
            if name not in from_zero and value < 1:
                raise UserError(f"{flag} must be at least 1, not {value}")
        elif isinstance(value, float) and not (math.isfinite(value) and value >= 0):
            raise UserError(f"{flag} must be a number from 0 on, not {value}")


def check_ascending(config: Any, section: str, name: str) -> None:
    """Raise UserError where a pair of bounds does not go from a lower to a higher number."""
    low, high = getattr(config, name)
    if not low < high:
        raise UserError(f"{flag_of(name, section)} must be a lower and a higher number, not {low} {high}")


def flag_of(name: str, section: str = "") -> str:
    """Return a setting as it is written on the command line."""
    return "--" + (f"{section}." if section else "") + name.replace("_", "-")
