"""`alda inspect`."""

import signal
import sys
from pathlib import Path

from alda.analysis.inspector import inspect_run


def inspect(run: Path, /, *, port: int = 8000, seed: int = 0, browser: bool = True) -> None:
    """Open a trained agent in the browser: move its latents, see states under other shifts.

    Args:
        run: Run directory.
        port: Port of this machine that serves the page (0: any free one).
        seed: Seed of the episode whose states are shown.
        browser: Open the page; otherwise only its address is printed.
    """
    signal.signal(signal.SIGTERM, lambda number, _: sys.exit(128 + number))  # closes simulators
    inspect_run(run, port=port, seed=seed, browser=browser)
