"""Records of runs: small enough to be committed, and all that scores, figures and reports are made from.

    RUN/evaluations/*.json --of the last step-----------+
    RUN/meta.json          --versions, machine----------+--> results/NAME/TASK/METHOD/VARIANT/sSEED
    RUN/config.json        --no folder of this machine--+
    RUN/metrics.jsonl      --evaluations alone----------+

A record is read as a run directory is. What is not named here is not in it.
"""

import json
import shlex
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from alda.analysis.runs.table import DAMAGE, LAST, Run, load_run
from alda.config import Config, differences, flat, from_json, to_json
from alda.envs.tasks import action_repeat_of
from alda.errors import UserError
from alda.files import write_text
from alda.presets import presets
from alda.sweep.study_run import spoken
from alda.training.trainer import CHANGEABLE

_MACHINE = ("versions", "renderer", "opengl", "device", "bfloat16", "threads", "cores", "system")
_META = ("spec", "trained_in", "overlays", *_MACHINE)
_FINAL = ("method", "task", "step", "episodes", "seed", "worlds", "machine")
_POSITION = ("step", "sim_step", "updates")
_OF_SHIFT = ("return", "returns", "world", "psnr")

Record = dict[str, str]  # content of each file by name, in the order in which to write them


def make_record(run: Run) -> Record:
    """Return the files of a run's record.

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
        final = {name: _only(_FINAL, record) for name, record in run.final_evaluations().items()}
        for record in final.values():
            record["machine"] = _only(_MACHINE, record.get("machine", {}))
    except DAMAGE as error:
        raise UserError(f"the records of {run.path} are damaged: {type(error).__name__}: {error}") from error
    config = to_json(run.config)
    config["data"] = {kind: kind if folder and kind != "cache" else None for kind, folder in config["data"].items()}
    return {
        "README.md": _readme(from_json(config, run.path), list(final.values())),
        **{f"evaluations/{name}": _line(record) for name, record in final.items()},
        "meta.json": json.dumps(_only(_META, run.meta), indent=2) + "\n",
        "config.json": json.dumps(config, indent=2) + "\n",
        "metrics.jsonl": "".join(map(_line, rows)),
    }


def place_for(run: Run, name: str) -> Path:
    """Return NAME/TASK/METHOD/VARIANT/sSEED. Raises UserError for a name that leads elsewhere."""
    place = Path(name, run.task, run.config.method, run.config.name, f"s{run.config.seed}")
    if place.is_absolute() or ".." in place.parts or not Path(name).parts:
        raise UserError(f"records are kept in folders below --to; --name {name!r} is not one")
    return place


def check_replaced(place: Path, run: Run, record: Record) -> None:
    """Raise UserError where a record is there that must stay: of another run, or a newer one."""
    if not ((place / "config.json").exists() and (place / "metrics.jsonl").exists()):
        return  # none, or one that was cut off in writing
    before = load_run(place)
    old, new = (json.loads(files["config.json"]) for files in (make_record(before), record))
    changed = differences(old, new, ignoring=CHANGEABLE)
    earlier, now = ([_evaluation(row) for row in each.evaluations] for each in (before, run))
    if changed or any(one != other for one, other in zip(earlier, now, strict=False)):
        what = changed or "with other evaluations"
        raise UserError(f"{place} is the record of another run ({what}); choose another --name, or delete it")
    if len(now) < len(earlier):
        raise UserError(
            f"{place} is of step {old['steps']:,}, {run.path} of step {new['steps']:,}: the record is newer"
        )


def write_record(place: Path, record: Record) -> None:
    """Write each file whole; metrics.jsonl comes last, so that a record that was cut off is none."""
    for name, text in record.items():
        (place / name).parent.mkdir(parents=True, exist_ok=True)
        write_text(place / name, text)
    for file in (place / "evaluations").glob("step_*_seed_*.json"):
        if f"evaluations/{file.name}" not in record:
            file.unlink()  # of a step that is no longer the last


def train_command(config: Config) -> str:
    """Return `alda train ...` that trains such a run on any machine: what changes no score is not in it."""
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


def _evaluation(row: dict[str, Any], *, whole: bool = False) -> dict[str, Any]:
    """Return what is kept of an evaluation; whole: with the return of every episode."""
    kept = _only(_POSITION, row)
    for name, value in row.items():
        if name.startswith("eval/") and name.rpartition("/")[2] in _OF_SHIFT:
            kept[name] = value if whole or not name.endswith("/returns") else [min(value), max(value)]
    return kept


def _only(names: Sequence[str], content: dict[str, Any]) -> dict[str, Any]:
    return {name: content[name] for name in names if name in content}


def _line(content: dict[str, Any]) -> str:
    return json.dumps(content, separators=(",", ":")) + "\n"


def _readme(config: Config, final: Sequence[dict[str, Any]]) -> str:
    commands = [train_command(config)]
    for record in final:
        words = ["--shifts", *record["worlds"], "--episodes", record["episodes"], "--seed", record["seed"]]
        commands.append(shlex.join(["alda", "evaluate", "RUN", *map(str, words)]))
    title = f"# {config.method} on {config.env.task}, {config.name}, seed {config.seed}, {config.steps:,} agent steps"
    below = "A record, written by `alda results add`, which replaces this file. It is read as the run is."
    return "\n".join([title, "", *(f"    {command}" for command in commands), "", below, ""])
