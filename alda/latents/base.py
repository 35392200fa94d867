"""What a latent model must provide. N frames, L latents a frame, each with V stored values."""

from abc import ABC, abstractmethod
from dataclasses import dataclass
from typing import ClassVar, Literal, NamedTuple

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn

from alda.errors import UserError
from alda.types import Metrics

Codebook = Literal["absent", "none", "quant"]


@dataclass(frozen=True)
class LatentConfig:
    num_latents: int = 12
    """Latents per frame, |z_d| in the paper."""
    num_values: int = 12
    """Values in the codebook of each latent, or to round to."""
    codebook_range: tuple[float, float] = (-1.0, 1.0)
    """Lowest and highest initial value, with the others evenly spaced in between; what clamp and fsq clamp to."""
    beta: float = 100.0
    """Inverse temperature of the retrieval; other latent models than associative have none."""
    codebook_grad: Literal["own", "none", "critic", "quant", "critic+quant"] = "own"
    """Losses that move the codebook. own: none for associative, as released (there, quant for finger_spin; in the
    paper's figure, critic), quant for quantized."""
    critic_grad: Literal["none", "ste", "soft"] = "none"
    """How critic gradients pass the latent model to the encoder: not at all, straight through (ALDA(CG)), by its
    slope."""
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
    """Maps encoder outputs, frame by frame, to the code that the agent acts on.

    Raises UserError for a config that it cannot follow.
    """

    codebook: ClassVar[Codebook] = "absent"
    """Whether there are stored values, and if so, what moves them unless the config says otherwise."""

    def __init__(self, config: LatentConfig) -> None:
        super().__init__()
        self.config = config
        self.codebook_grad = config.codebook_grad if config.codebook_grad != "own" else self.codebook
        if self.codebook == "absent":
            if self.codebook_grad not in ("absent", "none"):
                raise UserError(f"--agent.codebook-grad {self.codebook_grad} needs a latent model with a codebook")
            self.codebook_grad = "none"

    @abstractmethod
    def forward(self, encoded: Float[Tensor, "n l"]) -> LatentOutput:
        """The code for the policy, the code for the decoder, and the regulariser."""

    def decoder_loss(self, decoder: nn.Module) -> Float[Tensor, ""] | float:
        """What the latent model adds to the loss of the decoder's weights."""
        return 0.0

    def diagnose(self, encoded: Float[Tensor, "n l"]) -> Metrics:
        """Numbers that say how the latents are used."""
        return {}

    def nearest(self, encoded: Float[Tensor, "n l"]) -> Int[Tensor, "n l"] | None:
        """The stored value that each latent comes closest to; None where there are none."""
        return None

    def sweep(self, code: Float[Tensor, "n l"], count: int) -> Float[Tensor, "l v"]:
        """`count` codes over the range of every latent: here, of these."""
        return over_range(code, count)

    def critic_view(
        self, encoded: Float[Tensor, "n l"], code: Float[Tensor, "n l"], soft: Float[Tensor, "n l"]
    ) -> Float[Tensor, "n l"]:
        """The code with the gradient that config.critic_grad lets pass to the encoder; soft: with its own."""
        views = {"none": code, "ste": straight_through(code, encoded), "soft": soft}
        return views[self.config.critic_grad]


def straight_through(code: Float[Tensor, "n l"], encoded: Float[Tensor, "n l"]) -> Float[Tensor, "n l"]:
    """The code, with gradient one to the encoder besides its own."""
    return code + (encoded - encoded.detach())  # the difference is exactly zero


def over_range(code: Float[Tensor, "n l"], count: int) -> Float[Tensor, "l v"]:
    """`count` numbers from the lowest to the highest of each latent."""
    return evenly(code.amin(0), code.amax(0), count)


def evenly(low: Float[Tensor, " l"], high: Float[Tensor, " l"], count: int) -> Float[Tensor, "l v"]:
    """`count` numbers from low to high, for each of both."""
    return low[:, None] + (high - low)[:, None] * torch.linspace(0, 1, count, dtype=low.dtype, device=low.device)
