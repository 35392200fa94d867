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
import tomllib
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, fields, replace
from functools import cached_property
from pathlib import Path
from typing import Any

from alda.config import Config
from alda.envs import check_shift
from alda.envs.tasks import split_task, unknown
from alda.errors import UserError
from alda.presets import presets
from alda.sweep.flags import check_flag, flags_in, parse_words, spoken, title_of

_KEYS = ("what", "presets", "tasks", "seeds", "settings", "vary", "final")


@dataclass(frozen=True)
class Final:
    """How a trained run is scored. Equal seeds give equal starting states for every method and world."""

    shifts: tuple[str, ...]
    episodes: int = 100
    seed: int = 0


@dataclass(frozen=True)
class StudyRun:
    """A run of a study. config: as `alda train` understands the words, with what they leave open."""

    words: tuple[str, ...]
    config: Config
    final: Final | None

    @property
    def run_dir(self) -> Path:
        assert self.config.run_dir is not None
        return self.config.run_dir

    @property
    def label(self) -> str:
        """'walker_walk/alda/beta_10/s0'"""
        return "/".join(self.run_dir.parts[-4:])

    @property
    def kind(self) -> str:
        """Runs of a kind differ in task and seed, and learn at about the same pace: 'alda/beta_10'."""
        return f"{self.config.method}/{self.config.name}"

    @cached_property
    def settled(self) -> Config:
        """The config with everything decided."""
        return self.config.resolved()

    def train_words(self, workers: int) -> list[str]:
        """`alda train` as it is called; workers play its evaluations, unless the study says how many do."""
        own = ("--eval-workers", str(workers)) if self.config.eval_workers is None else ()
        return ["train", *self.words, *own]

    def evaluate_words(self, workers: int) -> list[str]:
        """`alda evaluate` as it is called."""
        assert self.final is not None
        worlds = ("--shifts", *self.final.shifts)
        numbers = ("--episodes", str(self.final.episodes), "--seed", str(self.final.seed), "--workers", str(workers))
        return ["evaluate", str(self.run_dir), *worlds, *numbers]


@dataclass(frozen=True)
class Study:
    """what: it is about. folder: of all its runs. runs: the first seed of everything, then the next."""

    name: str
    what: str
    folder: Path
    runs: list[StudyRun]


def read_study(path: Path, root: Path = Path("runs")) -> Study:
    """The study in a TOML file, with its runs in root/STUDY/TASK/METHOD/NAME/sSEED; STUDY is the file's name.

    Every combination of settings is read by the parser of `alda train`, and every config checked as there. Raises
    UserError that names the file and the key for whatever is wrong: unknown keys, presets, tasks, worlds or settings,
    values that a setting cannot have, empty lists and repetitions.
    """
    with _at(str(path)):
        try:
            content = tomllib.loads(path.read_text())
        except FileNotFoundError:
            raise UserError("there is no such file") from None
        except (ValueError, OSError) as error:
            raise UserError(f"cannot be read as TOML: {error}") from error
        return _study(content, path.stem, root)


def _study(content: dict[str, Any], name: str, root: Path) -> Study:
    _check_keys("", content, _KEYS)
    names = _list(content, "presets", str)
    tasks = _list(content, "tasks", str)
    seeds = _list(content, "seeds", int)
    settings, varied = _settings(content, "settings"), _settings(content, "vary")
    for flag, values in varied.items():
        with _at(f"vary.{flag}"):
            _check_list(values, object)
            if flag in settings:
                raise UserError("is in [settings] as well")
    variants = [dict(zip(varied, values, strict=True)) for values in itertools.product(*varied.values())]
    what = content.get("what", "")
    if not isinstance(what, str):
        raise UserError("what: a sentence in quotes is wanted")
    known = presets()
    for preset in names:
        if preset not in known:
            raise UserError(f"presets: {unknown('preset', preset, known)}")
        for flag in {**settings, **varied}:
            with _at(f"{'vary' if flag in varied else 'settings'}.{flag}"):
                check_flag(flag, preset, known[preset].config)
    for task in tasks:
        with _at("tasks"):
            split_task(task)
    final = _final(content, tasks)

    kinds = []
    for preset, variant in itertools.product(names, variants):
        called = ("--name", title_of(known[preset].config.name, variant)) if variant else ()
        words = (preset, *called, *spoken({**settings, **variant}))
        kinds.append((words, _parsed(words, settings, variant)))
    runs = []
    for seed, task, (words, config) in itertools.product(seeds, tasks, kinds):
        run_dir = root / name / task / config.method / config.name / f"s{seed}"
        mine = (words[0], "--env.task", task, "--seed", str(seed), *words[1:], "--run-dir", str(run_dir))
        config = replace(config, env=replace(config.env, task=task), seed=seed, run_dir=run_dir)
        _check(config, varied)
        runs.append(StudyRun(mine, config, final))
    if len({run.run_dir for run in runs}) < len(runs):
        raise UserError("vary: two of these runs would be called the same")
    return Study(name, what, root / name, runs)


def _parsed(words: Sequence[str], settings: dict[str, Any], variant: dict[str, Any]) -> Config:
    """What `alda train` makes of these words. Raises UserError that names the setting, where one alone is at fault."""
    try:
        return parse_words(words)
    except UserError:
        for section, flags in (("settings", settings), ("vary", variant)):
            for flag, value in flags.items():
                with _at(f"{section}.{flag}"):
                    parse_words([words[0], *spoken({flag: value})])
        raise


def _check(config: Config, varied: dict[str, Any]) -> None:
    """Raises UserError for what a run would refuse."""
    for flag, shifts in (("train-shift", (config.train_shift,)), ("shifts", config.shifts)):
        with _at(f"{'vary' if flag in varied else 'settings'}.{flag}"):
            for shift in shifts:
                check_shift(shift, config.env.task)
    config.resolved()


def _final(content: dict[str, Any], tasks: Sequence[str]) -> Final | None:
    if "final" not in content:
        return None
    table = _table(content, "final")
    names = tuple(field.name for field in fields(Final))
    _check_keys("final.", table, names)
    with _at("final"):
        shifts = _list(table, "shifts", str)
    for shift, task in itertools.product(shifts, tasks):
        with _at("final.shifts"):
            check_shift(shift, task)
    for name, least in (("episodes", 1), ("seed", 0)):
        value = table.get(name, least)
        if not isinstance(value, int) or isinstance(value, bool) or value < least:
            raise UserError(f"final.{name}: a whole number from {least} on is wanted, not {value!r}")
    return Final(tuple(shifts), **{name: table[name] for name in ("episodes", "seed") if name in table})


def _check_keys(section: str, table: dict[str, Any], known: Sequence[str]) -> None:
    for key in table:
        if key not in known:
            raise UserError(f"{section}{key}: {unknown('key', key, dict.fromkeys(known))}")


def _table(content: dict[str, Any], key: str) -> dict[str, Any]:
    table = content.get(key, {})
    if not isinstance(table, dict):
        raise UserError(f"{key}: a table is wanted, written [{key}]")
    return table


def _settings(content: dict[str, Any], section: str) -> dict[str, Any]:
    settings: dict[str, Any] = {}
    for flag, value in flags_in(_table(content, section)):
        with _at(f"{section}.{flag}"):
            if flag in settings:
                raise UserError("is there more than once")
            if value == []:
                raise UserError("is empty")
        settings[flag] = value
    return settings


def _list(table: dict[str, Any], key: str, kind: type) -> list[Any]:
    with _at(key):
        if key not in table:
            raise UserError("is missing")
        _check_list(table[key], kind)
    return table[key]


def _check_list(values: Any, kind: type) -> None:
    words = {str: "words in quotes", int: "whole numbers", object: "values"}[kind]
    if not isinstance(values, list):
        raise UserError(f"a list of {words} is wanted, not {values!r}")
    if not values:
        raise UserError("is empty")
    for value in values:
        if not isinstance(value, kind) or (kind is int and isinstance(value, bool)):
            raise UserError(f"a list of {words} is wanted, not of {value!r}")
        if values.count(value) > 1:
            raise UserError(f"{value!r} is there more than once")


@contextmanager
def _at(place: str) -> Iterator[None]:
    """A UserError says where in the file it is about."""
    try:
        yield
    except UserError as error:
        raise UserError(f"{place}: {error}") from None
