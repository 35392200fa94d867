"""Slots on this machine: as many commands at a time as it holds, with equal shares of its cores and GPUs."""

import os
import signal
import subprocess
import sys
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import NamedTuple

import psutil

from alda.envs.vector import count_cores
from alda.errors import UserError
from alda.sweep.runner import Job, Place, this_program
from alda.training.replay import container_memory

MOST_WORKERS = 16  # more have nothing to do in an evaluation
_FREE = "import torch; print(*(torch.cuda.mem_get_info(i)[0] for i in range(torch.cuda.device_count())))"


class Needs(NamedTuple):
    """What the largest of some tasks takes: bytes of memory, and of a GPU; device: cpu, or which GPU."""

    memory: float
    gpu_memory: float = 0.0
    device: str = "cpu"

    @property
    def on_gpu(self) -> bool:
        return self.device != "cpu"


class Machine(NamedTuple):
    """What is free: processor cores, bytes of memory, bytes of each GPU. threads: of OMP_NUM_THREADS, if it is set."""

    cores: int
    memory: float
    gpus: tuple[float, ...] = ()
    threads: int | None = None


@dataclass
class LocalJob(Job):
    """A command in a process of its own. gpu: that it was given, of several."""

    process: subprocess.Popen[bytes]
    gpu: str | None = None

    def poll(self) -> int | None:
        code = self.process.poll()
        if code is not None and self.process.stdin:
            self.process.stdin.close()
        return code

    def stop(self) -> None:
        self.process.send_signal(signal.SIGINT)

    def kill(self) -> None:
        with suppress(ProcessLookupError):
            os.killpg(self.process.pid, signal.SIGKILL)
        self.process.wait()
        self.poll()


def start_process(
    words: Sequence[str], log: Path, environment: dict[str, str], program: Sequence[str] | None = None
) -> LocalJob:
    """Start a command that stops when this process is gone, and that Ctrl-C reaches through this process alone.

    program: what Python is called with before the words (None: as this process was).
    """
    with log.open("ab") as output:
        process = subprocess.Popen(
            [sys.executable, "-P", str(Path(__file__).with_name("child.py")), *(program or this_program()), *words],
            stdin=subprocess.PIPE,  # for child.py: closed when this process ends
            stdout=output,
            stderr=output,
            process_group=0,
            env={**os.environ, **environment, "PYTHONPATH": os.pathsep.join(sys.path)},
        )
    return LocalJob(process)


@dataclass
class LocalPlace(Place):
    """Slots that are processes of this machine.

    gpus: names as in CUDA_VISIBLE_DEVICES, of which each process gets the one with the fewest others.
    """

    jobs: int
    threads: int
    workers: int
    about: str
    gpus: Sequence[str] = ()
    _jobs: list[LocalJob] = field(default_factory=list)

    def start(self, words: Sequence[str], log: Path) -> LocalJob:
        self._jobs = [job for job in self._jobs if job.poll() is None]
        taken = [job.gpu for job in self._jobs]
        gpu = min(self.gpus, key=taken.count, default=None)
        visible = {} if gpu is None else {"CUDA_VISIBLE_DEVICES": gpu}
        job = start_process(words, log, {"OMP_NUM_THREADS": str(self.threads), **visible})
        job.gpu = gpu
        self._jobs.append(job)
        return job


def choose_slots(count: int, needs: Needs, machine: Machine, jobs: int | None = None) -> LocalPlace:
    """Return as many slots for `count` tasks as cores, memory and GPUs hold, or `jobs`; cores in equal shares.

    One task a core, as several runs with a core each learn more in all than one run with several.
    """
    limits = {
        f"{machine.cores} cores": machine.cores,
        f"{machine.memory / 1e9:.1f} GB of memory, {needs.memory / 1e9:.1f} a run": machine.memory // needs.memory,
        f"{count} runs to do": count,
    }
    if needs.on_gpu:
        free = " + ".join(f"{gpu / 1e9:.1f}" for gpu in machine.gpus) or "0"
        fitting = sum(gpu // needs.gpu_memory for gpu in machine.gpus)
        limits[f"{free} GB of GPU memory, {needs.gpu_memory / 1e9:.1f} a run"] = fitting
    chosen = jobs or max(1, int(min(limits.values())))
    share = max(1, machine.cores // chosen)
    reason = (
        "as asked for" if jobs else f"the least of: {'; '.join(f'{n:.0f} by {what}' for what, n in limits.items())}"
    )
    threads = f"{machine.threads}, as OMP_NUM_THREADS says" if machine.threads else str(share)
    about = f"{chosen} run{'s' * (chosen != 1)} at a time ({reason}); threads for each: {threads}"
    return LocalPlace(chosen, machine.threads or share, min(share, MOST_WORKERS), about)


def this_machine(needs: Needs) -> Machine:
    """Return what is free here; of GPUs, if the tasks use them. Raise UserError for a GPU that cannot be used."""
    memory = min(float(psutil.virtual_memory().available), container_memory())
    threads = os.environ.get("OMP_NUM_THREADS", "")
    gpus: tuple[float, ...] = ()
    if needs.on_gpu:
        # asked in another process, as this one would hold memory of the GPU from then on
        asked = subprocess.run([sys.executable, "-c", _FREE], capture_output=True, text=True, check=False)
        if asked.returncode:
            raise UserError(f"the GPU cannot be used: {asked.stderr.strip()[-200:]}; see `alda doctor`")
        gpus = tuple(map(float, asked.stdout.split()))
    return Machine(count_cores(), memory, gpus, int(threads) if threads.isdecimal() else None)


def local_place(count: int, needs: Needs, jobs: int | None) -> LocalPlace:
    """Return slots on this machine for `count` tasks, or `jobs`; of several GPUs, each process gets one."""
    machine = this_machine(needs)
    place = choose_slots(count, needs, machine, jobs)
    if needs.device == "cuda" and len(machine.gpus) > 1:
        place.gpus = (os.environ.get("CUDA_VISIBLE_DEVICES") or ",".join(map(str, range(len(machine.gpus))))).split(",")
    return place
