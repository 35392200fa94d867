"""`alda export`."""

from pathlib import Path

from alda.export.bundle import export_run


def export(run: Path, /, *, out: Path | None = None) -> None:
    """Write the policy of a run to a folder to share: weights, a PyTorch program, a model card.

    Args:
        run: Run directory; it is only read.
        out: Folder to write, some 10 to 50 MB; an earlier export in it is replaced (None: RUN/export).
    """
    export_run(run, out=out)
