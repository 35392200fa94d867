"""SVEA (Hansen et al., 2021): DrQ whose Q also fits strongly augmented images, against clean targets.

obs -> shift -+------------------> Q, actor     L = alpha L_Q(shifted) + beta L_Q(strong)
              '-> overlay, conv -> Q            one target for both, from next_obs, shifted only
"""

from dataclasses import dataclass
from typing import Any, Literal

from jaxtyping import Float
from torch import Tensor

from alda.agents.drq import DrQ, DrQConfig
from alda.augment.overlays import overlay_bank
from alda.augment.transforms import random_conv, random_mix, random_overlay
from alda.envs.backgrounds.data import Data
from alda.errors import UserError
from alda.nets.representation import Representation
from alda.types import EnvSpec, Features, Metrics, Obs, Transition


@dataclass(frozen=True)
class SVEAConfig(DrQConfig):
    augmentation: Literal["overlay", "conv", "mix", "none"] = "overlay"
    """Strong augmentation: overlay (half of another image), conv (a random filter), mix (one of SADA's six to each
    sample), or none (a copy, as the ALDA authors train SVEA on color_easy)."""
    overlay_images: int = 2_000
    """Images to choose overlays from: of Places365 with --data.places, else generated; 49 KB each on the device."""
    alpha_coef: float = 0.5
    """Weight of the Q loss on shifted observations, alpha in the paper."""
    beta_coef: float = 0.5
    """Weight of the Q loss on strongly augmented observations, beta in the paper."""


class SVEA(DrQ):
    config: SVEAConfig
    overlays: Tensor | None

    def __init__(self, config: SVEAConfig, spec: EnvSpec, representation: Representation | None = None) -> None:
        if config.augmentation == "mix" and config.batch_size < 6:
            raise UserError("six augmentations need a --agent.batch-size of at least 6")
        super().__init__(config, spec, representation)
        self.register_buffer("overlays", None, persistent=False)  # an agent that only acts has none

    def prepare(self, data: Data) -> dict[str, Any]:
        if self.config.augmentation not in ("overlay", "mix"):
            return {}
        images, made_of = overlay_bank(data, self.config.overlay_images)
        self.overlays = images.to(self.log_temperature.device)
        return {"overlays": made_of}

    def strongly_augmented(self, obs: Obs) -> Obs:
        """Apply the strong augmentation. Raises UserError for overlays without a call of `prepare`."""
        kind = self.config.augmentation
        if kind == "none":
            return obs
        if kind == "conv":
            return random_conv(obs)
        if self.overlays is None:
            raise UserError("there are no images to lay over observations; call agent.prepare(data) before learning")
        return random_overlay(obs, self.overlays) if kind == "overlay" else random_mix(obs, self.overlays)

    def critic_loss(self, batch: Transition, features: Features, target: Float[Tensor, " b"]) -> tuple[Tensor, Metrics]:
        strong_features = self.representation(self.strongly_augmented(batch.obs))
        return self.svea_loss(batch, features, strong_features, target)

    def svea_loss(
        self, batch: Transition, features: Features, strong_features: Features, target: Float[Tensor, " b"]
    ) -> tuple[Tensor, Metrics]:
        """Return alpha L_Q(features) + beta L_Q(strong_features) for one target."""
        c = self.config
        clean, metrics = super().critic_loss(batch, features, target)
        strong, _ = super().critic_loss(batch, strong_features, target)
        loss = c.alpha_coef * clean + c.beta_coef * strong
        losses = {"critic/loss": loss, "critic/clean_loss": clean, "critic/strong_loss": strong}
        return loss, metrics | {name: value.detach() for name, value in losses.items()}
