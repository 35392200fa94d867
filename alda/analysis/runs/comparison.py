"""What a figure compares: which runs are on which curve, which stay out, and what a reader has to know of them."""

import itertools
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path
from typing import Any

from alda.analysis.runs.curves import AGGREGATE, FIGURES, METHODS, Curve
from alda.analysis.runs.published import TASKS
from alda.analysis.runs.table import OF_WORLD, Cell, Run, differences, listed, put_together
from alda.envs import SHIFTS
from alda.envs.shifts.base import parse_shift
from alda.errors import UserError
from alda.presets import presets


@dataclass
class Comparison:
    """Cells by (world, task, curve), and what to know of them."""

    title: str
    curves: list[Curve] = field(default_factory=list)
    cells: dict[tuple[str, str, str], Cell] = field(default_factory=dict)
    left_out: dict[Path, str] = field(default_factory=dict)
    missing: list[str] = field(default_factory=list)
    remarks: dict[str, list[str]] = field(default_factory=dict)
    """Remark -> what it is about."""

    @property
    def worlds(self) -> list[str]:
        worlds = {world for world, _, _ in self.cells}
        return sorted(worlds, key=lambda world: ([*SHIFTS, parse_shift(world)[0]].index(parse_shift(world)[0]), world))

    @property
    def tasks(self) -> list[str]:
        return sorted({task for _, task, _ in self.cells}, key=lambda task: ([*TASKS, task].index(task), task))

    def drawn(self, world: str, task: str) -> Iterator[tuple[Curve, Cell]]:
        for curve in self.curves:
            if cell := self.cells.get((world, task, curve.label)):
                yield curve, cell

    def remark(self, remarks: Iterable[str], about: str) -> None:
        for remark in remarks:
            concerned = self.remarks.setdefault(remark, [])
            if about not in concerned:
                concerned.append(about)

    def seeds(self, curve: Curve) -> str:
        """'5', or '4 to 5' where cells have different numbers of seeds."""
        counts = sorted({len(cell.runs) for (_, _, label), cell in self.cells.items() if label == curve.label})
        return str(counts[0]) if len(counts) == 1 else f"{counts[0]} to {counts[-1]}"


def compare(number: str, runs: Sequence[Run], *, shifts: Sequence[str] = (), mix: bool = False) -> Comparison:
    """The curves of a figure in every world, or those named, on every task.

    An ablation is drawn where there is something to compare: not on tasks that only one of its curves has runs of.
    Raises UserError for an unknown figure or world, where there is no run of any curve, and as put_together does.
    """
    if number not in (*FIGURES, AGGREGATE):
        raise UserError(f"unknown figure {number!r}; known: {', '.join((*FIGURES, AGGREGATE))}")
    title, known = FIGURES.get(number, ("", ()))
    groups = _grouped(runs, known)
    if not groups:
        raise UserError(f"figure {number} compares {listed(c.label for c in known)}; there are runs of none of them")
    places: dict[tuple[str, str], dict[Curve, list[Run]]] = {}  # by world and task
    for curve, group in groups.items():
        for run in group:
            for world in run.shifts:
                places.setdefault((world, run.task), {}).setdefault(curve, []).append(run)
    evaluated = sorted({world for world, _ in places})
    if unknown := [world for world in shifts if world not in evaluated]:
        raise UserError(f"no run was evaluated in {listed(unknown)}; there is {listed(evaluated)}")
    places = {place: found for place, found in places.items() if not shifts or place[0] in shifts}
    if number not in ("5", AGGREGATE) and any(len(found) > 1 for found in places.values()):
        places = {place: found for place, found in places.items() if len(found) > 1}

    made = Comparison(f"After figure {number} of the paper: {title}" if title else "All methods over all tasks")
    made.curves = [curve for curve in groups if any(curve in found for found in places.values())]
    for (world, task), found in sorted(places.items()):
        for curve, group in found.items():
            made.cells[world, task, curve.label] = cell = put_together(group, world, mix=mix)
            made.remark(cell.remarks, f"{curve.label} on {task} in {world}")
    used = {run.path for cell in made.cells.values() for run in cell.runs}
    curve_of = {run.path: curve for curve, group in groups.items() for run in group}
    for run in runs:
        if run.path not in used:
            known_as = curve_of.get(run.path)
            alone = f"{known_as.label} has nothing to be compared with on {run.task}" if known_as else ""
            made.left_out[run.path] = alone or f"{_name(run)} is not compared here"
    made.missing = [*_missing(made), *(f"{curve.label} altogether" for curve in known if curve not in made.curves)]
    _remark_on_settings(made)
    return made


def _missing(made: Comparison) -> Iterator[str]:
    for curve in made.curves:
        lacking: dict[tuple[str, ...], list[str]] = {}  # worlds -> tasks
        for task in made.tasks:
            worlds = tuple(world for world in made.worlds if (world, task, curve.label) not in made.cells)
            if worlds:
                lacking.setdefault(worlds, []).append(task)
        for worlds, tasks in lacking.items():
            where = f" in {', '.join(worlds)}" if len(worlds) < len(made.worlds) else ""
            yield f"{curve.label} on {', '.join(tasks)}{where}"


def _grouped(runs: Sequence[Run], known: Sequence[Curve]) -> dict[Curve, list[Run]]:
    """The runs of each curve, in the order of the figure; no known curves: all that the runs make up."""
    groups: dict[Curve, list[Run]] = {}
    for run in runs:
        matching = [curve for curve in known if _is_on(run, curve)]
        for curve in matching if known else [_curve_of(run)]:
            groups.setdefault(curve, []).append(run)
    order = list(known) or sorted(groups, key=lambda curve: ([*METHODS, curve.method].index(curve.method), curve.label))
    return {curve: groups[curve] for curve in order if curve in groups}


def _is_on(run: Run, curve: Curve) -> bool:
    return run.config.method == curve.method and _defining(run) == dict(curve.settings)


def _curve_of(run: Run) -> Curve:
    """The curve of a run that no figure asked for: a known one, or its method's with what makes it a variant."""
    everything = [curve for _, curves in FIGURES.values() for curve in curves]
    known = next((curve for curve in everything if _is_on(run, curve)), None)
    if known is None:
        label, color = METHODS.get(run.config.method, (run.config.method, "#000000"))
        words = told(_defining(run))
        known = Curve(f"{label}, {words}" if words else label, run.config.method, tuple(_defining(run).items()), color)
    if run.config.name not in ("default", *presets()):
        known = known._replace(label=f"{known.label} ({run.config.name})", dash=":")
    return known


def _defining(run: Run) -> dict[str, Any]:
    """Of the settings that differ from the method's defaults, those that make a variant: some figure or preset varies
    them. Others, as the batch size, are remarked on."""
    return {name: value for name, value in run.settings.items() if name in _varied(run.config.method)}


@cache
def _varied(method: str) -> set[str]:
    curves = [curve for _, curves in FIGURES.values() for curve in curves if curve.method == method]
    configs = [preset.config for preset in presets().values() if preset.config.method == method]
    of_presets = {name for config in configs for name in Run(Path(), config, {}, []).settings}
    return {"train_shift"} | of_presets | {name for curve in curves for name, _ in curve.settings}


def _remark_on_settings(made: Comparison) -> None:
    for (world, task, label), cell in made.cells.items():
        if any(run.laptop for run in cell.runs):
            made.remark([f"{label} is of laptop size"], f"{task} in {world}")
        for run in cell.runs:
            other = {name: value for name, value in run.settings.items() if name not in _varied(run.config.method)}
            if other:
                made.remark([f"{label} is not at its defaults: {told(other)}"], f"{task} in {world}")
    for world, task in itertools.product(made.worlds, made.tasks):
        cells = [cell for _, cell in made.drawn(world, task)]
        side_by_side = [run for cell in cells for run in cell.runs]
        names = [name for name in differences(side_by_side, world) if name in OF_WORLD]
        if names:
            made.remark([f"curves side by side differ in {', '.join(names)}"], f"{task} in {world}")
        if len({int(cell.steps[-1]) for cell in cells}) > 1:
            made.remark(["curves side by side end at different steps"], f"{task} in {world}")


def _name(run: Run) -> str:
    settings = told(_defining(run))
    return f"{run.config.method} {run.config.name}{f' ({settings})' if settings else ''}"


def told(settings: Mapping[str, Any]) -> str:
    """'beta 10, stack channels'"""
    return ", ".join(
        f"{name} {value:g}" if isinstance(value, float) else f"{name} {value}" for name, value in settings.items()
    )
