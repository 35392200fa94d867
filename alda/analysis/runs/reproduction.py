"""Our scores beside every published value of the same method, task and world, and whether they can be told apart.

runs -> cells (comparison.py) -> scores: means over seeds, intervals --+
                                                                       +--> verdict, what else differs -> table
published.py -> values, bands, protocols ------------------------------+
"""

import json
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Any

import numpy as np

from alda.analysis.runs.comparison import compare, told
from alda.analysis.runs.curves import AGGREGATE, Curve
from alda.analysis.runs.paper import about, write_csv
from alda.analysis.runs.published import PAPER_STEPS, Published, published
from alda.analysis.runs.table import LAST, Cell, Run, load_runs
from alda.envs.backgrounds import procedural
from alda.envs.dmc import EPISODE_LENGTH
from alda.envs.shifts.color import OWN_TABLES
from alda.errors import UserError
from alda.files import write_json, write_text
from alda.presets import presets
from alda.progress import wide_console
from alda.training.rollout import bootstrap_interval

_FEW = {1: "; one seed has no interval", 2: "; an interval of 2 seeds means little"}
# letters of a column: with what is never folded, the table fits into 160
_WIDEST = {"task": 17, "method": 12, "world": 14, "steps": 10, "final evaluation": 14, "verdict": 21, "differs": 9}
_CAPTION = (
    f"ours: mean over seeds of the mean of the last {LAST} evaluations, or of one on the way, and its 95 % bootstrap "
    "interval; published: 95 % band as stated, or 1.96 standard deviations of the mean over seeds"
)


@dataclass(frozen=True)
class Score:
    """A mean over seeds with its 95 % bootstrap interval, which one seed has not."""

    mean: float
    low: float | None
    high: float | None
    seeds: int


@dataclass(frozen=True)
class Row:
    """Our score of a method on a task in a world, beside one published value, or none.

    steps: of the first and the last evaluation that it is the mean of. final: the mean over seeds of one evaluation
    after training, whose episodes (number, seed) begin alike for all seeds. differs: what in the protocols does.
    """

    task: str
    method: str
    world: str
    ours: Score
    steps: tuple[int, int]
    final: Score | None
    episodes: tuple[int, int] | None
    mark: Published | None
    verdict: str
    differs: tuple[str, ...] = ()


def compare_runs(runs: Sequence[Path], *, out: Path | None = None, mix: bool = False) -> list[Row]:
    """Prints our scores beside the published ones, and writes the same table to a file; returns it.

    runs: run directories or records, or folders that hold some. out: .csv, .json or .md. mix: average scores that were
    made in different ways as well. Raises UserError for another kind of file, where there is no run of use, where a
    final evaluation is damaged, and as put_together does.
    """
    if out is not None and out.suffix not in (".csv", ".json", ".md"):
        raise UserError(f"the table is written as .csv, .json or .md, not as {out.name}")
    found, refused = load_runs(runs)
    made = compare(AGGREGATE, found, mix=mix)
    made.left_out |= refused
    rows = [
        row
        for task in made.tasks
        for curve in made.curves
        for world in made.worlds
        if (cell := made.cells.get((world, task, curve.label)))
        for row in beside_published(curve, cell, task, world)
    ]
    notes = about(made)
    _print(rows, notes)
    if out is not None:
        out.parent.mkdir(parents=True, exist_ok=True)
        if out.suffix == ".csv":
            write_csv(out, [_flat(row) for row in rows])
        elif out.suffix == ".json":
            write_json(out, {"rows": [_nested(row) for row in rows], "notes": notes})
        else:
            write_text(out, _markdown(rows, notes))
        print(f"written to {out}")
    return rows


def beside_published(curve: Curve, cell: Cell, task: str, world: str) -> list[Row]:
    """One row for each published value, and one for our final score where no value stands beside that.

    A value for the end of training is compared with the mean of our last five evaluations up to its step, one for the
    way there with our evaluation at its step: published curves are smooth, but five evaluations would lag behind them.
    Of the values that training has not reached, only the next and the last are told.
    """
    at_end = [run.last(world) for run in cell.runs]
    reached = min(max(run.curve(world)) for run in cell.runs)
    final, episodes = _final_evaluation(cell, world)

    def row(points: Sequence[dict[int, float]], mark: Published | None, said: str = "") -> Row:
        """points: of each seed, the evaluations to average."""
        ours = _score([float(np.mean(list(of_run.values()))) for of_run in points])
        steps = min(map(min, points)), max(map(max, points))
        said = said or (verdict(ours, mark) if mark else "")
        differs = tuple(_differences(curve, cell, world, mark)) if mark else ()
        after = (final, episodes) if points == at_end else (None, None)
        return Row(task, curve.label, world, ours, steps, *after, mark, said, differs)

    rows = []
    marks = _published(curve, task, world)
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
            rows.append(row([{step: run.curve(world)[step]} for run in cell.runs], mark))
        else:
            rows.append(row([run.last(world, step) for run in cell.runs], mark))
    ours = row(at_end, None, "nothing published for these steps" if rows else "nothing published")
    shown = any((other.ours, other.steps) == (ours.ours, ours.steps) for other in rows)
    return rows if shown else [ours, *rows]


def verdict(ours: Score, mark: Published) -> str:
    """Where our 95 % interval lies, seen from a published band, or from the value where there is no band.

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


def _score(values: Sequence[float]) -> Score:
    low, high = bootstrap_interval(values) if len(values) > 1 else (None, None)
    return Score(float(np.mean(values)), low, high, len(values))


def _published(curve: Curve, task: str, world: str) -> list[Published]:
    """What is known of a curve: a method at its defaults, or a preset that is just these settings."""
    if not curve.settings:
        return published(curve.method, task, world)
    for name, preset in presets().items():
        settings = Run(Path(), preset.config, {}, []).settings
        if preset.config.method == curve.method and settings == dict(curve.settings):
            return published(curve.method, task, world, name)
    return []


def _differences(curve: Curve, cell: Cell, world: str, mark: Published) -> Iterator[str]:
    """What our protocol and theirs differ in, besides steps."""
    theirs = {
        "simulator": mark.simulator,
        "image_size": mark.image_size,
        "action_repeat": mark.action_repeat,
        "episode_length": EPISODE_LENGTH,
        "visuals": "classic",
        "profile": "exact",
    }
    here = {
        name: " and ".join(sorted(set().union(*(run.conditions(world)[name] for run in cell.runs))))
        for name in (*theirs, "background", "colors", "overlays")
    }
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


def _final_evaluation(cell: Cell, world: str) -> tuple[Score | None, tuple[int, int] | None]:
    """The largest evaluation after training that every seed has, made in one way; its number of episodes and their
    seed. None where the seeds have none in common.
    """
    of_runs: list[dict[tuple[int, int, str], float]] = []
    for run in cell.runs:
        found = {}
        for record in run.final_evaluations().values():
            if played := record["worlds"].get(world):
                made_with = json.dumps(played.get("made_with"), sort_keys=True)
                found[record["episodes"], record["seed"], made_with] = float(played["mean"])
        of_runs.append(found)
    shared = set.intersection(*map(set, of_runs))
    if not shared:
        return None, None
    episodes, seed, made_with = min(shared, key=lambda key: (-key[0], *key[1:]))
    return _score([found[episodes, seed, made_with] for found in of_runs]), (episodes, seed)


def _words(rows: Sequence[Row]) -> tuple[list[str], list[list[str]], list[str]]:
    """For people: head and lines of the table, and what the numbers and letters in it stand for."""
    sources = list(dict.fromkeys(row.mark.source for row in rows if row.mark))
    differences = list(dict.fromkeys(what for row in rows for what in row.differs))
    lines = []
    for row in rows:
        steps = " to ".join(f"{step:,}" for step in dict.fromkeys(row.steps))
        final = published = at = ""
        if row.final and row.episodes:
            final = "{}; {} episodes, seed {}".format(_interval(row.final), *row.episodes)
        if row.mark:
            low, high = row.mark.interval or (None, None)
            value = _interval(Score(float(row.mark.value), low, high, row.mark.seeds))
            published = f"{value} [{sources.index(row.mark.source) + 1}]"
            at = f"{row.mark.steps:,}" if row.mark.steps else "not stated"
        differs = " ".join(f"d{place}" for place, what in enumerate(differences, 1) if what in row.differs)
        ours = [_interval(row.ours), str(row.ours.seeds), steps]
        lines.append([row.task, row.method, row.world, *ours, final, published, at, row.verdict, differs])
    head = ["task", "method", "world", "ours", "seeds", "steps", "final evaluation", "published", "at step", "verdict"]
    legend = [_CAPTION, *(f"[{number}] {source}" for number, source in enumerate(sources, 1))]
    legend += [f"d{place}: {what}" for place, what in enumerate(differences, 1)]
    return [*head, "differs"], lines, legend


def _interval(score: Score) -> str:
    ends = "" if score.low is None else f" ({score.low:.0f} to {score.high:.0f})"
    return f"{score.mean:.0f}{ends}"


def _print(rows: Sequence[Row], notes: Sequence[str]) -> None:
    from rich.box import SIMPLE_HEAD
    from rich.table import Table
    from rich.text import Text

    head, lines, legend = _words(rows)
    table = Table(box=SIMPLE_HEAD, padding=0)
    for column in head:
        whole = column in ("ours", "published", "at step")
        table.add_column(column, overflow="fold", no_wrap=whole, max_width=_WIDEST.get(column))
    before = [""] * len(head)
    for line in lines:
        same = next(n for n in (7, 3, 0) if line[:n] == before[:n])  # our score, or its place: said once
        table.add_row(*map(Text, [""] * same + line[same:]))
        before = line
    wide_console().print(table)
    for text in (*legend, *notes):
        print(text)


def _markdown(rows: Sequence[Row], notes: Sequence[str]) -> str:
    head, lines, legend = _words(rows)
    cells = [[cell.replace("|", "\\|") for cell in line] for line in (head, ["---"] * len(head), *lines)]
    table = [f"| {' | '.join(line)} |" for line in cells]
    return "\n".join([*table, "", *(f"- {text}" for text in (*legend, *notes)), ""])


def _nested(row: Row) -> dict[str, Any]:
    """For JSON: a row with its parts."""
    nested = asdict(row) | {"published": None}
    mark = nested.pop("mark")
    if mark is not None:
        low, high = mark.interval or (None, None)
        nested["published"] = {**mark._asdict(), "low": low, "high": high, "simulator": mark.simulator}
    return nested


def _flat(row: Row) -> dict[str, Any]:
    """For CSV: a column for each number, empty where there is none."""
    nested = _nested(row)
    score = [field.name for field in fields(Score)]
    theirs = ["value", "low", "high", "spread", "seeds", "steps", "image_size", "action_repeat", "simulator", "source"]
    flat = {name: nested[name] for name in ("task", "method", "world")}
    flat |= {f"our_{name}": nested["ours"][name] for name in score}
    flat |= dict(zip(("our_first_step", "our_last_step"), row.steps, strict=True))
    flat |= {f"final_{name}": (nested["final"] or {}).get(name) for name in score}
    flat |= dict(zip(("final_episodes", "final_episodes_seed"), row.episodes or (None, None), strict=True))
    flat |= {f"published_{name}": (nested["published"] or {}).get(name) for name in theirs}
    return flat | {"verdict": row.verdict, "differs": "; ".join(row.differs)}
