"""`alda evaluate`."""

import dataclasses
import itertools
import json
from contextlib import closing
from pathlib import Path
from typing import Any

import numpy as np
from rich.table import Table

from alda.envs.backgrounds.data import NO_PATHS, Data
from alda.envs.vector import Pool, default_workers
from alda.errors import UserError
from alda.files import check_writable, own_folder, read_json, write_json
from alda.policy import load
from alda.progress import progress, wide_console
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
        out: JSON file to write (None: RUN/evaluations/step_STEP_seed_SEED.json, numbered if that is taken).

    Returns:
        The content of the file. Raises UserError for an unknown or incomplete shift and for a directory without a
        trained agent, WorkerError where a process failed.
    """
    if not shifts or episodes < 1 or seed < 0 or (workers or 0) < 0:
        raise UserError("name at least one shift, --episodes at least 1, --seed and --workers from 0 on")
    policy = load(run, device=device)
    given = {name: path for name, path in vars(data).items() if path is not None}
    data = dataclasses.replace(policy.config.data, **given)
    config = dataclasses.replace(policy.config, shifts=tuple(dict.fromkeys(shifts)), data=data)
    made_with = config.eval_conditions()
    file = out or own_folder(run / "evaluations") / f"step_{policy.step:09d}_seed_{seed}.json"
    check_writable(file)  # better to fail now than after playing
    if out and out.exists() and _scores(out) is None:
        raise UserError(f"{out} is there already and is no evaluation; choose another --out")
    jobs = [EpisodeRequest(shift, start) for shift in made_with for start in episode_seeds(seed, 0, episodes)]
    totals = np.zeros(len(jobs))
    processes = min(default_workers() if workers is None else workers, len(jobs))
    with progress(transient=True) as begin, closing(Pool(config.env_maker(), processes)) as pool:
        step = begin("playing", len(jobs))
        for number, episode in play_all(policy.agent, pool, jobs):
            totals[number] = episode.total
            step(f"{jobs[number].shift}, last return {episode.total:.0f}")
    results: dict[str, Any] = {}
    for (shift, made), returns in zip(made_with.items(), totals.reshape(-1, episodes).tolist(), strict=True):
        interval = bootstrap_interval(returns)
        results[shift] = {"mean": float(np.mean(returns)), "interval": interval, "returns": returns, "made_with": made}
    console = wide_console()
    console.print(_table(f"{config.method} on {config.env.task} after {policy.step:,} agent steps", results))
    record = {
        "method": config.method,
        "task": config.env.task,
        "step": policy.step,
        "episodes": episodes,
        "seed": seed,
        "worlds": results,
        "machine": describe_machine(device),
    }
    file = out or _unused(file, results)
    write_json(file, record)
    console.print(f"written to {file}", highlight=False, soft_wrap=True)
    return record


def _table(title: str, results: dict[str, Any]) -> Table:
    table = Table(title=title)
    for column in ("shift", "mean return", "95 % interval", "lowest", "highest", "background", "colours"):
        words = column in ("shift", "background", "colours")
        table.add_column(column, justify="left" if words else "right", overflow="fold")
    for shift, result in results.items():
        (low, high), returns, made = result["interval"], result["returns"], result["made_with"]
        ends = f"{low:.0f} to {high:.0f}", f"{min(returns):.0f}", f"{max(returns):.0f}"
        table.add_row(shift, f"{result['mean']:.0f}", *ends, made["background"], made["colors"])
    return table


def _unused(file: Path, results: dict[str, Any]) -> Path:
    """Return the file, with a number after its name if the file exists with other scores."""
    first = file
    for number in itertools.count(2):
        if not file.exists() or _scores(file) == json.loads(json.dumps(results)):
            break
        file = first.with_stem(f"{first.stem}~{number}")  # one that is damaged is not ours to delete either
    return file


def _scores(file: Path) -> Any:
    """Return the scores in a file that this command wrote; None for another file."""
    try:
        return read_json(file)["worlds"]
    except (OSError, ValueError, KeyError, TypeError):
        return None
