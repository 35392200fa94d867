"""Latent models, by the name used on the command line. Each is built from a LatentConfig."""

from alda.errors import UserError
from alda.latents.ablations import ClampLatent, FSQLatent, IdentityLatent
from alda.latents.base import LatentConfig, LatentModel, LatentOutput
from alda.latents.bio import BioLatent, BioPenaltyLatent
from alda.latents.codebook import AssociativeLatent, QuantizedLatent
from alda.plugins import add_registered

__all__ = ["LATENTS", "AssociativeLatent", "LatentConfig", "LatentModel", "LatentOutput", "make_latent"]

LATENTS: dict[str, type[LatentModel]] = {
    "associative": AssociativeLatent,
    "quantized": QuantizedLatent,
    "bio": BioLatent,
    "bio_penalty": BioPenaltyLatent,
    "identity": IdentityLatent,
    "clamp": ClampLatent,
    "fsq": FSQLatent,
}


def make_latent(name: str, config: LatentConfig) -> LatentModel:
    add_registered("latents", LATENTS)
    if name not in LATENTS:
        raise UserError(
            f"unknown latent model {name!r}; known: {', '.join(LATENTS)}; one of your own is known to its program"
        )
    return LATENTS[name](config)
