"""ALDA (Batra & Sukhatme, 2025): SAC on a disentangled code retrieved from an associative memory.

    frame -> encoder -> memory -+-> history over frames -> actor, critic
                                '-> decoder -> frame

Reconstruction and commitment train the encoder and the decoder. The critic trains the history network. As published,
no reward gradient reaches the encoder; as released, the memory keeps its evenly spaced values.
"""

from dataclasses import dataclass, replace
from typing import Any, ClassVar, Literal

import torch
import torch.nn.functional as F
from jaxtyping import Float, UInt8
from torch import Tensor, nn
from torch.optim import Adam, AdamW

from alda.agents.base import parameters_of
from alda.agents.codes import FrameCodesConfig, SACOnCodes
from alda.agents.decoding import DecodingAgent, psnr
from alda.errors import UserError, check_ascending
from alda.latents import LatentConfig, make_latent
from alda.latents.base import Code
from alda.nets.conv import WIDTHS, FrameDecoder, FrameEncoder, HistoryEncoder, Norm
from alda.nets.mlp import Activation, initialize_
from alda.nets.representation import FrameCodes, TransitionFeatures, to_float
from alda.training.replay import Replay
from alda.types import EnvSpec, Image, Latents, Metrics, Obs, Transition


@dataclass(frozen=True)
class ALDAConfig(FrameCodesConfig, LatentConfig):
    latent: str = "associative"
    """Latent model: associative (ALDA), quantized (QLAE), bio or bio_penalty (BioAE), identity (none), clamp or fsq
    (association without a memory), or one of your own in alda.latents.LATENTS."""
    stack: Literal["history", "channels"] = "history"
    """history: each frame has a code, and a network reads the codes. channels: the stack is one image with one code
    (ALDA(framestack))."""
    recon: Literal["bce", "mse"] = "bce"
    """Reconstruction loss on pixels in [0, 1], mean over pixels: cross-entropy (released) or squared error."""
    recon_frames: Literal["last", "all"] = "last"
    """Reconstructed frames of the stack: the newest (released) or all (paper; always with --agent.stack channels)."""
    norm: Norm = "instance"
    """Normalisation in encoder and decoder. instance: as released; it also removes some brightness and colour."""
    widths: tuple[int, int, int, int] = WIDTHS
    """Channels of the encoder after each halving of the image; of the decoder in reverse order."""
    decoder: Literal["released", "shuffle"] = "released"
    """released: a transposed convolution for each doubling of the image. shuffle: two of them, then one convolution
    whose channels become 4x4 pixels; a third of the work."""
    weight_decay: float = 0.1
    """Decoupled weight decay of encoder and decoder."""
    decay_exclude_bias_norm: bool = False
    """Exclude biases and normalisation from the weight decay (released: decay everything)."""
    embed_dim: int = 256
    """Width of the normalised bottleneck of actor and critic, and of the history features."""
    activation: Activation = "gelu"
    """Activation of actor and critic."""
    autoencoder_every: int = 8
    """With stored codes, learning steps between updates of the autoencoder and refreshes of codes (fresh codes: every
    learning step trains the autoencoder, on the sampled frames)."""
    autoencoder_frames: int = 32
    """With stored codes, frames per update of the autoencoder, drawn from all of replay."""
    autoencoder_first: int = 250
    """With stored codes, updates of the autoencoder alone before learning starts."""
    refresh_frames: int = 64
    """With stored codes, frames that are encoded again each time, the oldest codes first."""

    from_zero: ClassVar[tuple[str, ...]] = ("autoencoder_first",)

    def __post_init__(self) -> None:
        super().__post_init__()
        check_ascending(self, "agent", "codebook_range")

    def steady(self) -> "ALDAConfig":
        return replace(self, random_steps=2, autoencoder_first=0)


class ALDA(DecodingAgent, SACOnCodes):
    config: ALDAConfig
    representation: "AssociativeEncoder"

    def __init__(self, config: ALDAConfig, spec: EnvSpec) -> None:
        c = config
        super().__init__(c, spec, AssociativeEncoder(c, spec))
        frames, shuffle = self.representation.frames_per_image, c.decoder == "shuffle"
        self.decoder = FrameDecoder(c.num_latents, spec.image_size, c.norm, frames, c.widths, shuffle=shuffle)
        self.decoder.apply(initialize_)

        memory, trained = self.representation.memory, parameters_of(self.representation.encoder, self.decoder)
        excluded = [p for p in trained if p.ndim == 1] if c.decay_exclude_bias_norm else []
        decayed = [p for p in trained if p.ndim > 1 or not c.decay_exclude_bias_norm]
        groups: list[dict[str, Any]] = [{"params": decayed}, {"params": excluded, "weight_decay": 0.0}]
        self.optimizers["autoencoder"] = AdamW(groups, c.learning_rate, weight_decay=c.weight_decay)
        self.autoencoder_optimizers: tuple[str, ...] = ("autoencoder",)
        if values := parameters_of(memory):
            self.optimizers["codebook"] = Adam(values, c.learning_rate)
        if "critic" in memory.codebook_grad:
            self.critic_optimizers = (*self.critic_optimizers, "codebook")
        if "quant" in memory.codebook_grad:
            self.autoencoder_optimizers = (*self.autoencoder_optimizers, "codebook")

        self.taken = 0  # learning steps with stored codes
        if self.stores_codes:
            self.hot = (*self.hot, "learn_autoencoder")

    def updates_due(self, step: int) -> int:
        first = self.config.autoencoder_first if self.stores_codes and step == self.config.random_steps else 0
        return first + super().updates_due(step)

    def update(self, replay: Replay, step: int) -> Metrics:
        """Take one learning step; with stored codes, the autoencoder has its own schedule and frames."""
        if not self.stores_codes:
            return super().update(replay, step)
        c, metrics = self.config, {}
        alone, self.taken = self.taken < c.autoencoder_first, self.taken + 1
        if alone or self.taken % c.autoencoder_every == 0:
            metrics = self.learn_autoencoder(replay.sample_frames(c.autoencoder_frames))
        if alone:
            replay.forget_codes()
            return metrics
        learned = super().update(replay, step)
        if metrics:
            metrics |= self.refresh(replay, c.refresh_frames)
        return metrics | learned

    def learn_autoencoder(self, frames: UInt8[Tensor, "n c h w"]) -> Metrics:
        return self.update_autoencoder(to_float(frames))

    def update_representation(self, batch: Transition, features: TransitionFeatures) -> Metrics:
        if self.stores_codes:
            return {}
        seen = self.representation
        image = to_float(seen.images(batch.obs)[:, seen.reconstructed].flatten(0, 1))
        return self.update_autoencoder(image, features.encoded)

    def update_autoencoder(self, image: Image, encoded: Code | None = None) -> Metrics:
        """Train encoder and decoder by one step. encoded: the encoder's output for the images, if known."""
        memory = self.representation.memory
        latent = memory(self.representation.encoder(image) if encoded is None else encoded)
        logits = self.decoder(latent.decode)
        reconstruction = self.reconstruction_loss(logits, image)
        loss = reconstruction + latent.loss + memory.decoder_loss(self.decoder)
        self.descend(*self.autoencoder_optimizers, loss=loss)
        return {
            "autoencoder/loss": loss.detach(),
            "autoencoder/reconstruction": reconstruction.detach(),
            "autoencoder/psnr": psnr(logits.detach().sigmoid(), image),
            **{f"autoencoder/{name}": value for name, value in latent.metrics.items()},
        }

    def reconstruction_loss(self, logits: Image, image: Image) -> Float[Tensor, ""]:
        if self.config.recon == "bce":
            return F.binary_cross_entropy_with_logits(logits, image)
        return F.mse_loss(logits.sigmoid(), image)

    @torch.no_grad()
    def latents(self, obs: Obs) -> Latents:
        encoded, memory = self.representation.newest(obs), self.representation.memory
        return Latents(encoded, memory.policy_code(encoded), memory.nearest(encoded))

    def decode(self, code: Code) -> Image:
        return self.decoder(code)[:, -3:].sigmoid()

    def sweep(self, latents: Latents, count: int) -> Float[Tensor, "l v"]:
        """Return `count` values over the range that the latent model gives."""
        return self.representation.memory.sweep(latents.code, count)

    @torch.no_grad()
    def diagnose(self, obs: Obs) -> Metrics:
        return super().diagnose(obs) | self.representation.memory.diagnose(self.representation.newest(obs))

    def training_state(self) -> dict[str, Any]:
        return super().training_state() | ({"taken": {"updates": self.taken}} if self.stores_codes else {})

    def load_training_state(self, saved: dict[str, Any]) -> None:
        optimizers = dict(saved)
        self.taken = optimizers.pop("taken", {"updates": 0})["updates"]
        super().load_training_state(optimizers)


class AssociativeEncoder(FrameCodes):
    """Codes of frames, retrieved by the latent model, and the history network that mixes them."""

    coders = ("encoder", "memory")

    def __init__(self, config: ALDAConfig, spec: EnvSpec) -> None:
        super().__init__()
        if spec.image_size < 16 or config.num_latents < 2:
            raise UserError("ALDA needs images of at least 16x16 pixels and at least two latents")
        if config.codes == "stored":
            if config.critic_grad != "none" or "critic" in config.codebook_grad:
                raise UserError(
                    f"with --agent.critic-grad {config.critic_grad} and --agent.codebook-grad {config.codebook_grad} "
                    "the reward trains the codes, so they cannot be stored; use --agent.codes fresh"
                )
            if config.stack == "channels":
                raise UserError(
                    "--agent.stack channels has no codes of single frames to store; use --agent.codes fresh"
                )
        self.code_dim = config.num_latents
        self.out_dim = config.embed_dim if config.stack == "history" else config.num_latents
        self.critic_reaches_encoder = config.critic_grad != "none"
        self.reconstructed = slice(-1 if config.recon_frames == "last" else 0, None)  # of the images, those to decode
        self.frames_per_image = spec.frames if config.stack == "channels" else 1
        frames, widths = self.frames_per_image, config.widths
        self.encoder = FrameEncoder(config.num_latents, spec.image_size, config.norm, frames, widths)
        self.memory = make_latent(config.latent, config)
        self.history: nn.Module = nn.Flatten()
        if config.stack == "history":
            self.history = HistoryEncoder(spec.frames, config.num_latents, config.embed_dim)

    def critic_trained(self) -> list[nn.Module]:
        return [self.history, self.encoder] if self.critic_reaches_encoder else [self.history]

    def images(self, obs: Obs) -> UInt8[Tensor, "b i d h w"]:
        """Return the images of a stack that are encoded: its frames, or a single one with all frames as channels."""
        return obs.flatten(1, 2)[:, None] if self.frames_per_image > 1 else obs

    def encode(self, images: UInt8[Tensor, "b i d h w"]) -> Float[Tensor, "b i l"]:
        return self.encoder(to_float(images.flatten(0, 1))).unflatten(0, images.shape[:2])

    def newest(self, obs: Obs) -> Code:
        """Encode the newest image of each stack."""
        return self.encoder(to_float(self.images(obs)[:, -1]))

    def code(self, encoded: Float[Tensor, "b i l"]) -> Float[Tensor, "b i l"]:
        """Associate each image's latents, for actor and critic."""
        return self.memory.policy_code(encoded.flatten(0, 1)).unflatten(0, encoded.shape[:2])

    def codes(self, obs: Obs) -> Float[Tensor, "b i l"]:
        with torch.set_grad_enabled(torch.is_grad_enabled() and self.critic_reaches_encoder):
            encoded = self.encode(self.images(obs))
        return self.code(encoded)

    def encode_transition(self, batch: Transition) -> TransitionFeatures:
        """Encode each of the F + 1 distinct frames once, for both critic and decoder, where one_pass is set."""
        if batch.obs.is_floating_point() or not self.one_pass:
            return super().encode_transition(batch)
        images, following = self.images(batch.obs), self.images(batch.next_obs)
        first, *_ = range(images.shape[1])[slice(None) if self.critic_reaches_encoder else self.reconstructed]
        trained = self.encode(images[:, first:])  # with gradient
        with torch.no_grad():
            others = self.encode(torch.cat([images[:, :first], following[:, -1:]], dim=1))
        seen = trained if self.critic_reaches_encoder else trained.detach()  # by the critic
        code = self.code(torch.cat([others[:, :first], seen, others[:, first:]], dim=1))  # [B, I+1, L]
        with torch.no_grad():
            next_features = self.history(code[:, 1:])
        # Where the critic moves the encoder, the decoder's loss needs a second look at what it has become.
        encoded = None if self.critic_reaches_encoder else trained.flatten(0, 1)
        return TransitionFeatures(self.history(code[:, :-1]), next_features, encoded)
