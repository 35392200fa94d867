"""One scalar codebook per latent: what associative retrieval (ALDA) and the nearest value (QLAE) share.

encoded x -> weights of the stored values V -> their weighted sum -> code
"""

from abc import abstractmethod
from typing import ClassVar

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn

from alda.errors import UserError
from alda.latents.base import Codebook, LatentConfig, LatentModel, LatentOutput, evenly, straight_through
from alda.types import Metrics


class CodebookLatent(LatentModel):
    """Retrieval with a straight-through estimator; variants say how the stored values are weighted.

    config: number of latents L and values V, and gradient switches; see LatentConfig.
    values: the codebooks [L, V], initially evenly spaced over `codebook_range` (1 = one unit of encoder output).
    """

    codebook: ClassVar[Codebook] = "none"

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
    def weights(self, encoded: Float[Tensor, "n l"], values: Float[Tensor, "l v"]) -> Float[Tensor, "n l v"]:
        """How much each stored value counts for each latent; they sum to one."""

    def retrieve(self, encoded: Float[Tensor, "n l"], values: Float[Tensor, "l v"]) -> Float[Tensor, "n l"]:
        """What the stored values give for each latent."""
        return (self.weights(encoded, values) * values).sum(-1)

    def forward(self, encoded: Float[Tensor, "n l"]) -> LatentOutput:
        c = self.config
        retrieved = self.retrieve(encoded.detach(), self.values)  # differentiable in the values alone
        soft = c.critic_grad == "soft"
        policy = self.critic_view(
            encoded,
            self._for_critic(retrieved),
            self.retrieve(encoded, self._for_critic(self.values)) if soft else retrieved,
        )
        commitment = (encoded - retrieved.detach()).square().mean()
        quantization = (encoded.detach() - retrieved).square().mean()
        loss = c.lambda_commit * commitment
        if "quant" in self.codebook_grad:
            loss = loss + c.lambda_quant * quantization
        metrics = {"commitment": commitment.detach(), "quantization": quantization.detach()}
        return LatentOutput(policy, straight_through(retrieved.detach(), encoded), loss, metrics)

    def _for_critic(self, x: Tensor) -> Tensor:
        """The same numbers, cut from the codebook unless the critic is meant to move it."""
        return x if "critic" in self.codebook_grad else x.detach()

    def nearest(self, encoded: Float[Tensor, "n l"]) -> Int[Tensor, "n l"]:
        """Counted from the lowest value of each latent, whatever order learning has brought them into."""
        rank = self.values.argsort(-1).argsort(-1).expand(len(encoded), -1, -1)
        return rank.gather(-1, self.weights(encoded, self.values).argmax(-1, keepdim=True)).squeeze(-1)

    @torch.no_grad()
    def sweep(self, code: Float[Tensor, "n l"], count: int) -> Float[Tensor, "l v"]:
        """From the lowest stored value to the highest."""
        return evenly(self.values.amin(-1), self.values.amax(-1), count)

    @torch.no_grad()
    def diagnose(self, encoded: Float[Tensor, "n l"]) -> Metrics:
        """How far retrieval moves the latents, how many lie outside the codebook, and how much of it is used.

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


def one_hot(index: Tensor, like: Float[Tensor, "n l v"]) -> Float[Tensor, "n l v"]:
    """torch's own looks at the index, which makes the host wait."""
    return (index[..., None] == torch.arange(like.shape[-1], device=like.device)).to(like.dtype)
