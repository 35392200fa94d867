"""The contract of a latent model. N frames, L latents per frame, each with V stored values."""

from abc import ABC, abstractmethod
from dataclasses import dataclass
from typing import ClassVar, Literal, NamedTuple

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn

from alda.errors import UserError
from alda.types import Metrics

Code = Float[Tensor, "n l"]
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
    policy: Code  # the code for actor and critic
    decode: Code  # the code for the decoder; its gradient reaches the encoder
    loss: Float[Tensor, ""]  # regulariser of the encoder and of the latent model's own values
    metrics: Metrics  # parts of that loss


class LatentModel(nn.Module, ABC):
    """Map from encoder outputs, frame by frame, to the code that the agent acts on and decodes.

    A model defines `code` and, if it has any, its `regulariser`. Raises UserError for a config that it cannot follow.
    """

    codebook: ClassVar[Codebook] = "absent"
    """Whether there are stored values, and if so, what moves them unless the config says otherwise."""
    straight_through: ClassVar[bool] = False
    """Whether the decoder's gradient passes the model unchanged, instead of by the slope of `code`."""

    def __init__(self, config: LatentConfig) -> None:
        super().__init__()
        self.config = config
        self.codebook_grad = config.codebook_grad if config.codebook_grad != "own" else self.codebook
        if self.codebook == "absent":
            if self.codebook_grad not in ("absent", "none"):
                raise UserError(f"--agent.codebook-grad {self.codebook_grad} needs a latent model with a codebook")
            self.codebook_grad = "none"

    def forward(self, encoded: Code) -> LatentOutput:
        """Return the code for the policy, the code for the decoder, and the regulariser."""
        code = self.code(encoded)
        decode = straight_through(code.detach(), encoded) if self.straight_through else code
        return LatentOutput(self.policy_code(encoded), decode, *self.regulariser(encoded, code))

    def policy_code(self, encoded: Code) -> Code:
        """Return the code for actor and critic, with the gradient that config.critic_grad lets pass to the encoder."""
        if self.config.critic_grad == "soft":
            return self.code(encoded)
        code = self.code(encoded.detach())  # stored values may still learn from it
        return straight_through(code, encoded) if self.config.critic_grad == "ste" else code

    @abstractmethod
    def code(self, encoded: Code) -> Code:
        """Return the code, differentiable as far as it has a slope."""

    def regulariser(self, encoded: Code, code: Code) -> tuple[Float[Tensor, ""], Metrics]:
        """Return a loss of the encoder and of the model's own values, and its parts."""
        return encoded.new_zeros(()), {}

    def decoder_loss(self, decoder: nn.Module) -> Float[Tensor, ""] | float:
        """Return the latent model's addition to the loss of the decoder's weights."""
        return 0.0

    def diagnose(self, encoded: Code) -> Metrics:
        """Return numbers that tell how the latents are used."""
        return {}

    def nearest(self, encoded: Code) -> Int[Tensor, "n l"] | None:
        """Return the index of the stored value nearest to each latent; None where no values are stored."""
        return None

    def sweep(self, code: Code, count: int) -> Float[Tensor, "l v"]:
        """Return `count` values over the range of every latent; here, the range of the given codes."""
        return over_range(code, count)


def straight_through(code: Code, encoded: Code) -> Code:
    """Return the code with an additional gradient of one to the encoder."""
    return code + (encoded - encoded.detach())  # the difference is exactly zero


def over_range(code: Code, count: int) -> Float[Tensor, "l v"]:
    """Return `count` numbers from the lowest to the highest of each latent."""
    return evenly(code.amin(0), code.amax(0), count)


def evenly(low: Float[Tensor, " l"], high: Float[Tensor, " l"], count: int) -> Float[Tensor, "l v"]:
    """Return `count` evenly spaced numbers from each low to its high."""
    return low[:, None] + (high - low)[:, None] * torch.linspace(0, 1, count, dtype=low.dtype, device=low.device)
