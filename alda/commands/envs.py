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
from alda.envs.rendering import Profile
from alda.envs.scene import Visuals
from alda.envs.shifts.distracting import USUAL_INTENSITY, DistractingSuite
from alda.envs.tasks import TASKS, action_repeat_of, split_task
from alda.errors import UserError
from alda.pictures import sheet

_MOST_COLUMNS = 4  # shifts in a row of a video


def envs() -> None:
    """List tasks and visual shifts."""
    console = Console()
    shifts = Table("shift", "what it changes", box=None)
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
    video: bool = False,
    data: Data = NO_PATHS,
    image_size: int = 64,
    visuals: Visuals = "classic",
    profile: Profile | None = None,
    reference: bool = False,
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
        video: Also write a clip of all shifts side by side.
        image_size: Side of a frame in pixels.
        visuals: Floors as simulators drew them when the benchmarks were made (classic), or as MuJoCo does today
            (native).
        profile: Rendering quality (None: near with software rendering, exact on a GPU).
        reference: Reproduce the pixels of the benchmarks' own code where ours differ on purpose.
    """
    if out.suffix != ".png":
        raise UserError(f"pictures are written as .png, not as {out.name}")
    if times < 1 or every < 1 or seed < 0:
        raise UserError("--times and --every must be at least 1, and --seed must not be negative")
    split_task(task)
    names = shifts or tuple(shift for shift in SHIFTS if covers(shift, task))
    options: dict[str, Any] = {"data": data, "image_size": image_size, "reference": reference}
    backgrounds = [make_shift(task, shift=name, **options).prepare()["background"] for name in names]
    out.parent.mkdir(parents=True, exist_ok=True)
    frames = {}
    for name in track(names, f"drawing {task}", console=Console(stderr=True), transient=True):
        env = make_env(task, shift=name, seed=seed, visuals=visuals, profile=profile, **options)
        frames[name] = _episode(env, seed, every * (times - 1))
        fps = env.metadata["render_fps"]
        env.close()

    labels = [
        name if background == "none" else f"{name}\n{background}"
        for name, background in zip(names, backgrounds, strict=True)
    ]
    titles = [f"step {i * every}" for i in range(times)]
    sheet([frames[name][::every] for name in names], titles, labels).save(out)
    print(f"written to {out}")
    if video:
        from alda.video import write_video  # brings PyTorch

        tiled = [_tiled({name: frames[name][t] for name in names}) for t in range(len(frames[names[0]]))]
        print(f"written to {write_video(out.with_name(out.stem), tiled, fps, scale=1)}")


def _tiled(tiles: dict[str, UInt8[np.ndarray, "c h w"]]) -> UInt8[np.ndarray, "height width c"]:
    """Lay one moment under all shifts side by side, each with its name."""
    columns = min(len(tiles), _MOST_COLUMNS)
    empty = np.full_like(next(iter(tiles.values())), 255)
    padded = [*tiles.items(), *[("", empty)] * (-len(tiles) % columns)]
    rows = [padded[i : i + columns] for i in range(0, len(padded), columns)]
    sheets = [sheet([[tile for _, tile in row]], [name for name, _ in row], scale=3) for row in rows]
    return np.concatenate([np.asarray(picture) for picture in sheets])


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
