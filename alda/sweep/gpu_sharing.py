"""One GPU for several processes: under NVIDIA's MPS their kernels run side by side, without it they take turns.

The daemon of MPS is a private one. A small shell watches over it, reading a pipe that this process and those it starts
keep open: when the last of them is gone, however it went, the shell stops the daemon and removes its folder. What MPS
cannot do is contain an illegal access to the GPU's memory: it ends all processes that share it.
"""

import os
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from shutil import which
from typing import NamedTuple

_CONTROL = "nvidia-cuda-mps-control"
_OF_ANOTHER = Path("/tmp/nvidia-mps/nvidia-cuda-mps-control.pid")  # where a daemon is by default
_WATCH = f'cat; echo "quit -t 5" | {_CONTROL}; rm -rf "$0"'
_TRIAL = "import sys, torch; torch.zeros(1, device=sys.argv[1])"


class Sharing(NamedTuple):
    """What processes need that are to share a GPU."""

    environment: dict[str, str]
    kept_open: tuple[int, ...]  # file descriptors


@contextmanager
def shared_gpu(device: str, say: Callable[[str], None]) -> Iterator[Sharing]:
    """Runs a daemon of MPS where there can be one. Where a daemon is running already, processes find it themselves."""
    if not device.startswith("cuda") or "CUDA_MPS_PIPE_DIRECTORY" in os.environ or _OF_ANOTHER.exists():
        yield Sharing({}, ())
        return
    if which(_CONTROL) is None:
        say(f"note: processes take turns on the GPU where there is no {_CONTROL}")
        yield Sharing({}, ())
        return
    folder = Path(tempfile.mkdtemp(prefix="alda-mps-"))
    places = {"CUDA_MPS_PIPE_DIRECTORY": str(folder / "pipe"), "CUDA_MPS_LOG_DIRECTORY": str(folder / "log")}
    for place in places.values():
        Path(place).mkdir()
    with _watch(folder, places) as alive:
        if _starts(places) and _computes(device, places):
            yield Sharing(places, (alive,))
            return
    say("note: NVIDIA's MPS does not work here; processes take turns on the GPU")
    yield Sharing({}, ())


@contextmanager
def _watch(folder: Path, places: dict[str, str]) -> Iterator[int]:
    """The daemon is stopped when nobody has this file descriptor open any more."""
    watcher = subprocess.Popen(
        ["sh", "-c", _WATCH, str(folder)],
        stdin=subprocess.PIPE,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        process_group=0,  # Ctrl-C is not for it
        env={**os.environ, **places},
    )
    assert watcher.stdin is not None
    try:
        yield watcher.stdin.fileno()
    finally:
        watcher.stdin.close()
        with suppress(subprocess.TimeoutExpired):
            watcher.wait(20)


def _starts(places: dict[str, str]) -> bool:
    environment = {**os.environ, **places}
    environment.pop("CUDA_VISIBLE_DEVICES", None)  # else both it and the processes would count devices anew
    return _succeeds([_CONTROL, "-d"], environment, 20)


def _computes(device: str, places: dict[str, str]) -> bool:
    """Whether another process can use the device, as this one must not start CUDA before the daemon has."""
    environment = {**os.environ, **places, "PYTHONPATH": os.pathsep.join(sys.path)}
    return _succeeds([sys.executable, "-P", "-c", _TRIAL, device], environment, 120)


def _succeeds(command: list[str], environment: dict[str, str], seconds: int) -> bool:
    quiet = subprocess.DEVNULL
    with suppress(OSError, subprocess.TimeoutExpired):
        result = subprocess.run(
            command, stdin=quiet, stdout=quiet, stderr=quiet, env=environment, timeout=seconds, check=False
        )
        return result.returncode == 0
    return False
