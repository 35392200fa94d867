"""`alda envs` and `alda envs preview`."""

from itertools import groupby
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import UInt8
from rich.console import Console
from rich.progress import track
from rich.table import Table

from alda.envs import SHIFTS, covers, make_env, make_shift
from alda.envs.backgrounds.data import NO_PATHS, Data
from alda.envs.dmc import DMCEnv
from alda.envs.shifts.distracting import USUAL_INTENSITY, DistractingSuite
from alda.envs.tasks import TASKS, action_repeat_of, split_task
from alda.errors import UserError
from alda.pictures import save_picture, sheet
from alda.plugins import add_registered
from alda.progress import lasting_console


def envs() -> None:
    """List tasks and visual shifts."""
    console = lasting_console()
    shifts = Table("shift", "what it changes", box=None)
    add_registered("shifts", SHIFTS)
    for name, kind in SHIFTS.items():
        shifts.add_row(name + (":S" if kind.has_intensity else ""), kind.__doc__)
    console.print(shifts)
    tasks = Table("domain", "tasks", "action repeat", box=None)
    for domain, names in groupby(TASKS, key=lambda name: TASKS[name][0]):
        listed = list(names)
        tasks.add_row(domain, ", ".join(listed), str(action_repeat_of(listed[0])))
    covered = ", ".join(sorted(DistractingSuite.domains))
    for line in (
        f"S is an intensity from 0 to 1 (left out: {USUAL_INTENSITY}); NAME:S:static stands still within an episode.",
        f"Shifts with an intensity cover {covered}; the others cover every task.",
        "Moving backgrounds are generated (procedural-v1) unless --data.davis or --data.videos name real ones.\n",
    ):
        console.print(line, highlight=False, soft_wrap=True)
    console.print(tasks)
    console.print("\nalda envs preview --task walker_walk --out shifts.png draws them.", highlight=False)


def preview(
    *,
    out: Path,
    task: str = "walker_walk",
    shifts: tuple[str, ...] = (),
    times: int = 8,
    every: int = 10,
    seed: int = 0,
    data: Data = NO_PATHS,
    image_size: int = 64,
) -> None:
    """Draw one episode of a task under every visual shift: a row per shift, a column per time.

    Actions are random, smoothed, and the same under every shift.

    Args:
        out: PNG file to write.
        task: dm_control task: domain and task, as in cartpole_balance or ball_in_cup_catch.
        shifts: Visual shifts to draw (none: all that cover the task).
        times: Pictures per shift.
        every: Agent steps between them.
        seed: Seed of the episode, its actions and its shifts.
        image_size: Side of a frame in pixels.
    """
    if out.suffix != ".png":
        raise UserError(f"pictures are written as .png, not as {out.name}")
    if times < 1 or every < 1 or seed < 0:
        raise UserError("--times and --every must be at least 1, and --seed must not be negative")
    split_task(task)
    names = shifts or tuple(shift for shift in SHIFTS if covers(shift, task))
    options: dict[str, Any] = {"data": data, "image_size": image_size}
    backgrounds = [make_shift(task, shift=name, **options).prepare()["background"] for name in names]
    out.parent.mkdir(parents=True, exist_ok=True)
    rows = []
    for name in track(names, f"drawing {task}", console=Console(stderr=True), transient=True):
        env = make_env(task, shift=name, seed=seed, **options)
        rows.append(_episode(env, seed, every * (times - 1))[::every])
        env.close()
    labels = [
        name if background == "none" else f"{name}\n{background}"
        for name, background in zip(names, backgrounds, strict=True)
    ]
    save_picture(sheet(rows, [f"step {i * every}" for i in range(times)], labels), out)
    print(f"written to {out}")


def _episode(env: DMCEnv, seed: int, steps: int) -> list[UInt8[np.ndarray, "c h w"]]:
    """Play an episode under smoothed random actions; return its newest frames."""
    rng = np.random.default_rng(seed)
    obs, _ = env.reset(seed=seed)
    frames, action = [obs[-1]], np.zeros(env.action_space.shape or ())
    for _ in range(steps):
        action = 0.8 * action + 0.6 * rng.uniform(-1, 1, action.shape)
        obs, *_ = env.step(np.clip(action, -1, 1).astype(np.float32))
        frames.append(obs[-1])
    return frames
