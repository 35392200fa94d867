"""`alda envs` and `alda envs preview`."""

from pathlib import Path

from alda.envs.backgrounds.data import NO_PATHS, Data
from alda.envs.preview import list_environments
from alda.envs.preview import preview as draw
from alda.envs.rendering import Profile
from alda.envs.scene import Visuals


def envs() -> None:
    """List tasks and visual shifts."""
    list_environments()


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
    draw(
        out,
        task=task,
        shifts=shifts,
        times=times,
        every=every,
        seed=seed,
        video=video,
        data=data,
        image_size=image_size,
        visuals=visuals,
        profile=profile,
        reference=reference,
    )
