"""A study as a file: which presets on which tasks with which seeds, under which settings, and how they are scored.

what = "the inverse temperature of the retrieval"
presets = ["alda"]
tasks = ["walker_walk"]
seeds = [0, 1, 2, 3]

[settings]  # flags of `alda train`
steps = 500_000

[vary]  # one run for each value; of several flags, for each combination
"agent.beta" = [1, 10, 50, 100]

[final]  # flags of `alda evaluate`
shifts = ["train", "color_hard"]
episodes = 100
"""

import itertools
import re
import shlex
import tomllib
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import cattrs

from alda.config import Config, flat
from alda.envs import check_shift
from alda.envs.tasks import check_task, unknown
from alda.errors import UserError, check_numbers
from alda.presets import parse, presets
from alda.sweep.study_run import Final, StudyRun, spoken

_SET_BY_STUDY = {"env.task", "seed", "seeds", "name", "run-dir"}


@dataclass(frozen=True)
class StudyFile:
    """The content of a study file. settings, vary: by flag, nested where the file writes agent.beta without quotes."""

    presets: tuple[str, ...]
    tasks: tuple[str, ...]
    seeds: tuple[int, ...]
    what: str = ""
    settings: dict[str, Any] = field(default_factory=dict)
    vary: dict[str, Any] = field(default_factory=dict)
    final: Final | None = None


@dataclass(frozen=True)
class Study:
    """folder: of all runs. runs: the first seed of everything, then the next."""

    name: str
    what: str
    folder: Path
    runs: list[StudyRun]


def read_study(path: Path, root: Path = Path("runs")) -> Study:
    """Return the study in a TOML file, with its runs in root/STUDY/TASK/METHOD/NAME/sSEED; STUDY is the file's name.

    A name without .toml, as in "fig12", stands for the study of that name that comes with this package.
    Every combination of settings is read by the parser of `alda train` and checked as there. Raises UserError that
    names the file, and the key, of whatever is wrong.
    """
    if not path.suffix and not path.exists():
        path = bundled_study(str(path))
    with _at(str(path)):
        try:
            content = tomllib.loads(path.read_text())
            file = _converter().structure(content, StudyFile)
        except cattrs.BaseValidationError as error:
            raise UserError("; ".join(cattrs.transform_error(error, "file"))) from None
        except (ValueError, OSError) as error:
            raise UserError(f"cannot be read as TOML: {error}") from None
        return _study(file, path.stem, root)


def bundled_study(name: str) -> Path:
    """Return the file of a study that comes with this package. Raises UserError where there is none of that name."""
    package = Path(__file__).parents[1]
    folder = package / "experiments"  # in a wheel; beside the package in its repository
    known = {file.stem: file for file in (folder if folder.is_dir() else package.parent / "experiments").glob("*.toml")}
    if name not in known:
        raise UserError(unknown("study", name, sorted(known)))
    return known[name]


def _study(file: StudyFile, name: str, root: Path) -> Study:
    settings, varied = _flags(file.settings), _flags(file.vary)
    for key, values in {"presets": file.presets, "tasks": file.tasks, "seeds": file.seeds, **varied}.items():
        if not isinstance(values, list | tuple) or not values or any(values.count(value) > 1 for value in values):
            raise UserError(f"{key}: a list of values, each once, is wanted, not {values!r}")
    if wrong := _SET_BY_STUDY & (settings.keys() | varied.keys()) or settings.keys() & varied.keys():
        raise UserError(f"{min(wrong)}: is set elsewhere: `tasks`, `seeds`, the file's name, or [vary]")
    with _at("tasks"):
        for task in file.tasks:
            check_task(task)
    if file.final:
        with _at("final"):
            check_numbers(file.final, from_zero=("seed",))
            for shift, task in itertools.product(file.final.shifts, file.tasks):
                check_shift(shift, task)
    variants = [dict(zip(varied, values, strict=True)) for values in itertools.product(*varied.values())]
    kinds = [_kind(preset, settings, variant) for preset, variant in itertools.product(file.presets, variants)]
    runs = []
    for seed, task, (words, config) in itertools.product(file.seeds, file.tasks, kinds):
        run_dir = root / name / task / config.method / config.name / f"s{seed}"
        mine = (words[0], "--env.task", task, "--seed", str(seed), *words[1:], "--run-dir", str(run_dir))
        config = replace(config, env=replace(config.env, task=task), seed=seed, run_dir=run_dir)
        config.resolved()  # refuses what a run would refuse
        runs.append(StudyRun(mine, config, file.final))
    if len({run.run_dir for run in runs}) < len(runs):
        raise UserError("vary: two of these runs would be called the same")
    return Study(name, file.what, root / name, runs)


def _kind(preset: str, settings: dict[str, Any], variant: dict[str, Any]) -> tuple[list[str], Config]:
    """Return words of `alda train` without task and seed, and the config that it makes of them."""
    known = presets()
    if preset not in known:
        raise UserError(f"presets: {unknown('preset', preset, known)}")
    called = {"name": title_of(known[preset].config.name, variant)} if variant else {}
    words = [preset, *spoken({**called, **settings, **variant})]
    try:
        return words, parse(words)
    except SystemExit:  # the parser has said why
        raise UserError(f"`alda train` refuses these settings, as said above: {shlex.join(words)}") from None


def _flags(table: dict[str, Any]) -> dict[str, Any]:
    """Return settings by flag; they may be written with quotes or without, with - or _."""
    return {key.replace("_", "-"): value for key, value in flat(table).items()}


def title_of(preset: str, variant: dict[str, Any]) -> str:
    """Return the name of a variant: 'beta_10', or of a preset with a name of its own 'alda_cg-beta_10'."""
    words = [f"{flag.split('.')[-1].replace('-', '_')}_{_name(value)}" for flag, value in variant.items()]
    return "-".join([*([] if preset == "default" else [preset]), *words])


def _name(value: Any) -> str:
    words = value if isinstance(value, list) else [value]
    return re.sub(r"[^\w.:+-]", "_", "+".join(f"{word:g}" if isinstance(word, float) else str(word) for word in words))


def _converter() -> cattrs.Converter:
    """Return a converter that takes numbers and texts as they are: no 1.5 or true for a whole number."""

    def exactly(value: Any, kind: Any) -> Any:
        if type(value) is not kind:
            raise TypeError(value)  # in words by cattrs
        return value

    converter = cattrs.Converter(forbid_extra_keys=True)
    for kind in (int, str):
        converter.register_structure_hook(kind, exactly)
    return converter


@contextmanager
def _at(place: str) -> Iterator[None]:
    """Say in a UserError where in the file it is about."""
    try:
        yield
    except UserError as error:
        raise UserError(f"{place}: {error}") from None
