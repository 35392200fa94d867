"""Networks from pixels to the features that actor and critic share."""

from abc import ABC, abstractmethod
from typing import NamedTuple

import torch
from jaxtyping import Float, UInt8
from torch import Tensor, nn

from alda.nets.conv import StackEncoder
from alda.types import EnvSpec, Features, Obs, Seen, Transition


class TransitionFeatures(NamedTuple):
    """Features of both observations of a batch of transitions."""

    obs: Features
    next_obs: Features  # without gradient
    encoded: Float[Tensor, "n l"] | None = None  # of the frames that a decoder learns from, with gradient


class Representation(nn.Module, ABC):
    out_dim: int
    one_pass: bool = False
    """Whether `encode_transition` encodes frames that obs and next_obs share once; set by training/acceleration."""

    @abstractmethod
    def forward(self, obs: Seen) -> Features:
        """Return features of a stack of frames or, where frames have codes, of a stack of codes."""

    def encode_transition(self, batch: Transition) -> TransitionFeatures:
        """Return features of obs, and of next_obs without gradient."""
        with torch.no_grad():
            next_features = self(batch.next_obs)
        return TransitionFeatures(self(batch.obs), next_features)

    def critic_trained(self) -> list[nn.Module]:
        """Return the parts that the critic loss trains."""
        return [self]


class PixelEncoder(Representation):
    """Convolutions over the stacked frames; see StackEncoder for its options."""

    def __init__(
        self, spec: EnvSpec, channels: int = 32, depth: int = 11, halvings: int = 1, *, last_relu: bool = False
    ) -> None:
        super().__init__()
        self.net = StackEncoder(spec.frames, spec.image_size, channels, depth, halvings, last_relu=last_relu)
        self.out_dim = self.net.out_dim

    def forward(self, obs: Obs) -> Features:
        return self.net(to_float(obs.flatten(1, 2)))


class FrameCodes(Representation):
    """A code for each frame, which the reward does not train, and a network over the codes of a stack."""

    code_dim: int
    history: nn.Module
    coders: tuple[str, ...]
    """Names of the modules that make a code of a frame."""

    @abstractmethod
    def codes(self, obs: Obs) -> Float[Tensor, "b f l"]:
        """Return the code of each frame, for actor and critic."""

    def forward(self, obs: Seen) -> Features:
        return self.history(obs if obs.is_floating_point() else self.codes(obs))

    def read_codes_only(self) -> None:
        """Remove the modules that make codes; the representation then reads stacks of codes alone."""
        for name in self.coders:
            setattr(self, name, nn.Identity())


def to_float(image: UInt8[Tensor, "*n c h w"]) -> Float[Tensor, "*n c h w"]:
    """Convert bytes to pixel values in [0, 1]."""
    return image.to(torch.get_default_dtype()) / 255
