"""How fast and how large methods are: plain beside fast, measured in turns on this machine.

    this process: bench -> turns -> table        says whose turn it is, and makes a table of what they answer
                             |
    per method and speed:  child                 a process for updates and environment, another for a training run

Ratios are of one run and of blocks that took turns, so that a machine busy with something else slows down both.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, SpinnerColumn, TextColumn, TimeElapsedColumn

from alda.agents import AGENTS, AgentConfig
from alda.bench.subject import Plan, Subject
from alda.bench.table import show, summary
from alda.bench.turns import measure, turns_of
from alda.config import EnvConfig, check_device
from alda.envs.tasks import split_task, unknown
from alda.errors import UserError
from alda.files import write_json
from alda.presets import presets
from alda.progress import wide_console

_LAP = {"cpu": 8, "cuda": 1_000}  # agent steps


def bench(
    methods: Sequence[str] = ("alda",),
    *,
    task: str = "walker_walk",
    batch_size: int | None = None,
    rounds: int = 5,
    seconds: float = 3.0,
    lap: int | None = None,
    laps: int = 2,
    device: str | None = None,
    out: Path | None = None,
) -> dict[str, Any]:
    """Measures methods by name, prints tables and, if wanted, writes JSON; returns what it would write.

    Arguments as in `alda bench --help`. Raises UserError for what cannot be measured, WorkerError where a process that
    measures has died.
    """
    known = presets()
    agents: dict[str, AgentConfig] = {}
    threads: dict[str, int | None] = {}
    for name in AGENTS if "all" in methods else methods:
        if name not in known:
            raise UserError(unknown("method", name, known))
        config = known[name].config
        if type(config.agent).__module__ == "__main__":
            raise UserError(f"processes that measure cannot find {name}, which is written in the program itself")
        if (config.env, config.train_shift) != (EnvConfig(), "train"):
            raise UserError(f"{name} is not measured, as it has a world of its own; name its method, {config.method}")
        agent = config.agent.steady()
        agents[name] = agent if batch_size is None else replace(agent, batch_size=batch_size)
        threads[name] = config.threads
    device = device or ("cuda" if torch.cuda.is_available() else "cpu")
    check_device(device)
    plan = Plan(rounds, seconds, _LAP[device.partition(":")[0]] if lap is None else lap, laps)
    return bench_agents(agents, EnvConfig(task=task), plan, device=device, out=out, threads=threads)


def bench_agents(
    agents: dict[str, AgentConfig],
    env: EnvConfig,
    plan: Plan,
    *,
    device: str,
    out: Path | None = None,
    threads: Mapping[str, int | None] | None = None,
) -> dict[str, Any]:
    """The same for agents of any size, by the name that the tables give them. threads: of those that name a number."""
    _check(agents, env, plan)
    if out is not None:
        out.parent.mkdir(parents=True, exist_ok=True)
        out.touch()  # better to know now than after measuring
    console = wide_console()
    measured: dict[str, Any] = {}
    with _progress(console, len(agents) * turns_of(plan)) as say:
        for name, agent in agents.items():
            own = (threads or {}).get(name)
            pair = {speed: Subject(name, agent, speed, env, device, plan, own) for speed in ("plain", "fast")}
            measured[name] = measure(pair, say)
    record = summary(measured, plan, task=env.task, device=device)
    show(record, console)
    if out is not None:
        write_json(out, record)
        console.print(f"written to {out}", highlight=False, soft_wrap=True)
    return record


def _check(agents: dict[str, AgentConfig], env: EnvConfig, plan: Plan) -> None:
    split_task(env.task)
    if not agents:
        raise UserError("--methods needs at least one method to measure")
    batch = min(agent.batch_size for agent in agents.values())
    for flag, value in {"batch-size": batch, "rounds": plan.rounds, "laps": plan.laps}.items():
        if value < 1:
            raise UserError(f"--{flag} must be at least 1, not {value}")
    if not 0 < plan.seconds < 3_600:
        raise UserError(f"--seconds must be more than 0 and less than an hour, not {plan.seconds}")
    if plan.lap < 4 or plan.lap % 2:
        raise UserError(f"--lap must be an even number from 4 on, not {plan.lap}")


@contextmanager
def _progress(console: Console, turns: int) -> Iterator[Callable[[str], None]]:
    """Says what is measured now: a live bar on a terminal, lines anywhere else."""
    columns = (SpinnerColumn(), TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn())
    bar = Progress(*columns, TimeElapsedColumn(), console=console, transient=True)
    task = bar.add_task("starting", total=turns)
    begun = 0

    def say(what: str) -> None:
        nonlocal begun
        if console.is_terminal:
            bar.update(task, completed=begun, description=what)
        else:
            console.print(f"{begun + 1}/{turns}  {what}", highlight=False, markup=False, soft_wrap=True)
        begun += 1

    if not console.is_terminal:
        yield say
    else:
        with bar:
            yield say
