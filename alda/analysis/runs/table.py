"""Runs as evidence: found in folders, read, and put together where their scores may be averaged.

Steps are agent steps. A cell is one curve in one panel: runs of one task and method that differ in their seed alone,
evaluated under one shift.
"""

import dataclasses
import os
import sys
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Float, Int

from alda.agents.alda import ALDAConfig
from alda.analysis.stats import Score, score_over_seeds
from alda.config import Config, load_config
from alda.envs.shifts.base import parse_shift
from alda.errors import UserError
from alda.files import read_json
from alda.latents import LATENTS
from alda.presets import presets
from alda.training.checkpoint import lines_counted
from alda.training.logger import read_metrics

# what scores under a shift depend on besides the agent
OF_SHIFT = (
    *("simulator", "renderer", "background", "colors", "profile", "visuals", "reference"),
    *("action_repeat", "frames", "image_size", "episode_length"),
)
# what reading files that were cut off, edited or written by strangers raises
DAMAGE = (OSError, ValueError, LookupError, TypeError, AttributeError, ArithmeticError, RecursionError)
LAST = 5  # evaluations whose mean is the final score of a run


@dataclass(frozen=True)
class Run:
    """A run directory. evaluations: the lines of its metrics that hold returns."""

    path: Path
    config: Config
    meta: dict[str, Any]
    evaluations: list[dict[str, Any]]

    @property
    def task(self) -> str:
        return self.config.env.task

    @property
    def shifts(self) -> list[str]:
        """The shifts it was evaluated under."""
        return [shift for shift in self.config.shifts if self.curve(shift)]

    @property
    def laptop(self) -> bool:
        """Whether it is of laptop size: such a preset, or a study's variant of one."""
        preset, known = self.config.name.partition("-")[0], presets()
        return preset.endswith("_laptop") and preset in known and known[preset].config.method == self.config.method

    @cached_property
    def settings(self) -> dict[str, Any]:
        """Settings of the agent that differ from its method's defaults, or from its laptop size where it is of that,
        and the shift it was trained under.
        """
        default = presets()[f"{self.config.method}_laptop"].config.agent if self.laptop else type(self.config.agent)()
        changed = {name: value for name, value in self._agent.items() if value != getattr(default, name)}
        if self.config.train_shift != "train":
            changed["train_shift"] = self.config.train_shift
        return changed

    def curve(self, shift: str) -> dict[int, float]:
        """Return the mean return of every evaluation under a shift, by agent step."""
        name = f"eval/{shift}/return"
        return {row["step"]: float(row[name]) for row in self.evaluations if row.get(name) is not None}

    def last(self, shift: str, step: int | None = None) -> dict[int, float]:
        """Return the last five evaluations after learning began, or all where there are fewer; of those up to a step,
        where one is named. Of a run that has not begun to learn, its evaluations."""
        points = [point for point in self.curve(shift).items() if step is None or point[0] <= step]
        before = {row["step"] for row in self.evaluations if row.get("updates") == 0}
        return dict([point for point in points if point[0] not in before][-LAST:] or points[-LAST:])

    def final_score(self, shift: str) -> float:
        return float(np.mean(list(self.last(shift).values())))

    def final_evaluations(self) -> dict[str, dict[str, Any]]:
        """Return what `alda evaluate` wrote about the agent at its last step, by the name of the file.

        Raises UserError where a file is damaged.
        """
        found = {}
        for file in sorted((self.path / "evaluations").glob("step_*_seed_*.json")):
            try:
                record = read_json(file)
                step, *_ = (int(record[name]) for name in ("step", "episodes", "seed"))
                means = [float(world["mean"]) for world in record["worlds"].values()]
                if means and step == self.evaluations[-1]["step"]:
                    found[file.name] = record
            except (ValueError, LookupError, TypeError, AttributeError) as error:
                raise UserError(f"{file} is damaged: {error}; delete it and evaluate again") from error
        return found

    def conditions(self, shift: str) -> dict[str, set[str]]:
        """Return what its scores under a shift depend on; several values where something changed during the run.

        Conditions (alda.provenance); settings of environment and agent; name of the variant; overlay images.
        """
        made: dict[str, Any] = {f"agent.{name}": value for name, value in self._agent.items()}
        made |= {name: getattr(self.config, name) for name in ("name", "train_shift", "num_envs")}
        made["overlays"] = self.meta.get("overlays", {}).get("source", "none")
        found = {name: {str(value)} for name, value in made.items()}
        env = vars(self.config.env)
        worlds = [row.get(f"eval/{shift}/world", {}) for row in self.evaluations if f"eval/{shift}/return" in row]
        return found | {name: {str(world.get(name, env.get(name, "unknown"))) for world in worlds} for name in OF_SHIFT}

    @property
    def _agent(self) -> dict[str, Any]:
        """Settings of the agent; a codebook_grad that is just its latent model's own counts as "own"."""
        agent = self.config.agent
        settings = {field.name: getattr(agent, field.name) for field in dataclasses.fields(agent)}
        if isinstance(agent, ALDAConfig) and agent.codebook_grad == LATENTS[agent.latent].codebook:
            settings["codebook_grad"] = "own"
        return settings


@dataclass(frozen=True)
class Cell:
    """Runs that may be averaged, one a seed, under one shift. remarks: what a reader has to know of them."""

    runs: list[Run]
    shift: str
    steps: Int[np.ndarray, " t"]  # agent steps
    returns: Float[np.ndarray, "s t"]
    final: Float[np.ndarray, " s"]
    remarks: list[str]

    @cached_property
    def scores(self) -> dict[int, Score]:
        """Mean over seeds with its interval, by agent step."""
        by_step = zip(self.steps.tolist(), self.returns.T.tolist(), strict=True)
        return {step: score_over_seeds(values, resamples=2_000) for step, values in by_step}

    def conditions(self) -> dict[str, list[str]]:
        """Return the values of every condition that its scores were made with."""
        return {name: sorted(values) for name, values in conditions_of(self.runs, self.shift).items()}


def load_runs(paths: Sequence[Path]) -> tuple[list[Run], dict[Path, str]]:
    """Return every run at or below the paths, and those that cannot be used with the reason."""
    runs, refused = [], {}
    for path in find_runs(paths):
        try:
            runs.append(load_run(path))
        except UserError as error:
            refused[path] = str(error)
    return runs, refused


def load_run(path: Path) -> Run:
    """Raise UserError where its records are missing, damaged or of another version, or it has no evaluation yet."""
    config = load_config(path)
    meta = path / "meta.json"
    try:
        counted = lines_counted(path)  # first, as a run may be going on
        rows = read_metrics(path)
        if len(rows) < counted:
            _warn(f"{path / 'metrics.jsonl'} has lost lines: {len(rows)} of {counted} are there")
        if not meta.exists():
            _warn(f"{meta} is missing, so what its scores were made with is not all known")
        described = dict(read_json(meta)) if meta.exists() else {}
        evaluations = [row for row in rows if any(name[:5] == "eval/" and name[-7:] == "/return" for name in row)]
        run = Run(path, config, described, evaluations)
        if not all(isinstance(row["step"], int) for row in evaluations):
            raise UserError(f"the records of {path} are damaged: not every step is a whole number")
        for shift in config.shifts:  # everything else is made of these
            parse_shift(shift)
            run.conditions(shift)
            run.curve(shift)
    except UserError:  # which says what is damaged
        raise
    except DAMAGE as error:
        raise UserError(f"the records of {path} are damaged: {type(error).__name__}: {error}") from error
    if not evaluations:
        raise UserError(f"{path} has no evaluation yet")
    return run


def _warn(message: str) -> None:
    print(f"warning: {message}", file=sys.stderr)


def find_runs(paths: Sequence[Path]) -> list[Path]:
    """Return folders with config.json and metrics.jsonl, at the paths or at any depth below them, each once.

    Raises UserError where a path does not exist or holds none.
    """
    if not paths:
        raise UserError("name at least one run, or a folder of runs")
    found: dict[Path, Path] = {}
    for path in paths:
        if not path.is_dir():
            raise UserError(f"there is no folder at {path}")
        here = list(_below(path))
        if not here:
            raise UserError(f"there is no run, with config.json and metrics.jsonl, at {path}")
        for run in here:
            found.setdefault(run.resolve(), run)
    return list(found.values())


def _below(path: Path) -> Iterator[Path]:
    for folder, folders, files in os.walk(path):
        if {"config.json", "metrics.jsonl"} <= set(files):
            folders.clear()  # a run holds no other runs
            yield Path(folder)
        folders.sort()


def put_together(runs: Sequence[Run], shift: str, *, mix: bool = False) -> Cell:
    """Average runs of one task and method under one shift, at the steps that all of them have been evaluated at.

    mix: average scores that were made in different ways as well. Raises UserError where they were and are not to be,
    where a seed is there twice, or where no step is shared.
    """
    runs = sorted(runs, key=lambda run: (run.config.seed, str(run.path)))
    about = f"{runs[0].task}, {runs[0].config.method}, {shift}"
    differing = differences(runs, shift)
    if differing and not mix:
        told = [
            f"{name}: "
            + ", ".join(f"{value} in {listed(run.path for run in with_it)}" for value, with_it in of.items())
            for name, of in differing.items()
        ]
        raise UserError(f"{about}: scores made in different ways are not averaged, unless by --mix. {'; '.join(told)}")
    seeds = [run.config.seed for run in runs]
    twice = sorted({seed for seed in seeds if seeds.count(seed) > 1})
    if twice and not mix:
        places = ", ".join(str(run.path) for run in runs if run.config.seed in twice)
        raise UserError(f"{about}: seed {listed(twice)} is there more than once: {places}. Name one of them.")
    curves = [run.curve(shift) for run in runs]
    every = sorted({step for curve in curves for step in curve})
    shared = [step for step in every if all(step in curve for curve in curves)]
    if not shared:
        raise UserError(f"{about}: the seeds share no step at which they were evaluated: {listed(seeds)}")
    remarks = []
    if lost := [step for step in every if step not in shared]:
        remarks.append(f"not every seed was evaluated at steps {listed(f'{step:,}' for step in lost)}: left out")
    if differing:
        remarks.append(f"averaged in spite of different {', '.join(differing)}")
    if any(len(curve) < LAST for curve in curves):
        remarks.append(f"final scores are means of fewer than {LAST} evaluations")
    if len({max(curve) for curve in curves}) > 1:
        remarks.append(f"seeds end at steps {listed(f'{max(curve):,}' for curve in curves)}")
    returns = np.array([[curve[step] for step in shared] for curve in curves])
    return Cell(runs, shift, np.array(shared), returns, np.array([run.final_score(shift) for run in runs]), remarks)


def differences(runs: Sequence[Run], shift: str) -> dict[str, dict[str, list[Run]]]:
    """Return those conditions in which runs differ or that changed within one."""
    return {name: values for name, values in conditions_of(runs, shift).items() if len(values) > 1}


def conditions_of(runs: Sequence[Run], shift: str) -> dict[str, dict[str, list[Run]]]:
    """Return condition -> value -> the runs with it."""
    table: dict[str, dict[str, list[Run]]] = {}
    for run in runs:
        for name, values in run.conditions(shift).items():
            for value in sorted(values):
                table.setdefault(name, {}).setdefault(value, []).append(run)
    return table


def listed(things: Iterable[Any], most: int = 6) -> str:
    """Return 'a, b, c', or of a longer list its ends and how many there are: 'a ... z (26)'."""
    words = [str(thing) for thing in things]
    return ", ".join(words) if len(words) <= most else f"{words[0]} ... {words[-1]} ({len(words)})"
