"""How many runs this machine holds at a time, each with an equal share of its cores and of its GPUs."""

import os
import subprocess
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import closing, contextmanager
from typing import NamedTuple

import psutil
import torch

from alda.envs.vector import count_cores
from alda.errors import UserError
from alda.sweep.estimate import replay_size
from alda.sweep.gpu_sharing import shared_gpu
from alda.sweep.processes import LocalBackend, Slots
from alda.sweep.study_file import StudyRun
from alda.training.replay import container_memory

_HOST, _DEVICE = 2e9, 4e9  # bytes that a run takes besides its replay, at the methods' own sizes
MOST_WORKERS = 16  # more than play an evaluation have nothing to do
_FREE = "import torch; print(*(torch.cuda.mem_get_info(i)[0] for i in range(torch.cuda.device_count())))"


class Machine(NamedTuple):
    """What is free: processor cores, bytes of memory, bytes of each GPU."""

    cores: int
    memory: float
    gpus: tuple[float, ...] = ()
    threads: int | None = None
    """What OMP_NUM_THREADS says, if anything."""


def choose_slots(runs: Sequence[StudyRun], machine: Machine, jobs: int | None = None) -> Slots:
    """As many runs at a time as there are cores and as memory and GPUs hold, or `jobs`; cores in equal shares.

    One run per core, as several runs with a core each learn more in all than one run with several.
    """
    on_gpu = any(run.settled.device != "cpu" for run in runs)
    host, device = bytes_of_a_run(runs, "cuda" if torch.cuda.is_available() else "cpu")
    limits = {
        f"{machine.cores} cores": machine.cores,
        f"{machine.memory / 1e9:.1f} GB of memory, {host / 1e9:.1f} a run": int(machine.memory // host),
    }
    if on_gpu:
        free = " + ".join(f"{gpu / 1e9:.1f}" for gpu in machine.gpus) or "0"
        limits[f"{free} GB of GPU memory, {device / 1e9:.1f} a run"] = sum(int(gpu // device) for gpu in machine.gpus)
    limits[f"{len(runs)} runs to do"] = len(runs)
    chosen = jobs or max(1, min(limits.values()))
    share = max(1, machine.cores // chosen)
    threads = machine.threads or share
    reason = "as --jobs says" if jobs else f"the least of: {'; '.join(f'{n} by {what}' for what, n in limits.items())}"
    some = "1 run" if chosen == 1 else f"{chosen} runs"
    set_before = ", as OMP_NUM_THREADS says" if machine.threads else ""
    about = f"{some} at a time ({reason}); threads for each: {threads}{set_before}"
    return Slots(chosen, threads, min(share, MOST_WORKERS), about)


def bytes_of_a_run(runs: Sequence[StudyRun], device: str) -> tuple[float, float]:
    """What the largest takes in memory and on its GPU. device: of those that leave it open."""
    sizes = [(replay_size(run), run.config.replay_device or run.config.device or device) for run in runs]
    return (
        max((_HOST + size * (place == "cpu") for size, place in sizes), default=_HOST),
        max((_DEVICE + size * (place != "cpu") for size, place in sizes), default=_DEVICE),
    )


def this_machine(runs: Sequence[StudyRun]) -> Machine:
    """What is free here; of GPUs, if the runs use them."""
    memory = min(float(psutil.virtual_memory().available), container_memory())
    said = os.environ.get("OMP_NUM_THREADS", "")
    gpus: tuple[float, ...] = ()
    if any(run.settled.device != "cpu" for run in runs):
        # in another process, as this one must not start CUDA before those that share a GPU
        asked = subprocess.run([sys.executable, "-c", _FREE], capture_output=True, text=True, check=False)
        if asked.returncode:
            raise UserError(f"the GPU cannot be used: {asked.stderr.strip()[-200:]}; see `alda doctor`")
        gpus = tuple(map(float, asked.stdout.split()))
    return Machine(count_cores(), memory, gpus, int(said) if said.isdecimal() else None)


@contextmanager
def local_backend(
    runs: Sequence[StudyRun], jobs: int | None, say: Callable[[str], None], *, share_gpu: bool = True
) -> Iterator[LocalBackend]:
    """A backend whose processes share the GPU, where they use one; of several, each run gets one."""
    machine = this_machine(runs)
    slots = choose_slots(runs, machine, jobs)
    device = next((run.settled.device for run in runs if run.settled.device != "cpu"), None) or "cpu"
    names = os.environ.get("CUDA_VISIBLE_DEVICES") or ",".join(map(str, range(len(machine.gpus))))
    spread = len(machine.gpus) > 1 and {run.settled.device for run in runs} <= {"cpu", "cuda"}
    with (
        shared_gpu(device if slots.jobs > 1 and share_gpu else "cpu", say) as sharing,
        closing(LocalBackend(slots, sharing, names.split(",") if spread else ())) as it,
    ):
        yield it
