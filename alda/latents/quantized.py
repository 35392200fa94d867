"""QLAE's latent model (Hsu et al., 2023): each latent becomes the nearest of the values stored for it.

    encoded x -> V_k with the least |x - V_k| -> code

The values follow the encoder by the quantisation loss; with --agent.codebook-grad none they stay evenly spaced.
"""

from typing import ClassVar

from jaxtyping import Float
from torch import Tensor

from alda.errors import UserError
from alda.latents.base import Codebook, LatentConfig
from alda.latents.codebook import CodebookLatent, one_hot


class QuantizedLatent(CodebookLatent):
    """One scalar codebook per latent, nearest value, straight-through estimator, values that learn."""

    codebook: ClassVar[Codebook] = "quant"

    def __init__(self, config: LatentConfig) -> None:
        super().__init__(config)
        if config.critic_grad == "soft":
            raise UserError("the nearest value has no slope for --agent.critic-grad soft to pass; use ste")

    def weights(self, encoded: Float[Tensor, "n l"], values: Float[Tensor, "l v"]) -> Float[Tensor, "n l v"]:
        distance = (encoded[..., None] - values).abs()
        return one_hot(distance.argmin(-1), distance)
