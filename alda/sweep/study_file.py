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

import io
import itertools
import re
import tomllib
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, redirect_stderr, redirect_stdout
from dataclasses import dataclass, field, fields, replace
from pathlib import Path
from typing import Any, get_args, get_origin

import cattrs

from alda.config import Config, flat, to_json
from alda.envs import check_shift
from alda.envs.tasks import split_task, unknown
from alda.errors import UserError
from alda.presets import parse, presets
from alda.sweep.study_run import Final, StudyRun, spoken

_NAMES = {int: "whole number", str: "text in quotes"}
_SET_BY_STUDY = {
    "env.task": "`tasks` does",
    "seed": "`seeds` does",
    "seeds": "`seeds` does",
    "name": "the preset and `vary` do",
    "run-dir": "the study's name and --root do",
}


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

    Every combination of settings is read by the parser of `alda train` and checked as there. Raises UserError that
    names the file, and the key, of whatever is wrong.
    """
    with _at(str(path)):
        try:
            file = _converter().structure(tomllib.loads(path.read_text()), StudyFile)
        except FileNotFoundError:
            raise UserError("there is no such file") from None
        except cattrs.BaseValidationError as error:
            raise UserError("; ".join(cattrs.transform_error(error, "file", _say_what_is_wrong))) from None
        except (ValueError, OSError) as error:
            raise UserError(f"cannot be read as TOML: {error}") from error
        return _study(file, path.stem, root)


def _study(file: StudyFile, name: str, root: Path) -> Study:
    settings, varied = _flags(file.settings, "settings"), _flags(file.vary, "vary")
    for key, values in (("presets", file.presets), ("tasks", file.tasks), ("seeds", file.seeds), *varied.items()):
        key = f"vary.{key}" if key in varied else key
        if not isinstance(values, list | tuple) or not values or any(values.count(value) > 1 for value in values):
            raise UserError(f"{key}: a list of values, each once, is wanted, not {values!r}")
    if twice := settings.keys() & varied.keys():
        raise UserError(f"vary.{min(twice)}: is in [settings] as well")
    for task in file.tasks:
        with _at("tasks"):
            split_task(task)
        with _at("final"):
            for shift in file.final.shifts if file.final else ():
                check_shift(shift, task)
    if file.final and (file.final.episodes < 1 or file.final.seed < 0 or not file.final.shifts):
        raise UserError("final: at least one of `shifts`, one of `episodes` and a seed from 0 on are wanted")
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
    usual = known[preset].config
    flags = [flag.replace("_", "-") for flag in flat(to_json(usual)) if flag != "method"]
    chosen = [(f"settings.{flag}", flag, value) for flag, value in settings.items()]
    chosen += [(f"vary.{flag}", flag, value) for flag, value in variant.items()]
    for place, flag, _ in chosen:
        if flag in _SET_BY_STUDY:
            raise UserError(f"{place}: is not for a study to set: {_SET_BY_STUDY[flag]}")
        if flag not in flags:
            raise UserError(f"{place}: {unknown(f'setting of {preset}', flag, flags)}")
    called = {"name": title_of(usual.name, variant)} if variant else {}
    words = [preset, *spoken({**called, **settings, **variant})]
    try:
        return words, parse_words(words)
    except UserError:
        for place, flag, value in chosen:
            with _at(place):
                parse_words([preset, *spoken({flag: value})])
        raise


def parse_words(words: Sequence[str]) -> Config:
    """Return the config that `alda train` makes of its words. Raise UserError with what its parser says."""
    said = io.StringIO()
    try:
        with redirect_stdout(said), redirect_stderr(said):
            return parse(words)
    except SystemExit:
        words = re.sub("[─│╭╮╰╯]|-{3,}", " ", said.getvalue())
        raise UserError(" ".join(re.split("Argument helptext|For full helptext", words)[0].split())) from None


def _flags(table: dict[str, Any], section: str) -> dict[str, Any]:
    """Return settings by flag; they may be written with quotes or without, with - or _."""
    flags = [(key.replace("_", "-"), value) for key, value in flat(table).items()]
    if len(dict(flags)) < len(flags):
        raise UserError(f"{section}: a flag is there more than once")
    return dict(flags)


def title_of(preset: str, variant: dict[str, Any]) -> str:
    """Return the name of a variant: 'beta_10', or of a preset with a name of its own 'alda_cg-beta_10'."""
    words = [f"{flag.split('.')[-1].replace('-', '_')}_{_name(value)}" for flag, value in variant.items()]
    return "-".join([*([] if preset == "default" else [preset]), *words])


def _name(value: Any) -> str:
    words = value if isinstance(value, list) else [value]
    return re.sub(r"[^\w.:+-]", "_", "+".join(f"{word:g}" if isinstance(word, float) else str(word) for word in words))


def _converter() -> cattrs.Converter:
    """Return a converter that takes values as they are: no letters for a list, no 1 for true."""
    converter = cattrs.Converter(forbid_extra_keys=True)
    for kind in _NAMES:
        converter.register_structure_hook(kind, _exactly)
    converter.register_structure_hook_func(lambda kind: get_origin(kind) is tuple, _tuple_of)
    return converter


def _exactly(value: Any, kind: Any) -> Any:
    if type(value) is not kind:
        raise ValueError(f"a {_NAMES[kind]} is wanted, not {value!r}")
    return value


def _tuple_of(values: Any, kind: Any) -> tuple[Any, ...]:
    item, _ = get_args(kind)
    if not isinstance(values, list):
        raise ValueError(f"a list, each a {_NAMES[item]}, is wanted, not {values!r}")
    return tuple(_exactly(value, item) for value in values)


def _say_what_is_wrong(error: BaseException, _: Any) -> str:
    if isinstance(error, cattrs.ForbiddenExtraKeysError):
        names = [one.name for one in fields(error.cl)]
        return ", ".join(unknown("key", key, names) for key in sorted(error.extra_fields))
    if isinstance(error, KeyError):
        return f"{error.args[0]} is missing"
    return str(error) if isinstance(error, ValueError) else "a table is wanted"


@contextmanager
def _at(place: str) -> Iterator[None]:
    """Say in a UserError where in the file it is about."""
    try:
        yield
    except UserError as error:
        raise UserError(f"{place}: {error}") from None
