"""What is left of ALDA's latent model, piece by piece: nothing, its clamping, its clamping and rounding.

With evenly spaced values that never move, association clamps to their range and rounds, more or less sharply. These
controls have no memory and tell how much of a result is due to which. All keep the commitment loss, where the code
differs from what was encoded.
"""

import torch
from jaxtyping import Float, Int
from torch import Tensor

from alda.errors import UserError
from alda.latents.base import LatentConfig, LatentModel, LatentOutput, evenly, straight_through
from alda.types import Metrics


class IdentityLatent(LatentModel):
    """The encoder's output as it is: a plain autoencoder."""

    def forward(self, encoded: Float[Tensor, "n l"]) -> LatentOutput:
        policy = self.critic_view(encoded, encoded.detach(), encoded)
        return LatentOutput(policy, encoded, encoded.new_zeros(()), {})


class ClampLatent(LatentModel):
    """The encoder's output, clamped to codebook_range, straight through."""

    def __init__(self, config: LatentConfig) -> None:
        super().__init__(config)
        self.low, self.high = config.codebook_range
        if not self.low < self.high:
            raise UserError("--agent.codebook-range must go from low to high")

    def forward(self, encoded: Float[Tensor, "n l"]) -> LatentOutput:
        code = encoded.clamp(self.low, self.high)
        return self._output(encoded, code, straight_through(code.detach(), encoded))

    def _output(
        self, encoded: Float[Tensor, "n l"], code: Float[Tensor, "n l"], decode: Float[Tensor, "n l"]
    ) -> LatentOutput:
        commitment = (encoded - code.detach()).square().mean()
        policy = self.critic_view(encoded, code.detach(), code)
        return LatentOutput(policy, decode, self.config.lambda_commit * commitment, {"commitment": commitment.detach()})

    def sweep(self, code: Float[Tensor, "n l"], count: int) -> Float[Tensor, "l v"]:
        """From the lower end of the range to the higher."""
        return evenly(code.new_full(code.shape[1:], self.low), code.new_full(code.shape[1:], self.high), count)

    @torch.no_grad()
    def diagnose(self, encoded: Float[Tensor, "n l"]) -> Metrics:
        """How far the code is from what was encoded, and how much of that lies outside the range."""
        outside = (encoded < self.low) | (encoded > self.high)
        return {
            "retrieval_distance": (self(encoded).policy - encoded).abs().mean(),
            "outside_codebook": outside.float().mean(),
        }


class FSQLatent(ClampLatent):
    """Clamped, then rounded to one of num_values evenly spaced values (finite scalar quantisation, Mentzer et al.,
    2024). The gradient passes the rounding, not the clamping: outside the range only commitment leads back."""

    def __init__(self, config: LatentConfig) -> None:
        super().__init__(config)
        if config.num_values < 2:
            raise UserError("--agent.num-values must be at least 2 to round to")
        self.spacing = (self.high - self.low) / (config.num_values - 1)

    def nearest(self, encoded: Float[Tensor, "n l"]) -> Int[Tensor, "n l"]:
        return ((encoded.clamp(self.low, self.high) - self.low) / self.spacing).round().long()

    def forward(self, encoded: Float[Tensor, "n l"]) -> LatentOutput:
        clamped = encoded.clamp(self.low, self.high)
        rounded = self.low + self.nearest(encoded.detach()) * self.spacing
        code = straight_through(rounded, clamped)
        return self._output(encoded, code, code)
