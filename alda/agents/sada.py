"""SADA (Almuzairee et al., 2024): SVEA whose actor also learns on strongly augmented images, with Q of clean ones.

policy reads [clean; strong], Q reads [clean; clean]       (in the actor's loss, on twice the batch)
Q reads [clean; strong], the target reads clean next_obs   (in the critic's loss, as in SVEA)
"""

from dataclasses import dataclass
from typing import Literal

import torch
from torch import nn
from torch.optim import Adam

from alda.agents.base import polyak_
from alda.agents.svea import SVEA, SVEAConfig
from alda.nets.representation import PixelEncoder, to_float
from alda.types import EnvSpec, Features, Metrics, Obs, Transition


@dataclass(frozen=True)
class SADAConfig(SVEAConfig):
    augmentation: Literal["overlay", "conv", "mix", "none"] = "mix"
    """Strong augmentation: mix (to each sample convolution, overlay, rotation, a shift by up to 16 pixels, or two of
    them), or overlay, conv and none, as in SVEA."""
    batch_size: int = 256
    """Transitions per update."""
    conv_layers: int = 4
    """Convolutions of the image encoder."""
    embed_dim: int = 50
    """Width of the normalised bottleneck at the foot of actor and critic."""
    learning_rate: float = 5e-4
    """Adam step size of actor, critic and encoder."""
    temperature_learning_rate: float = 5e-4
    """Adam step size of the entropy weight's logarithm."""
    encoder_tau: float = 0.01
    """Polyak rate of the target critic's bottleneck; there is no target encoder."""
    update_every: int = 2
    """Agent steps between rounds of learning, of updates_per_step learning steps each."""
    actor_update_every: int = 1
    """Agent steps between updates of actor and temperature; 1: in every learning step."""
    target_update_every: int = 1
    """Agent steps between updates of the target networks; 1: in every learning step."""


class SADA(SVEA):
    config: SADAConfig

    def __init__(self, config: SADAConfig, spec: EnvSpec) -> None:
        convs = config.conv_channels, config.conv_layers, config.halvings
        super().__init__(config, spec, CentredEncoder(spec, *convs, last_relu=True))
        del self.target_representation
        for module in self.representation.modules():
            if isinstance(module, nn.Conv2d):
                nn.init.orthogonal_(module.weight, nn.init.calculate_gain("relu"))  # the whole kernel, as released
        self.optimizers["temperature"] = Adam([self.log_temperature], config.temperature_learning_rate)

    def updates_due(self, step: int) -> int:
        every = self.config.update_every
        if step == self.config.random_steps:
            return self.config.updates_per_step * (step // every)
        return self.config.updates_per_step * int(step > self.config.random_steps and step % every == 0)

    def learn(self, batch: Transition, *, actor: bool, targets: bool) -> Metrics:
        """Take one learning step; the actor reads the features that the critic has just learned from."""
        batch = self.augment(batch)
        features = self.representation.encode_transition(batch)
        target = self.td_target(batch, features.next_obs)
        strong_features = self.representation(self.strongly_augmented(batch.obs))
        loss, metrics = self.svea_loss(batch, features.obs, strong_features, target)
        self.descend(*self.critic_optimizers, loss=loss)
        if actor:
            clean, strong = (self.first_copy(x.detach()) for x in (features.obs, strong_features))
            metrics |= self.actor_step(torch.cat([clean, strong]), torch.cat([clean, clean]))
        if targets:
            self.update_targets()
        return metrics

    def target_features(self, batch: Transition, next_features: Features) -> Features:
        return next_features

    def update_targets(self) -> None:
        polyak_(self.target_critic.q, self.critic.q, self.config.critic_tau)
        polyak_(self.target_critic.trunk, self.critic.trunk, self.config.encoder_tau)


class CentredEncoder(PixelEncoder):
    """PixelEncoder of pixel values in [-0.5, 0.5]."""

    def forward(self, obs: Obs) -> Features:
        return self.net(to_float(obs.flatten(1, 2)) - 0.5)
