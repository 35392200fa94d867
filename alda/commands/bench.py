"""`alda bench`."""

import signal
import sys
from pathlib import Path

from alda.bench import bench as measure


def bench(
    *,
    methods: tuple[str, ...] = ("alda",),
    task: str = "walker_walk",
    batch_size: int | None = None,
    rounds: int = 5,
    seconds: float = 3.0,
    lap: int | None = None,
    laps: int = 2,
    device: str | None = None,
    out: Path | None = None,
) -> None:
    """Measure speed and memory of methods on this machine, plain and fast in turns: minutes per method, repo longer.

    Args:
        methods: Presets to measure, by their names in `alda train`; all: every method.
        task: dm_control task whose environment is stepped.
        batch_size: Transitions per update (None: each method's own; repo counts sequences).
        rounds: Blocks of updates, and of environment steps, at each speed; plain and fast take turns.
        seconds: Least duration of a block of updates in seconds; a block of environment steps takes a third of it.
        lap: Agent steps between evaluations of the training run that is timed end to end, even (None: 8 on cpu, 1000 on
            cuda). Evaluation takes half as many steps, as in the paper's run, where a lap has 10,000.
        laps: Laps of that run that count; one more comes first, which compiles and acts at random.
        device: Where agents live: cpu or cuda (None: cuda if available).
        out: JSON file to write, with the numbers of every block (None: none).
    """
    signal.signal(signal.SIGTERM, lambda number, _: sys.exit(128 + number))  # leaves no process or file behind
    measure(methods, **{name: value for name, value in locals().items() if name != "methods"})
