"""SAC+AE (Yarats et al., 2019): SAC whose critic's bottleneck is also trained to reconstruct the stack of frames.

stack -> convolutions -+-> the critic's bottleneck -+-> Q-functions
                       |                            '-> decoder -> stack
                       '-> (detached) the actor's bottleneck -> policy
"""

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from jaxtyping import Float, UInt8
from torch import Tensor
from torch.optim import Adam

from alda.agents.base import parameters_of
from alda.agents.decoding import DecodingAgent, psnr
from alda.agents.sac import SAC, SACConfig
from alda.nets.conv import StackDecoder
from alda.nets.mlp import initialize_
from alda.nets.representation import PixelEncoder, TransitionFeatures, to_float
from alda.types import EnvSpec, Image, Metrics, Obs, Transition


@dataclass(frozen=True)
class SACAEConfig(SACConfig):
    embed_dim: int = 50
    """Width of the normalised bottleneck of actor and critic; the decoder reads the critic's."""
    conv_layers: int = 4
    """Convolutions of the image encoder, and of the decoder."""
    decoder_samples: int | None = None
    """Transitions of a batch that are reconstructed (None: all, as published); reconstruction is most of the work."""
    latent_coef: float = 1e-6
    """Weight of half the squared length of the code, which pulls it towards zero."""
    decoder_weight_decay: float = 1e-7
    """L2 penalty on the decoder's parameters, added to their gradient."""


class SACAE(DecodingAgent, SAC):
    config: SACAEConfig

    def __init__(self, config: SACAEConfig, spec: EnvSpec) -> None:
        c = config
        convs = c.conv_channels, c.conv_layers, c.halvings
        super().__init__(c, spec, PixelEncoder(spec, *convs, last_relu=True))
        self.decoder = StackDecoder(c.embed_dim, spec.frames, spec.image_size, *convs)
        self.decoder.apply(initialize_)
        # Besides the critic's Adam, which owns them too: each keeps moments of its own loss.
        self.optimizers["encoder"] = Adam(parameters_of(self.representation, self.critic.trunk), c.learning_rate)
        decay = c.decoder_weight_decay
        self.optimizers["decoder"] = Adam(self.decoder.parameters(), c.learning_rate, weight_decay=decay)

    def update_representation(self, batch: Transition, features: TransitionFeatures) -> Metrics:
        """Encode obs again, since the critic's step has moved the encoder, and take a step of the autoencoder."""
        seen = batch.obs[: self.config.decoder_samples]
        stack = seen.flatten(1, 2)
        target = five_bits(stack, torch.rand(stack.shape, device=stack.device))
        code = self.code(seen)
        decoded = self.decoder(code)
        reconstruction = F.mse_loss(decoded, target)
        penalty = 0.5 * code.square().sum(-1).mean()
        loss = reconstruction + self.config.latent_coef * penalty
        self.descend("encoder", "decoder", loss=loss)
        return {
            "autoencoder/loss": loss.detach(),
            "autoencoder/reconstruction": reconstruction.detach(),
            "autoencoder/penalty": penalty.detach(),
            "autoencoder/psnr": psnr(newest(decoded.detach()), to_float(seen[:, -1])),
        }

    def code(self, obs: Obs) -> Float[Tensor, "b e"]:
        """Return the code that the Q-functions and the decoder read."""
        return self.critic.trunk(self.representation(obs))

    def decode(self, code: Float[Tensor, "n l"]) -> Image:
        return newest(self.decoder(code))


def five_bits(stack: UInt8[Tensor, "*n"], noise: Float[Tensor, "*n"]) -> Float[Tensor, "*n"]:
    """Quantise pixels to 32 steps from -0.5 to 0.5; uniform noise in [0, 1) spreads each over its step."""
    return (stack // 8 + noise) / 32 - 0.5


def newest(decoded: Float[Tensor, "b fc h w"]) -> Image:
    """Return the newest frame of a decoded stack, in [0, 1]."""
    return (decoded[:, -3:] + 0.5).clamp(0, 1)
