"""Memory of a process that resets and steps environments for long, to find leaks: python benchmarks/memory.py"""

import numpy as np
import psutil
import tyro
from rich.progress import track

from alda.envs import make_env
from alda.envs.backgrounds.data import NO_PATHS, Data

_WARM_UP = 20  # resets before the first reading: caches fill


def main(
    task: str = "walker_walk",
    shifts: tuple[str, ...] = ("distracting_cs:0.2", "video_hard"),
    resets: int = 1_000,
    steps: int = 20_000,
    data: Data = NO_PATHS,
) -> None:
    """Print the resident memory before and after.

    Args:
        task: dm_control task.
        shifts: Visual shifts, one after the other in one process.
        resets: episodes begun.
        steps: agent steps taken, spread over them.
        data: real backgrounds.
    """
    for shift in shifts:
        env = make_env(task, shift=shift, data=data)
        rng = np.random.default_rng(0)
        for _ in range(_WARM_UP):
            env.reset()
        before = _resident()
        for _ in track(range(resets), description=shift, transient=True):
            env.reset()
            for _ in range(steps // resets):
                env.step(rng.uniform(-1, 1, env.action_space.shape).astype(np.float32))
        print(f"{shift}: {before:.1f} MB before, {_resident():.1f} MB after {resets:,} resets and {steps:,} steps")
        env.close()


def _resident() -> float:
    return psutil.Process().memory_info().rss / 1e6


if __name__ == "__main__":
    tyro.cli(main)
