"""Records of runs: small enough to be committed, and all that scores, figures and reports are made from.

    RUN/evaluations/*.json --of the last step-----------+
    RUN/meta.json          --versions, machine----------+--> results/NAME/TASK/METHOD/VARIANT/sSEED
    RUN/config.json        --no folder of this machine--+
    RUN/metrics.jsonl      --evaluations alone----------+

A record is read as a run directory is (runs.find_runs). What is not named here is not in it.
"""

import json
import shlex
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from alda.analysis.runs.table import DAMAGE, LAST, Run, find_runs, load_run
from alda.config import Config, differences, flat, from_json, to_json
from alda.envs.tasks import action_repeat_of
from alda.errors import UserError
from alda.files import write_text
from alda.presets import presets
from alda.sweep.flags import spoken
from alda.training.trainer import CHANGEABLE

_MACHINE = ("versions", "renderer", "opengl", "device", "bfloat16", "threads", "cores", "system")
_META = ("spec", "trained_in", "overlays", *_MACHINE)
_PLAYED = ("method", "task", "step", "episodes", "seed", "worlds", "machine")
_POSITION = ("sim_step", "updates")
_OF_WORLD = ("return", "returns", "world", "psnr")


def add_results(runs: Sequence[Path], *, to: Path, name: str) -> list[Path]:
    """Writes a record of each run below to/name and says how large it is; returns their folders.

    runs: run directories, or folders that hold some. A record of the same run is replaced where the run has gone on.
    Each file is whole or not there, metrics.jsonl comes last, and nothing is written before every run is checked.

    Raises UserError for a run that is not over or damaged, one whose record would be that of another run, and one that
    is behind its record.
    """
    records: dict[Path, tuple[Run, dict[str, str]]] = {}
    for path in find_runs(runs):
        run = load_run(path)
        place = to / _place_of(run, name)
        if place in records:
            raise UserError(f"{records[place][0].path} and {path} would have one record, {place}; give each a --name")
        files = record_of(run)
        _check_replaced(place, run, files)
        records[place] = run, files
    for place, (_, files) in records.items():
        for name_of_file, text in files.items():
            (place / name_of_file).parent.mkdir(parents=True, exist_ok=True)
            write_text(place / name_of_file, text)
        for file in (place / "evaluations").glob("step_*_seed_*.json"):
            if f"evaluations/{file.name}" not in files:
                file.unlink()  # of a step that is no longer the last
        print(f"written to {place}, {sum(len(text.encode()) for text in files.values()) / 1000:.0f} kB")
    return list(records)


def record_of(run: Run) -> dict[str, str]:
    """The files of its record by name, in the order in which to write them.

    Of the episodes of an evaluation while training the lowest and the highest return are kept, beside the mean; of the
    last five, which the final score is the mean of, all. No number is rounded. Raises UserError where the run is not
    over, or damaged.
    """
    try:
        at = run.evaluations[-1]["step"]
        if at < run.config.steps:
            raise UserError(
                f"{run.path} was last evaluated at step {at:,} of {run.config.steps:,}; a record is made of a run that "
                "is over: the command that trains it goes on"
            )
        early = len(run.evaluations) - LAST
        rows = [_evaluation(row, whole=place >= early) for place, row in enumerate(run.evaluations)]
        meta = _only(_META, run.meta)
        played = {name: _only(_PLAYED, record) for name, record in run.final_evaluations().items()}
        for record in played.values():
            record["machine"] = _only(_MACHINE, record.get("machine", {}))
    except DAMAGE as error:
        raise UserError(f"the records of {run.path} are damaged: {type(error).__name__}: {error}") from error
    config = to_json(run.config)
    config["data"] = {kind: kind if folder and kind != "cache" else None for kind, folder in config["data"].items()}
    return {
        "README.md": _readme(from_json(config, run.path), list(played.values())),
        **{f"evaluations/{name}": _line(record) for name, record in played.items()},
        "meta.json": _json(meta),
        "config.json": _json(config),
        "metrics.jsonl": "".join(map(_line, rows)),
    }


def train_command(config: Config) -> str:
    """`alda train ...` that trains such a run, wherever: what changes no score is left to who calls it."""
    preset = config.name if config.name in presets() else config.method
    if presets()[preset].config.method != config.method:
        preset = config.method
    usual, here = (flat(to_json(each)) for each in (presets()[preset].config, config))
    usual["env.action_repeat"] = action_repeat_of(config.env.task)
    told = {
        name.replace("_", "-"): value
        for name, value in here.items()
        if name in ("env.task", "seed", "steps") or (value != usual[name] and name not in {"method", *CHANGEABLE})
    }
    return shlex.join(["alda", "train", preset, *spoken(told)])


def _place_of(run: Run, name: str) -> Path:
    place = Path(name, run.task, run.config.method, run.config.name, f"s{run.config.seed}")
    if place.is_absolute() or ".." in place.parts or not Path(name).parts:
        raise UserError(f"records are kept in folders below --to; --name {name!r} is not one")
    return place


def _check_replaced(place: Path, run: Run, files: dict[str, str]) -> None:
    """Raises UserError where a record is there that must stay: of another run, or a newer one."""
    if not ((place / "config.json").exists() and (place / "metrics.jsonl").exists()):
        return  # none, or one that was cut off in writing
    before = load_run(place)
    old, new = (json.loads(record["config.json"]) for record in (record_of(before), files))
    changed = differences(old, new, ignoring=CHANGEABLE)
    earlier, now = ([_evaluation(row) for row in each.evaluations] for each in (before, run))
    if changed or any(one != other for one, other in zip(earlier, now, strict=False)):
        what = changed or "with other evaluations"
        raise UserError(f"{place} is the record of another run ({what}); choose another --name, or delete it")
    if len(now) < len(earlier):
        raise UserError(
            f"{place} is of step {old['steps']:,}, {run.path} of step {new['steps']:,}: the record is newer"
        )


def _evaluation(row: dict[str, Any], *, whole: bool = False) -> dict[str, Any]:
    """What is kept of one; whole: with the return of every episode."""
    kept = {"step": row["step"], **_only(_POSITION, row)}
    for name, value in row.items():
        if name.startswith("eval/") and name.rpartition("/")[2] in _OF_WORLD:
            kept[name] = value if whole or not name.endswith("/returns") else [min(value), max(value)]
    return kept


def _only(names: Sequence[str], content: dict[str, Any]) -> dict[str, Any]:
    return {name: content[name] for name in names if name in content}


def _line(content: dict[str, Any]) -> str:
    return json.dumps(content, separators=(",", ":")) + "\n"


def _json(content: dict[str, Any]) -> str:
    return json.dumps(content, indent=2) + "\n"


def _readme(config: Config, played: Sequence[dict[str, Any]]) -> str:
    commands = [train_command(config)]
    for record in played:
        words = ["--shifts", *record["worlds"], "--episodes", record["episodes"], "--seed", record["seed"]]
        commands.append(shlex.join(["alda", "evaluate", "RUN", *map(str, words)]))
    title = f"# {config.method} on {config.env.task}, {config.name}, seed {config.seed}, {config.steps:,} agent steps"
    below = "A record, written by `alda results add`, which replaces this file. It is read as the run is."
    return "\n".join([title, "", *(f"    {command}" for command in commands), "", below, ""])
