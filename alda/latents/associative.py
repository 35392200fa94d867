"""ALDA's latent model: every latent is pulled, on its own, to values known from training (paper, section 4.2).

    encoded x -> softmax_k(-beta |x - V_k|) -> blend of the values V -> code

Read as a modern Hopfield network, the values are its memories and beta its inverse temperature. For every beta a
latent outside the codebook's range retrieves exactly what the nearest end of the range retrieves.
"""

import torch
from jaxtyping import Float
from torch import Tensor, nn

from alda.errors import UserError
from alda.latents.base import LatentConfig, LatentModel, LatentOutput
from alda.types import Metrics


class AssociativeLatent(LatentModel):
    """One scalar codebook per latent with softmax retrieval and a straight-through estimator.

    Usable on its own: `AssociativeLatent(LatentConfig(num_latents=8))` maps [N, 8] to a `LatentOutput`.

    config: number of latents L and values V, sharpness beta and gradient switches; see LatentConfig.
    values: the codebooks [L, V], initially evenly spaced over `codebook_range` (1 = one unit of encoder output).
    """

    def __init__(self, config: LatentConfig) -> None:
        super().__init__()
        self.config = config
        low, high = config.codebook_range
        if not (low < high and config.num_values >= 2 and config.num_latents >= 1 and config.beta > 0):
            raise UserError(
                "a codebook needs a range from low to high, two values or more, a latent and a positive beta"
            )
        learned = config.codebook_grad != "none"
        values = torch.linspace(low, high, config.num_values).repeat(config.num_latents, 1)
        self.values = nn.Parameter(values, requires_grad=learned)  # [L, V]

    def retrieve(self, encoded: Float[Tensor, "n l"], values: Float[Tensor, "l v"]) -> Float[Tensor, "n l"]:
        """Softmax-weighted blend of the values near each latent (paper, equation 6)."""
        return (self.weights(encoded, values) * values).sum(-1)

    def weights(self, encoded: Float[Tensor, "n l"], values: Float[Tensor, "l v"]) -> Float[Tensor, "n l v"]:
        distance = (encoded[..., None] - values).abs()
        return torch.softmax(-self.config.beta * distance, dim=-1)

    def forward(self, encoded: Float[Tensor, "n l"]) -> LatentOutput:
        c = self.config
        retrieved = self.retrieve(encoded.detach(), self.values)  # differentiable in the values alone
        through = encoded - encoded.detach()  # zero, with gradient one to the encoder

        match c.critic_grad:
            case "none":
                policy = self._critic_view(retrieved)
            case "ste":
                policy = self._critic_view(retrieved) + through
            case "soft":
                policy = self.retrieve(encoded, self._critic_view(self.values))

        commitment = (encoded - retrieved.detach()).square().mean()
        quantization = (encoded.detach() - retrieved).square().mean()
        loss = c.lambda_commit * commitment
        if "quant" in c.codebook_grad:
            loss = loss + c.lambda_quant * quantization
        metrics = {"commitment": commitment.detach(), "quantization": quantization.detach()}
        return LatentOutput(policy, retrieved.detach() + through, loss, metrics)

    def _critic_view(self, x: Tensor) -> Tensor:
        """The same numbers, cut from the codebook unless the critic is meant to move it."""
        return x if "critic" in self.config.codebook_grad else x.detach()

    @torch.no_grad()
    def diagnose(self, encoded: Float[Tensor, "n l"]) -> Metrics:
        """How far retrieval moves the latents, how many lie outside the codebook, and how much of it is used.

        values_used and perplexity are means over latents (1 to V); entropy is that of the retrieval weights, in nats.
        """
        low, high = self.values.amin(-1), self.values.amax(-1)
        weights = self.weights(encoded, self.values)  # [N, L, V]
        one_hot = nn.functional.one_hot(weights.argmax(-1), weights.shape[-1]).float()
        share = one_hot.mean(0)  # [L, V]
        return {
            "retrieval_distance": (self.retrieve(encoded, self.values) - encoded).abs().mean(),
            "outside_codebook": ((encoded < low) | (encoded > high)).float().mean(),
            "values_used": (share > 0).float().sum(-1).mean(),
            "perplexity": torch.special.entr(share).sum(-1).exp().mean(),
            "entropy": torch.special.entr(weights).sum(-1).mean(),
        }
