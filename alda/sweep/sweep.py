"""`alda sweep`: what a study stands for, or all of it done, whatever of it was done before."""

import shlex
import sys
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, closing
from pathlib import Path
from typing import Literal

from alda.errors import UserError
from alda.sweep.backend import Backend
from alda.sweep.board import board
from alda.sweep.estimate import Paces, measure, outlook, supplemented
from alda.sweep.local import local_backend
from alda.sweep.processes import LocalBackend
from alda.sweep.progress import Command, next_command
from alda.sweep.runner import Runner
from alda.sweep.study_file import Study, StudyRun, read_study
from alda.sweep.trial import try_kinds
from alda.training.run_lock import collected_signals, exit_at_sigterm, only_one


def sweep(
    file: Path,
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
    """Trains and evaluates what a study file stands for, or goes on with it; ends the process with an exit code.

    root: of all studies; the runs are in root/STUDY. jobs: runs at a time (None: what the backend holds). retries:
    times that a run that died is tried again. dry_run: only print the commands and what they take, with a trial of some
    seconds of each kind of run on this machine, unless trial is False. address, gpu_share: see cluster.RayBackend.
    0: all runs are finished; 1: some are not; 128 plus the number of a signal that stopped it. Raises UserError for
    whatever is wrong in the file, for run directories with other settings, and while another sweep of this study goes
    on.
    """
    if (jobs is not None and jobs < 1) or retries < 0:
        raise UserError("--jobs must be at least 1, and --retries from 0 on")
    if gpu_share is not None and not 1e-4 <= gpu_share <= 1:
        raise UserError("--gpu-share must be from 0.0001 to 1")
    if backend == "local" and (address or gpu_share):
        raise UserError("--address and --gpu-share are for --backend ray")
    study = read_study(file, root)
    commands = [_next(run) for run in study.runs]
    to_do = [(run, command) for run, command in zip(study.runs, commands, strict=True) if command]
    waiting = [run for run, _ in to_do]
    with ExitStack() as stack:
        if not dry_run:
            study.folder.mkdir(parents=True, exist_ok=True)
            try:
                stack.enter_context(only_one(study.folder))
            except UserError:
                there = f"another sweep of this study goes on in {study.folder}"
                raise UserError(f"{there}; wait for it, or stop it") from None
        if backend == "ray" and to_do:
            from alda.sweep.cluster import RayBackend

            place: Backend = stack.enter_context(closing(RayBackend(waiting, jobs, address, gpu_share)))
        else:
            place = stack.enter_context(local_backend(waiting, jobs, print, share_gpu=not dry_run))
        paces = measure(study)
        if dry_run:
            untried: dict[str, str] = {}
            if trial and isinstance(place, LocalBackend):
                unknown = [run for run, command in to_do if command == "train" and run.kind not in paces.updates]
                tried = try_kinds(unknown, place.threads, place.workers)
                paces, untried = supplemented(paces, tried.updates, tried.scoring), tried.untried
            for line in described(study, commands, place, paces):
                print(line)
            for kind, reason in untried.items():
                print(f"# {kind} could not be tried: {reason}")
            return
        stack.enter_context(exit_at_sigterm())
        caught = stack.enter_context(collected_signals())
        with board(study, lambda: place.jobs) as shown:
            if study.what:
                shown.say(f"{study.name}: {study.what}")
            shown.say(
                f"{study.name}: {len(study.runs)} runs in {study.folder}, {len(study.runs) - len(to_do)} finished"
            )
            if to_do:
                shown.say(place.about)
            for line in outlook(study, paces, to_do, place.jobs):
                shown.say(line)
            runner = Runner(study, commands, place, retries, shown.say, shown.watch)
            runner.go(caught)
        table = shown.table(runner.entries)
        table.title_justify = table.caption_justify = "left"
        shown.console.print(table)
    failed = [entry for entry in runner.entries if entry.state == "failed"]
    for entry in failed:
        shown.say(f"{entry.run.label}: failed: {entry.reason}; its log: {entry.run.run_dir / 'log.txt'}")
    if all(entry.state == "finished" for entry in runner.entries):
        return
    shown.say("the same command goes on with what is unfinished")
    sys.exit(128 + caught[0] if caught else 1)


def described(study: Study, commands: Sequence[Command | None], place: Backend, paces: Paces) -> Iterator[str]:
    """A study as a shell script, whose comments say what is finished and what the rest takes."""
    to_do = [(run, command) for run, command in zip(study.runs, commands, strict=True) if command]
    begun = sum((run.run_dir / "config.json").exists() for run, _ in to_do)
    finished = len(study.runs) - len(to_do)
    yield f"# {study.name}" + (f": {study.what}" if study.what else "")
    states = f"{finished} finished, {begun} begun, {len(to_do) - begun} not begun"
    yield f"# {len(study.runs)} runs in {study.folder}: {states}"
    count = 0
    for run, command in zip(study.runs, commands, strict=True):
        lines = [("train", run.train_words(place.workers))]
        if run.final:
            lines.append(("evaluate", run.evaluate_words(place.workers)))
        for name, words in lines:
            done = command is None or (name == "train" and command == "evaluate")
            count += not done
            yield ("# finished: " if done else "") + shlex.join(["alda", *words])
    yield f"# commands to run: {count}"
    if to_do:
        yield f"# {place.about}"
    for line in outlook(study, paces, to_do, place.jobs):
        yield f"# {line}"


def _next(run: StudyRun) -> Command | None:
    try:
        return next_command(run)
    except UserError as error:
        raise UserError(f"{error}. Or give the changed study another file name, or another --root") from None
