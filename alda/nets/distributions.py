"""Action distributions."""

import math
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor


@dataclass
class SquashedNormal:
    """tanh of a diagonal Gaussian."""

    mean: Float[Tensor, "*b a"]
    log_std: Float[Tensor, "*b a"]

    @property
    def mode(self) -> Float[Tensor, "*b a"]:
        return self.mean.tanh()

    def rsample(self) -> tuple[Float[Tensor, "*b a"], Float[Tensor, "*b"]]:
        """Sample an action; return it and its log-probability, with gradients through both."""
        return self.at(torch.randn_like(self.mean))

    def at(self, noise: Float[Tensor, "*k a"]) -> tuple[Float[Tensor, "*k a"], Float[Tensor, "*k"]]:
        """Return the action for standard normal noise, which may have leading axes, and its log-probability."""
        raw = self.mean + noise * self.log_std.exp()
        log_prob = (-0.5 * noise.square() - self.log_std - 0.5 * math.log(2 * math.pi)).sum(-1)
        squash = 2 * (math.log(2) - raw - F.softplus(-2 * raw))  # log(1 - tanh(raw)^2), stable for any raw
        return raw.tanh(), log_prob - squash.sum(-1)

    def gaussian_entropy(self) -> Float[Tensor, "*b"]:
        """Return the entropy before the tanh, in nats."""
        return (self.log_std + 0.5 * (1 + math.log(2 * math.pi))).sum(-1)
