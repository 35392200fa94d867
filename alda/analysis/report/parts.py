"""What a run directory has to show, part by part, for a page. Damaged pieces are named, and end nothing else."""

import contextlib
import io
import json
import shlex
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from alda.analysis.report.embedded import Embedded, embed_picture, embed_video
from alda.analysis.report.main_numbers import NUMBERS, Table, number
from alda.analysis.runs.learning_curves import plot_runs
from alda.analysis.runs.table import DAMAGE
from alda.commands.analyze import ANALYSES
from alda.config import Config, flat, load_config, to_json
from alda.envs.tasks import action_repeat_of
from alda.errors import UserError
from alda.training.logger import read_metrics

_SIZES = ("samples", "permutations", "episodes", "states", "pairs")  # how much an analysis has looked at
_SPACED = str.maketrans("._", "  ")


@dataclass(frozen=True)
class Facts:
    """Names and what they are."""

    rows: list[tuple[str, str]]
    kind: str = "facts"


@dataclass(frozen=True)
class Note:
    """A sentence. wrong: it tells of something damaged."""

    text: str
    wrong: bool = False
    kind: str = "note"


@dataclass(frozen=True)
class Missing:
    """What is not there, and the command that makes it."""

    text: str
    command: str
    kind: str = "missing"


@dataclass(frozen=True)
class Folded:
    """Text that is shown when asked for."""

    title: str
    text: str
    kind: str = "folded"


Item = Facts | Note | Missing | Folded | Table | Embedded


@dataclass(frozen=True)
class Part:
    """A heading, what it is about, and what is below."""

    title: str
    about: str = ""
    items: list[Item] = field(default_factory=list)


def parts_of(run: Path, *, refused: Mapping[str, str]) -> list[Part]:
    """Everything that a run directory holds. refused: why an analysis that was asked for could not be done, by name."""
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
        Part(title, about, list(shielded(build(run), title.lower()))) for title, (about, build) in builders.items()
    ]
    for name in ANALYSES:
        about = (ANALYSES[name].__doc__ or "").splitlines()[0].rstrip(".")
        about += "" if about.endswith("?") else "."
        items = list(shielded(_analysis(run, name, refused.get(name)), name))
        parts.append(Part(name.capitalize(), f"{about[:1].upper()}{about[1:]}", items))
    return parts


def shielded(items: Iterable[Item], what: str) -> Iterator[Item]:
    """The items up to where reading them fails, and then what is wrong."""
    try:
        yield from items
    except UserError as error:
        yield Note(str(error), wrong=True)
    except DAMAGE as error:
        yield Note(f"{what}: damaged, {type(error).__name__}: {error}", wrong=True)


def _settings(run: Path) -> Iterator[Item]:
    config = load_config(run)
    done = newest_step(run)
    yield Facts(
        [
            ("task", config.env.task),
            ("method", config.method),
            ("variant", config.name),
            ("seed", str(config.seed)),
            ("trained", f"{number(done)} of {number(config.steps)} agent steps"),
        ]
    )
    here, default = to_json(config), to_json(Config(agent=type(config.agent)()))
    default["env"]["action_repeat"] = action_repeat_of(config.env.task)
    default |= {name: here[name] for name in ("method", "name", "seed", "steps")}  # told above
    default["env"]["task"] = here["env"]["task"]
    usual, rows = flat(default), []
    for name, value in flat(here).items():
        decided = usual.get(name) is None and not name.startswith("data.")  # from the machine, when the run began
        if value != usual.get(name) and not decided:
            rows.append([name, _word(value), _word(usual.get(name))])
    if rows:
        yield Table(["differs from the default", "here", "default"], rows)
    else:
        yield Note(f"Everything is at the defaults of {config.method}.")
    yield Folded("All settings", json.dumps(here, indent=2))


def _word(value: Any) -> str:
    return "none" if value is None else json.dumps(value) if isinstance(value, list) else str(value)


def _machine(run: Path) -> Iterator[Item]:
    file = run / "meta.json"
    if not file.exists():
        yield Note("There is no meta.json.", wrong=True)
        return
    yield Facts([(name.translate(_SPACED), _word(value)) for name, value in flat(_read(file)).items()])


def _curves(run: Path) -> Iterator[Item]:
    lines = (run / "metrics.jsonl").read_text().splitlines()
    if lines and not lines[-1].endswith("}"):
        yield Note("The last line of metrics.jsonl was cut off in writing; it is left out.", wrong=True)
    with TemporaryDirectory() as folder, contextlib.redirect_stdout(io.StringIO()):
        file = plot_runs([run], out=Path(folder, "curve.png"))  # it says where it wrote, which is of no use here
        shown = embed_picture(file, f"Learning curves of {run}")
    yield shown


def newest_step(run: Path) -> int | None:
    """Of the metrics, in agent steps; None where they are damaged, which the learning curves say."""
    try:
        return max((int(row["step"]) for row in read_metrics(run)), default=None)
    except DAMAGE:
        return None


def _evaluations(run: Path) -> Iterator[Item]:
    files = sorted((run / "evaluations").glob("*.json"))
    for file in files:
        yield from shielded(_evaluation(file), file.name)
    if not files:
        yield Missing("No evaluation of the trained agent.", _command("evaluate", run))


def _evaluation(file: Path) -> Iterator[Item]:
    record = _read(file)
    rows = []
    for shift, world in record["worlds"].items():
        low, high = world["interval"]
        returns, made = world["returns"], world["made_with"]
        numbers = (world["mean"], low, high, min(returns), max(returns))
        mean, low, high, lowest, highest = (f"{float(value):.1f}" for value in numbers)
        of = str(made["background"]), str(made["colors"])
        rows.append([shift, mean, f"{low} to {high}", lowest, highest, str(len(returns)), *of])
    head = ["world", "mean return", "95 % interval", "lowest", "highest", "episodes", "background", "colours"]
    yield Table(head, rows, f"{file.name}: step {number(record['step'])}, seed of the episodes {record['seed']}.")


def _videos(run: Path) -> Iterator[Item]:
    files = [file for file in (run / "videos").glob("*") if file.suffix in (".mp4", ".gif")]
    if not files:
        yield Missing("No video. Runs make them by", "alda train METHOD --video-every STEPS")
        return
    step = max(file.name.split("_")[0] for file in files)
    worlds = {file.stem.partition("_")[2]: file for file in files if file.name.split("_")[0] == step}
    for shift, file in sorted(worlds.items(), key=lambda world: (world[0] != "train", world)):
        yield Note(f"{shift}, after {_digits(step)} agent steps:")
        yield from shielded(_one(embed_video, file, f"Episode in {shift} at step {step}"), file.name)


def _reconstructions(run: Path) -> Iterator[Item]:
    picture = run / "picture.png"
    if picture.exists():
        yield from shielded(_one(embed_picture, picture, "States in two worlds, and reconstructions"), picture.name)
    else:
        yield Missing("No picture of states and reconstructions.", _command("picture", run))
    if files := sorted((run / "traversals").glob("*.png")):
        yield Note(f"Latents led through their range, after {_digits(files[-1].stem)} agent steps:")
        yield from shielded(_one(embed_picture, files[-1], "Traversals while training"), files[-1].name)


def _digits(step: str) -> str:
    """000010000 -> 10,000; what is no number as it is."""
    return f"{int(step):,}" if step.isdecimal() else step


def _one(embed: Callable[[Path, str], Embedded], file: Path, alt: str) -> Iterator[Item]:
    yield embed(file, alt)


def _analysis(run: Path, name: str, refused: str | None) -> Iterator[Item]:
    files = results(run, name)
    for file in files:
        yield from shielded(_result(run, name, file), file.name)
        for picture in sorted({file.with_suffix(".png"), *file.parent.glob(f"{name}_[0-9]*.png")}):
            if picture.exists():
                yield from shielded(_one(embed_picture, picture, f"{name.capitalize()} of {run}"), picture.name)
    if refused:
        yield Note(refused)
    elif not files:
        yield Missing("Not done yet.", _command(f"analyze {name}", run))


def results(run: Path, name: str) -> list[Path]:
    """JSON files that an analysis wrote: one for each world, or kind of nuisance, it was made with."""
    files = sorted((run / "analysis").glob(f"{name}*.json"))
    return [file for file in files if not file.stem.endswith("_comparison")]  # of several runs


def _result(run: Path, name: str, file: Path) -> Iterator[Item]:
    numbers = _read(file)
    step, now = numbers.get("step"), newest_step(run)
    gone_on = f"; the run has gone on to step {number(now)}" if now and step != now else ""
    sizes = [f"{number(numbers[name])} {name}" for name in _SIZES if isinstance(numbers.get(name), int)]
    yield Note(f"{', '.join([f'{file.name}: after {number(step)} agent steps', *sizes])}{gone_on}.")
    yield from NUMBERS[name](numbers)


def _read(file: Path) -> dict[str, Any]:
    """Raises UserError where a file is no JSON object."""
    try:
        content = json.loads(file.read_text())
    except (OSError, ValueError, RecursionError) as error:
        raise UserError(f"{file} is damaged: {error}") from error
    if not isinstance(content, dict):
        raise UserError(f"{file} is damaged: it holds no JSON object")
    return content


def _command(words: str, run: Path) -> str:
    return f"alda {words} {shlex.quote(str(run))}"
