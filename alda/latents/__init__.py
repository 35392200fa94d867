"""Latent models, by the name used on the command line. Each is built from a LatentConfig."""

from alda.errors import UserError
from alda.latents.associative import AssociativeLatent
from alda.latents.base import LatentConfig, LatentModel, LatentOutput

__all__ = ["LATENTS", "AssociativeLatent", "LatentConfig", "LatentModel", "LatentOutput", "make_latent"]

LATENTS: dict[str, type[LatentModel]] = {
    "associative": AssociativeLatent,
}


def make_latent(name: str, config: LatentConfig) -> LatentModel:
    if name not in LATENTS:
        raise UserError(f"unknown latent model {name!r}; known: {', '.join(LATENTS)}")
    return LATENTS[name](config)
