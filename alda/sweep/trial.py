"""How long runs take here, before one of their kind has learned: each kind is tried for some seconds."""

from collections.abc import Sequence
from contextlib import closing
from dataclasses import replace
from typing import NamedTuple

from rich.console import Console
from rich.progress import track

from alda.commands.bench import Worker, measure_parts
from alda.config import Config
from alda.errors import UserError, WorkerError
from alda.sweep.estimate import updates_of
from alda.sweep.study_file import StudyRun

_BLOCK = 2.0  # seconds of updates


class Trial(NamedTuple):
    """updates: seconds per update, with all that training does besides, by kind of run. scoring: seconds of the longest
    final evaluation, None where there is none. untried: kinds, with the reason."""

    updates: dict[str, float]
    scoring: float | None
    untried: dict[str, str]


def try_kinds(runs: Sequence[StudyRun], threads: int, workers: int) -> Trial:
    """Tries the first run of each kind: some updates, and some steps of its environment. Nothing is written.

    threads: of a run. workers: that play evaluations side by side. What a run takes is put together from its updates
    and steps, and those of its evaluations, as if one came after the other.
    """
    firsts = {run.kind: run for run in reversed(runs)}
    trial, scoring = Trial({}, None, {}), 0.0
    for kind, run in track(firsts.items(), "trying each kind of run", console=Console(stderr=True), transient=True):
        try:
            update, step = _seconds(run, threads)
        except (UserError, WorkerError) as error:
            trial.untried[kind] = str(error).splitlines()[0]
            continue
        config = run.settled
        evaluations = 1 + -(-config.steps // config.eval_every)
        played = evaluations * len(config.shifts) * config.eval_episodes * _length(config)
        updates = updates_of(run)
        trial.updates[kind] = update + step * (config.steps + played / max(1, workers)) / max(1, updates)
        if run.final:
            played = len(run.final.shifts) * run.final.episodes * _length(config)
            scoring = max(scoring, played * step / max(1, workers))
    return trial._replace(scoring=scoring or None)


def _seconds(run: StudyRun, threads: int) -> tuple[float, float]:
    """Of an update, and of an agent step of the environment with its picture."""
    config = run.settled
    if type(config.agent).__module__ == "__main__":
        raise UserError("it is written in the program itself, which a trial does not run")
    config = replace(config, agent=config.agent.steady(), threads=config.threads or threads)
    with closing(Worker(run.kind, measure_parts, config, _BLOCK)) as worker:
        worker.turn()  # has imported what it needs
        worker.turn()  # has compiled what it needs
        learned, played = worker.turn("updates"), worker.turn("environment")
    return learned["seconds"] / learned["count"], played["seconds"] / played["count"]


def _length(config: Config) -> int:
    """Agent steps of an episode."""
    assert config.env.action_repeat is not None
    return -(-config.env.episode_length // config.env.action_repeat)
