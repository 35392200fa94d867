"""Slots on this machine: as many commands at a time as it holds, with equal shares of its cores and GPUs."""

import os
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import NamedTuple

import psutil

from alda.envs.vector import count_cores
from alda.errors import UserError
from alda.files import open_regular
from alda.training.replay import container_memory

MOST_WORKERS = 16  # more have nothing to do in an evaluation
_FREE = "import torch; print(*(torch.cuda.mem_get_info(i)[0] for i in range(torch.cuda.device_count())))"


class Needs(NamedTuple):
    """What the largest of some tasks takes: bytes of memory, and of a GPU; device: cpu, or which GPU."""

    memory: float
    gpu_memory: float = 0.0
    device: str = "cpu"


class Machine(NamedTuple):
    """What is free: processor cores, bytes of memory, bytes of each GPU. threads: of OMP_NUM_THREADS, if it is set."""

    cores: int
    memory: float
    gpus: tuple[float, ...] = ()
    threads: int | None = None


@dataclass
class LocalPlace:
    """Slots that are processes of this machine.

    jobs: number of slots. workers: processes that each command may use for evaluations. about: both, for people.
    gpus: names as in CUDA_VISIBLE_DEVICES, of which each process gets the one with the fewest others.
    """

    jobs: int
    threads: int
    workers: int
    about: str
    gpus: Sequence[str] = ()
    _running: list[tuple[subprocess.Popen[bytes], str | None]] = field(default_factory=list)

    def start(self, words: Sequence[str], log: Path) -> subprocess.Popen[bytes]:
        """Run `alda WORDS` and append its output to the log. Raise OSError where that fails."""
        self._running = [(job, gpu) for job, gpu in self._running if job.poll() is None]
        gpu = min(self.gpus, key=[taken for _, taken in self._running].count, default=None)
        visible = {} if gpu is None else {"CUDA_VISIBLE_DEVICES": gpu}
        job = start_process(words, log, {"OMP_NUM_THREADS": str(self.threads), **visible}, this_program())
        self._running.append((job, gpu))
        return job


def start_process(
    words: Sequence[str], log: Path, environment: dict[str, str], program: Sequence[str]
) -> subprocess.Popen[bytes]:
    """Start a command that stops when this process is gone, and that Ctrl-C reaches through this process alone.

    program: what Python is called with before the words.
    """
    with open_regular(log, "ab") as output:
        return subprocess.Popen(
            [sys.executable, "-P", str(Path(__file__).with_name("child.py")), str(os.getpid()), *program, *words],
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=output,
            process_group=0,
            env={**os.environ, **environment, "PYTHONPATH": os.pathsep.join(sys.path)},
        )


def this_program() -> list[str]:
    """Return how Python was called for this process, so that its children know what a user's program adds."""
    main = sys.modules["__main__"]
    return ["-m", main.__spec__.name] if main.__spec__ else [str(Path(str(main.__file__)).absolute())]


def local_place(count: int, needs: Needs, jobs: int | None) -> LocalPlace:
    """Return slots on this machine for `count` tasks, or `jobs`; of several GPUs, each process gets one."""
    machine = this_machine(needs)
    place = choose_slots(count, needs, machine, jobs)
    if needs.device == "cuda" and len(machine.gpus) > 1:
        place.gpus = (os.environ.get("CUDA_VISIBLE_DEVICES") or ",".join(map(str, range(len(machine.gpus))))).split(",")
    return place


def this_machine(needs: Needs) -> Machine:
    """Return what is free here; of GPUs, if the tasks use them. Raise UserError for a GPU that cannot be used."""
    threads = os.environ.get("OMP_NUM_THREADS", "")
    gpus: tuple[float, ...] = ()
    if needs.device != "cpu":
        # asked in another process, as this one would hold memory of the GPU from then on
        asked = subprocess.run([sys.executable, "-c", _FREE], capture_output=True, text=True, check=False)
        if asked.returncode:
            raise UserError(f"the GPU cannot be used: {asked.stderr.strip()[-200:]}; see `alda doctor`")
        gpus = tuple(map(float, asked.stdout.split()))
    memory = min(float(psutil.virtual_memory().available), container_memory())
    return Machine(count_cores(), memory, gpus, int(threads) if threads.isdecimal() else None)


def choose_slots(count: int, needs: Needs, machine: Machine, jobs: int | None = None) -> LocalPlace:
    """Return as many slots for `count` tasks as cores, memory and GPUs hold, or `jobs`; cores in equal shares.

    One task a core, as several runs with a core each learn more in all than one run with several.
    """
    limits = {
        f"{machine.cores} cores": machine.cores,
        f"{machine.memory / 1e9:.1f} GB of memory, {needs.memory / 1e9:.1f} a run": machine.memory // needs.memory,
        f"{count} runs to do": count,
    }
    if needs.device != "cpu":
        free = " + ".join(f"{gpu / 1e9:.1f}" for gpu in machine.gpus) or "0"
        fitting = sum(gpu // needs.gpu_memory for gpu in machine.gpus)
        limits[f"{free} GB of GPU memory, {needs.gpu_memory / 1e9:.1f} a run"] = fitting
    chosen = jobs or max(1, int(min(limits.values())))
    share = max(1, machine.cores // chosen)
    threads = machine.threads or share
    about = f"runs at a time: {chosen} ({'as asked for' if jobs else '; '.join(limits)}), each with {threads} threads"
    return LocalPlace(chosen, threads, min(share, MOST_WORKERS), about)
