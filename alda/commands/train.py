"""`alda train`."""

from collections.abc import Mapping

import tyro

from alda.config import Config
from alda.envs.tasks import unknown
from alda.errors import UserError
from alda.presets import presets
from alda.sweep.seeds import train_seeds
from alda.training.trainer import train as train_one


def train(words: list[str]) -> None:
    """Train an agent on a task, or resume its training.

    words: name of a preset and flags of its config (`alda train --help`, `alda train PRESET --help`).
    """
    choices = {name: (preset.description, preset.config) for name, preset in presets().items()}
    if words and not words[0].startswith("-"):
        _check_preset(words[0], words[1:], {name: config for name, (_, config) in choices.items()})
    config = tyro.extras.overridable_config_cli(choices, prog="alda train", args=words)
    (train_seeds if config.seeds else train_one)(config)


def _check_preset(name: str, words: list[str], configs: Mapping[str, Config]) -> None:
    """Raise UserError with one sentence where the parser of all presets would print a page."""
    if name not in configs:
        raise UserError(unknown("preset", name, configs))
    if not hasattr(configs[name].agent, "codes") and any(word.startswith("--agent.codes") for word in words):
        raise UserError(
            f"the reward trains the encoder of {name}, so codes of frames cannot be stored; --agent.codes is for alda, "
            "qlae, bioae and darla"
        )
