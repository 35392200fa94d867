"""Slots that are processes of this machine."""

import os
import signal
import subprocess
import sys
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path
from typing import NamedTuple

from alda.sweep.backend import Backend, Job
from alda.sweep.gpu_sharing import Sharing

_CHILD = Path(__file__).with_name("child.py")


class Slots(NamedTuple):
    jobs: int
    threads: int
    workers: int
    about: str


class LocalBackend(Backend):
    """program: what Python is called with before the words of a command; None: as this process was.

    gpus: their names, as in CUDA_VISIBLE_DEVICES, of which each process gets the one with the fewest others.
    """

    def __init__(
        self, slots: Slots, sharing: Sharing, gpus: Sequence[str] = (), program: Sequence[str] | None = None
    ) -> None:
        self.jobs, self.threads, self.workers, self.about = slots
        self._sharing, self._gpus = sharing, list(gpus)
        self._program = list(program or this_program())
        self._alive, self._held = os.pipe()  # the second end is this process's alone
        self._jobs: list[LocalJob] = []

    def start(self, words: Sequence[str], log: Path) -> "LocalJob":
        self._jobs = [job for job in self._jobs if job.poll() is None]
        taken = [job.gpu for job in self._jobs]
        gpu = min(self._gpus, key=taken.count, default=None)
        with log.open("ab") as output:
            process = subprocess.Popen(
                [sys.executable, "-P", str(_CHILD), str(self._alive), *self._program, *words],
                pass_fds=(self._alive, *self._sharing.kept_open),
                process_group=0,  # Ctrl-C is for us
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=output,
                env={
                    **os.environ,
                    "OMP_NUM_THREADS": str(self.threads),
                    **self._sharing.environment,
                    **({} if gpu is None else {"CUDA_VISIBLE_DEVICES": gpu}),
                    "PYTHONPATH": os.pathsep.join(sys.path),
                },
            )
        self._jobs.append(LocalJob(process, gpu))
        return self._jobs[-1]

    def close(self) -> None:
        """Commands that are still on their way stop."""
        for end in (self._alive, self._held):
            os.close(end)


class LocalJob(Job):
    def __init__(self, process: subprocess.Popen[bytes], gpu: str | None) -> None:
        self.process, self.gpu = process, gpu

    def poll(self) -> int | None:
        return self.process.poll()

    def stop(self) -> None:
        self.process.send_signal(signal.SIGINT)

    def kill(self) -> None:
        if self.poll() is None:
            with suppress(ProcessLookupError):
                os.killpg(self.process.pid, signal.SIGKILL)
            self.process.wait()


def this_program() -> list[str]:
    """How Python was called for this process, so that others know the methods that a program of one's own adds."""
    main = sys.modules["__main__"]
    return ["-m", main.__spec__.name] if main.__spec__ else [os.path.abspath(str(main.__file__))]
