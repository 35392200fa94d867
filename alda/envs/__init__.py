"""Environments: every task of dm_control's suite under every visual shift."""

from secrets import randbelow
from typing import Any

import gymnasium

from alda.envs.backgrounds.data import Data
from alda.envs.shifts.base import Shift, ShiftOptions, parse_shift
from alda.envs.shifts.color import ColorEasy, ColorHard
from alda.envs.shifts.distracting import DistractingBackground, DistractingCamera, DistractingColor, DistractingSuite
from alda.envs.shifts.generic import CropJitter, Recolor
from alda.envs.shifts.video import VideoEasy, VideoHard
from alda.envs.tasks import TASKS, is_foreign, split_task, unknown
from alda.errors import UserError
from alda.plugins import add_registered

SHIFTS: dict[str, type[Shift]] = {
    "train": Shift,
    "color_easy": ColorEasy,
    "color_hard": ColorHard,
    "video_easy": VideoEasy,
    "video_hard": VideoHard,
    "distracting_cs": DistractingSuite,
    "distracting_camera": DistractingCamera,
    "distracting_color": DistractingColor,
    "distracting_background": DistractingBackground,
    "recolor": Recolor,
    "crop_jitter": CropJitter,
}


def make_env(
    task: str,
    *,
    shift: str = "train",
    seed: int | None = None,
    data: Data | None = None,
    reference: bool = False,
    image_size: int = 64,
    **options: Any,
) -> Any:
    """Make a Gymnasium environment of one task under one visual shift.

    task: domain and task of dm_control's suite, as in "walker_walk" or "ball_in_cup_catch"; or the Gymnasium id of any
    environment with continuous actions, as in "CarRacing-v3" or "module:Id-v0", which is seen in pixels (PixelEnv).
    shift: a name of SHIFTS; those of the Distracting Control Suite take an intensity in (0, 1] and may stand still, as
    in "distracting_cs:0.1" and "distracting_cs:0.1:static".
    seed: seed of the task's states and of the shift (None: another each time); `reset(seed=...)` sets both anew.
    data: folders of real backgrounds and colour tables; None generates them.
    reference: reproduce the pixels of the benchmarks' own code where ours differ on purpose (docs/environments.md).
    image_size: side of a frame in pixels.
    options: see DMCEnv (action_repeat, frames, episode_length in control steps, profile, visuals).
    Raises UserError for an unknown task or shift, a shift that does not cover the task, unusable data, or where nothing
    can render.
    """
    made = make_shift(task, shift=shift, data=data, reference=reference, image_size=image_size)
    seed = randbelow(2**32) if seed is None else seed
    if is_foreign(task):
        from alda.envs.pixel import PixelEnv

        return PixelEnv(task, made, seed=seed, image_size=image_size, **options)
    from alda.envs.dmc import DMCEnv

    return DMCEnv(task, made, seed=seed, image_size=image_size, **options)


make_env.metadata = {"render_modes": ["rgb_array"]}  # type: ignore[attr-defined] # for Gymnasium's own render modes


def make_shift(
    task: str, *, shift: str, data: Data | None = None, reference: bool = False, image_size: int = 64, **_: Any
) -> Shift:
    """Make the shift of an environment; arguments and errors are those of make_env."""
    name, intensity, static = check_shift(shift, task)
    if image_size < 1:
        raise UserError(f"image_size must be at least 1, not {image_size}")
    if data is not None and not isinstance(data, Data):
        raise UserError(f"data must be an alda.Data, which names folders, not {data!r}")
    return SHIFTS[name](ShiftOptions(intensity, static, data or Data(), image_size, reference))


def check_shift(shift: str, task: str) -> tuple[str, float | None, bool]:
    """Return name, intensity and stillness of a shift. Raises UserError where it does not exist or cover the task."""
    domain = None if is_foreign(task) else split_task(task)[0]
    name, intensity, static = parse_shift(shift)
    add_registered("shifts", SHIFTS)
    if name not in SHIFTS:
        raise UserError(f"{unknown('shift', name, SHIFTS)} (one of your own program is played with --workers 0)")
    kind = SHIFTS[name]
    if domain is None and not covers(name, task):
        known = ", ".join(each for each in SHIFTS if covers(each, task))
        raise UserError(f"{name} needs a simulator of dm_control, which {task} has not; shifts of the picture: {known}")
    if not kind.has_intensity and (intensity is not None or static):
        raise UserError(f"{name} takes neither an intensity nor 'static': write {name!r}, not {shift!r}")
    if domain and kind.domains is not None and domain not in kind.domains:
        raise UserError(f"{name} does not cover {domain}, only {', '.join(sorted(kind.domains))}")
    return name, intensity, static


def covers(shift: str, task: str) -> bool:
    """Return whether a shift exists for a task."""
    if is_foreign(task):
        return shift == "train" or not SHIFTS[shift].needs_scene
    domains = SHIFTS[shift].domains
    return domains is None or TASKS[task][0] in domains


def register() -> None:
    """Give every task its Gymnasium id under every shift that covers it, as in "alda/walker_walk-color_hard-v0"."""
    for task in TASKS:
        for shift in SHIFTS:
            if covers(shift, task):
                suffix = "" if shift == "train" else f"-{shift}"
                gymnasium.register(
                    f"alda/{task}{suffix}-v0", entry_point="alda.envs:make_env", kwargs={"task": task, "shift": shift}
                )
