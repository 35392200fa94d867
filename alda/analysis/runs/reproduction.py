"""Our scores beside every published value of the same method, task and shift, and whether they can be told apart.

runs -> cells (comparison.py) -> scores: means over seeds, intervals --+
                                                                       +--> verdict, what else differs -> table
published.csv -> values, bands, protocols -----------------------------+
"""

import json
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np

from alda.analysis.runs.comparison import published_for, told
from alda.analysis.runs.curves import Curve
from alda.analysis.runs.published import PAPER_STEPS, Published
from alda.analysis.runs.table import LAST, Cell
from alda.analysis.stats import Score, score_over_seeds
from alda.envs.backgrounds import procedural
from alda.envs.dmc import EPISODE_LENGTH
from alda.envs.shifts.color import OWN_TABLES

_FEW = {1: "; one seed has no interval", 2: "; an interval of 2 seeds means little"}
_CAPTION = (
    f"ours: mean over seeds of the mean of the last {LAST} evaluations, or of one on the way, and its 95 % bootstrap "
    "interval; published: 95 % band as stated, or 1.96 standard deviations of the mean over seeds"
)
# widest in letters, None: never folded; so the table fits into 160
COLUMNS = {"task": 17, "method": 12, "shift": 14, "ours": None, "seeds": None, "steps": 10, "final evaluation": 14}
COLUMNS |= {"published": None, "at step": None, "verdict": 21, "differs": 9}
_THEIRS = ("value", "low", "high", "spread", "seeds", "steps", "image_size", "action_repeat", "simulator", "source")


@dataclass(frozen=True)
class Row:
    """Our score of a method on a task under a shift, beside one published value, or none.

    steps: of the first and the last evaluation that it is the mean of. final: the mean over seeds of one evaluation
    after training; episodes: how many it has and the seed they begin with. differs: what in the protocols does.
    """

    task: str
    method: str
    shift: str
    ours: Score
    steps: tuple[int, int]
    final: Score | None
    episodes: tuple[int, int] | None
    mark: Published | None
    verdict: str
    differs: tuple[str, ...] = ()

    def for_json(self) -> dict[str, Any]:
        row = asdict(self) | {"published": None}
        mark = row.pop("mark")
        if mark is not None:
            low, high = mark.interval or (None, None)
            row["published"] = {**mark._asdict(), "low": low, "high": high}
        return row

    def for_csv(self) -> dict[str, Any]:
        """Return a column for each number, None where there is none."""
        row = self.for_json()
        flat = {name: row[name] for name in ("task", "method", "shift")}
        flat |= {f"our_{name}": value for name, value in row["ours"].items()}
        flat |= dict(zip(("our_first_step", "our_last_step"), self.steps, strict=True))
        flat |= {f"final_{name}": (row["final"] or {}).get(name) for name in row["ours"]}
        flat |= dict(zip(("final_episodes", "final_episodes_seed"), self.episodes or (None, None), strict=True))
        flat |= {f"published_{name}": (row["published"] or {}).get(name) for name in _THEIRS}
        return flat | {"verdict": self.verdict, "differs": "; ".join(self.differs)}


def beside_published(curve: Curve, cell: Cell, task: str) -> list[Row]:
    """Return one row for each published value, and one for our final score where no value stands beside that.

    A value for the end of training is compared with the mean of our last five evaluations up to its step, one for the
    way there with our evaluation at its step: published curves are smooth, but five evaluations would lag behind them.
    Of the values that training has not reached, only the next and the last are told.
    """
    at_end = [run.last(cell.shift) for run in cell.runs]
    reached = min(max(run.curve(cell.shift)) for run in cell.runs)
    final, episodes = _final_evaluation(cell)

    def row(points: Sequence[dict[int, float]], mark: Published | None, said: str = "") -> Row:
        """points: of each seed, the evaluations to average."""
        ours = score_over_seeds([float(np.mean(list(of_run.values()))) for of_run in points])
        steps = min(map(min, points)), max(map(max, points))
        said = said or (verdict(ours, mark) if mark else "")
        differs = tuple(_differences(curve, cell, mark)) if mark else ()
        after = (final, episodes) if points == at_end else (None, None)
        return Row(task, curve.label, cell.shift, ours, steps, *after, mark, said, differs)

    rows = []
    marks = published_for(curve, task, cell.shift)
    ahead = sorted({mark.steps for mark in marks if mark.steps and mark.steps > reached})
    for mark in marks:
        step = mark.steps
        if step in ahead[1:-1]:
            continue
        if step is None:
            rows.append(row(at_end, mark, "its steps are not stated: no verdict"))
        elif step not in cell.steps:
            where = f"at {reached:,} of {step:,} steps" if reached < step else f"not evaluated at step {step:,}"
            rows.append(row(at_end, mark, f"{where}: no verdict"))
        elif step < PAPER_STEPS:
            rows.append(row([{step: run.curve(cell.shift)[step]} for run in cell.runs], mark))
        else:
            rows.append(row([run.last(cell.shift, step) for run in cell.runs], mark))
    ours = row(at_end, None, "nothing published for these steps" if rows else "nothing published")
    shown = any((other.ours, other.steps) == (ours.ours, ours.steps) for other in rows)
    return rows if shown else [ours, *rows]


def verdict(ours: Score, mark: Published) -> str:
    """Say where our 95 % interval lies, seen from a published band, or from the value where there is no band.

    Below or above: all of our interval. Inside: all of it, within the band. Otherwise the two are not told apart.
    """
    low, high = (ours.mean, ours.mean) if ours.low is None or ours.high is None else (ours.low, ours.high)
    what = "band" if mark.interval else "value"
    bottom, top = mark.interval or (mark.value, mark.value)
    if high < bottom:
        said = f"below the {what}"
    elif low > top:
        said = f"above the {what}"
    elif mark.interval and bottom <= low and high <= top:
        said = "inside the band"
    else:
        said = f"not told apart from the {what}"
    return said + _FEW.get(ours.seeds, "")


def _final_evaluation(cell: Cell) -> tuple[Score | None, tuple[int, int] | None]:
    """Return the largest evaluation after training that every seed has, made in one way; its number of episodes and
    their seed. None where the seeds have none in common.
    """
    of_runs: list[dict[tuple[int, int, str], float]] = []
    for run in cell.runs:
        found = {}
        for record in run.final_evaluations().values():
            if played := record["worlds"].get(cell.shift):
                made_with = json.dumps(played.get("made_with"), sort_keys=True)
                found[record["episodes"], record["seed"], made_with] = float(played["mean"])
        of_runs.append(found)
    shared = set.intersection(*map(set, of_runs))
    if not shared:
        return None, None
    best = min(shared, key=lambda key: (-key[0], *key[1:]))
    return score_over_seeds([found[best] for found in of_runs]), best[:2]


def _differences(curve: Curve, cell: Cell, mark: Published) -> Iterator[str]:
    """Yield what our protocol and theirs differ in, besides steps."""
    here = {name: " and ".join(values) for name, values in cell.conditions().items()}
    theirs = {"simulator": mark.simulator, "image_size": mark.image_size, "action_repeat": mark.action_repeat}
    theirs |= {"episode_length": EPISODE_LENGTH, "visuals": "classic", "profile": "exact"}
    for name, value in theirs.items():
        if here[name] != str(value):
            yield f"{name.replace('_', ' ')}: {here[name]}, theirs {'not stated' if value is None else value}"
    for name in ("background", "colors", "overlays"):
        if any(generated in here[name] for generated in (procedural.NAME, OWN_TABLES)):
            yield f"{name}: {here[name]}, theirs the original"
    if any(run.laptop for run in cell.runs):
        yield "size: laptop, theirs the paper's"
    others = [{k: v for k, v in run.settings.items() if (k, v) not in curve.settings} for run in cell.runs]
    yield from dict.fromkeys(f"settings: {told(other)}, theirs the default" for other in others if other)


def in_words(rows: Sequence[Row]) -> tuple[list[list[str]], list[str]]:
    """Return the lines of the table, and what the numbers and letters in them stand for."""
    sources = list(dict.fromkeys(row.mark.source for row in rows if row.mark))
    differences = list(dict.fromkeys(what for row in rows for what in row.differs))
    lines = []
    for row in rows:
        steps = " to ".join(f"{step:,}" for step in dict.fromkeys(row.steps))
        final = published = at = ""
        if row.final and row.episodes:
            final = "{}; {} episodes, seed {}".format(row.final, *row.episodes)
        if row.mark:
            low, high = row.mark.interval or (None, None)
            published = (
                f"{Score(float(row.mark.value), low, high, row.mark.seeds)} [{sources.index(row.mark.source) + 1}]"
            )
            at = f"{row.mark.steps:,}" if row.mark.steps else "not stated"
        differs = " ".join(f"d{place}" for place, what in enumerate(differences, 1) if what in row.differs)
        ours = [str(row.ours), str(row.ours.seeds), steps]
        lines.append([row.task, row.method, row.shift, *ours, final, published, at, row.verdict, differs])
    legend = [_CAPTION, *(f"[{number}] {source}" for number, source in enumerate(sources, 1))]
    return lines, legend + [f"d{place}: {what}" for place, what in enumerate(differences, 1)]
