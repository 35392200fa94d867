"""`alda evaluate`."""

import dataclasses
import itertools
import json
from contextlib import closing
from pathlib import Path
from typing import Any

import numpy as np
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn
from rich.table import Table

from alda.envs.backgrounds.data import NO_PATHS, Data
from alda.envs.vector import Pool, default_workers
from alda.errors import UserError
from alda.files import write_json
from alda.policy import load
from alda.progress import wide_console
from alda.provenance import describe_machine
from alda.training.rollout import EpisodeRequest, bootstrap_interval, episode_seeds, play_all


def evaluate(
    run: Path,
    /,
    *,
    shifts: tuple[str, ...] = ("train", "color_easy", "color_hard"),
    episodes: int = 20,
    seed: int = 0,
    device: str = "cpu",
    workers: int | None = None,
    data: Data = NO_PATHS,
    generated: bool = False,
    out: Path | None = None,
) -> dict[str, Any]:
    """Play a trained agent under visual shifts and print mean returns with 95 % bootstrap intervals over episodes.

    Args:
        run: Run directory.
        shifts: Visual shifts to play under.
        episodes: Episodes per shift.
        seed: Seed of the episodes; equal seeds give equal starting states for every agent and shift.
        device: Where the agent acts: cpu or cuda.
        workers: Processes that play side by side; they change no score (None: one per core, at most 16; 0: this one).
        data: Real backgrounds and colours to use in place of those that the run names.
        generated: Use generated backgrounds and colours, whatever folders the run names.
        out: JSON file to write (None: RUN/evaluations/step_STEP_seed_SEED.json, numbered if that is taken).

    Returns:
        What it wrote. Raises UserError for an unknown or incomplete shift and for a directory without a trained agent,
        WorkerError where a process failed.
    """
    if not shifts or episodes < 1 or seed < 0 or (workers or 0) < 0:
        raise UserError("name at least one world, --episodes at least 1, --seed and --workers from 0 on")
    policy = load(run, device=device)
    named = Data(cache=policy.config.data.cache) if generated else policy.config.data
    config = dataclasses.replace(policy.config, shifts=tuple(dict.fromkeys(shifts)), data=_over(named, data))
    made_with = config.eval_conditions()
    if out is not None:
        out.parent.mkdir(parents=True, exist_ok=True)
        out.touch()  # better to know now than after playing
    console = wide_console()
    jobs = [
        EpisodeRequest(shift, episode_seed) for shift in made_with for episode_seed in episode_seeds(seed, 0, episodes)
    ]
    totals = [0.0] * len(jobs)
    processes = min(default_workers() if workers is None else workers, len(jobs))
    with (
        _progress(console) as progress,
        closing(Pool(config.env_maker(), processes)) as pool,
    ):
        bar = progress.add_task("playing", total=len(jobs))
        for number, episode in play_all(policy.agent, pool, jobs):
            totals[number] = episode.total
            progress.update(bar, advance=1, description=f"{jobs[number].shift}, last return {episode.total:.0f}")
    worlds: dict[str, Any] = {}
    for shift, made in made_with.items():
        returns = [total for job, total in zip(jobs, totals, strict=True) if job.shift == shift]
        interval = bootstrap_interval(returns)
        worlds[shift] = {"mean": float(np.mean(returns)), "interval": interval, "returns": returns, "made_with": made}

    table = Table(title=f"{config.method} on {config.env.task} after {policy.step:,} agent steps")
    for column in ("world", "mean return", "95 % interval", "lowest", "highest", "background", "colours"):
        words = column in ("world", "background", "colours")
        table.add_column(column, justify="left" if words else "right", overflow="fold")
    for shift, world in worlds.items():
        low, high = world["interval"]
        ends = f"{min(world['returns']):.0f}", f"{max(world['returns']):.0f}"
        made = world["made_with"]
        numbers = f"{world['mean']:.0f}", f"{low:.0f} to {high:.0f}", *ends
        table.add_row(shift, *numbers, made["background"], made["colors"])
    console.print(table)

    record = {
        "method": config.method,
        "task": config.env.task,
        "step": policy.step,
        "episodes": episodes,
        "seed": seed,
        "worlds": worlds,
        "machine": describe_machine(device),
    }
    file = out or _unused(run / "evaluations" / f"step_{policy.step:09d}_seed_{seed}.json", worlds)
    file.parent.mkdir(parents=True, exist_ok=True)
    write_json(file, record)
    console.print(f"written to {file}", highlight=False, soft_wrap=True)
    return record


def _unused(file: Path, worlds: dict[str, Any]) -> Path:
    """The file, or with a number after its name where it holds other scores."""
    for number in itertools.count(2):
        try:
            if json.loads(file.read_text())["worlds"] == json.loads(json.dumps(worlds)):
                return file
        except FileNotFoundError:
            return file
        except (ValueError, KeyError, TypeError):
            pass  # damaged, but not ours to delete
        file = file.with_stem(f"{file.stem.split('~')[0]}~{number}")
    raise AssertionError


def _over(data: Data, given: Data | None) -> Data:
    """What is given takes the place of what the run names."""
    named = {name: path for name, path in vars(given or Data()).items() if path is not None}
    return dataclasses.replace(data, **named)


def _progress(console: Console) -> Progress:
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
    return Progress(*columns, console=console, transient=True)
