"""One HTML page that tells what runs have shown. It opens offline: pictures and styles are within.

    RUN/config.json, meta.json, metrics.jsonl -> settings, learning curves  \
    RUN/evaluations, videos, analysis         -> tables, pictures, videos    > dicts -> page.html
    final scores of all runs                  -> overview, curves           /
"""

import base64
import hashlib
from collections.abc import Iterator, Sequence
from importlib.resources import files
from pathlib import Path
from typing import Any

from alda import __version__
from alda.analysis.report.analyses import table
from alda.analysis.report.embedded import Item, embed_figure
from alda.analysis.report.parts import note, parts_of, shielded
from alda.analysis.runs.comparison import Comparison
from alda.analysis.runs.figures import draw_curves
from alda.analysis.runs.table import LAST, Run, listed
from alda.analysis.stats import score_over_seeds
from alda.errors import UserError


def section_of(place: Path, run: Run | None, *, wrong: str, refused: dict[str, str]) -> dict[str, Any]:
    """Return one run of the page. wrong: why its scores are not in the overview; refused: as in parts_of."""
    about = ""
    if run:
        scores = ", ".join(f"{shift} {run.final_score(shift):.1f}" for shift in run.shifts)
        about = f"{run.config.method} on {run.task}, seed {run.config.seed}: {scores}"
    return {"title": str(place), "about": about, "wrong": wrong, "parts": parts_of(place, refused=refused)}


def overview_of(made: Comparison | None, *, several: bool) -> list[Item]:
    """Return final scores of all runs and, of several, their learning curves."""
    if made is None:
        return [note("No run has scores that can be used; each says why below.", wrong=True)]
    items = [_scores(made)]
    items += [note(f"{remark[:1].upper()}{remark[1:]} ({listed(about)}).") for remark, about in made.remarks.items()]
    return items + (list(shielded(_panels(made), "learning curves")) if several else [])


def _scores(made: Comparison) -> Item:
    rows = []
    for task, curve, shift, cell in made.by_task():
        score = score_over_seeds(cell.final.tolist())
        interval = "one seed" if score.low is None else f"{score.low:.1f} to {score.high:.1f}"
        ends = {max(run.curve(shift)) for run in cell.runs}
        trained = " to ".join(f"{step:,}" for step in sorted({min(ends), max(ends)}))
        rows.append([task, curve.label, shift, f"{score.mean:.1f}", interval, str(score.seeds), trained])
    head = ["task", "method", "shift", "mean final score", "95 % interval", "seeds", "agent steps"]
    caption = f"The final score of a run is its mean return over its last {LAST} evaluations; intervals are over seeds."
    return table(head, rows, caption)


def _panels(made: Comparison) -> Iterator[Item]:
    figure = draw_curves(made)
    yield note("Means over seeds with 95 % bootstrap intervals; thin lines are single seeds.")
    yield embed_figure(figure, f"Learning curves on {', '.join(made.tasks)}, in {', '.join(made.shifts)}")


def render(sections: Sequence[dict[str, Any]], overview: Sequence[Item]) -> str:
    """Return the page; names and texts of runs are escaped. Raises UserError without jinja2."""
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
