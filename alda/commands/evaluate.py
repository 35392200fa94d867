"""What a trained agent does, for people: a table of returns, and pictures of what it sees."""

import dataclasses
import itertools
import json
from collections.abc import Sequence
from contextlib import closing
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn
from rich.table import Table

from alda.analysis.paired_rollouts import twins
from alda.envs import check_shift
from alda.envs.backgrounds.data import Data
from alda.envs.vector import default_workers, open_pool
from alda.errors import UserError
from alda.files import write_json
from alda.pictures import sheet
from alda.policy import Policy, load
from alda.progress import wide_console
from alda.provenance import describe_machine
from alda.training.rollout import Job, bootstrap_interval, episode_seeds, play_all


def evaluate_run(
    run: Path,
    *,
    shifts: Sequence[str] = ("train", "color_hard"),
    episodes: int = 20,
    seed: int = 0,
    device: str = "cpu",
    out: Path | None = None,
    workers: int | None = None,
    data: Data | None = None,
    generated: bool = False,
) -> dict[str, Any]:
    """Plays a run's newest policy in each world, prints a table and writes JSON; returns what it wrote.

    workers: processes that play side by side (None: one per core, at most 16; 0: none but this one); they change no
    score. data: real backgrounds and colours to use in place of those that the run names; generated: use none of the
    run's. An earlier record of other scores is never overwritten, unless it is named by `out`.
    The interval is a 95 % bootstrap interval of the mean over episodes. Raises UserError for an unknown world, one
    whose data are not complete, or a directory that holds no trained agent; WorkerError where a process failed.
    """
    if not shifts or episodes < 1 or seed < 0 or (workers or 0) < 0:
        raise UserError("name at least one world, --episodes at least 1, --seed and --workers from 0 on")
    policy = load(run, device=device)
    named = Data(cache=policy.config.data.cache) if generated else policy.config.data
    config = dataclasses.replace(policy.config, shifts=tuple(dict.fromkeys(shifts)), data=_over(named, data))
    made_with = config.worlds()
    if out is not None:
        out.parent.mkdir(parents=True, exist_ok=True)
        out.touch()  # better to know now than after playing
    console = wide_console()
    jobs = [Job(shift, episode_seed) for shift in made_with for episode_seed in episode_seeds(seed, 0, episodes)]
    totals = [0.0] * len(jobs)
    processes = min(default_workers() if workers is None else workers, len(jobs))
    with (
        _progress(console) as progress,
        closing(open_pool(config.env_maker(), processes, policy.spec.obs_shape, progress.console.print)) as pool,
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


def picture_run(
    run: Path,
    *,
    shift: str = "color_hard",
    states: int = 5,
    every: int | None = None,
    seed: int = 0,
    out: Path | None = None,
) -> Path:
    """Writes a PNG of a few states of one episode: frame | reconstruction | shifted frame | its reconstruction.

    every: agent steps between the states; None spreads them over the episode.
    """
    if states < 1 or seed < 0 or (every is not None and every < 1):
        raise UserError("--states and --every must be at least 1, and --seed must not be negative")
    file = out or run / "picture.png"
    if file.suffix != ".png":
        raise UserError(f"pictures are written as .png, not as {file.name}")
    policy = load(run)
    check_shift(shift, policy.config.env.task)
    file.parent.mkdir(parents=True, exist_ok=True)
    picture_of_worlds(policy, shift, states, every, seed).save(file)
    print(f"written to {file}")
    return file


def picture_of_worlds(policy: Policy, shift: str, states: int, every: int | None, seed: int) -> Image.Image:
    """The states of one episode in two worlds, side by side with what the agent reconstructs of each."""
    worlds = ("train", shift)
    seen = [twin.seen for twin in twins(policy, worlds, [seed])]
    last = len(seen) - 1
    chosen = np.linspace(0, last if every is None else min(last, every * (states - 1)), states).round().astype(int)
    columns = {}
    for i, world in enumerate(worlds):
        columns[world] = [seen[t][i][-1] for t in chosen]
        decoded = [policy.reconstruct(seen[t][i]) for t in chosen]
        columns[f"{world},\nreconstructed"] = [image for image in decoded if image is not None]
    shown = {title: images for title, images in columns.items() if images}
    return sheet([list(row) for row in zip(*shown.values(), strict=True)], tuple(shown))
