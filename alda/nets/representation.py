"""What turns pixels into the features that actor and critic share: all that acting needs, no more."""

from abc import ABC, abstractmethod

import torch
from jaxtyping import Float, UInt8
from torch import Tensor, nn

from alda.nets.conv import StackEncoder
from alda.types import EnvSpec, Transition


class Representation(nn.Module, ABC):
    out_dim: int

    @abstractmethod
    def forward(self, obs: UInt8[Tensor, "b f c h w"]) -> Float[Tensor, "b d"]:
        """Features of a stack of frames."""

    def both_ends(self, batch: Transition) -> tuple[Float[Tensor, "b d"], Float[Tensor, "b d"]]:
        """Features of obs, and of next_obs without gradient.

        A representation that works frame by frame can share the frames that the two have in common.
        """
        with torch.no_grad():
            next_features = self(batch.next_obs)
        return self(batch.obs), next_features

    def critic_trained(self) -> list[nn.Module]:
        """Parts that the critic loss trains."""
        return [self]


class PixelEncoder(Representation):
    """Convolutions over the stacked frames."""

    def __init__(self, spec: EnvSpec) -> None:
        super().__init__()
        self.net = StackEncoder(spec.frames, spec.image_size)
        self.out_dim = self.net.out_dim

    def forward(self, obs: UInt8[Tensor, "b f c h w"]) -> Float[Tensor, "b d"]:
        return self.net(to_float(obs.flatten(1, 2)))


def to_float(image: UInt8[Tensor, "*n c h w"]) -> Float[Tensor, "*n c h w"]:
    """Pixel values in [0, 1]."""
    return image.to(torch.get_default_dtype()) / 255
