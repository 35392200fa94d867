"""What a trained agent does, for people: a table of returns, and pictures of what it sees."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import UInt8
from PIL import Image, ImageDraw, ImageFont
from rich.console import Console
from rich.progress import Progress
from rich.table import Table

from alda.envs import SHIFTS
from alda.envs.tasks import unknown
from alda.errors import UserError
from alda.evaluate import bootstrap_interval, episode_seeds, play
from alda.files import write_json
from alda.policy import Policy, load
from alda.records import describe_machine

_SCALE, _GAP, _HEAD = 2, 4, 34  # of pictures: screen pixels per pixel, between tiles, and for the titles


def evaluate_run(
    run: Path,
    *,
    shifts: Sequence[str] = ("train", "color_hard"),
    episodes: int = 20,
    seed: int = 0,
    device: str = "cpu",
    out: Path | None = None,
) -> dict[str, Any]:
    """Plays a run's newest policy in each world, prints a table and writes JSON; returns what it wrote.

    The interval is a 95 % bootstrap interval of the mean over episodes. Raises UserError for an unknown world or a
    directory that holds no trained agent.
    """
    for shift in shifts:
        if shift not in SHIFTS:
            raise UserError(unknown("shift", shift, SHIFTS))
    if episodes < 1 or seed < 0:
        raise UserError("--episodes must be at least 1, and --seed must not be negative")
    if out is not None:
        out.parent.mkdir(parents=True, exist_ok=True)
        out.touch()  # better to know now than after playing
    policy = load(run, device=device)
    console = Console()
    worlds: dict[str, Any] = {}
    with Progress(console=console, transient=True) as progress:
        bar = progress.add_task("playing", total=len(shifts) * episodes)
        for shift in shifts:
            env = policy.config.env.make(shift, seed)
            returns = []
            for episode_seed in episode_seeds(seed, 0, episodes):
                returns.append(play(policy.agent, env, episode_seed).total)
                progress.update(bar, advance=1, description=f"{shift}, mean return {np.mean(returns):.0f}")
            env.close()
            worlds[shift] = {
                "mean": float(np.mean(returns)),
                "interval": bootstrap_interval(returns),
                "returns": returns,
            }

    table = Table(title=f"{policy.config.method} on {policy.config.env.task} after {policy.step:,} agent steps")
    for column in ("world", "mean return", "95 % interval", "lowest", "highest"):
        table.add_column(column, justify="left" if column == "world" else "right")
    for shift, world in worlds.items():
        low, high = world["interval"]
        ends = f"{min(world['returns']):.0f}", f"{max(world['returns']):.0f}"
        table.add_row(shift, f"{world['mean']:.0f}", f"{low:.0f} to {high:.0f}", *ends)
    console.print(table)

    record = {
        "method": policy.config.method,
        "task": policy.config.env.task,
        "step": policy.step,
        "episodes": episodes,
        "seed": seed,
        "worlds": worlds,
        "machine": describe_machine(device),
    }
    file = out or run / "evaluations" / f"step_{policy.step:09d}_seed_{seed}.json"
    file.parent.mkdir(parents=True, exist_ok=True)
    write_json(file, record)
    console.print(f"written to {file}", highlight=False, soft_wrap=True)
    return record


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
    if shift not in SHIFTS:
        raise UserError(unknown("shift", shift, SHIFTS))
    if states < 1 or seed < 0 or (every is not None and every < 1):
        raise UserError("--states and --every must be at least 1, and --seed must not be negative")
    file = out or run / "picture.png"
    if file.suffix != ".png":
        raise UserError(f"pictures are written as .png, not as {file.name}")
    policy = load(run)
    file.parent.mkdir(parents=True, exist_ok=True)
    picture_of_worlds(policy, shift, states, every, seed).save(file)
    print(f"written to {file}")
    return file


def picture_of_worlds(policy: Policy, shift: str, states: int, every: int | None, seed: int) -> Image.Image:
    """The states of one episode in two worlds, side by side with what the agent reconstructs of each."""
    worlds = ("train", shift)
    frames = dict(zip(worlds, _same_states(policy, worlds, states, every, seed), strict=True))
    columns = {}
    for world, observations in frames.items():
        columns[world] = [obs[-1] for obs in observations]
        decoded = [policy.reconstruct(obs) for obs in observations]
        columns[f"{world},\nreconstructed"] = [image for image in decoded if image is not None]
    return _grid({title: images for title, images in columns.items() if images})


def _same_states(
    policy: Policy, worlds: Sequence[str], states: int, every: int | None, seed: int
) -> list[list[UInt8[np.ndarray, "f c h w"]]]:
    """Observations of one episode, played in the first world and repeated action by action in the others."""
    envs = [policy.config.env.make(world, seed) for world in worlds]
    observations = [[env.reset(seed=seed)[0]] for env in envs]
    policy.reset()
    done = False
    while not done:
        action = policy.act(observations[0][-1])
        for env, seen in zip(envs, observations, strict=True):
            obs, _, terminated, truncated, _ = env.step(action)
            seen.append(obs)
            done = terminated or truncated
    for env in envs:
        env.close()
    last = len(observations[0]) - 1
    chosen = np.linspace(0, last if every is None else min(last, every * (states - 1)), states).round().astype(int)
    return [[seen[i] for i in chosen] for seen in observations]


def _grid(columns: dict[str, list[UInt8[np.ndarray, "c h w"]]]) -> Image.Image:
    rows = len(next(iter(columns.values())))
    side = next(iter(columns.values()))[0].shape[-1] * _SCALE
    sheet = Image.new("RGB", (len(columns) * (side + _GAP) + _GAP, _HEAD + rows * (side + _GAP)), "white")
    draw = ImageDraw.Draw(sheet)
    for i, (title, images) in enumerate(columns.items()):
        left = _GAP + i * (side + _GAP)
        draw.multiline_text((left, 3), title, fill="black", font=ImageFont.load_default(12), spacing=1)
        for j, image in enumerate(images):
            tile = Image.fromarray(image.transpose(1, 2, 0)).resize((side, side), Image.Resampling.NEAREST)
            sheet.paste(tile, (left, _HEAD + j * (side + _GAP)))
    return sheet
