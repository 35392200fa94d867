"""`alda train`."""

import sys
from dataclasses import replace

from alda.config import Config
from alda.envs.tasks import unknown
from alda.errors import UserError
from alda.presets import parse, presets
from alda.sweep.local import local_place
from alda.sweep.status import run_all
from alda.sweep.study_run import StudyRun, needs_of
from alda.training.trainer import train as train_one


def train(words: list[str]) -> None:
    """Train an agent on a task, or resume its training.

    words: name of a preset and flags of its config (`alda train --help`, `alda train PRESET --help`).
    """
    if words and not words[0].startswith("-"):
        _check_preset(words[0], words[1:])
    config = parse(words)
    if config.seeds:
        _train_seeds(config, words)
    else:
        train_one(config)


def _check_preset(name: str, words: list[str]) -> None:
    """Raise UserError with one sentence where the parser of all presets would print a page."""
    known = presets()
    if name not in known:
        raise UserError(unknown("preset", name, known))
    if not hasattr(known[name].config.agent, "codes") and any(word.startswith("--agent.codes") for word in words):
        raise UserError(
            f"the reward trains the encoder of {name}, so codes of frames cannot be stored; --agent.codes is for alda, "
            "qlae, bioae and darla"
        )


def _train_seeds(config: Config, words: list[str]) -> None:
    """Train each of config.seeds as a run of its own, with an equal share of the cores; see sweep/status.run_all."""
    count = len(config.seeds)
    if len(set(config.seeds)) < count:
        raise UserError(f"--seeds must differ from one another, not {' '.join(map(str, config.seeds))}")
    runs = []
    for seed in config.seeds:
        run_dir = config.run_dir and config.run_dir / f"s{seed}"
        alone = replace(config, seed=seed, seeds=(), run_dir=run_dir)
        alone = replace(alone, run_dir=alone.resolved().run_dir)
        own = ("--seeds", "--seed", str(seed), "--run-dir", str(alone.run_dir))  # the last of a flag counts
        runs.append(StudyRun((*words, *own), alone))
    runs[0].config.eval_conditions()  # may prepare videos for a minute, once for all
    runs[0].config.conditions(config.train_shift)
    place = local_place(count, needs_of(runs), jobs=count)
    runs = [replace(run, workers=place.workers) for run in runs]
    if code := run_all(f"{config.method} on {config.env.task}", runs, place):
        sys.exit(code)
