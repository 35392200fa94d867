"""A process that measures one method at one speed, a block at a time, whenever it is told to.

Started as `python -m alda.bench.child SOCKET`, an inherited file descriptor. It says True when it is ready, is told
what to measure, and from then on gives an answer to every request: (True, what was measured), or (False, the class of
an error, message, traceback).
"""

import io
import os
import resource
import sys
import threading
import time
import traceback
from collections.abc import Callable
from contextlib import redirect_stdout, suppress
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

import psutil
import torch

from alda.agents import make_agent
from alda.bench.subject import Subject
from alda.config import spec_of
from alda.errors import WorkerError
from alda.provenance import describe_machine, load_spec
from alda.training.acceleration import accelerate
from alda.training.logger import Logger, read_metrics
from alda.training.replay import Replay
from alda.training.trainer import train

Answer = Callable[[Any], Any]  # hands over what was asked for; returns the next request
_TRANSITIONS = 2_000  # in the replay that updates sample from
_EPISODE = 250  # of them
_WARM_UP = {"cpu": 4, "cuda": 40}  # updates: all that is compiled or captured
_AT_ONCE = {"cpu": 2, "cuda": 20}  # updates between looks at the clock; every second one updates the actor


class Parts:
    """The agent and the environment of a training run, each on its own."""

    def __init__(self, subject: Subject) -> None:
        config = subject.config()
        self.seconds, self.device = subject.plan.seconds, torch.device(subject.device)
        if config.threads is not None:
            torch.set_num_threads(config.threads)
        torch.manual_seed(0)
        self.env = config.make_env()
        spec = spec_of(self.env)
        self.agent = make_agent(config.agent, spec).to(self.device)
        self.agent.prepare(config.data)
        self.replay = Replay(spec, _TRANSITIONS, config.agent.discount, self.device, code_dim=self.agent.code_dim)
        for i in range(_TRANSITIONS):
            obs = torch.randint(256, spec.obs_shape[1:], dtype=torch.uint8).expand(spec.obs_shape)
            if i % _EPISODE == 0:
                self.replay.add_first(obs)
            self.replay.add(torch.rand(spec.action_dim) * 2 - 1, float(torch.rand(())), False, obs)

        self.step = 0
        updates = _WARM_UP[self.device.type]
        self.synchronize()
        start = time.perf_counter()
        accelerate(self.agent, config.speed)
        self.learn(updates)
        self.start = {
            "seconds": time.perf_counter() - start,
            "updates": updates,
            "machine": describe_machine(subject.device),
        }
        self.env.reset()

    def updates(self) -> dict[str, float]:
        count, start = 0, time.perf_counter()
        while (spent := time.perf_counter() - start) < self.seconds:
            count += _AT_ONCE[self.device.type]
            self.learn(_AT_ONCE[self.device.type])
        return {"count": count, "seconds": spent}

    def environment(self) -> dict[str, float]:
        """Agent steps with random actions, resets included."""
        drawn, count, start = self.env.drawing_seconds, 0, time.perf_counter()
        while (spent := time.perf_counter() - start) < self.seconds / 3:
            _, _, terminated, truncated, _ = self.env.step(self.env.action_space.sample())
            count += 1
            if terminated or truncated:
                self.env.reset()
        return {"count": count, "seconds": spent, "drawing_seconds": self.env.drawing_seconds - drawn}

    def learn(self, updates: int) -> None:
        for _ in range(updates):
            self.agent.update(self.replay, self.step)
            self.step += 1
        self.synchronize()

    def synchronize(self) -> None:
        if self.device.type == "cuda":
            torch.cuda.synchronize(self.device)


def measure_parts(subject: Subject, answer: Answer) -> None:
    parts = Parts(subject)
    request = answer(parts.start)
    while True:
        request = answer(getattr(parts, request)())


def measure_training(subject: Subject, run_dir: Path, answer: Answer) -> None:
    """A real run, which waits after each line of metrics: there its clock for the next line has not begun."""
    workers: list[int] = []
    flush, said = Logger.flush, io.StringIO()

    def flush_and_wait(self: Logger, position: dict[str, int], extra: dict[str, float]) -> dict[str, float]:
        values = flush(self, position, extra)
        workers[:] = [peak_memory(process.pid) for process in psutil.Process().children()]
        answer(position["step"])
        return values

    Logger.flush = flush_and_wait  # type: ignore[method-assign]
    try:
        with redirect_stdout(said):
            train(subject.training(run_dir))
    except SystemExit:
        raise WorkerError(f"training ended: {said.getvalue().rstrip().rpartition(chr(10))[2]}") from None
    device = subject.device if subject.device.startswith("cuda") else None
    rows = [row for row in read_metrics(run_dir) if "speed/steps_per_second" in row]
    answer(
        {
            "laps": [_lap(row, subject.plan.lap) for row in rows[1:]],
            "workers": len(workers),
            "spec": vars(load_spec(run_dir)),
            "memory": {
                "host": peak_memory(os.getpid()),
                "workers": sum(workers),
                "device": torch.cuda.max_memory_allocated(device) if device else 0,
                "device_reserved": torch.cuda.max_memory_reserved(device) if device else 0,
            },
        }
    )


def _lap(row: dict[str, Any], steps: int) -> dict[str, Any]:
    """Its time, and the shares of it that the run accounts for."""
    shares = {name.removeprefix("time/"): share for name, share in row.items() if name.startswith("time/")}
    return {"count": steps, "seconds": steps / row["speed/steps_per_second"], "shares": shares}


def peak_memory(pid: int) -> int:
    """Most bytes that a process has held. What it held before it became what it is does not count, as it does in
    getrusage, which gives a process started by a large one that one's size."""
    try:
        status = Path(f"/proc/{pid}/status").read_text()
        return 1024 * int(status.split("VmHWM:")[1].split()[0])
    except (OSError, IndexError):
        return 1024 * resource.getrusage(resource.RUSAGE_SELF).ru_maxrss if pid == os.getpid() else 0


def main() -> None:
    connection = Connection(int(sys.argv[1]))
    threading.Thread(target=_end_with_parent, daemon=True).start()

    def answer(measured: Any) -> Any:
        connection.send((True, measured))
        return connection.recv()

    with suppress(EOFError, ConnectionError):
        subject, run_dir = answer(None)
        try:
            if run_dir is None:
                measure_parts(subject, answer)
            else:
                measure_training(subject, run_dir, answer)
        except (EOFError, ConnectionError):
            raise
        except Exception as error:
            connection.send((False, type(error).__name__, str(error), traceback.format_exc()))
    os._exit(0)  # OpenGL's own clean-up at exit is noisy


def _end_with_parent() -> None:
    """Standard input is a pipe that nobody writes to: it ends when the parent does, however that came about."""
    sys.stdin.buffer.read()
    os._exit(1)


if __name__ == "__main__":
    main()
