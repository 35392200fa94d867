"""One process per run: a lock on its directory, and signals that wait for a consistent moment."""

import fcntl
import signal
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from secrets import token_hex
from types import FrameType

from alda.errors import TakenOverError, UserError
from alda.files import open_regular, read_bytes


@contextmanager
def only_one(run_dir: Path, busy: str = "is being trained by another process") -> Iterator[Callable[[], None]]:
    """Lock a run directory; raise UserError where another process has.

    Yields a function that raises TakenOverError where another process may have taken the directory over: a network file
    system gives the lock of a machine that it cannot reach to others, and who deletes the lock lets others in.
    """
    path, mine = run_dir / ".lock", token_hex(8)
    with open_regular(path, "a") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise UserError(f"{run_dir} {busy}; wait for it, or stop it") from None
        lock.truncate(0)
        lock.write(mine)
        lock.flush()

        def check() -> None:
            try:
                kept = read_bytes(path) == mine.encode()
            except OSError:
                kept = False
            if not kept:
                raise TakenOverError(f"{path} is gone or another's: another process may have taken the run over")

        yield check


@contextmanager
def collected_signals() -> Iterator[list[int]]:
    """Collect SIGINT, SIGTERM and SIGHUP; a second SIGINT or SIGTERM acts at once.

    A terminal that closes and its shell each send SIGHUP, so a second one means no hurry. Where it is ignored, as under
    nohup, it stays ignored.
    """
    caught: list[int] = []
    numbers = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
    before = {number: signal.getsignal(number) for number in numbers}

    def catch(number: int, _: FrameType | None) -> None:
        if number != signal.SIGHUP:
            signal.signal(number, before[signal.Signals(number)])
        elif caught:
            return
        caught.append(number)

    for number in numbers:
        if number != signal.SIGHUP or before[number] != signal.SIG_IGN:
            signal.signal(number, catch)
    try:
        yield caught
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
