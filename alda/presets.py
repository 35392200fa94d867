"""Named settings: every method at its defaults, variants that the paper compares, native settings of methods that were
published at another image size or action repeat, and a laptop size of every method (docs/laptop.md).
"""

import sys
from collections.abc import Sequence
from dataclasses import replace
from typing import Any, NamedTuple

from alda.agents import AGENTS, AgentConfig
from alda.agents.alda import ALDAConfig
from alda.agents.darla import DARLAConfig
from alda.agents.drq import DrQConfig
from alda.agents.repo import RePoConfig
from alda.agents.sac import SACConfig
from alda.agents.sac_ae import SACAEConfig
from alda.agents.sada import SADAConfig
from alda.agents.svea import SVEAConfig
from alda.config import Config, EnvConfig
from alda.plugins import add_registered


class Preset(NamedTuple):
    description: str
    config: Config


def presets() -> dict[str, Preset]:
    """Return all presets by the name used on the command line, methods first."""
    add_registered("agents", AGENTS)
    methods = {
        name: Preset(_first_sentences(sys.modules[agent.__module__].__doc__ or agent.__doc__ or name), Config(config()))
        for name, (config, agent) in AGENTS.items()
    }
    variants = {name: Preset(words, replace(config, name=name)) for name, (words, config) in _VARIANTS.items()}
    return methods | variants | {f"{name}_laptop": _laptop(f"{name}_laptop", agent) for name, agent in _LAPTOP.items()}


def parse(words: Sequence[str]) -> Config:
    """Return the config of the words of `alda train`; for wrong ones or --help, print what to say and exit."""
    import tyro

    choices = {name: (preset.description, preset.config) for name, preset in presets().items()}
    return tyro.extras.overridable_config_cli(choices, prog="alda train", args=list(words))


def _laptop(name: str, agent: AgentConfig) -> Preset:
    """Return the preset of a run that ends within half an hour for ALDA, and a few hours for the others."""
    description = f"{name.removesuffix('_laptop')} small enough to learn on two processor cores (docs/laptop.md)"
    threads = 1 if getattr(agent, "codes", "fresh") == "stored" else None  # small products gain nothing from more
    config = Config(agent, name=name, steps=100_000, eval_every=10_000, eval_episodes=5, video_every=0, threads=threads)
    return Preset(description, config)


def _first_sentences(docstring: str) -> str:
    """Return a text up to its first empty line, in one line."""
    return " ".join(docstring.strip().partition("\n\n")[0].split())


_VARIANTS: dict[str, tuple[str, Config]] = {
    "qlae": (
        "QLAE in ALDA's place: the nearest value in place of the blend, and values that learn",
        Config(ALDAConfig(latent="quantized")),
    ),
    "bioae": ("BioAE in ALDA's place: rectified latents that cost energy", Config(ALDAConfig(latent="bio"))),
    "bioae_penalty": (
        "BioAE as the authors of latent quantisation define it",
        Config(ALDAConfig(latent="bio_penalty", weight_decay=1e-4)),
    ),
    "alda_framestack": ("ALDA(framestack): one code for the whole stack", Config(ALDAConfig(stack="channels"))),
    "alda_cg": (
        "ALDA(CG): the critic's gradient reaches the encoder, straight through the retrieval",
        Config(ALDAConfig(critic_grad="ste")),
    ),
    "alda_cg_soft": ("ALDA(CG), by the slope of the retrieval", Config(ALDAConfig(critic_grad="soft"))),
    "alda_finger_spin": (
        "ALDA as released for finger_spin: values that learn",
        Config(ALDAConfig(codebook_grad="quant"), EnvConfig(task="finger_spin")),
    ),
    "svea_conv": ("SVEA with random convolutions in place of overlays", Config(SVEAConfig(augmentation="conv"))),
    "svea_color_easy": (
        "SVEA trained on color_easy, as ALDA's authors released it: no augmentation but the shift",
        Config(SVEAConfig(augmentation="none"), train_shift="color_easy"),
    ),
    "drq_averaged": ("DrQ that averages over two shifts, as first published", Config(DrQConfig(num_shifts=2))),
    "sac_84": ("SAC at its native 84 pixels", Config(SACConfig(), EnvConfig(image_size=84))),
    "sac_ae_84": ("SAC+AE at its native 84 pixels", Config(SACAEConfig(), EnvConfig(image_size=84))),
    "drq_84": ("DrQ at its native 84 pixels", Config(DrQConfig(), EnvConfig(image_size=84))),
    "svea_84": ("SVEA at its native 84 pixels", Config(SVEAConfig(), EnvConfig(image_size=84))),
    "repo_repeat_2": ("RePo at its native action repeat 2", Config(RePoConfig(), EnvConfig(action_repeat=2))),
    "sada_84": (
        "SADA at its native 84 pixels and action repeat 2",
        Config(SADAConfig(), EnvConfig(image_size=84, action_repeat=2)),
    ),
}

_HEADS: dict[str, Any] = {"hidden_dim": 256, "batch_size": 64, "q_norm": True}
_CONVS: dict[str, Any] = {"conv_channels": 16, "conv_layers": 4, "halvings": 2, "embed_dim": 64}
_ALDA: dict[str, Any] = {
    "codes": "stored",
    "widths": (8, 16, 32, 64),
    "decoder": "shuffle",
    "embed_dim": 64,
    "autoencoder_every": 4,
    "autoencoder_frames": 16,
    "refresh_frames": 32,
    **_HEADS,
}

_LAPTOP: dict[str, AgentConfig] = {
    "alda": ALDAConfig(**_ALDA),
    "qlae": ALDAConfig(latent="quantized", **_ALDA),
    "sac": SACConfig(**_CONVS, **_HEADS),
    "drq": DrQConfig(**_CONVS, **_HEADS),
    "svea": SVEAConfig(**_CONVS, **_HEADS),
    "sac_ae": SACAEConfig(decoder_samples=16, **_CONVS, **_HEADS),
    "sada": SADAConfig(**_CONVS, **_HEADS),
    "darla": DARLAConfig(
        codes="stored",
        widths=(8, 16, 32, 64),
        random_steps=5_000,
        denoiser_updates=2_000,
        vae_updates=4_000,
        beta_warm_up=1_000,
        embed_dim=64,
        **_HEADS,
    ),
    "repo": RePoConfig(batch_size=16, sequence_length=16, deter_dim=100, hidden_dim=100, probe_stride=8),
}
