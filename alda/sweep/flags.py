"""Settings of a study: flags of `alda train` with their values, as a file has them and as a command line has them."""

import io
import itertools
import re
from collections.abc import Iterator, Sequence
from contextlib import redirect_stderr, redirect_stdout
from dataclasses import fields
from typing import Any

from alda.config import Config
from alda.envs.tasks import unknown
from alda.errors import UserError
from alda.presets import presets

_SET_BY_US = {
    "env.task": "`tasks` does",
    "seed": "`seeds` does",
    "seeds": "`seeds` does",
    "name": "the preset and `vary` do",
    "run-dir": "the study's name and --root do",
}
_BOX = "─│╭╮╰╯-"  # around what the parser of the command line says


def flags_in(table: dict[str, Any], prefix: str = "") -> Iterator[tuple[str, Any]]:
    """agent.beta may be written with quotes or without, eval-every with - or _."""
    for key, value in table.items():
        flag = prefix + key.replace("_", "-")
        if isinstance(value, dict):
            yield from flags_in(value, f"{flag}.")
        else:
            yield flag, value


def check_flag(flag: str, preset: str, config: Config) -> None:
    """Raises UserError for a flag that this preset does not have, or that a study sets otherwise."""
    if flag in _SET_BY_US:
        raise UserError(f"is not for a study to set: {_SET_BY_US[flag]}")
    names = [field.name for field in fields(config) if field.name not in ("agent", "env", "data")]
    for section in ("agent", "env", "data"):
        names += [f"{section}.{field.name}" for field in fields(getattr(config, section))]
    flags = {name.replace("_", "-"): None for name in names}
    if flag not in flags:
        raise UserError(unknown(f"setting of {preset}", flag, flags))


def spoken(settings: dict[str, Any]) -> Iterator[str]:
    """Flags and values as words of a command line."""
    for flag, value in settings.items():
        if isinstance(value, bool):
            section, _, last = flag.rpartition(".")
            yield f"--{section + '.' if section else ''}{'' if value else 'no-'}{last}"
        else:
            yield f"--{flag}"
            yield from map(str, value if isinstance(value, list) else [value])


def parse_words(words: Sequence[str]) -> Config:
    """The config that `alda train` makes of its words. Raises UserError with what its parser says."""
    import tyro

    choices = {name: (preset.description, preset.config) for name, preset in presets().items()}
    said = io.StringIO()
    try:
        with redirect_stdout(said), redirect_stderr(said):
            return tyro.extras.overridable_config_cli(choices, prog="alda train", args=list(words))
    except SystemExit:
        lines = [line.strip(f" {_BOX}") for line in said.getvalue().splitlines()]
        title, *about = [line for line in lines if line]
        about = list(itertools.takewhile(lambda line: not line.startswith(("Argument helptext", "For full")), about))
        raise UserError(" ".join(about) or title) from None


def title_of(preset: str, variant: dict[str, Any]) -> str:
    """Name of a variant, part of its run directory: 'beta_10', or of a preset with a name 'alda_cg-beta_10'."""
    words = [f"{flag.split('.')[-1].replace('-', '_')}_{_name(value)}" for flag, value in variant.items()]
    return "-".join([*([] if preset == "default" else [preset]), *words])


def _name(value: Any) -> str:
    words = value if isinstance(value, list) else [value]
    return re.sub(r"[^\w.:+-]", "_", "+".join(f"{word:g}" if isinstance(word, float) else str(word) for word in words))
