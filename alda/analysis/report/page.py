"""One HTML page that tells what runs have shown. It opens offline: pictures and styles are within.

    RUN/config.json, meta.json, metrics.jsonl -> settings, learning curves  \
    RUN/evaluations, videos, analysis         -> tables, pictures, videos    > parts -> page
    final scores of all runs                  -> overview, curves           /
"""

import base64
import hashlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from importlib.resources import files
from pathlib import Path
from typing import Any

from alda import __version__
from alda.analysis.latents.look import progress
from alda.analysis.report.embedded import embed_figure
from alda.analysis.report.main_numbers import Table
from alda.analysis.report.parts import Item, Note, Part, parts_of, results, shielded
from alda.analysis.runs.comparison import Comparison, compare
from alda.analysis.runs.curves import AGGREGATE
from alda.analysis.runs.paper import curve_table, draw_curves
from alda.analysis.runs.table import LAST, Run, find_runs, listed, load_run
from alda.commands.analyze import ANALYSES
from alda.errors import LearningError, UserError, WorkerError
from alda.files import write_text
from alda.training.rollout import bootstrap_interval


@dataclass(frozen=True)
class Section:
    """One run on the page. wrong: why its scores are not in the overview."""

    title: str
    about: str
    wrong: str
    parts: list[Part]


def write_report(runs: Sequence[Path], *, out: Path, analyze: bool = False, mix: bool = False) -> Path:
    """Writes what runs have shown to one HTML file, whole or not at all, and says how large it is; returns the file.

    runs: run directories, or folders that hold some at any depth. analyze: first do every analysis that is missing,
    with its defaults. mix: average scores that were made in different ways as well.

    Damaged pieces are named on the page. Raises UserError for a path that holds no run, a file that is not .html, and
    where scores that were made in different ways would be averaged, unless `mix` allows it.
    """
    if out.suffix not in (".html", ".htm") or out.is_dir():
        raise UserError(f"a report is written as a .html file, not as {out}")
    places = find_runs(runs)
    read, unread = _load(places)
    made = compare(AGGREGATE, read, mix=mix) if read else None
    try:
        out.parent.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise UserError(f"there is no folder {out.parent}, and none can be made: {error}") from error
    refused = _analyze(places) if analyze else {}
    with progress() as begin:
        step, sections = begin("reading runs", len(places)), []
        for place in places:
            parts = parts_of(place, refused=refused.get(place, {}))
            sections.append(Section(str(place), _about(place, read), unread.get(place, ""), parts))
            step()
        step = begin("drawing the overview", 1)
        overview = list(_overview(made, several=len(places) > 1))
        step()
    write_text(out, _render(sections, overview))
    print(f"written to {out}, {out.stat().st_size / 1e6:.1f} MB")
    return out


def _load(places: Sequence[Path]) -> tuple[list[Run], dict[Path, str]]:
    """Runs whose scores can be used, and why not those of the others."""
    runs, unread = [], {}
    for place in places:
        try:
            runs.append(load_run(place))
        except UserError as error:
            unread[place] = str(error)
    return runs, unread


def _analyze(places: Sequence[Path]) -> dict[Path, dict[str, str]]:
    """Does what is missing; returns why some of it could not be done."""
    missing = [(place, name) for place in places for name in ANALYSES if not results(place, name)]
    refused: dict[Path, dict[str, str]] = {}
    for done, (place, name) in enumerate(missing):
        print(f"{name} of {place} ({done + 1} of {len(missing)})")
        try:
            run = place.absolute()
            ANALYSES[name]((run,) if name == "theorem1" else run)
        except (UserError, LearningError, WorkerError, OSError) as error:
            refused.setdefault(place, {})[name] = f"Could not be done: {error}."
    return refused


def _about(place: Path, runs: Sequence[Run]) -> str:
    """'alda on walker_walk, seed 0: train 812.3, color_hard 640.1'; nothing where a run cannot be used."""
    for run in runs:
        if run.path == place:
            scores = ", ".join(f"{shift} {run.final_score(shift):.1f}" for shift in run.shifts)
            return f"{run.config.method} on {run.task}, seed {run.config.seed}: {scores}"
    return ""


def _overview(made: Comparison | None, *, several: bool) -> list[Item]:
    if made is None:
        return [Note("No run has scores that can be used; each says why below.", wrong=True)]
    items: list[Item] = [overview_table(made)]
    items += [Note(f"{remark[:1].upper()}{remark[1:]} ({listed(about)}).") for remark, about in made.remarks.items()]
    return items + (list(shielded(_panels(made), "learning curves")) if several else [])


def overview_table(made: Comparison) -> Table:
    """Task by method by world: mean of final scores over seeds, its 95 % bootstrap interval, seeds, agent steps."""
    rows = []
    for world, task, label in sorted(made.cells, key=lambda place: _order(made, place)):
        cell = made.cells[world, task, label]
        ends = bootstrap_interval(cell.final.tolist()) if len(cell.runs) > 1 else None
        interval = "{:.1f} to {:.1f}".format(*ends) if ends else "one seed"
        steps = sorted({max(run.curve(world)) for run in cell.runs})
        trained = f"{steps[0]:,}" if len(steps) == 1 else f"{steps[0]:,} to {steps[-1]:,}"
        rows.append([task, label, world, f"{cell.final.mean():.1f}", interval, str(len(cell.runs)), trained])
    head = ["task", "method", "world", "mean final score", "95 % interval", "seeds", "agent steps"]
    caption = f"The final score of a run is its mean return over its last {LAST} evaluations; intervals are over seeds."
    return Table(head, rows, caption)


def _order(made: Comparison, place: tuple[str, str, str]) -> tuple[int, int, int]:
    world, task, label = place
    return made.tasks.index(task), [curve.label for curve in made.curves].index(label), made.worlds.index(world)


def _panels(made: Comparison) -> Iterator[Item]:
    figure = draw_curves(made, curve_table(made, {}))
    yield Note("Means over seeds with 95 % bootstrap intervals; thin lines are single seeds.")
    yield embed_figure(figure, f"Learning curves on {', '.join(made.tasks)}, in {', '.join(made.worlds)}")


def _render(sections: Sequence[Section], overview: Sequence[Item]) -> str:
    try:
        from jinja2 import Environment, StrictUndefined
    except ImportError as error:
        raise UserError("a report needs jinja2: pip install 'alda[plot]'") from error
    from markupsafe import Markup

    resources = files("alda.analysis.report")
    style = resources.joinpath("page.css").read_text()
    page: Any = Environment(autoescape=True, undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True)
    return page.from_string(resources.joinpath("page.html").read_text()).render(
        sections=sections,
        overview=overview,
        style=Markup(style),
        style_hash=base64.b64encode(hashlib.sha256(style.encode()).digest()).decode(),
        version=__version__,
    )
