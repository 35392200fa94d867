"""What a run directory has to show, part by part, for a page. Damaged pieces are named, and end nothing else."""

import json
import shlex
from collections.abc import Callable, Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

from alda.analysis.report.analyses import NUMBERS, number, table
from alda.analysis.report.embedded import Item, embed_figure, embed_picture, embed_video
from alda.analysis.runs.learning_curves import draw_runs
from alda.analysis.runs.table import DAMAGE, load_run
from alda.commands.analyze import ANALYSES
from alda.config import Config, flat, load_config, to_json
from alda.envs.tasks import action_repeat_of
from alda.errors import UserError
from alda.files import read_bytes, read_json
from alda.training.checkpoint import lines_counted
from alda.training.logger import read_metrics

_SIZES = ("samples", "permutations", "episodes", "states", "pairs")  # how much an analysis has looked at


def parts_of(run: Path, *, refused: Mapping[str, str]) -> list[dict[str, Any]]:
    """Return title, text and items of every part. refused: why an analysis could not be done, by its name."""
    builders: dict[str, tuple[str, Callable[[Path], Iterable[Item]]]] = {
        "Settings": ("", _settings),
        "Versions and machine": ("", _machine),
        "Learning curves": ("Every evaluation while training, without exploration.", _curves),
        "Evaluations": (
            "Episodes of the trained agent; intervals are 95 % bootstrap intervals over them.",
            _evaluations,
        ),
        "Videos": ("The newest evaluation episodes: what the agent sees, beside what it decodes.", _videos),
        "Reconstructions": ("States of one episode as they are and as the agent decodes them.", _reconstructions),
    }
    parts = [
        {"title": title, "about": about, "content": list(shielded(build(run), title.lower()))}
        for title, (about, build) in builders.items()
    ]
    for name, analysis in ANALYSES.items():
        content = list(shielded(_analysis(run, name, refused.get(name)), name))
        about = (analysis.__doc__ or "").splitlines()[0]
        parts.append({"title": name.capitalize(), "about": about, "content": content})
    return parts


def note(text: str, *, wrong: bool = False) -> Item:
    """Return a sentence; wrong: it tells of something damaged."""
    return {"kind": "note", "text": text, "wrong": wrong}


def shielded(items: Iterable[Item], what: str) -> Iterator[Item]:
    """Yield the items up to where reading them fails, and then what is wrong."""
    try:
        yield from items
    except UserError as error:
        yield note(str(error), wrong=True)
    except DAMAGE as error:
        yield note(f"{what}: damaged, {type(error).__name__}: {error}", wrong=True)


def results(run: Path, name: str) -> list[Path]:
    """Return JSON files that an analysis wrote: one for each shift, or kind of nuisance, it was made with."""
    files = sorted((run / "analysis").glob(f"{name}*.json"))
    return [file for file in files if not file.stem.endswith("_comparison")]  # of several runs


def _settings(run: Path) -> Iterator[Item]:
    config = load_config(run)
    facts = {"task": config.env.task, "method": config.method, "variant": config.name, "seed": config.seed}
    facts["trained"] = f"{number(_newest_step(run))} of {number(config.steps)} agent steps"
    yield {"kind": "facts", "rows": facts}
    here, default = to_json(config), to_json(Config(agent=type(config.agent)()))
    default["env"] |= {"action_repeat": action_repeat_of(config.env.task), "task": config.env.task}
    default |= {name: here[name] for name in ("method", "name", "seed", "steps")}  # told above
    usual, rows = flat(default), []
    for name, value in flat(here).items():
        decided = usual.get(name) is None and not name.startswith("data.")  # from the machine, when the run began
        if value != usual.get(name) and not decided:
            rows.append([name, _word(value), _word(usual.get(name))])
    if rows:
        yield table(["differs from the default", "here", "default"], rows)
    else:
        yield note(f"Everything is at the defaults of {config.method}.")
    yield {"kind": "folded", "title": "All settings", "text": json.dumps(here, indent=2)}


def _machine(run: Path) -> Iterator[Item]:
    if not (run / "meta.json").exists():
        yield note("There is no meta.json.", wrong=True)
        return
    facts = flat(_read(run / "meta.json"))
    spaced = str.maketrans("._", "  ")
    yield {"kind": "facts", "rows": {name.translate(spaced): _word(value) for name, value in facts.items()}}


def _curves(run: Path) -> Iterator[Item]:
    lines = read_bytes(run / "metrics.jsonl").splitlines()
    if (counted := lines_counted(run)) > len(lines):
        yield note(f"metrics.jsonl has lost lines: the checkpoint counts {counted}.", wrong=True)
    if lines and not lines[-1].endswith(b"}"):
        yield note("The last line of metrics.jsonl was cut off in writing; it is left out.", wrong=True)
    yield embed_figure(draw_runs([load_run(run)]), f"Learning curves of {run}")


def _evaluations(run: Path) -> Iterator[Item]:
    files = sorted((run / "evaluations").glob("*.json"))
    for file in files:
        yield from shielded(_evaluation(file), file.name)
    if not files:
        yield _missing("No evaluation of the trained agent.", "evaluate", run)


def _evaluation(file: Path) -> Iterator[Item]:
    record = _read(file)
    rows = []
    for shift, of in record["worlds"].items():
        numbers = (of["mean"], *of["interval"], min(of["returns"]), max(of["returns"]))
        mean, low, high, lowest, highest = (f"{float(value):.1f}" for value in numbers)
        made = str(of["made_with"]["background"]), str(of["made_with"]["colors"])
        rows.append([shift, mean, f"{low} to {high}", lowest, highest, str(len(of["returns"])), *made])
    head = ["shift", "mean return", "95 % interval", "lowest", "highest", "episodes", "background", "colours"]
    yield table(head, rows, f"{file.name}: step {number(record['step'])}, seed of the episodes {record['seed']}.")


def _videos(run: Path) -> Iterator[Item]:
    files = [file for file in (run / "videos").glob("*") if file.suffix in (".mp4", ".gif")]
    if not files:
        command = "alda train METHOD --video-every STEPS"
        yield {"kind": "missing", "text": "No video. Runs make them by", "command": command}
        return
    step = max(file.name.split("_")[0] for file in files)
    of_shifts = {file.stem.partition("_")[2]: file for file in files if file.name.split("_")[0] == step}
    for shift, file in sorted(of_shifts.items(), key=lambda found: (found[0] != "train", found)):
        yield note(f"{shift}, after {_with_commas(step)} agent steps:")
        yield from _file(embed_video, file, f"Episode in {shift} at step {step}")


def _reconstructions(run: Path) -> Iterator[Item]:
    picture = run / "picture.png"
    if picture.exists():
        yield from _file(embed_picture, picture, "States under two shifts, and reconstructions")
    else:
        yield _missing("No picture of states and reconstructions.", "picture", run)
    if files := sorted((run / "traversals").glob("*.png")):
        yield note(f"Latents varied over their range, after {_with_commas(files[-1].stem)} agent steps:")
        yield from _file(embed_picture, files[-1], "Traversals while training")


def _analysis(run: Path, name: str, refused: str | None) -> Iterator[Item]:
    files = results(run, name)
    for file in files:
        yield from shielded(_result(run, name, file), file.name)
        for picture in sorted({file.with_suffix(".png"), *file.parent.glob(f"{name}_[0-9]*.png")}):
            if picture.exists():
                yield from _file(embed_picture, picture, f"{name.capitalize()} of {run}")
    if refused:
        yield note(refused)
    elif not files:
        yield _missing("Not done yet.", f"analyze {name}", run)


def _result(run: Path, name: str, file: Path) -> Iterator[Item]:
    numbers = _read(file)
    step, now = numbers.get("step"), _newest_step(run)
    gone_on = f"; the run has gone on to step {number(now)}" if now and step != now else ""
    sizes = [f"{number(numbers[size])} {size}" for size in _SIZES if isinstance(numbers.get(size), int)]
    yield note(f"{', '.join([f'{file.name}: after {number(step)} agent steps', *sizes])}{gone_on}.")
    yield from NUMBERS[name](numbers)


def _newest_step(run: Path) -> int | None:
    """Return the newest agent step in the metrics; None where they are damaged, which the learning curves say."""
    try:
        return max((int(row["step"]) for row in read_metrics(run)), default=None)
    except (UserError, *DAMAGE):
        return None


def _read(file: Path) -> dict[str, Any]:
    """Return a JSON object. Raises UserError where the file holds none."""
    try:
        content = read_json(file)
    except (OSError, ValueError) as error:
        raise UserError(f"{file} is damaged: {error}") from error
    if not isinstance(content, dict):
        raise UserError(f"{file} is damaged: it holds no JSON object")
    return content


def _file(embed: Callable[[Path, str], Item], file: Path, alt: str) -> Iterator[Item]:
    return shielded((embed(each, alt) for each in [file]), file.name)


def _missing(text: str, command: str, run: Path) -> Item:
    return {"kind": "missing", "text": text, "command": f"alda {command} {shlex.quote(str(run))}"}


def _word(value: Any) -> str:
    return "none" if value is None else json.dumps(value) if isinstance(value, list) else str(value)


def _with_commas(step: str) -> str:
    """Return 10,000 for 000010000; what is no number as it is."""
    return f"{int(step):,}" if step.isdecimal() else step
