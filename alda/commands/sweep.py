"""`alda sweep`."""

from pathlib import Path
from typing import Literal

from alda.sweep.sweep import sweep as run_sweep


def sweep(
    file: Path,
    /,
    *,
    root: Path = Path("runs"),
    jobs: int | None = None,
    retries: int = 2,
    dry_run: bool = False,
    trial: bool = True,
    backend: Literal["local", "ray"] = "local",
    address: str | None = None,
    gpu_share: float | None = None,
) -> None:
    """Train and evaluate every run of a study: presets x tasks x seeds; resumes what is unfinished.

    Args:
        file: TOML file of a study (docs/studies.md).
        root: Folder of studies; runs are kept in ROOT/STUDY/TASK/METHOD/NAME/sSEED, where STUDY is the file's name.
        jobs: Runs at a time (None: one per core, as far as memory and GPU memory reach).
        retries: How often a run that died is tried again.
        dry_run: Only print the commands of the study, what is finished, and the time and disk it still takes.
        trial: With --dry-run, try each kind of run that has not learned yet for some seconds to estimate its time.
        backend: Where runs run: processes on this machine, or the nodes of a Ray cluster that share the study's folder.
        address: Ray cluster as HOST:PORT (None: RAY_ADDRESS, the one this machine belongs to, or a new one of it
            alone).
        gpu_share: Fraction of a GPU for each run on Ray, from 0 to 1 (None: as its memory allows).
    """
    run_sweep(file, **{name: value for name, value in locals().items() if name != "file"})
