"""`alda picture`."""

from pathlib import Path

import numpy as np
from PIL import Image

from alda.analysis.paired_rollouts import twins
from alda.envs import check_shift
from alda.errors import UserError
from alda.pictures import sheet
from alda.policy import Policy, load


def picture(
    run: Path,
    /,
    *,
    shift: str = "color_hard",
    states: int = 5,
    every: int | None = None,
    seed: int = 0,
    out: Path | None = None,
) -> Path:
    """Draw states of one episode, reconstructions, and the same states under a visual shift.

    Args:
        run: Run directory.
        shift: Visual shift.
        states: States to draw.
        every: Agent steps between them (None: evenly spread over the episode).
        seed: Seed of the episode.
        out: PNG file to write (None: RUN/picture.png).
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
