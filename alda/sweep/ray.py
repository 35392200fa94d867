"""Slots on the nodes of a Ray cluster: each command is a process there, which a Ray task starts and waits for.

The folder of the runs must be the same for all nodes, as runs, logs and checkpoints are read and written by this
process and by those on the nodes. When a node is gone, Ray starts its commands elsewhere, and they resume from their
last checkpoints.
"""

import logging
import math
import os
import re
import signal
import socket
import time
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any, NamedTuple

from alda.errors import UserError
from alda.files import open_regular
from alda.sweep.local import MOST_WORKERS, Needs, start_process, this_program

_CONNECT_SECONDS = 10.0
_LOSSES = 10  # nodes that a command may lose before that counts as its own fault
_PAUSE_SECONDS = 0.1


class Share(NamedTuple):
    """What a node offers, or a command gets: processor cores, bytes of memory, GPUs."""

    cores: float
    memory: float
    gpus: float = 0.0

    def __str__(self) -> str:
        gpus = f", {self.gpus:g} GPU" if self.gpus else ""
        return f"{self.cores:g} core{'s' * (self.cores != 1)}, {self.memory / 1e9:.1f} GB of memory{gpus}"


def slots_on(nodes: Sequence[Share], share: Share) -> int:
    """Return how many commands fit; none is spread over two nodes, or over parts of two GPUs."""
    slots = 0
    for node in nodes:
        limits = [node.cores // share.cores, node.memory // share.memory]
        if share.gpus:
            limits.append(int(node.gpus) * math.floor(1 / share.gpus + 1e-6))
        slots += int(min(limits))
    return slots


def choose_share(nodes: Sequence[Share], share: Share, count: int) -> Share:
    """Return the share with as many cores as leave room for as many of `count` commands at a time."""
    at_once = min(count, slots_on(nodes, share))
    most = int(max((node.cores for node in nodes), default=1))
    fitting = (share._replace(cores=cores) for cores in range(most, 1, -1))
    return next((larger for larger in fitting if at_once and slots_on(nodes, larger) >= at_once), share)


class RayPlace:
    """Slots of a Ray cluster for `count` tasks, which are used as those of LocalPlace.

    jobs: commands handed to Ray at a time, whether they have room or not (None: as many as fit). address: as ray.init
    takes it (None: RAY_ADDRESS, the cluster that this machine belongs to, or a new one on this machine alone).
    gpu_share: of a GPU for each command that uses one. Raises UserError where there is no such cluster, or no node with
    room for a command.
    """

    def __init__(
        self, count: int, needs: Needs, jobs: int | None = None, address: str | None = None, gpu_share: float = 1.0
    ) -> None:
        self._ray, self._most = _connect(address), jobs
        nodes = self._nodes()
        share = Share(1, needs.memory, gpu_share if needs.device != "cpu" else 0.0)
        self.share = choose_share(nodes, share, min(count, jobs or count))
        self.workers = min(int(self.share.cores), MOST_WORKERS)
        self.about = f"runs at a time: {self.jobs}, on a Ray cluster of {len(nodes)} nodes; each has {self.share}"
        if not self.jobs:
            self.close()
            raise UserError(
                f"no node of the cluster has room for a run, which takes {self.share}; the nodes have "
                f"{'; '.join(map(str, nodes)) or 'nothing'}. --jobs N hands N runs to Ray all the same"
            )

    @property
    def jobs(self) -> int:
        """Return the number of slots, which changes as nodes come and go."""
        return self._most or slots_on(self._nodes(), self.share)

    def start(self, words: Sequence[str], log: Path) -> "RayJob":
        task = self._ray.remote(_run_there).options(
            num_cpus=self.share.cores, num_gpus=self.share.gpus, memory=self.share.memory, max_retries=_LOSSES
        )
        threads = {"OMP_NUM_THREADS": str(int(self.share.cores))}
        # Ray hides no GPU from those that asked for none
        hidden = {} if self.share.gpus else {"CUDA_VISIBLE_DEVICES": ""}
        try:
            answer = task.remote(list(words), log.absolute(), Path.cwd(), this_program(), threads | hidden)
        except self._ray.exceptions.RayError as error:
            raise OSError(str(error)) from error
        return RayJob(self._ray, answer, log)

    def close(self) -> None:
        """End the commands that are still on their way."""
        self._ray.shutdown()

    def _nodes(self) -> list[Share]:
        alive = [node["Resources"] for node in self._ray.nodes() if node["Alive"]]
        return [Share(has.get("CPU", 0), has.get("memory", 0), has.get("GPU", 0)) for has in alive if has.get("CPU")]


class RayJob:
    """A command on a node, or waiting for room on one, used like a Popen. answer: reference to its exit code."""

    def __init__(self, ray: Any, answer: Any, log: Path) -> None:
        self._ray, self._answer, self._log = ray, answer, log
        self._code: int | None = None

    def poll(self) -> int | None:
        if self._code is None and self._ray.wait([self._answer], timeout=0)[0]:
            errors = self._ray.exceptions
            try:
                self._code = self._ray.get(self._answer)
            except errors.TaskCancelledError:  # stopped while it waited for room
                self._code = -signal.SIGINT
            except errors.RayError as error:  # could not start, ran out of memory, or lost too many nodes
                self._code = 1
                with suppress(OSError), open_regular(self._log, "a") as log:
                    log.write(f"{getattr(error, 'cause', None) or error}\n")
        return self._code

    def send_signal(self, number: int) -> None:
        self._ray.cancel(self._answer)  # a KeyboardInterrupt in _run_there

    def kill(self) -> None:
        self._ray.cancel(self._answer)  # the second one kills


def _run_there(
    words: Sequence[str], log: Path, folder: Path, program: Sequence[str], environment: dict[str, str]
) -> int:
    """Run a command on this node and return its exit code; a KeyboardInterrupt stops it, a second one kills it."""
    os.chdir(folder)
    job = start_process(words, log, environment, program)
    stopped = False
    while True:
        try:
            while (code := job.poll()) is None:
                time.sleep(_PAUSE_SECONDS)
            return code
        except KeyboardInterrupt:
            job.kill() if stopped else job.send_signal(signal.SIGINT)
            stopped = True


def _connect(address: str | None) -> Any:
    try:
        import ray
        import ray.exceptions
    except ImportError as error:
        raise UserError("--backend ray needs Ray: pip install 'alda[ray]'") from error
    asked = address or os.environ.get("RAY_ADDRESS", "")
    try:
        if re.fullmatch(r"[^/]+:\d+", asked):  # else Ray asks for minutes
            host, port = asked.rsplit(":", 1)
            socket.create_connection((host.strip("[]"), int(port)), _CONNECT_SECONDS).close()
        ray.init(address=address, log_to_driver=False, logging_level=logging.ERROR)
    except (ConnectionError, ValueError, RuntimeError, OSError) as error:
        raise UserError(f"no Ray cluster at {asked or 'hand'}: {error}") from error
    return ray
