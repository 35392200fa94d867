"""Data types that every module shares.

Axes: B batch, N frames or observations, F frames of a stack, C H W image, L latents, A action.
"""

from dataclasses import dataclass
from typing import NamedTuple

from jaxtyping import Bool, Float, Int, UInt8
from torch import Tensor

Obs = UInt8[Tensor, "b f c h w"]  # stacks of frames, the oldest first
Seen = Obs | Float[Tensor, "b f l"]  # stacks of frames, or the codes of their frames
Image = Float[Tensor, "n c h w"]  # pixel values in [0, 1], or their logits
Features = Float[Tensor, "b d"]  # what actor and critic read
Metrics = dict[str, Tensor]  # name -> 0-d tensor, left on the device until the logger flushes


@dataclass(frozen=True)
class EnvSpec:
    """Shapes of an environment, all that an agent may know about it."""

    frames: int
    image_size: int
    action_dim: int

    @property
    def obs_shape(self) -> tuple[int, int, int, int]:
        return self.frames, 3, self.image_size, self.image_size


class Latents(NamedTuple):
    """Latents of newest frames, L numbers each."""

    encoded: Float[Tensor, "n l"]  # as the encoder gives them
    code: Float[Tensor, "n l"]  # as decoded and acted on; differs from encoded only where there is a memory
    nearest: Int[Tensor, "n l"] | None = None  # index of the closest stored value, if there are any


class Transition(NamedTuple):
    """Agent steps, as SAC-like methods learn from them.

    As sampled from replay, next_obs[:, :-1] equals obs[:, 1:].
    """

    obs: Seen  # oldest frame first
    action: Float[Tensor, "b a"]
    reward: Float[Tensor, " b"]
    discount: Float[Tensor, " b"]  # gamma * (1 - terminated): what multiplies the bootstrap value
    next_obs: Seen


class Sequence(NamedTuple):
    """Consecutive agent steps of one environment, as world models learn from them: T steps, the earliest first.

    Entry t is a frame with the action that led to it and the reward that came with it. Where `first` is set an episode
    begins, and action and reward are zero.
    """

    frame: UInt8[Tensor, "b t c h w"]
    action: Float[Tensor, "b t a"]
    reward: Float[Tensor, "b t"]
    terminated: Bool[Tensor, "b t"]
    first: Bool[Tensor, "b t"]
