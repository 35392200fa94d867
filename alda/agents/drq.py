"""DrQ (Yarats et al., 2021): SAC on randomly shifted images."""

from dataclasses import dataclass
from typing import ClassVar

import torch
from jaxtyping import Float
from torch import Tensor

from alda.agents.sac import SAC, SACConfig
from alda.augment.transforms import random_shift
from alda.types import Features, Metrics, Transition


@dataclass(frozen=True)
class DrQConfig(SACConfig):
    pad: int = 4
    """Largest shift of observations along each axis, in pixels."""
    num_shifts: int = 1
    """Shifted copies of a batch over which targets and Q losses are averaged (K = M; paper: 2, DMControl-GB: 1)."""

    from_zero: ClassVar[tuple[str, ...]] = ("pad",)


class DrQ(SAC):
    config: DrQConfig
    shares_frames: ClassVar[bool] = False

    def augment(self, batch: Transition) -> Transition:
        """Return num_shifts copies of the batch, one after the other; obs and next_obs are shifted independently."""
        c = self.config
        batch = Transition(*(torch.cat([x] * c.num_shifts) for x in batch))
        return batch._replace(obs=random_shift(batch.obs, c.pad), next_obs=random_shift(batch.next_obs, c.pad))

    def td_target(self, batch: Transition, next_features: Features) -> Float[Tensor, " b"]:
        copies = super().td_target(batch, next_features).view(self.config.num_shifts, -1)
        return copies.mean(0).repeat(self.config.num_shifts)

    def update_actor(self, batch: Transition) -> Metrics:
        return super().update_actor(Transition(*(self.first_copy(x) for x in batch)))

    def first_copy(self, augmented: Tensor) -> Tensor:
        """Return the first copy of the batch, from which the actor learns."""
        return augmented[: len(augmented) // self.config.num_shifts]
