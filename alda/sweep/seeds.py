"""Several seeds of one config side by side, each in a process that trains as it would alone, on a share of the cores.

    train_seeds  -- a config ------------------------>  python -m alda.sweep.seeds: trains it, in a process group that
                 <-- lines and progress, as they come --  Ctrl-C does not reach, and never waits for train_seeds

Where the connection ends, the process saves a checkpoint and stops: when it is asked to, and when train_seeds has died.
"""

import importlib
import json
import os
import pickle
import signal
import socket
import subprocess
import sys
import tempfile
from collections import deque
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass, replace
from functools import partial
from multiprocessing.connection import wait
from threading import Thread
from typing import IO

from alda.agents import make_agent, modules_of
from alda.config import Config
from alda.envs.vector import cause_of_death, count_cores, default_workers
from alda.errors import UserError, WorkerError
from alda.progress import Display, displays
from alda.sweep.gpu_sharing import Sharing, shared_gpu
from alda.training.run_lock import collected_signals, exit_at_sigterm
from alda.training.trainer import train
from alda.types import EnvSpec

_MOST_BYTES = 2**16  # of a message
_LONGEST = 5_000  # characters of a line
_MOST_UNSENT = 100  # lines that wait until train_seeds reads again
_LAST_LINES = 20  # shown of a process that failed


def train_seeds(config: Config) -> None:
    """Trains an agent for each of config.seeds, or goes on training it.

    Raises UserError for settings that cannot work, before anything begins. A seed that fails leaves the others alone;
    at their end the exit code is 1. SIGINT, SIGTERM and SIGHUP save checkpoints of all and end the process with 128
    plus the signal's number; a second one, if no SIGHUP, kills them.
    """
    configs = [_alone(config, seed) for seed in config.seeds]
    if len(set(config.seeds)) < len(configs):
        raise UserError(f"--seeds must differ from one another, not {' '.join(map(str, config.seeds))}")
    first, *_ = [single.resolved() for single in configs]
    assert first.device is not None
    modules = modules_of(make_agent(config.agent, EnvSpec(config.env.frames, config.env.image_size, action_dim=1)))
    if "__main__" in modules:
        raise UserError(
            "processes for --seeds cannot find what is written in the program itself: move the method or latent model "
            "to a file of its own and import that, or train one --seed at a time"
        )
    first.eval_conditions()  # may shrink videos for a minute, once for all
    first.conditions(first.train_shift)
    names = [f"seed {seed}: " for seed in config.seeds]
    with exit_at_sigterm(), collected_signals() as caught, displays(names, config.steps) as shown:
        say = partial(shown[0].console.print, highlight=False, markup=False, soft_wrap=True)
        with shared_gpu(first.device, say) as sharing:
            fates = _train_all(list(zip(configs, shown, strict=True)), modules, sharing, caught, say)
        if failed := fates.count("failed"):
            say(f"{failed} of {len(fates)} seeds failed; the same command goes on with what is unfinished")
    if failed:
        sys.exit(1)
    if "stopped" in fates:
        sys.exit(128 + caught[0])


def _alone(config: Config, seed: int) -> Config:
    """The run of this seed as it would be on its own, but for how many processes play its evaluations."""
    workers = max(1, default_workers() // len(config.seeds)) if config.eval_workers is None else config.eval_workers
    run_dir = config.run_dir and config.run_dir / f"s{seed}"
    return replace(config, seed=seed, seeds=(), run_dir=run_dir, eval_workers=workers)


@dataclass
class _Child:
    """A process that trains one seed."""

    display: Display
    process: subprocess.Popen[bytes]
    connection: socket.socket
    output: IO[bytes]  # what it printed: nothing, as long as all is well
    said: str = ""

    def ask_to_stop(self) -> None:
        with suppress(OSError):  # it has just ended
            self.connection.shutdown(socket.SHUT_WR)

    def hear(self) -> bool:
        """Shows a message of it; False when it has ended."""
        try:
            message = self.connection.recv(_MOST_BYTES)
        except ConnectionError:
            return False
        if message:
            kind, *words = json.loads(message)
            if kind == "say":
                (self.said,) = words
                self.display.say(self.said)
            else:
                self.display.show(*words)
        return bool(message)

    def end(self, *, asked: bool) -> str:
        """How it ended: finished, stopped as it was asked to, or failed, which is told with its cause."""
        code = self.process.wait()
        self.display.hide()
        if code == 0:
            self.display.say("finished")
            return "finished"
        if asked and code == 128 + signal.SIGINT:
            return "stopped"
        self.output.seek(0)
        printed = self.output.read().decode(errors="replace").strip().splitlines()[-_LAST_LINES:]
        last = "\n".join(printed) or self.said
        self.display.say(f"failed, {cause_of_death(code)}" + (f"; its last words: {last}" if last else ""))
        return "failed"


def _train_all(
    runs: list[tuple[Config, Display]],
    modules: list[str],
    sharing: Sharing,
    caught: list[int],
    say: Callable[[str], None],
) -> list[str]:
    """Starts a process for each and shows what they say until all have ended; how they did."""
    threads = max(1, count_cores() // len(runs))
    children: list[_Child] = []
    try:
        for config, display in runs:
            children.append(_start(config, modules, display, threads, sharing))
        return _attend(children, caught, say)
    except (KeyboardInterrupt, SystemExit):  # a second signal
        for child in children:
            child.process.kill()
            child.process.wait()
        raise
    finally:
        for child in children:
            child.connection.close()
            child.output.close()


def _start(config: Config, modules: list[str], display: Display, threads: int, sharing: Sharing) -> _Child:
    ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)  # messages whole, or not at all
    output = tempfile.TemporaryFile()  # noqa: SIM115 (closed in the end)
    with theirs:
        process = subprocess.Popen(
            [sys.executable, "-P", "-m", "alda.sweep.seeds", str(theirs.fileno())],
            pass_fds=(theirs.fileno(), *sharing.kept_open),
            process_group=0,
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=output,
            env={
                "OMP_NUM_THREADS": str(threads),  # unless set otherwise
                **os.environ,
                **sharing.environment,
                "PYTHONPATH": os.pathsep.join(sys.path),
            },
        )
    with suppress(ConnectionError):  # if it died at once, so much will be heard
        ours.send(pickle.dumps((modules, config)))
    return _Child(display, process, ours, output)


def _attend(children: list[_Child], caught: list[int], say: Callable[[str], None]) -> list[str]:
    running, fates, asked = list(children), [], False
    while running:
        if len(caught) > 1:
            sys.exit(128 + caught[-1])
        if caught and not asked:
            asked = True
            say("stopping: every seed saves a checkpoint")
            for child in running:
                child.ask_to_stop()
        ready = wait([child.connection for child in running], timeout=0.2)
        for child in [child for child in running if child.connection in ready]:
            if not child.hear():
                running.remove(child)
                fates.append(child.end(asked=asked))
    return fates


# in the process of one seed


class Told(Display):
    """A display in another process, which is told what to show. What it has no time for is dropped, in the end."""

    def __init__(self, connection: socket.socket, steps: int, updates: int) -> None:
        super().__init__(steps, updates)
        self._live, self._connection = False, connection
        self._unsent: deque[bytes] = deque(maxlen=_MOST_UNSENT)

    def say(self, message: str) -> None:
        self._tell("say", message[:_LONGEST])

    def show(self, step: int, text: str, news: str) -> None:
        self._send()
        if not self._unsent:
            self._tell("show", step, text, news)

    def _tell(self, *words: str | int) -> None:
        self._unsent.append(json.dumps(words).encode())
        self._send()

    def _send(self) -> None:
        try:
            while self._unsent:
                self._connection.send(self._unsent[0], socket.MSG_DONTWAIT)
                self._unsent.popleft()
        except BlockingIOError:
            pass
        except OSError:  # nobody is there
            self._unsent.clear()


def main() -> None:
    signal.signal(signal.SIGINT, signal.default_int_handler)  # ignored in what a script starts in the background
    connection = socket.socket(fileno=int(sys.argv[1]))
    given = connection.recv(_MOST_BYTES)
    if not given:
        sys.exit("nobody is there")
    Thread(target=_stop_with, args=(connection,), daemon=True).start()
    try:
        modules, config = pickle.loads(given)
        for module in modules:
            importlib.import_module(module)
        train(config, partial(Told, connection))
    except (UserError, OSError, WorkerError) as error:
        sys.exit(str(error))
    except KeyboardInterrupt:  # before the run began
        sys.exit(128 + signal.SIGINT)


def _stop_with(connection: socket.socket) -> None:
    """Nothing more is sent; what comes is the end of the connection."""
    with suppress(OSError):
        connection.recv(1)
    os.kill(os.getpid(), signal.SIGINT)


if __name__ == "__main__":
    main()
