"""Slots on the nodes of a Ray cluster: each command is a process there, which an actor starts and waits for.

The study's folder must be the same for all nodes, as runs, their logs and checkpoints are read and written by this
process and by those on the nodes. When a node is gone, its runs go on elsewhere from their last checkpoints.
"""

import logging
import math
import os
import re
import signal
import socket
import subprocess
import sys
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any, NamedTuple

from alda.errors import UserError
from alda.sweep.backend import Backend, Job, Lost
from alda.sweep.keeper import Keeper
from alda.sweep.local import MOST_WORKERS, bytes_of_a_run
from alda.sweep.processes import this_program
from alda.sweep.study_file import StudyRun

_CONNECT_SECONDS = 10.0
_SAID_BY_US = "Raylet is terminated|has been marked dead|A worker died or was killed"  # in Ray's own words, at length
_GPU_BYTES = "import torch; print(min(torch.cuda.mem_get_info(i)[1] for i in range(torch.cuda.device_count())))"


class Node(NamedTuple):
    """What a node offers: processor cores, bytes of memory, GPUs."""

    cores: float
    memory: float
    gpus: float = 0.0


class Share(NamedTuple):
    """What each run gets, in the same units."""

    cores: int
    memory: float
    gpus: float = 0.0


def slots_on(nodes: Sequence[Node], share: Share) -> int:
    """Runs that fit; none is spread over two nodes, or over parts of two GPUs."""
    slots = 0
    for node in nodes:
        limits = [node.cores // share.cores, node.memory // share.memory]
        if share.gpus:
            limits.append(int(node.gpus) * math.floor(1 / share.gpus + 1e-6))
        slots += int(min(limits))
    return slots


def choose_share(nodes: Sequence[Node], share: Share, runs: int) -> Share:
    """With as many cores as there can be without fewer runs at a time, of so many."""
    at_once = min(runs, slots_on(nodes, share))
    most = int(max((node.cores for node in nodes), default=1))
    fitting = (share._replace(cores=cores) for cores in range(most, 1, -1))
    return next((larger for larger in fitting if at_once and slots_on(nodes, larger) >= at_once), share)


class RayBackend(Backend):
    """jobs: runs handed to Ray at a time, whether they have room at once or not; None: as many as fit.

    address: of a cluster, as ray.init takes it; None: RAY_ADDRESS, one that this machine belongs to, or a new one on
    this machine alone. gpu_share: of a GPU, for each run; None: as its memory allows; a whole one if that is not known.
    Raises UserError where there is no such cluster, or no node with room for a run.
    """

    def __init__(
        self,
        runs: Sequence[StudyRun],
        jobs: int | None = None,
        address: str | None = None,
        gpu_share: float | None = None,
    ) -> None:
        self._ray = _connect(address)
        self._most = jobs
        nodes = self._nodes()
        gpus = any(node.gpus for node in nodes) and any(run.config.device != "cpu" for run in runs)
        memory, gpu_memory = bytes_of_a_run(runs, "cuda" if gpus else "cpu")
        share = gpu_share or (self._gpu_share(gpu_memory) if gpus else 0.0)
        self.share = choose_share(nodes, Share(1, memory, share), min(len(runs), jobs or len(runs)))
        self.workers = min(self.share.cores, MOST_WORKERS)
        if not self.jobs:
            self.close()
            raise UserError(
                f"no node of the cluster has room for a run, which takes {_words(self.share)}; the nodes have "
                f"{'; '.join(map(_words, nodes)) or 'nothing'}. --jobs N hands N runs to Ray all the same"
            )
        some, count = (f"{n} {what}{'s' * (n != 1)}" for n, what in ((self.jobs, "run"), (len(nodes), "node")))
        reason = "as --jobs says" if jobs else "what has room, as nodes come and go"
        self.about = f"{some} at a time on {count} of a Ray cluster ({reason}); each has {_words(self.share)}"

    @property
    def jobs(self) -> int:  # type: ignore[override]
        return self._most or slots_on(self._nodes(), self.share)

    def start(self, words: Sequence[str], log: Path) -> "RayJob":
        keeper = self._ray.remote(Keeper).options(
            num_cpus=self.share.cores,
            num_gpus=self.share.gpus,
            memory=self.share.memory,
            max_concurrency=4,  # it is asked things while it waits
        )
        hidden = self.share.gpus == 0  # as Ray hides no GPU from those that asked for none
        try:
            handle = keeper.remote(self.share.cores, this_program(), hide_gpus=hidden)
            return RayJob(self._ray, handle, list(words), log.absolute())
        except self._ray.exceptions.RayError as error:
            raise OSError(str(error)) from error

    def close(self) -> None:
        """Commands that are still on their way end."""
        self._ray.shutdown()

    def _nodes(self) -> list[Node]:
        alive = [node["Resources"] for node in self._ray.nodes() if node["Alive"]]
        return [Node(has.get("CPU", 0), has.get("memory", 0), has.get("GPU", 0)) for has in alive if has.get("CPU")]

    def _gpu_share(self, memory: float) -> float:
        """A run's share of the smallest GPU in the cluster; a node is asked from outside its Ray resources."""
        from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

        with_gpus = [node["NodeID"] for node in self._ray.nodes() if node["Alive"] and node["Resources"].get("GPU")]
        ask = self._ray.remote(_smallest_gpu)
        asked = [
            ask.options(num_cpus=0, scheduling_strategy=NodeAffinitySchedulingStrategy(node, soft=False)).remote()
            for node in with_gpus
        ]
        try:
            smallest = min(self._ray.get(asked, timeout=120))
        except self._ray.exceptions.RayError as error:
            cause = getattr(error, "cause", None) or error
            self.close()
            raise UserError(f"the size of a GPU of the cluster is not known ({cause}); use --gpu-share") from error
        return 1 / max(1, int(smallest // memory))


class RayJob(Job):
    """keeper: handle of an actor, which may still wait for room on a node."""

    def __init__(self, ray: Any, keeper: Any, words: list[str], log: Path) -> None:
        self._ray, self._keeper, self._log = ray, keeper, log
        self._call = (words, log, Path.cwd())
        self._code = keeper.run.remote(*self._call)
        self._where = keeper.node.remote()
        self._node: str | None = None
        self._ended: int | None = None

    def poll(self) -> int | None:
        if self._ended is not None:
            return self._ended
        errors = self._ray.exceptions
        self._locate()
        try:
            self._ended = self._result(self._code)
        except errors.ActorUnavailableError:  # the network failed, or the node is about to be given up
            self._code = self._keeper.run.remote(*self._call)
        except errors.RayTaskError as error:
            self._fail(str(error.cause))
        except errors.RayActorError as error:
            if not error.actor_init_failed and self._node not in self._alive():
                raise Lost("its node is gone" if self._node else "it was lost before it began") from None
            self._fail(str(error))
        except errors.RayError as error:  # killed for want of memory, or impossible to set up
            self._fail(str(error))
        return self._ended

    @property
    def placed(self) -> bool:
        self._locate()
        return self._node is not None

    def stop(self) -> None:
        if not self.placed:  # it waits for room
            self._ended = -signal.SIGINT
            self._ray.kill(self._keeper)
        else:
            self._keeper.stop.remote()

    def kill(self) -> None:
        if self.placed:
            with suppress(self._ray.exceptions.RayError):
                self._ray.get(self._keeper.kill.remote(), timeout=5)
        self._ray.kill(self._keeper)

    def _locate(self) -> None:
        if self._node is None:
            try:
                self._node = self._result(self._where)
            except self._ray.exceptions.ActorUnavailableError:
                self._where = self._keeper.node.remote()
            except self._ray.exceptions.RayError:  # as the command's own answer tells
                pass

    def _result(self, call: Any) -> Any:
        """Of a call to the keeper; None while there is none."""
        done, _ = self._ray.wait([call], timeout=0)
        return self._ray.get(call) if done else None

    def _alive(self) -> set[str]:
        return {node["NodeID"] for node in self._ray.nodes() if node["Alive"]}

    def _fail(self, reason: str) -> None:
        """As if the command had said so."""
        self._ended = 1
        with suppress(OSError), self._log.open("a") as log:
            log.write(f"{reason}\n")


def _connect(address: str | None) -> Any:
    os.environ.setdefault("RAY_DEDUP_LOGS_SKIP_REGEX", _SAID_BY_US)
    try:
        import ray
        import ray.exceptions
    except ImportError as error:
        raise UserError("--backend ray needs Ray: pip install 'alda[ray]'") from error
    try:
        asked = address or os.environ.get("RAY_ADDRESS", "")
        if re.fullmatch(r"[^/]+:\d+", asked):  # else Ray asks for minutes
            host, port = asked.rsplit(":", 1)
            socket.create_connection((host.strip("[]"), int(port)), _CONNECT_SECONDS).close()
        ray.init(address=address, log_to_driver=False, logging_level=logging.ERROR)
    except (ConnectionError, ValueError, RuntimeError, OSError) as error:
        raise UserError(f"no Ray cluster at {address or os.environ.get('RAY_ADDRESS', 'hand')}: {error}") from error
    return ray


def _smallest_gpu() -> int:
    """Bytes of the smallest GPU of a node, whichever of them Ray has given away."""
    environment = {name: value for name, value in os.environ.items() if name != "CUDA_VISIBLE_DEVICES"}
    asked = subprocess.run([sys.executable, "-c", _GPU_BYTES], capture_output=True, text=True, env=environment)
    if asked.returncode:
        raise OSError(asked.stderr.strip().splitlines()[-1])
    return int(asked.stdout)


def _words(has: Node | Share) -> str:
    words = f"{has.cores:g} core{'s' * (has.cores != 1)}, {has.memory / 1e9:.1f} GB of memory"
    return words + (f", {has.gpus:.3g} of a GPU" if isinstance(has, Share) else f", {has.gpus:g} GPUs") * bool(has.gpus)
