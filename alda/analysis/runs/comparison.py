"""What a figure compares: which runs are on which curve, which stay out, and what a reader has to know of them."""

import itertools
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path
from typing import Any

from alda.analysis.runs.curves import AGGREGATE, FIGURES, METHODS, Curve
from alda.analysis.runs.published import TASKS, Published, published
from alda.analysis.runs.table import OF_SHIFT, Cell, Run, differences, listed, put_together
from alda.envs import SHIFTS
from alda.envs.shifts.base import parse_shift
from alda.errors import UserError
from alda.presets import presets

Place = tuple[str, str, str]  # shift, task, label of a curve


@dataclass
class Comparison:
    """Cells by shift, task and curve, and what to know of them.

    marks: published values to draw beside them. remarks: each with the cells that it is about.
    """

    title: str
    curves: list[Curve] = field(default_factory=list)
    cells: dict[Place, Cell] = field(default_factory=dict)
    marks: dict[Place, list[Published]] = field(default_factory=dict)
    left_out: dict[Path, str] = field(default_factory=dict)
    missing: list[str] = field(default_factory=list)
    remarks: dict[str, list[str]] = field(default_factory=dict)

    @property
    def shifts(self) -> list[str]:
        shifts = {shift for shift, _, _ in self.cells}
        return sorted(shifts, key=lambda shift: ([*SHIFTS, parse_shift(shift)[0]].index(parse_shift(shift)[0]), shift))

    @property
    def tasks(self) -> list[str]:
        return sorted({task for _, task, _ in self.cells}, key=lambda task: ([*TASKS, task].index(task), task))

    def drawn(self, shift: str, task: str) -> Iterator[tuple[Curve, Cell]]:
        for curve in self.curves:
            if cell := self.cells.get((shift, task, curve.label)):
                yield curve, cell

    def by_task(self) -> Iterator[tuple[str, Curve, str, Cell]]:
        """Yield task, curve, shift and cell, in the order of tables."""
        for task, curve, shift in itertools.product(self.tasks, self.curves, self.shifts):
            if cell := self.cells.get((shift, task, curve.label)):
                yield task, curve, shift, cell

    def remark(self, remark: str, about: str) -> None:
        concerned = self.remarks.setdefault(remark, [])
        if about not in concerned:
            concerned.append(about)

    def notes(self) -> list[str]:
        """Return what is not compared, and what to know of what is: a line each."""
        reasons: dict[str, list[Path]] = {}
        for path, reason in self.left_out.items():
            reasons.setdefault(reason, []).append(path)
        lines = [f"left out: {reason} ({listed(paths, most=2)})" for reason, paths in reasons.items()]
        lines += [f"missing: {what}" for what in self.missing]
        return lines + [f"note: {remark} ({listed(where, most=2)})" for remark, where in self.remarks.items()]


def compare(
    number: str,
    runs: Sequence[Run],
    refused: Mapping[Path, str] | None = None,
    *,
    shifts: Sequence[str] = (),
    mix: bool = False,
) -> Comparison:
    """Return the curves of a figure under every shift, or those named, on every task.

    refused: runs that cannot be used, and why. An ablation is drawn where there is something to compare: not on tasks
    that only one of its curves has runs of. Raises UserError for an unknown figure or shift, where there is no run of
    any curve, and as put_together does.
    """
    if number not in (*FIGURES, AGGREGATE):
        raise UserError(f"unknown figure {number!r}; known: {', '.join((*FIGURES, AGGREGATE))}")
    if not runs:
        raise UserError("; ".join(["there is no run of use", *(refused or {}).values()]))
    title, known = FIGURES.get(number, ("", ()))
    curve_of = {run.path: curve for run in runs if (curve := _curve_of(run, known))}
    if not curve_of:
        raise UserError(f"figure {number} compares {listed(c.label for c in known)}; there are runs of none of them")
    panels = _panels(runs, curve_of, shifts)
    if number not in ("5", AGGREGATE) and any(len(found) > 1 for found in panels.values()):
        panels = {panel: found for panel, found in panels.items() if len(found) > 1}

    made = Comparison(f"After figure {number} of the paper: {title}" if title else "All methods over all tasks")
    drawn = {curve for found in panels.values() for curve in found}
    by_method = sorted(drawn, key=lambda curve: ([*METHODS, curve.method].index(curve.method), curve.label))
    made.curves = [curve for curve in known or by_method if curve in drawn]
    for (shift, task), found in sorted(panels.items()):
        for curve in sorted(found, key=made.curves.index):
            made.cells[shift, task, curve.label] = cell = put_together(found[curve], shift, mix=mix)
            for remark in cell.remarks:
                made.remark(remark, f"{curve.label} on {task} in {shift}")
            if number == "5" and (marks := published_for(curve, task, shift)):
                made.marks[shift, task, curve.label] = marks
    used = {run.path for cell in made.cells.values() for run in cell.runs}
    made.left_out = {run.path: _why_left_out(run, curve_of.get(run.path)) for run in runs if run.path not in used}
    made.left_out |= refused or {}
    made.missing = [*_missing(made), *(f"{curve.label} altogether" for curve in known if curve not in made.curves)]
    _remark_on_settings(made)
    return made


def published_for(curve: Curve, task: str, shift: str) -> list[Published]:
    """Return what is known of a curve: a method at its defaults, or a preset that is just these settings."""
    if not curve.settings:
        return published(curve.method, task, shift)
    for name, preset in presets().items():
        settings = Run(Path(), preset.config, {}, []).settings
        if preset.config.method == curve.method and settings == dict(curve.settings):
            return published(curve.method, task, shift, name)
    return []


def told(settings: Mapping[str, Any]) -> str:
    """Return 'beta 10, stack channels'."""
    return ", ".join(
        f"{name} {value:g}" if isinstance(value, float) else f"{name} {value}" for name, value in settings.items()
    )


def _curve_of(run: Run, known: Sequence[Curve]) -> Curve | None:
    """Return the one of the known curves that a run is on.

    Where none are known: one of any figure, or else its method's with what makes the run a variant.
    """
    method, settings = run.config.method, _defining(run)
    candidates = known or [curve for _, curves in FIGURES.values() for curve in curves]
    found = next((c for c in candidates if c.method == method and dict(c.settings) == settings), None)
    if known:
        return found
    if found is None:
        label, color = METHODS.get(method, (method, "#000000"))
        found = Curve(
            ", ".join([label, told(settings)] if settings else [label]), method, tuple(settings.items()), color
        )
    if run.config.name not in ("default", *presets()):
        found = found._replace(label=f"{found.label} ({run.config.name})", dash=":")
    return found


def _panels(
    runs: Sequence[Run], curve_of: Mapping[Path, Curve], shifts: Sequence[str]
) -> dict[tuple[str, str], dict[Curve, list[Run]]]:
    """Return the runs of every curve by shift and task. Raises UserError for a shift that no run has."""
    panels: dict[tuple[str, str], dict[Curve, list[Run]]] = {}
    for run in runs:
        if run.path in curve_of:
            for shift in run.shifts:
                panels.setdefault((shift, run.task), {}).setdefault(curve_of[run.path], []).append(run)
    evaluated = sorted({shift for shift, _ in panels})
    if unknown := [shift for shift in shifts if shift not in evaluated]:
        raise UserError(f"no run was evaluated in {listed(unknown)}; there is {listed(evaluated)}")
    return {panel: found for panel, found in panels.items() if not shifts or panel[0] in shifts}


def _defining(run: Run) -> dict[str, Any]:
    """Return those of the run's settings that make a variant: some figure or preset varies them.

    Others, as the batch size, are remarked on.
    """
    return {name: value for name, value in run.settings.items() if name in _varied(run.config.method)}


@cache
def _varied(method: str) -> set[str]:
    curves = [curve for _, curves in FIGURES.values() for curve in curves if curve.method == method]
    configs = [preset.config for preset in presets().values() if preset.config.method == method]
    of_presets = {name for config in configs for name in Run(Path(), config, {}, []).settings}
    return {"train_shift"} | of_presets | {name for curve in curves for name, _ in curve.settings}


def _why_left_out(run: Run, curve: Curve | None) -> str:
    if curve:
        return f"{curve.label} has nothing to be compared with on {run.task}"
    settings = f" ({told(_defining(run))})" if _defining(run) else ""
    return f"{run.config.method} {run.config.name}{settings} is not compared here"


def _missing(made: Comparison) -> Iterator[str]:
    for curve in made.curves:
        lacking: dict[tuple[str, ...], list[str]] = {}  # shifts -> tasks
        for task in made.tasks:
            if shifts := tuple(s for s in made.shifts if (s, task, curve.label) not in made.cells):
                lacking.setdefault(shifts, []).append(task)
        for shifts, tasks in lacking.items():
            where = f" in {', '.join(shifts)}" if len(shifts) < len(made.shifts) else ""
            yield f"{curve.label} on {', '.join(tasks)}{where}"


def _remark_on_settings(made: Comparison) -> None:
    for (shift, task, label), cell in made.cells.items():
        if any(run.laptop for run in cell.runs):
            made.remark(f"{label} is of laptop size", f"{task} in {shift}")
        for run in cell.runs:
            other = {name: value for name, value in run.settings.items() if name not in _varied(run.config.method)}
            if other:
                made.remark(f"{label} is not at its defaults: {told(other)}", f"{task} in {shift}")
    for shift, task in itertools.product(made.shifts, made.tasks):
        cells = [cell for _, cell in made.drawn(shift, task)]
        differing = differences([run for cell in cells for run in cell.runs], shift)
        if names := [name for name in differing if name in OF_SHIFT]:
            made.remark(f"curves side by side differ in {', '.join(names)}", f"{task} in {shift}")
        if len({int(cell.steps[-1]) for cell in cells}) > 1:
            made.remark("curves side by side end at different steps", f"{task} in {shift}")
