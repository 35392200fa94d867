"""`alda resume`."""

from dataclasses import replace
from pathlib import Path

from alda.config import load_config
from alda.errors import UserError
from alda.training.checkpoint import has_checkpoint
from alda.training.trainer import train


def resume(run: Path, /, *, steps: int | None = None) -> None:
    """Resume the training of a run, with the settings it has.

    Args:
        run: Run directory.
        steps: Agent steps to train for in all (None: as many as before); more continue a finished run.
    """
    if not has_checkpoint(run):
        raise UserError(f"{run} has no checkpoint to resume from")
    config = load_config(run)
    train(replace(config, steps=config.steps if steps is None else steps))
