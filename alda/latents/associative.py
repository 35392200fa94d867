"""ALDA's latent model: every latent is pulled, on its own, to values known from training (paper, section 4.2).

    encoded x -> softmax_k(-beta |x - V_k|) -> blend of the values V -> code

Read as a modern Hopfield network, the values are its memories and beta its inverse temperature. For every beta a
latent outside the codebook's range retrieves exactly what the nearest end of the range retrieves.
"""

import torch
from jaxtyping import Float
from torch import Tensor

from alda.latents.codebook import CodebookLatent


class AssociativeLatent(CodebookLatent):
    """One scalar codebook per latent with softmax retrieval (paper, equation 6) and a straight-through estimator.

    Usable on its own: `AssociativeLatent(LatentConfig(num_latents=8))` maps [N, 8] to a `LatentOutput`.

    config: number of latents L and values V, sharpness beta and gradient switches; see LatentConfig.
    values: the codebooks [L, V], initially evenly spaced over `codebook_range` (1 = one unit of encoder output).
    """

    def weights(self, encoded: Float[Tensor, "n l"], values: Float[Tensor, "l v"]) -> Float[Tensor, "n l v"]:
        distance = (encoded[..., None] - values).abs()
        return torch.softmax(-self.config.beta * distance, dim=-1)
