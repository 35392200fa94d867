"""`alda sweep`."""

import shlex
import shutil
import sys
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, closing
from dataclasses import replace
from pathlib import Path
from typing import Literal

from alda.errors import UserError
from alda.sweep.local import local_place
from alda.sweep.runner import Place
from alda.sweep.status import run_all
from alda.sweep.study_file import Study, read_study
from alda.sweep.study_run import StudyRun, needs_of
from alda.training.run_lock import only_one


def sweep(
    file: Path,
    /,
    *,
    root: Path = Path("runs"),
    jobs: int | None = None,
    retries: int = 2,
    dry_run: bool = False,
    backend: Literal["local", "ray"] = "local",
    address: str | None = None,
    gpu_share: float = 1.0,
) -> None:
    """Train and evaluate every run of a study: presets x tasks x seeds; resumes what is unfinished.

    Args:
        file: TOML file of a study (docs/studies.md), or the name of one that comes with this package: main, quick,
            laptop, fig12, ...
        root: Folder of studies; runs are kept in ROOT/STUDY/TASK/METHOD/NAME/sSEED, where STUDY is the file's name.
        jobs: Runs at a time (None: one per core, as far as memory and GPU memory reach).
        retries: How often a run that died is tried again.
        dry_run: Only print the commands of the study, what is finished, and the disk it still takes.
        backend: Where runs run: processes on this machine, or the nodes of a Ray cluster that share the study's folder.
        address: Ray cluster as HOST:PORT (None: RAY_ADDRESS, the one this machine belongs to, or a new one of it
            alone).
        gpu_share: Fraction of a GPU for each run on Ray, from 0 to 1.
    """
    if (jobs is not None and jobs < 1) or retries < 0:
        raise UserError("--jobs must be at least 1, and --retries from 0 on")
    if not 1e-4 <= gpu_share <= 1:
        raise UserError("--gpu-share must be from 0.0001 to 1")
    if backend == "local" and (address or gpu_share != 1):
        raise UserError("--address and --gpu-share are for --backend ray")
    study = read_study(file, root)
    try:
        unfinished = [run for run in study.runs if run.next_command()]
    except UserError as error:
        raise UserError(f"{error}. Or give the changed study another file name, or another --root") from None
    needs = needs_of(unfinished or study.runs)
    with ExitStack() as stack:
        if not dry_run:
            study.folder.mkdir(parents=True, exist_ok=True)
            stack.enter_context(only_one(study.folder, "is being filled by another sweep of this study"))
        place: Place
        if backend == "ray" and unfinished:
            from alda.sweep.ray import RayPlace

            place = stack.enter_context(closing(RayPlace(len(unfinished), needs, jobs, address, gpu_share)))
        else:
            place = local_place(len(unfinished), needs, jobs)
        runs = [replace(run, workers=place.workers) for run in study.runs]
        if dry_run:
            print("\n".join(_script(study, runs, place)))
            return
        for line in _summary(study, runs):
            print(line)
        code = run_all(study.name, runs, place, retries)
    if code:
        sys.exit(code)


def _script(study: Study, runs: Sequence[StudyRun], place: Place) -> Iterator[str]:
    """Yield the study as a shell script, whose comments say what is finished."""
    for line in _summary(study, runs):
        yield f"# {line}"
    yield f"# {place.about}"
    for run in runs:
        following = run.next_command()
        for words in run.commands().values():
            done = following is None or (words[0] == "train" and following[0] == "evaluate")
            yield ("# finished: " if done else "") + shlex.join(["alda", *words])


def _summary(study: Study, runs: Sequence[StudyRun]) -> Iterator[str]:
    """Yield what a study is, how far it is, and the disk that it still takes."""
    unfinished = [run for run in runs if run.next_command()]
    begun = sum((run.run_dir / "config.json").exists() for run in unfinished)
    finished = len(runs) - len(unfinished)
    yield study.name + (f": {study.what}" if study.what else "")
    yield f"{len(runs)} runs in {study.folder}: {finished} finished, {begun} begun, {len(unfinished) - begun} not begun"
    if unfinished:
        space = sum(run.replay_size() for run in unfinished)
        folder = next(place for place in (study.folder, *study.folder.absolute().parents) if place.exists())
        free = shutil.disk_usage(folder).free
        warning = "; warning: that is more than is free" if space > free else ""
        yield f"replay of unfinished runs: up to {space / 1e9:.2f} GB of disk, {free / 1e9:.1f} GB are free{warning}"
