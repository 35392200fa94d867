"""`alda bench`: speed and memory of methods, at speed plain beside fast.

Each speed has a process of its own, and the two take turns: a machine that is busy with something else slows down both,
and ratios compare blocks that are next to each other in time.
"""

import io
import itertools
import multiprocessing
import signal
import sys
import tempfile
import time
import traceback
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager, redirect_stdout, suppress
from dataclasses import dataclass, replace
from itertools import pairwise
from multiprocessing.connection import Connection
from pathlib import Path
from statistics import mean, median
from typing import Any, get_args

import psutil
import torch
from rich.console import Console
from rich.table import Table

from alda.agents import AGENTS, make_agent
from alda.config import Config, EnvConfig, spec_of
from alda.envs.tasks import unknown
from alda.envs.vector import cause_of_death
from alda.errors import UserError, WorkerError
from alda.files import check_writable, write_json
from alda.presets import presets
from alda.progress import wide_console
from alda.provenance import describe_machine
from alda.training.acceleration import Speed, accelerate, synchronize
from alda.training.logger import Logger, read_metrics
from alda.training.replay import Replay
from alda.training.trainer import train

PAPER_LAP = 10_000  # agent steps between evaluations of 2 shifts x 10 episodes x 250 steps, so half as many
_TRANSITIONS, _EPISODE = 2_000, 250  # of the replay that updates sample from
_RATES = {"updates": "updates/s", "environment": "environment steps/s", "training": "agent steps/s, end to end"}

Turn = Callable[[Any], Any]  # hands a result to the parent; returns its next request


@dataclass(frozen=True)
class Plan:
    """How much to measure: options of `alda bench`."""

    rounds: int
    seconds: float
    lap: int
    laps: int

    @property
    def steps(self) -> int:
        """Agent steps of the training run, the first lap included."""
        return self.lap * (1 + self.laps)

    @property
    def evaluation(self) -> tuple[int, int]:
        """Episodes of an evaluation and agent steps of each, about as many; together half a lap."""
        steps = self.lap // 2
        episodes = max(n for n in range(1, 21) if steps % n == 0 and n * n <= steps)
        return episodes, steps // episodes


def bench(
    *,
    methods: tuple[str, ...] = ("alda",),
    task: str = "walker_walk",
    batch_size: int | None = None,
    rounds: int = 5,
    seconds: float = 3.0,
    lap: int | None = None,
    laps: int = 2,
    device: str | None = None,
    out: Path | None = None,
) -> None:
    """Measure speed and memory of methods on this machine, plain and fast in turns: minutes per method, repo longer.

    Args:
        methods: Presets to measure, by their names in `alda train`; all: every method.
        task: dm_control task whose environment is stepped.
        batch_size: Transitions per update (None: each method's own; repo counts sequences).
        rounds: Blocks of updates, and of environment steps, at each speed; plain and fast take turns.
        seconds: Least duration of a block of updates in seconds; a block of environment steps takes a third of it.
        lap: Agent steps between evaluations of the training run that is timed end to end, even (None: 8 on cpu, 1000 on
            cuda). Evaluation takes half as many steps, as in the paper's run, where a lap has 10,000.
        laps: Laps of that run that count; one more comes first, which compiles and acts at random.
        device: Where agents live: cpu or cuda (None: cuda if available).
        out: JSON file to write, with the numbers of every block (None: none).
    """
    device = device or ("cuda" if torch.cuda.is_available() else "cpu")
    plan = Plan(rounds, seconds, lap if lap is not None else 1_000 if device.startswith("cuda") else 8, laps)
    if rounds < 1 or laps < 1:
        raise UserError(f"--rounds and --laps must be at least 1, not {rounds} and {laps}")
    if not 0 < seconds < 3_600:
        raise UserError(f"--seconds must be more than 0 and less than an hour, not {seconds}")
    if plan.lap < 4 or plan.lap % 2:
        raise UserError(f"--lap must be an even number from 4 on, not {plan.lap}")
    configs = {name: steady(name, task, device, batch_size) for name in (AGENTS if "all" in methods else methods)}
    if not configs:
        raise UserError("--methods needs at least one method to measure")
    if out is not None:
        check_writable(out)  # better to fail now than after measuring
    signal.signal(signal.SIGTERM, lambda number, _: sys.exit(128 + number))  # leaves no process or file behind
    console = wide_console()
    record = measure(configs, plan, console)
    _show(record, console)
    if out is not None:
        write_json(out, record)
        console.print(f"written to {out}", highlight=False, soft_wrap=True)


def steady(name: str, task: str, device: str, batch_size: int | None = None) -> Config:
    """Return the settings of a preset, with learning spread evenly over the steps.

    Raises UserError for an unknown preset, for one with an environment of its own, and for settings that cannot work.
    """
    known = presets()
    if name not in known:
        raise UserError(unknown("method", name, known))
    config = known[name].config
    if (config.env, config.train_shift) != (EnvConfig(), "train"):
        raise UserError(
            f"{name} is not measured: its environment is not the usual one; name its method, {config.method}"
        )
    agent = config.agent.steady()
    agent = agent if batch_size is None else replace(agent, batch_size=batch_size)
    return Config(agent=agent, env=EnvConfig(task=task), device=device, threads=config.threads).resolved()


def measure(configs: dict[str, Config], plan: Plan, console: Console) -> dict[str, Any]:
    """Measure each config at both speeds; return a record for JSON, with memory in bytes.

    Raises UserError for settings that cannot work, WorkerError where a process that measures fails.
    """
    measured = {name: _measure_pair(name, config, plan, console) for name, config in configs.items()}
    episodes, length = plan.evaluation
    return {
        "task": next(iter(configs.values())).env.task,
        "plan": {**vars(plan), "steps": plan.steps, "evaluation_episodes": episodes, "evaluation_length": length},
        "machine": next(iter(measured.values()))["plain"]["start"]["machine"],
        "methods": {name: _summarise(pair) for name, pair in measured.items()},
    }


# Two processes in turns


def _measure_pair(name: str, config: Config, plan: Plan, console: Console) -> dict[str, dict[str, Any]]:
    pair = {speed: replace(config, speed=speed) for speed in get_args(Speed)}
    measured: dict[str, dict[str, Any]] = {speed: {"updates": [], "environment": []} for speed in pair}
    with console.status(f"measuring {name}"), tempfile.TemporaryDirectory(prefix="alda-bench-") as folder:
        with _workers(name, measure_parts, {speed: (each, plan.seconds) for speed, each in pair.items()}) as workers:
            for speed, worker in workers.items():
                measured[speed]["start"] = worker.turn()
            for _ in range(plan.rounds):
                for what in ("updates", "environment"):
                    for speed, worker in workers.items():
                        measured[speed][what].append(worker.turn(what))
        runs = {speed: (training_run(each, plan, Path(folder, speed)),) for speed, each in pair.items()}
        with _workers(name, measure_training, runs) as workers:
            for _ in range(1 + plan.laps):
                for worker in workers.values():
                    worker.turn()
            for speed, worker in workers.items():
                measured[speed] |= worker.turn()
    return measured


def training_run(config: Config, plan: Plan, run_dir: Path) -> Config:
    """Return the settings of a short run in the paper's proportions, which fast evaluates with its usual processes.

    It is evaluated under one shift: making another environment takes as long as a few hundred steps.
    """
    episodes, length = plan.evaluation
    assert config.env.action_repeat is not None
    env = replace(config.env, episode_length=length * config.env.action_repeat)
    workers = 0 if config.speed == "plain" else None
    config = replace(config, env=env, run_dir=run_dir, steps=plan.steps, shifts=("train",), video_every=0)
    config = replace(config, eval_every=plan.lap, log_every=plan.lap, eval_episodes=episodes)
    return replace(config, eval_workers=workers).resolved()


class Worker:
    """Process that measures when it has its turn, and waits otherwise."""

    def __init__(self, title: str, measure: Callable[..., None], *settings: Any) -> None:
        self.title = title
        spawn = multiprocessing.get_context("spawn")
        self._connection, theirs = spawn.Pipe()
        self.process = spawn.Process(target=_work, args=(theirs, measure, *settings))
        self.process.start()
        theirs.close()

    def turn(self, request: str = "") -> Any:
        """Return what the process answers. Raises what is raised there, and WorkerError where the process dies."""
        try:
            self._connection.send(request)
            answer = self._connection.recv()
        except (EOFError, ConnectionError):
            self.process.join()
            cause = cause_of_death(self.process.exitcode or 0)
            raise WorkerError(f"the process that measured {self.title} died: {cause}") from None
        if isinstance(answer, Exception):
            raise answer
        return answer

    def close(self) -> None:
        self.process.kill()
        self.process.join()
        self._connection.close()


@contextmanager
def _workers(name: str, measure: Callable[..., None], settings: dict[str, Any]) -> Iterator[dict[str, Worker]]:
    with ExitStack() as stack:
        workers = {speed: Worker(f"{name} {speed}", measure, *each) for speed, each in settings.items()}
        for worker in workers.values():
            stack.callback(worker.close)
        for worker in workers.values():
            worker.turn()  # has imported what it needs
        yield workers


def _work(connection: Connection, measure: Callable[..., None], *settings: Any) -> None:
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is for the parent, which ends this process

    def turn(result: Any) -> Any:
        connection.send(result)
        return connection.recv()

    with suppress(EOFError, ConnectionError):  # the parent is gone
        connection.recv()
        turn("ready")
        try:
            measure(turn, *settings)
        except UserError as error:
            connection.send(error)
        except Exception as error:
            connection.send(WorkerError(f"measuring failed with {error!r}\n{traceback.format_exc().rstrip()}"))


def measure_parts(turn: Turn, config: Config, seconds: float) -> None:
    """Measure blocks of updates, or of environment steps with random actions, as the parent asks for them."""
    assert config.device is not None
    device = torch.device(config.device)
    torch.set_num_threads(config.threads or torch.get_num_threads())
    torch.manual_seed(0)
    env = config.make_env()
    spec = spec_of(env)
    agent = make_agent(config.agent, spec).to(device)
    agent.prepare(config.data)
    replay = Replay(spec, _TRANSITIONS, config.agent.discount, device, code_dim=agent.code_dim)
    for i in range(_TRANSITIONS):
        obs = torch.randint(256, spec.obs_shape[1:], dtype=torch.uint8).expand(spec.obs_shape)
        if i % _EPISODE == 0:
            replay.add_first(obs)
        replay.add(torch.rand(spec.action_dim) * 2 - 1, float(torch.rand(())), False, obs)
    at_once, warm_up = (20, 40) if device.type == "cuda" else (2, 4)  # updates: every second one updates the actor
    step = itertools.count()

    def learn() -> int:
        for _ in range(at_once):
            agent.update(replay, next(step))
        synchronize(device)
        return at_once

    def play() -> int:
        _, _, terminated, truncated, _ = env.step(env.action_space.sample())
        if terminated or truncated:
            env.reset()
        return 1

    synchronize(device)
    begun = time.perf_counter()
    accelerate(agent, config.speed)
    for _ in range(warm_up // at_once):  # compiles or captures everything
        learn()
    start = {"seconds": time.perf_counter() - begun, "updates": warm_up, "machine": describe_machine(config.device)}
    env.reset()
    request = turn(start)
    while True:
        drawn = env.drawing_seconds
        block = _block(learn, seconds) if request == "updates" else _block(play, seconds / 3)
        request = turn(block | {"drawing_seconds": env.drawing_seconds - drawn})


def _block(work: Callable[[], int], seconds: float) -> dict[str, float]:
    """Repeat work, which returns how much it did, for at least these seconds."""
    count, start = 0, time.perf_counter()
    while (spent := time.perf_counter() - start) < seconds:
        count += work()
    return {"count": count, "seconds": spent}


def measure_training(turn: Turn, config: Config) -> None:
    """Train, and wait for a turn after each line of metrics, when the clock of the next lap has not started."""
    flush, output, workers = Logger.flush, io.StringIO(), list[int]()

    def flush_and_wait(*values: Any) -> dict[str, float]:
        line = flush(*values)
        workers[:] = [_peak_memory(process) for process in psutil.Process().children()]
        turn("lap")
        return line

    Logger.flush = flush_and_wait  # type: ignore[assignment, method-assign]
    try:
        with redirect_stdout(output):
            run_dir = train(config)
    except SystemExit:
        raise WorkerError(f"training ended: {output.getvalue().rstrip().rpartition(chr(10))[2]}") from None
    memory = {"host": _peak_memory(psutil.Process()), "workers": sum(workers), "device": 0}
    if str(config.device).startswith("cuda"):
        memory["device"] = torch.cuda.max_memory_allocated(config.device)
    lines = [line for line in read_metrics(run_dir) if "speed/steps_per_second" in line][1:]
    turn({"laps": [_lap(line, config.log_every) for line in lines], "workers": len(workers), "memory": memory})


def _lap(line: dict[str, Any], steps: int) -> dict[str, Any]:
    shares = {name.removeprefix("time/"): share for name, share in line.items() if name.startswith("time/")}
    return {"count": steps, "seconds": steps / line["speed/steps_per_second"], "shares": shares}


def _peak_memory(process: psutil.Process) -> int:
    """Return the most bytes that a process has held, or those it holds now where the system does not count."""
    status = Path(f"/proc/{process.pid}/status")
    if not status.exists():
        return process.memory_info().rss
    return 1024 * int(status.read_text().split("VmHWM:")[1].split()[0])


# Numbers and table


def _summarise(pair: dict[str, dict[str, Any]]) -> dict[str, Any]:
    rates = {speed: _rates(raw) for speed, raw in pair.items()}
    summary: dict[str, Any] = {"ratio": {what: ratio(rates["plain"][what], rates["fast"][what]) for what in _RATES}}
    for speed, raw in pair.items():
        start, laps = raw["start"], raw["laps"]
        played = {name: sum(block[name] for block in raw["environment"]) for name in ("seconds", "drawing_seconds")}
        summary[speed] = {
            "per_second": {what: median(values) for what, values in rates[speed].items()},
            "drawing_share": played["drawing_seconds"] / played["seconds"],
            "start_seconds": max(0.0, start["seconds"] - start["updates"] / median(rates[speed]["updates"])),
            "threads": start["machine"]["threads"],
            "time_shares": {name: mean(lap["shares"][name] for lap in laps) for name in laps[0]["shares"]},
            "blocks": {what: raw[what] for what in ("updates", "environment")},
            **{name: raw[name] for name in ("laps", "workers", "memory")},
        }
    return summary


def _rates(raw: dict[str, Any]) -> dict[str, list[float]]:
    rates = {what: [block["count"] / block["seconds"] for block in raw[what]] for what in ("updates", "environment")}
    return rates | {"training": [steps_per_second(lap) for lap in raw["laps"]]}


def steps_per_second(lap: dict[str, Any]) -> float:
    """Return the speed of a lap as long as the paper's: what happens once a lap, mostly saving, then takes less."""
    once = (lap["shares"]["checkpoint"] + lap["shares"]["other"]) * max(0.0, 1 - lap["count"] / PAPER_LAP)
    return lap["count"] / (lap["seconds"] * (1 - once))


def ratio(plain: list[float], fast: list[float]) -> dict[str, float]:
    """Compare the medians; lowest and highest are of blocks next to each other in plain, fast, plain, fast, ..."""
    in_turn = list(zip(plain, fast, strict=True))
    neighbours = [f / p for p, f in in_turn] + [f / p for (_, f), (p, _) in pairwise(in_turn)]
    return {"of_medians": median(fast) / median(plain), "lowest": min(neighbours), "highest": max(neighbours)}


def _show(record: dict[str, Any], console: Console) -> None:
    machine = record["machine"]
    bf16 = "with" if machine["bfloat16"] else "without"
    words = f"{machine['device']}, {machine['cores']} cores, {bf16} bfloat16, {machine['renderer']}"
    versions = ", ".join(f"{name} {version}" for name, version in machine["versions"].items())
    table = Table(title=f"speed and memory on {record['task']}", caption=f"{words}\n{versions}")
    for column in ("method", "", "plain", "fast", "fast / plain"):
        table.add_column(column, justify="right" if column in ("plain", "fast", "fast / plain") else "left")
    for method, pair in record["methods"].items():
        both, spread = [pair["plain"], pair["fast"]], pair["ratio"]
        for what, unit in _RATES.items():
            values = (f"{one['per_second'][what]:.3g}" for one in both)
            bounds = f"({spread[what]['lowest']:.2f} to {spread[what]['highest']:.2f})"
            first = method if what == "updates" else ""
            table.add_row(first, unit, *values, f"{spread[what]['of_medians']:.2f} {bounds}")
        table.add_row("", "of environment steps, drawing", *(f"{one['drawing_share']:.0%}" for one in both))
        table.add_row("", "start, s", *(f"{one['start_seconds']:.3g}" for one in both))
        for where in ("host", "workers", "device"):
            if any(one["memory"][where] for one in both):
                table.add_row("", f"{where} memory, GB", *(f"{one['memory'][where] / 1e9:.2f}" for one in both))
        for part in both[0]["time_shares"]:
            table.add_row("", f"training time: {part}", *(f"{one['time_shares'][part]:.1%}" for one in both))
        table.add_section()
    console.print(table)
