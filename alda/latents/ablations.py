"""ALDA's latent model, piece by piece: nothing, its clamping, its clamping and rounding.

With evenly spaced values that never move, association clamps to their range and rounds, more or less sharply. These
ablations have no memory and tell how much of a result is due to which piece. All keep the commitment loss, where the
code differs from what was encoded.
"""

from typing import ClassVar

import torch
from jaxtyping import Float, Int
from torch import Tensor

from alda.errors import UserError
from alda.latents.base import Code, LatentConfig, LatentModel, evenly, straight_through
from alda.types import Metrics


class IdentityLatent(LatentModel):
    """The encoder's output unchanged: a plain autoencoder."""

    def code(self, encoded: Code) -> Code:
        return encoded


class ClampLatent(LatentModel):
    """The encoder's output, clamped to codebook_range, straight through."""

    straight_through: ClassVar[bool] = True

    def __init__(self, config: LatentConfig) -> None:
        super().__init__(config)
        self.low, self.high = config.codebook_range
        if not self.low < self.high:
            raise UserError("--agent.codebook-range must go from low to high")

    def code(self, encoded: Code) -> Code:
        return encoded.clamp(self.low, self.high)

    def regulariser(self, encoded: Code, code: Code) -> tuple[Float[Tensor, ""], Metrics]:
        commitment = (encoded - code.detach()).square().mean()
        return self.config.lambda_commit * commitment, {"commitment": commitment.detach()}

    def sweep(self, code: Code, count: int) -> Float[Tensor, "l v"]:
        """Return `count` values from the lower end of the range to the higher."""
        return evenly(code.new_full(code.shape[1:], self.low), code.new_full(code.shape[1:], self.high), count)

    @torch.no_grad()
    def diagnose(self, encoded: Code) -> Metrics:
        """Return the mean distance between code and encoder output, and the share of latents outside the range."""
        outside = (encoded < self.low) | (encoded > self.high)
        return {
            "retrieval_distance": (self.code(encoded) - encoded).abs().mean(),
            "outside_codebook": outside.float().mean(),
        }


class FSQLatent(ClampLatent):
    """Clamped, then rounded to one of num_values evenly spaced values (finite scalar quantisation, Mentzer et al.,
    2024). The gradient passes the rounding, not the clamping: outside the range only commitment leads back."""

    straight_through: ClassVar[bool] = False

    def __init__(self, config: LatentConfig) -> None:
        super().__init__(config)
        if config.num_values < 2:
            raise UserError("--agent.num-values must be at least 2 to round to")
        self.spacing = (self.high - self.low) / (config.num_values - 1)

    def nearest(self, encoded: Code) -> Int[Tensor, "n l"]:
        return ((encoded.clamp(self.low, self.high) - self.low) / self.spacing).round().long()

    def code(self, encoded: Code) -> Code:
        rounded = self.low + self.nearest(encoded.detach()) * self.spacing
        return straight_through(rounded, encoded.clamp(self.low, self.high))
