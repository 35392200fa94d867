"""`alda bench`: speed of methods, at speed plain beside fast.

The two take turns: a machine that is busy with something else slows down both, and ratios compare blocks that are next
to each other in time.
"""

import io
import itertools
import signal
import sys
import tempfile
import time
from collections.abc import Callable
from contextlib import closing, redirect_stdout
from dataclasses import dataclass, replace
from itertools import pairwise
from pathlib import Path
from statistics import mean, median
from typing import Any, get_args

import torch
from rich.console import Console
from rich.table import Table

from alda.agents import AGENTS, make_agent
from alda.config import Config, EnvConfig, spec_of
from alda.envs.tasks import unknown
from alda.errors import UserError, WorkerError
from alda.files import check_writable, write_json
from alda.presets import presets
from alda.progress import wide_console
from alda.provenance import describe_machine
from alda.training.acceleration import Speed, accelerate, synchronize
from alda.training.logger import read_metrics
from alda.training.replay import Replay
from alda.training.trainer import train

PAPER_LAP = 10_000  # agent steps between evaluations of 2 shifts x 10 episodes x 250 steps, so half as many
SPEEDS: tuple[Speed, ...] = get_args(Speed)
_TRANSITIONS, _EPISODE = 2_000, 250  # of the replay that updates sample from
_RATES = {"updates": "updates/s", "environment": "environment steps/s", "training": "agent steps/s, end to end"}


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
    """Measure the speed of methods on this machine, plain and fast in turns: minutes per method, repo longer.

    Args:
        methods: Presets to measure, by their names in `alda train`; all: every method.
        task: dm_control task whose environment is stepped.
        batch_size: Transitions per update (None: each method's own; repo counts sequences).
        rounds: Blocks of updates, and of environment steps, at each speed; plain and fast take turns.
        seconds: Least duration of a block of updates in seconds; a block of environment steps takes a third of it.
        lap: Agent steps between evaluations of the training runs that are timed end to end, even (None: 8 on cpu, 1000
            on cuda). Evaluation takes half as many steps, as in the paper's run, where a lap has 10,000.
        laps: Laps of those runs that count; one more comes first, which compiles and acts at random.
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
    """Measure each config at both speeds; return a record for JSON. Raises UserError for settings that cannot work."""
    methods, threads = {}, torch.get_num_threads()
    for name, config in configs.items():
        with console.status(f"measuring {name}"), tempfile.TemporaryDirectory(prefix="alda-bench-") as folder:
            torch.set_num_threads(config.threads or threads)  # not those of the method before
            raw = _measure_parts({speed: replace(config, speed=speed) for speed in SPEEDS}, plan)
            for speed in SPEEDS:
                raw[speed]["laps"] = measure_training(
                    training_run(replace(config, speed=speed), plan, Path(folder, speed))
                )
            methods[name] = _summarise(raw)
    episodes, length = plan.evaluation
    last = list(configs.values())[-1]
    return {
        "task": last.env.task,
        "plan": {**vars(plan), "steps": plan.steps, "evaluation_episodes": episodes, "evaluation_length": length},
        "machine": describe_machine(str(last.device)),
        "methods": methods,
    }


# Parts, in turns


def _measure_parts(configs: dict[Speed, Config], plan: Plan) -> dict[Speed, dict[str, Any]]:
    """Measure blocks of updates and of environment steps, at each speed in turn."""
    measured: dict[Speed, dict[str, Any]] = {speed: {"updates": [], "environment": []} for speed in configs}
    with closing(next(iter(configs.values())).make_env()) as env:
        learners = {speed: Learner(config, env) for speed, config in configs.items()}
        env.reset()
        for speed, learner in learners.items():
            measured[speed]["start"] = {"seconds": learner.start_seconds, "updates": learner.warm_up}
        for _ in range(plan.rounds):
            for speed, learner in learners.items():
                measured[speed]["updates"].append(_block(learner.learn, plan.seconds))
            for speed in learners:
                drawn = env.drawing_seconds
                block = _block(lambda: _play(env), plan.seconds / 3)
                measured[speed]["environment"].append(block | {"drawing_seconds": env.drawing_seconds - drawn})
    return measured


class Learner:
    """Agent that learns from a replay of random frames."""

    def __init__(self, config: Config, env: Any) -> None:
        spec, self.device = spec_of(env), torch.device(str(config.device))
        torch.manual_seed(0)
        self.agent = make_agent(config.agent, spec).to(self.device)
        self.agent.prepare(config.data)
        discount, code_dim = config.agent.discount, self.agent.code_dim
        self.replay = Replay(spec, _TRANSITIONS, discount, self.device, code_dim=code_dim)
        for i in range(_TRANSITIONS):
            obs = torch.randint(256, spec.obs_shape[1:], dtype=torch.uint8).expand(spec.obs_shape)
            if i % _EPISODE == 0:
                self.replay.add_first(obs)
            self.replay.add(torch.rand(spec.action_dim) * 2 - 1, float(torch.rand(())), False, obs)
        # updates: every second one updates the actor
        self.at_once, self.warm_up = (20, 40) if self.device.type == "cuda" else (2, 4)
        self.step = itertools.count()
        synchronize(self.device)
        begun = time.perf_counter()
        accelerate(self.agent, config.speed)
        for _ in range(self.warm_up // self.at_once):  # compiles or captures everything
            self.learn()
        self.start_seconds = time.perf_counter() - begun

    def learn(self) -> int:
        for _ in range(self.at_once):
            self.agent.update(self.replay, next(self.step))
        synchronize(self.device)
        return self.at_once


def _play(env: Any) -> int:
    _, _, terminated, truncated, _ = env.step(env.action_space.sample())
    if terminated or truncated:
        env.reset()
    return 1


def _block(work: Callable[[], int], seconds: float) -> dict[str, int | float]:
    """Repeat work, which returns how much it did, for at least these seconds."""
    count, start = 0, time.perf_counter()
    while (spent := time.perf_counter() - start) < seconds:
        count += work()
    return {"count": count, "seconds": spent}


# Training, end to end


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


def measure_training(config: Config) -> list[dict[str, Any]]:
    """Train; return count of steps, seconds and shares of time of every lap but the first."""
    output = io.StringIO()
    try:
        with redirect_stdout(output):
            run_dir = train(config)
    except SystemExit as end:
        if end.code not in (1, 2):
            raise  # by a signal
        raise WorkerError(f"training ended: {output.getvalue().rstrip().rpartition(chr(10))[2]}") from None
    lines = [line for line in read_metrics(run_dir) if "speed/steps_per_second" in line][1:]
    return [_lap(line, config.log_every) for line in lines]


def _lap(line: dict[str, Any], steps: int) -> dict[str, Any]:
    shares = {name.removeprefix("time/"): share for name, share in line.items() if name.startswith("time/")}
    return {"count": steps, "seconds": steps / line["speed/steps_per_second"], "shares": shares}


def steps_per_second(lap: dict[str, Any]) -> float:
    """Return the speed of a lap as long as the paper's: what happens once a lap, mostly saving, then takes less."""
    once = (lap["shares"]["checkpoint"] + lap["shares"]["other"]) * max(0.0, 1 - lap["count"] / PAPER_LAP)
    return lap["count"] / (lap["seconds"] * (1 - once))


# Numbers and table


def _summarise(pair: dict[Speed, dict[str, Any]]) -> dict[str, Any]:
    rates = {speed: _rates(raw) for speed, raw in pair.items()}
    summary: dict[str, Any] = {"ratio": {what: ratio(rates["plain"][what], rates["fast"][what]) for what in _RATES}}
    for speed, raw in pair.items():
        start, laps = raw["start"], raw["laps"]
        played = {name: sum(block[name] for block in raw["environment"]) for name in ("seconds", "drawing_seconds")}
        summary[speed] = {
            "per_second": {what: median(values) for what, values in rates[speed].items()},
            "drawing_share": played["drawing_seconds"] / played["seconds"],
            "start_seconds": max(0.0, start["seconds"] - start["updates"] / median(rates[speed]["updates"])),
            "threads": torch.get_num_threads(),
            "time_shares": {name: mean(lap["shares"][name] for lap in laps) for name in laps[0]["shares"]},
            "blocks": {what: raw[what] for what in ("updates", "environment")},
            "laps": laps,
        }
    return summary


def _rates(raw: dict[str, Any]) -> dict[str, list[float]]:
    rates = {what: [block["count"] / block["seconds"] for block in raw[what]] for what in ("updates", "environment")}
    return rates | {"training": [steps_per_second(lap) for lap in raw["laps"]]}


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
    table = Table(title=f"speed on {record['task']}", caption=f"{words}\n{versions}")
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
        for part in both[0]["time_shares"]:
            table.add_row("", f"training time: {part}", *(f"{one['time_shares'][part]:.1%}" for one in both))
        table.add_section()
    console.print(table)
