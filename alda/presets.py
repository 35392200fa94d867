"""Named settings: every method at its defaults, the variants that the paper compares, and the native settings of
methods that were published at another image size or action repeat. Every setting can still be changed.
"""

import sys
from collections.abc import Callable
from typing import NamedTuple

from alda.agents import AGENTS
from alda.agents.alda import ALDAConfig
from alda.config import Config, EnvConfig


class Preset(NamedTuple):
    description: str
    config: Config


def presets() -> dict[str, Preset]:
    """By the name used on the command line, methods first."""
    methods = {
        name: Preset((sys.modules[agent.__module__].__doc__ or agent.__doc__ or name).strip(), Config(agent=config()))
        for name, (config, agent) in AGENTS.items()
    }
    variants = {name: Preset(words, make(name)) for name, (words, make) in _VARIANTS.items()}
    return methods | variants


def _alda(**switches: object) -> Callable[[str], Config]:
    return lambda name: Config(agent=ALDAConfig(**switches), name=name)  # type: ignore[arg-type]


_VARIANTS: dict[str, tuple[str, Callable[[str], Config]]] = {
    "qlae": ("ALDA with QLAE's latent model: the nearest value, and values that learn", _alda(latent="quantized")),
    "bioae": ("ALDA with BioAE's latents in place of association", _alda(latent="bio")),
    "bioae_penalty": (
        "the same as the authors of latent quantisation define it",
        _alda(latent="bio_penalty", weight_decay=1e-4),
    ),
    "alda_framestack": ("ALDA(framestack): one code for the whole stack", _alda(stack="channels")),
    "alda_cg": ("ALDA(CG): the critic's gradient reaches the encoder, straight through", _alda(critic_grad="ste")),
    "alda_cg_soft": ("ALDA(CG) by the slope of the retrieval", _alda(critic_grad="soft")),
    "alda_finger_spin": (
        "ALDA as released for finger_spin: values that learn",
        lambda name: Config(ALDAConfig(codebook_grad="quant"), EnvConfig(task="finger_spin"), name=name),
    ),
}
