"""The tasks of dm_control's suite, by the names used here, and how often they repeat an action."""

import difflib
import re
from collections.abc import Collection

from alda.errors import UserError

_SUITE = {
    "acrobot": ("swingup", "swingup_sparse"),
    "ball_in_cup": ("catch",),
    "cartpole": ("balance", "balance_sparse", "swingup", "swingup_sparse", "two_poles", "three_poles"),
    "cheetah": ("run",),
    "dog": ("stand", "walk", "trot", "run", "fetch"),
    "finger": ("spin", "turn_easy", "turn_hard"),
    "fish": ("upright", "swim"),
    "hopper": ("stand", "hop"),
    "humanoid": ("stand", "walk", "run", "run_pure_state"),
    "humanoid_CMU": ("stand", "walk", "run"),
    "lqr": ("lqr_2_1", "lqr_6_2"),
    "manipulator": ("bring_ball", "bring_peg", "insert_ball", "insert_peg"),
    "pendulum": ("swingup",),
    "point_mass": ("easy", "hard"),
    "quadruped": ("walk", "run", "escape", "fetch"),
    "reacher": ("easy", "hard"),
    "stacker": ("stack_2", "stack_4"),
    "swimmer": ("swimmer6", "swimmer15"),
    "walker": ("stand", "walk", "run"),
}
TASKS = {f"{domain}_{task}": (domain, task) for domain, tasks in _SUITE.items() for task in tasks}


def is_foreign(name: str) -> bool:
    """Return whether a name is the Gymnasium id of another package's environment: "CarRacing-v3", "module:Id-v0"."""
    return name not in TASKS and re.fullmatch(r"([\w.]+:)?([\w-]+/)?[\w.-]+-v\d+", name) is not None


def check_task(name: str) -> None:
    """Raise UserError for what is neither a task of the suite nor a Gymnasium id."""
    if not is_foreign(name):
        split_task(name)


def split_task(name: str) -> tuple[str, str]:
    """'ball_in_cup_catch' -> ('ball_in_cup', 'catch'). Raises UserError for a task that the suite does not have."""
    if name not in TASKS:
        raise UserError(unknown("task", name, TASKS))
    return TASKS[name]


def action_repeat_of(task: str) -> int:
    """Return control steps per agent step as published: 2 for finger, else 4; 1 for environments of other packages."""
    if is_foreign(task):
        return 1
    return 2 if split_task(task)[0] == "finger" else 4


def unknown(what: str, name: str, known: Collection[str]) -> str:
    """Return a sentence about a name that does not exist, with the nearest that does."""
    near = difflib.get_close_matches(name, known, n=1)
    return f"unknown {what} {name!r}; " + (f"did you mean {near[0]!r}?" if near else f"known: {', '.join(known)}")
