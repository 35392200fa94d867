"""`alda inspect`: a page about a run, served by this machine for itself."""

import signal
import sys
import webbrowser
from pathlib import Path

from alda.analysis.inspector import Server, Session
from alda.errors import UserError
from alda.policy import load


def inspect(run: Path, /, *, port: int = 8000, seed: int = 0, browser: bool = True) -> None:
    """Open a trained agent in the browser: move its latents, see states under other shifts.

    Args:
        run: Run directory.
        port: Port of this machine that serves the page (0: any free one).
        seed: Seed of the episode whose states are shown.
        browser: Open the page; otherwise only its address is printed.
    """
    if not (port == 0 or 1024 <= port < 65536) or seed < 0:
        raise UserError("--port must be 0 (any free one) or from 1024 to 65535, and --seed must not be negative")
    signal.signal(signal.SIGTERM, lambda number, _: sys.exit(128 + number))  # closes simulators
    with Server(lambda: Session(load(run), seed), port) as server:
        print(f"{run} is shown at {server.address} (Ctrl-C ends it)", flush=True)
        if browser:
            webbrowser.open(server.address)
        server.serve_forever()
