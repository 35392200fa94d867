"""`alda picture`."""

from pathlib import Path

from alda.analysis.paired_rollouts import evenly_spread, paired_rollouts
from alda.envs import check_shift
from alda.errors import UserError
from alda.files import check_writable
from alda.pictures import save_picture, sheet
from alda.policy import load


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
    check_writable(file)  # better to fail now than after playing
    shifts = ("train", shift)
    seen = [step.seen for step in paired_rollouts(policy, shifts, [seed])]
    last = len(seen) - 1 if every is None else min(len(seen) - 1, every * (states - 1))
    columns = {}
    for name, observations in zip(shifts, zip(*evenly_spread(seen[: last + 1], states), strict=True), strict=True):
        columns[name] = [obs[-1] for obs in observations]
        decoded = [policy.reconstruct(obs) for obs in observations]
        columns[f"{name},\nreconstructed"] = [image for image in decoded if image is not None]
    shown = {title: images for title, images in columns.items() if images}
    save_picture(sheet([list(row) for row in zip(*shown.values(), strict=True)], tuple(shown)), file)
    print(f"written to {file}")
    return file
