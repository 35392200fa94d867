"""What looks after a command on a node of a Ray cluster. Imported there for each, so it needs next to nothing."""

import os
import time
from collections.abc import Sequence
from pathlib import Path
from threading import Event, Lock

from alda.sweep.gpu_sharing import Sharing
from alda.sweep.processes import LocalBackend, LocalJob, Slots

_PAUSE_SECONDS = 0.1
_SEEN_SECONDS = 60.0  # until a node sees what another has written into a shared folder


class Keeper:
    """An actor on a node: starts one command, and waits for it."""

    def __init__(self, threads: int, program: Sequence[str], *, hide_gpus: bool = False) -> None:
        gpus = ("",) if hide_gpus else ()
        self._backend = LocalBackend(Slots(1, threads, 0, ""), Sharing({}, ()), gpus, program)
        self._starting, self._stop = Lock(), Event()
        self._job: LocalJob | None = None
        self._calls = 0

    def node(self) -> str:
        """Where it is."""
        import ray

        return ray.get_runtime_context().get_node_id()

    def run(self, words: Sequence[str], log: Path, folder: Path) -> int:
        """The command's exit code, when it has ended. Called again, as the answer was lost, it waits for the same
        command, and the call before ends."""
        with self._starting:
            self._calls += 1
            mine = self._calls
            if self._job is None:
                _await_shared(log)
                os.chdir(folder)
                self._job = self._backend.start(words, log)
        while (code := self._job.poll()) is None and mine == self._calls:
            if self._stop.is_set():
                self._stop.clear()  # a second signal would interrupt the saving
                self._job.stop()
            time.sleep(_PAUSE_SECONDS)
        return -1 if code is None else code  # which nobody hears

    def stop(self) -> None:
        """Asks the command to save and end, at once or as soon as it has begun."""
        self._stop.set()

    def kill(self) -> None:
        if self._job:
            self._job.kill()


def _await_shared(log: Path) -> None:
    """A file that another node has just made may take a moment to be seen."""
    deadline = time.monotonic() + _SEEN_SECONDS
    while not log.exists():
        if time.monotonic() > deadline:
            raise FileNotFoundError(
                f"{os.uname().nodename} has no {log}: a study must lie in a folder that all nodes share"
            )
        time.sleep(_PAUSE_SECONDS)
