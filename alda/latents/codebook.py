"""One scalar codebook per latent: ALDA's association and QLAE's nearest value.

    encoded x -> weights of the stored values V_k -> their weighted sum -> code

    associative   softmax_k(-beta |x - V_k|)     ALDA (Batra & Sukhatme, 2025), section 4.2, equation 6
    quantized     1 for the least |x - V_k|      QLAE (Hsu et al., 2023)

Read as a modern Hopfield network, the associative values are its memories and beta its inverse temperature. For every
beta a latent outside the codebook's range retrieves exactly what the nearest end of the range retrieves.
"""

from abc import abstractmethod
from typing import ClassVar

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn

from alda.errors import UserError
from alda.latents.base import Code, Codebook, LatentConfig, LatentModel, evenly
from alda.types import Metrics


class CodebookLatent(LatentModel):
    """Retrieval with a straight-through estimator; subclasses define how the stored values are weighted.

    config: number of latents L and values V, and gradient switches; see LatentConfig.
    values: the codebooks [L, V], initially evenly spaced over `codebook_range` (1 = one unit of encoder output).
    """

    codebook: ClassVar[Codebook] = "none"
    straight_through: ClassVar[bool] = True

    def __init__(self, config: LatentConfig) -> None:
        super().__init__(config)
        low, high = config.codebook_range
        if not (low < high and config.num_values >= 2 and config.num_latents >= 1 and config.beta > 0):
            raise UserError(
                "a codebook needs a range from low to high, two values or more, a latent and a positive beta"
            )
        values = torch.linspace(low, high, config.num_values).repeat(config.num_latents, 1)
        self.values = nn.Parameter(values, requires_grad=self.codebook_grad != "none")  # [L, V]

    @abstractmethod
    def weights(self, encoded: Code, values: Float[Tensor, "l v"]) -> Float[Tensor, "n l v"]:
        """Return the weight of each stored value for each latent; they sum to one."""

    def retrieve(self, encoded: Code, values: Float[Tensor, "l v"]) -> Code:
        """Return the weighted sum of stored values for each latent."""
        return (self.weights(encoded, values) * values).sum(-1)

    def code(self, encoded: Code) -> Code:
        return self.retrieve(encoded, self.values if "critic" in self.codebook_grad else self.values.detach())

    def regulariser(self, encoded: Code, code: Code) -> tuple[Float[Tensor, ""], Metrics]:
        """Return the commitment loss and, where the codebook learns by it, the quantisation loss."""
        c = self.config
        retrieved = self.retrieve(encoded.detach(), self.values)  # differentiable in the values alone
        commitment = (encoded - retrieved.detach()).square().mean()
        quantization = (encoded.detach() - retrieved).square().mean()
        loss = c.lambda_commit * commitment
        if "quant" in self.codebook_grad:
            loss = loss + c.lambda_quant * quantization
        return loss, {"commitment": commitment.detach(), "quantization": quantization.detach()}

    def nearest(self, encoded: Code) -> Int[Tensor, "n l"]:
        """Return ranks: 0 is the lowest value of each latent, whatever order learning has brought them into."""
        rank = self.values.argsort(-1).argsort(-1).expand(len(encoded), -1, -1)
        return rank.gather(-1, self.weights(encoded, self.values).argmax(-1, keepdim=True)).squeeze(-1)

    @torch.no_grad()
    def sweep(self, code: Code, count: int) -> Float[Tensor, "l v"]:
        """Return `count` values from the lowest stored one to the highest."""
        return evenly(self.values.amin(-1), self.values.amax(-1), count)

    @torch.no_grad()
    def diagnose(self, encoded: Code) -> Metrics:
        """Return how far retrieval moves the latents, how many lie outside the codebook, and how much of it is used.

        values_used and perplexity are means over latents (1 to V); entropy is that of the retrieval weights, in nats.
        """
        low, high = self.values.amin(-1), self.values.amax(-1)
        weights = self.weights(encoded, self.values)  # [N, L, V]
        share = one_hot(weights.argmax(-1), weights).mean(0)  # [L, V]
        return {
            "retrieval_distance": (self.retrieve(encoded, self.values) - encoded).abs().mean(),
            "outside_codebook": ((encoded < low) | (encoded > high)).float().mean(),
            "values_used": (share > 0).float().sum(-1).mean(),
            "perplexity": torch.special.entr(share).sum(-1).exp().mean(),
            "entropy": torch.special.entr(weights).sum(-1).mean(),
        }


class AssociativeLatent(CodebookLatent):
    """One scalar codebook per latent with softmax retrieval (ALDA, equation 6) and a straight-through estimator.

    Usable on its own: `AssociativeLatent(LatentConfig(num_latents=8))` maps [N, 8] to a `LatentOutput`.
    """

    def weights(self, encoded: Code, values: Float[Tensor, "l v"]) -> Float[Tensor, "n l v"]:
        distance = (encoded[..., None] - values).abs()
        return torch.softmax(-self.config.beta * distance, dim=-1)


class QuantizedLatent(CodebookLatent):
    """One scalar codebook per latent, nearest value, straight-through estimator. The values follow the encoder by the
    quantisation loss; with --agent.codebook-grad none they stay evenly spaced."""

    codebook: ClassVar[Codebook] = "quant"

    def __init__(self, config: LatentConfig) -> None:
        super().__init__(config)
        if config.critic_grad == "soft":
            raise UserError("the nearest value has no slope for --agent.critic-grad soft to pass; use ste")

    def weights(self, encoded: Code, values: Float[Tensor, "l v"]) -> Float[Tensor, "n l v"]:
        distance = (encoded[..., None] - values).abs()
        return one_hot(distance.argmin(-1), distance)


def one_hot(index: Tensor, like: Float[Tensor, "n l v"]) -> Float[Tensor, "n l v"]:
    """Return one-hot rows; torch's own function reads the index, which makes the host wait."""
    return (index[..., None] == torch.arange(like.shape[-1], device=like.device)).to(like.dtype)
