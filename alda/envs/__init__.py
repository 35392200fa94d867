"""The test worlds: every task of dm_control's suite, seen through a visual shift."""

from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import gymnasium

from alda.envs.shift import Shift
from alda.envs.tasks import TASKS, unknown
from alda.errors import UserError

if TYPE_CHECKING:
    from alda.envs.dmc import DMCEnv


def _color(name: str, color_table: Path | None) -> Shift:
    from alda.envs.color import ColorShift

    return ColorShift(name, color_table)


SHIFTS: dict[str, Callable[[Path | None], Shift]] = {
    "train": lambda color_table: Shift(),  # noqa: ARG005
    "color_easy": partial(_color, "color_easy"),
    "color_hard": partial(_color, "color_hard"),
}


def make_env(
    task: str, *, shift: str = "train", seed: int = 0, color_table: str | Path | None = None, **options: Any
) -> "DMCEnv":
    """A Gymnasium environment of one task under one visual shift.

    task: domain and task of dm_control's suite, as in "walker_walk" or "ball_in_cup_catch".
    shift: "train" (the plain task), "color_easy" or "color_hard".
    seed: of the task's states and of the shift; `reset(seed=...)` sets both anew.
    color_table: JSON file with colour settings to use in place of our own, or a folder with color_easy.json and
    color_hard.json.
    options: see DMCEnv (action_repeat, frames, image_size in pixels, episode_length in control steps, profile).
    Raises UserError for an unknown task or shift, an unusable table, or where nothing can render.
    """
    if shift not in SHIFTS:
        raise UserError(unknown("shift", shift, SHIFTS))
    from alda.envs.dmc import DMCEnv

    return DMCEnv(task, SHIFTS[shift](Path(color_table) if color_table else None), seed=seed, **options)


def register() -> None:
    """Gives every task under every shift its Gymnasium id, as in "alda/walker_walk-color_hard-v0"."""
    for task in TASKS:
        for shift in SHIFTS:
            suffix = "" if shift == "train" else f"-{shift}"
            gymnasium.register(
                f"alda/{task}{suffix}-v0", entry_point="alda.envs:make_env", kwargs={"task": task, "shift": shift}
            )
