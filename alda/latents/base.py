"""What a latent model must provide. N frames, L latents a frame, each with V stored values."""

from abc import ABC, abstractmethod
from dataclasses import dataclass
from typing import Literal, NamedTuple

from jaxtyping import Float
from torch import Tensor, nn

from alda.types import Metrics


@dataclass(frozen=True)
class LatentConfig:
    num_latents: int = 12
    """Latents per frame, |z_d| in the paper."""
    num_values: int = 12
    """Values in the codebook of each latent."""
    codebook_range: tuple[float, float] = (-1.0, 1.0)
    """Lowest and highest initial value; the values in between are evenly spaced."""
    beta: float = 100.0
    """Inverse temperature of the associative retrieval."""
    codebook_grad: Literal["none", "critic", "quant", "critic+quant"] = "none"
    """Losses that move the codebook (released: none, but quant for finger_spin; the paper's figure: critic)."""
    critic_grad: Literal["none", "ste", "soft"] = "none"
    """How critic gradients pass the retrieval to the encoder: not at all, straight through (ALDA(CG)), by its slope."""
    lambda_commit: float = 0.01
    """Weight of the commitment loss, which pulls the encoder to the retrieved values."""
    lambda_quant: float = 0.01
    """Weight of the quantisation loss, which pulls the values to the encoder, where codebook_grad has quant."""


class LatentOutput(NamedTuple):
    policy: Float[Tensor, "n l"]  # what actor and critic read
    decode: Float[Tensor, "n l"]  # what the decoder reads; its gradient reaches the encoder
    loss: Float[Tensor, ""]  # regulariser of the encoder and of the latent model's own values
    metrics: Metrics  # parts of that loss


class LatentModel(nn.Module, ABC):
    """Maps encoder outputs, frame by frame, to the code that the agent acts on."""

    @abstractmethod
    def forward(self, encoded: Float[Tensor, "n l"]) -> LatentOutput:
        """The code for the policy, the code for the decoder, and the regulariser."""

    def diagnose(self, encoded: Float[Tensor, "n l"]) -> Metrics:
        """Numbers that say how the latents are used."""
        return {}
