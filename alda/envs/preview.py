"""The test worlds, for people: a list of what there is, and pictures of what it looks like."""

from collections.abc import Sequence
from itertools import groupby
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import UInt8
from rich.console import Console
from rich.progress import track
from rich.table import Table

from alda.envs import SHIFTS, covers, make_env, make_shift
from alda.envs.backgrounds.data import Data
from alda.envs.dmc import DMCEnv
from alda.envs.shifts.distracting import USUAL_INTENSITY, DistractingSuite
from alda.envs.tasks import TASKS, action_repeat_of, split_task
from alda.errors import UserError
from alda.pictures import sheet

_MOST_COLUMNS = 4  # worlds in a row of a video


def list_environments() -> None:
    """Prints tasks and shifts, and what each shift changes."""
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
    console.print("\nalda envs preview --task walker_walk --out worlds.png draws them.", highlight=False)


def preview(
    out: Path,
    *,
    task: str = "walker_walk",
    shifts: Sequence[str] = (),
    times: int = 8,
    every: int = 10,
    seed: int = 0,
    video: bool = False,
    data: Data | None = None,
    image_size: int = 64,
    visuals: str = "classic",
    profile: str | None = None,
    reference: bool = False,
) -> list[Path]:
    """Writes one PNG of the same episode in every world: a row for each shift, a column for each time.

    shifts: none means all that cover the task. times, every: pictures, and agent steps between them. video: also write
    all worlds side by side as a clip. Actions are random, smoothed, and the same in every world. Returns what it wrote.
    Raises UserError for an unknown task or shift, data that are not complete, or another file type.
    """
    if out.suffix != ".png":
        raise UserError(f"pictures are written as .png, not as {out.name}")
    if times < 1 or every < 1 or seed < 0:
        raise UserError("--times and --every must be at least 1, and --seed must not be negative")
    split_task(task)
    names = tuple(shifts) or tuple(shift for shift in SHIFTS if covers(shift, task))
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
    written = [out]
    if video:
        from alda.video import write_video  # brings PyTorch

        tiled = [_tiled({name: frames[name][t] for name in names}) for t in range(len(frames[names[0]]))]
        written.append(write_video(out.with_name(out.stem), tiled, fps, scale=1))
    for file in written:
        print(f"written to {file}")
    return written


def _tiled(tiles: dict[str, UInt8[np.ndarray, "c h w"]]) -> UInt8[np.ndarray, "height width c"]:
    """All worlds at one moment, each with its name."""
    columns = min(len(tiles), _MOST_COLUMNS)
    empty = np.full_like(next(iter(tiles.values())), 255)
    padded = [*tiles.items(), *[("", empty)] * (-len(tiles) % columns)]
    rows = [padded[i : i + columns] for i in range(0, len(padded), columns)]
    sheets = [sheet([[tile for _, tile in row]], [name for name, _ in row], scale=3) for row in rows]
    return np.concatenate([np.asarray(picture) for picture in sheets])


def _episode(env: DMCEnv, seed: int, steps: int) -> list[UInt8[np.ndarray, "c h w"]]:
    """Newest frames of an episode under smoothed random actions."""
    rng = np.random.default_rng(seed)
    obs, _ = env.reset(seed=seed)
    frames, action = [obs[-1]], np.zeros(env.action_space.shape or ())
    for _ in range(steps):
        action = 0.8 * action + 0.6 * rng.uniform(-1, 1, action.shape)
        obs, *_ = env.step(np.clip(action, -1, 1).astype(np.float32))
        frames.append(obs[-1])
    return frames
