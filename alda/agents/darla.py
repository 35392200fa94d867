"""DARLA (Higgins et al., 2017): SAC on the latents of a beta-VAE that was learned before the task, then frozen.

    1a  masked frame -> denoiser -> frame                                      frames of random actions
    1b  frame -> encoder -> latents -> decoder -> frame, compared as the denoiser's features
    2   frames -> encoder (frozen) -> means -> history over frames -> actor, critic

All in one run: the first agent steps are random, then stage 1 is learned at once, judged, and SAC begins.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any, ClassVar, Literal

import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float, UInt8
from torch import Tensor, nn
from torch.optim import Adam

from alda.agents.base import parameters_of
from alda.agents.codes import FrameCodesConfig, SACOnCodes
from alda.agents.decoding import DecodingAgent, psnr
from alda.errors import LearningError, UserError
from alda.nets.conv import ELU_WIDTHS, EluDecoder, EluEncoder, HistoryEncoder
from alda.nets.mlp import Activation, initialize_
from alda.nets.representation import FrameCodes, TransitionFeatures, to_float
from alda.training.replay import Replay
from alda.types import EnvSpec, Image, Latents, Metrics, Obs, Transition

_HIDDEN = 256  # width of the beta-VAE's layer between convolutions and latents
_LEAST_STD = 0.1  # of a feature, as a share of the average one


@dataclass(frozen=True)
class DARLAConfig(FrameCodesConfig):
    random_steps: int = 50_000
    """Agent steps taken at random, from which stage 1 learns; they count as training (even: the actor catches up)."""
    denoiser_updates: int = 20_000
    """Updates of the denoising autoencoder, stage 1a."""
    vae_updates: int = 50_000
    """Updates of the beta-VAE, stage 1b."""
    catch_up_updates: int = 1_000
    """Updates of SAC right after stage 1; then one per agent step."""
    num_latents: int = 32
    """Gaussian latents per frame."""
    widths: tuple[int, int, int, int] = ELU_WIDTHS
    """Channels of both encoders after each halving of the image; of the decoders in reverse order."""
    bottleneck_dim: int = 100
    """Width of the denoiser's bottleneck."""
    beta: float = 1.0
    """Weight of the divergence in nats against the squared distance, summed over features."""
    beta_warm_up: int = 10_000
    """Updates of the beta-VAE over which its weight rises from zero, linearly."""
    denoiser_learning_rate: float = 1e-3
    """Adam step size of the denoiser."""
    vae_learning_rate: float = 1e-4
    """Adam step size of the beta-VAE."""
    sample_frames: int = 1_024
    """Newly drawn frames that scale the denoiser's features and on which the beta-VAE is judged."""
    active_threshold: float = 0.05
    """Mean divergence from the prior in nats above which a latent counts as active."""
    active_range: tuple[int, int] = (6, 32)
    """Least and most active latents of a beta-VAE that is accepted."""
    min_psnr_gain: float = 1.0
    """Least PSNR of its images above that of the mean image, in dB; 1 explains a fifth of the variance."""
    on_refusal: Literal["stop", "continue"] = "stop"
    """What happens where the beta-VAE is not accepted; may be changed when a run is resumed."""
    embed_dim: int = 256
    """Width of the normalised bottleneck of actor and critic, and of the history features."""
    activation: Activation = "gelu"
    """Activation of actor and critic."""

    from_zero: ClassVar[tuple[str, ...]] = ("denoiser_updates", "vae_updates", "catch_up_updates")

    def steady(self) -> "DARLAConfig":
        """Return settings for benchmarks: stage 2 alone."""
        return replace(self, random_steps=2, denoiser_updates=0, vae_updates=0, catch_up_updates=2)


class DARLA(DecodingAgent, SACOnCodes):
    config: DARLAConfig
    representation: "FrozenEncoder"
    target_representation: "FrozenEncoder"
    feature_std: Tensor
    hot = (*SACOnCodes.hot, "learn_denoiser", "learn_vae")

    def __init__(self, config: DARLAConfig, spec: EnvSpec) -> None:
        c = config
        least, most = c.active_range
        if not least <= min(most, c.num_latents):
            raise UserError(
                f"no beta-VAE of {c.num_latents} latents can have {least} to {most} active ones; change "
                "--agent.active-range or --agent.num-latents"
            )
        super().__init__(c, spec, FrozenEncoder(c, spec))
        self.denoiser = Denoiser(c.bottleneck_dim, spec.image_size, c.widths)
        self.decoder = nn.Sequential(
            nn.Linear(c.num_latents, _HIDDEN), nn.ELU(), EluDecoder(_HIDDEN, spec.image_size, c.widths)
        )
        self.denoiser.apply(initialize_)
        self.decoder.apply(initialize_)
        self.register_buffer("feature_std", torch.ones(self.denoiser.encoder.out_dim))
        self.pretrained = 0  # updates of stage 1 taken
        self.verdict: dict[str, float] | None = None  # on the beta-VAE, until it is heeded

        self.optimizers["denoiser"] = Adam(self.denoiser.parameters(), c.denoiser_learning_rate)
        vae = parameters_of(self.representation.encoder, self.decoder)
        self.optimizers["vae"] = Adam(vae, c.vae_learning_rate)

    def updates_due(self, step: int) -> int:
        c = self.config
        if step == c.random_steps:
            return c.denoiser_updates + c.vae_updates + c.catch_up_updates
        return c.updates_per_step * int(step > c.random_steps)

    def update(self, replay: Replay, step: int) -> Metrics:
        """Take one learning step of the current stage.

        Raises LearningError at every call after the beta-VAE is refused, unless on_refusal is continue.
        """
        metrics: Metrics = {}
        if self.pretrained < self.config.denoiser_updates + self.config.vae_updates:
            metrics = self._pretrain(replay)
        elif self.verdict is None:
            return super().update(replay, step)
        if self.verdict is not None:
            metrics |= self._heed(self.verdict)
        return metrics

    def _pretrain(self, replay: Replay) -> Metrics:
        """Take one step of stage 1. Scale features before 1b, judge the beta-VAE after it."""
        c = self.config
        if self.pretrained == c.denoiser_updates:
            self._scale_features(replay)
        frames = replay.sample(c.batch_size).obs[:, -1]
        if self.pretrained < c.denoiser_updates:
            metrics = self.learn_denoiser(frames)
        else:
            beta = torch.full((), beta_at(self.pretrained - c.denoiser_updates, c), device=frames.device)
            metrics = {**self.learn_vae(frames, beta), "vae/beta": beta}
        self.pretrained += 1
        if self.pretrained == c.denoiser_updates + c.vae_updates:
            if self.stores_codes:
                replay.forget_codes()
            else:
                self.target_representation.encoder.load_state_dict(self.representation.encoder.state_dict())
            self.verdict = self._judge(replay) if c.vae_updates else None
        return metrics

    def learn_denoiser(self, frames: UInt8[Tensor, "b c h w"]) -> Metrics:
        image = to_float(frames)
        covered = rectangles(torch.rand(len(image), 2, 2, device=image.device), image.shape[-1])
        decoded = self.denoiser(image * ~covered).sigmoid()
        loss = F.mse_loss(decoded, image)
        self.descend("denoiser", loss=loss)
        return {"denoiser/loss": loss.detach(), "denoiser/psnr": psnr(decoded.detach(), image)}

    def learn_vae(self, frames: UInt8[Tensor, "b c h w"], beta: Float[Tensor, ""]) -> Metrics:
        image = to_float(frames)
        mean, log_var = self.representation.encoder(image)
        decoded = self.decoder(mean + (0.5 * log_var).exp() * torch.randn_like(mean)).sigmoid()
        with torch.no_grad():
            seen = self.features(image)
        distance = (self.features(decoded) - seen).square().sum(-1).mean()
        divergence = divergence_from_prior(mean, log_var).mean(0)  # [L]
        loss = distance + beta * divergence.sum()
        self.descend("vae", loss=loss)
        return {
            "vae/loss": loss.detach(),
            "vae/distance": distance.detach(),
            "vae/kl": divergence.detach().sum(),
            "vae/active": self._active(divergence.detach()),
        }

    def features(self, image: Image) -> Float[Tensor, "b d"]:
        """Return the denoiser's features before its bottleneck, divided by their standard deviation over the data."""
        return self.denoiser.encoder(image) / self.feature_std

    def decode(self, code: Float[Tensor, "n l"]) -> Image:
        """Decode latents and pass the image through the denoiser: the loss compares features alone, so the decoder's
        own image is arbitrary wherever the denoiser does not look."""
        return self.denoiser(self.decoder(code).sigmoid()).sigmoid()

    @torch.no_grad()
    def _scale_features(self, replay: Replay) -> None:
        features = torch.cat([self.denoiser.encoder(image) for image in self._fresh(replay)])
        std = features.std(0)
        self.feature_std.copy_(std.clamp(min=_LEAST_STD * std.mean()))  # else features that hardly vary weigh most

    @torch.no_grad()
    def _judge(self, replay: Replay) -> dict[str, float]:
        """Return whether the beta-VAE is accepted on newly drawn frames, and the numbers that decide."""
        c, seen, painted, divergences = self.config, [], [], []
        for image in self._fresh(replay):
            mean, log_var = self.representation.encoder(image)
            seen.append(image)
            painted.append(self.decode(mean))
            divergences.append(divergence_from_prior(mean, log_var))
        images = torch.cat(seen)
        quality = psnr(torch.cat(painted), images).item()
        gain = quality - psnr(images.mean(0, keepdim=True).expand_as(images), images).item()
        active = self._active(torch.cat(divergences).mean(0)).item()
        least, most = c.active_range
        accepted = float(least <= active <= most and gain >= c.min_psnr_gain)
        return {"active": active, "psnr": quality, "psnr_gain": gain, "accepted": accepted}

    def _heed(self, verdict: dict[str, float]) -> Metrics:
        """Return the verdict as metrics, or raise LearningError."""
        c = self.config
        if not verdict["accepted"] and c.on_refusal == "stop":
            least, most = c.active_range
            raise LearningError(
                f"the beta-VAE is refused, with {verdict['active']:.0f} active latents (accepted: {least} to {most}) "
                f"and images {verdict['psnr_gain']:.1f} dB better than the mean image (accepted: {c.min_psnr_gain} "
                "and more); begin anew with another --agent.beta or more --agent.vae-updates, or go on as it is "
                "with --agent.on-refusal continue",
                sound=True,
            )
        self.verdict = None
        return {f"darla/{name}": torch.tensor(value) for name, value in verdict.items()}

    def _active(self, divergence: Float[Tensor, " l"]) -> Float[Tensor, ""]:
        return (divergence > self.config.active_threshold).float().sum()

    def _fresh(self, replay: Replay) -> Iterator[Image]:
        """Draw newest frames from replay, a batch at a time."""
        for _ in range(0, self.config.sample_frames, self.config.batch_size):
            yield to_float(replay.sample(self.config.batch_size).obs[:, -1])

    @torch.no_grad()
    def latents(self, obs: Obs) -> Latents:
        mean, _ = self.representation.encoder(to_float(obs[:, -1]))
        return Latents(mean, mean)

    def sweep(self, latents: Latents, count: int) -> Float[Tensor, "l v"]:
        """Return `count` values from -3 to 3 standard deviations of the prior."""
        code = latents.code
        return torch.linspace(-3, 3, count, device=code.device, dtype=code.dtype).expand(code.shape[1], -1)

    @torch.no_grad()
    def diagnose(self, obs: Obs) -> Metrics:
        mean, log_var = self.representation.encoder(to_float(obs[:, -1]))
        divergence = divergence_from_prior(mean, log_var).mean(0)
        return super().diagnose(obs) | {"kl": divergence.sum(), "active": self._active(divergence)}

    def training_state(self) -> dict[str, Any]:
        return {**super().training_state(), "stage": {"pretrained": self.pretrained, "verdict": self.verdict}}

    def load_training_state(self, saved: dict[str, Any]) -> None:
        optimizers = dict(saved)
        stage = optimizers.pop("stage")
        self.pretrained, self.verdict = stage["pretrained"], stage["verdict"]
        super().load_training_state(optimizers)


class FrozenEncoder(FrameCodes):
    """Means of each frame's latents, mixed over frames; the critic trains the mixing alone."""

    coders = ("encoder",)

    def __init__(self, config: DARLAConfig, spec: EnvSpec) -> None:
        super().__init__()
        if spec.image_size < 16 or config.num_latents < 2:
            raise UserError("DARLA needs images of at least 16x16 pixels and at least two latents")
        self.out_dim, self.code_dim = config.embed_dim, config.num_latents
        self.encoder = GaussianEncoder(config.num_latents, spec.image_size, config.widths)
        self.history = HistoryEncoder(spec.frames, config.num_latents, config.embed_dim)

    def critic_trained(self) -> list[nn.Module]:
        return [self.history]

    @torch.no_grad()
    def codes(self, obs: Obs) -> Float[Tensor, "b f l"]:
        mean, _ = self.encoder(to_float(obs.flatten(0, 1)))
        return mean.unflatten(0, obs.shape[:2])

    def encode_transition(self, batch: Transition) -> TransitionFeatures:
        """Encode each of the F + 1 distinct frames once, where one_pass is set."""
        if batch.obs.is_floating_point() or not self.one_pass:
            return super().encode_transition(batch)
        means = self.codes(torch.cat([batch.obs[:, :1], batch.next_obs], dim=1))  # [B, F+1, L]
        with torch.no_grad():
            next_features = self.history(means[:, 1:])
        return TransitionFeatures(self.history(means[:, :-1]), next_features)


class GaussianEncoder(nn.Module):
    """One frame -> mean and log variance of each latent."""

    def __init__(self, num_latents: int, image_size: int, widths: Sequence[int] = ELU_WIDTHS) -> None:
        super().__init__()
        self.convs = EluEncoder(image_size, widths)
        self.head = nn.Sequential(nn.Linear(self.convs.out_dim, _HIDDEN), nn.ELU(), nn.Linear(_HIDDEN, 2 * num_latents))

    def forward(self, image: Image) -> tuple[Float[Tensor, "n l"], Float[Tensor, "n l"]]:
        mean, log_var = self.head(self.convs(image)).chunk(2, dim=-1)
        return mean, log_var


class Denoiser(nn.Module):
    """One frame, partly covered -> logits of the whole."""

    def __init__(self, bottleneck_dim: int, image_size: int, widths: Sequence[int] = ELU_WIDTHS) -> None:
        super().__init__()
        self.encoder = EluEncoder(image_size, widths)
        self.bottleneck = nn.Linear(self.encoder.out_dim, bottleneck_dim)
        self.decoder = EluDecoder(bottleneck_dim, image_size, widths)

    def forward(self, image: Image) -> Image:
        return self.decoder(self.bottleneck(self.encoder(image)))


def beta_at(update: int, config: DARLAConfig) -> float:
    """Return the weight of the divergence at an update of the beta-VAE, counted from zero."""
    return config.beta * min(1.0, update / config.beta_warm_up)


def rectangles(corners: Float[Tensor, "b 2 2"], size: int) -> Bool[Tensor, "b 1 s s"]:
    """Return which pixel centres lie in each image's rectangle. corners: its horizontal pair of sides and its vertical
    one, each in any order, as shares of the image."""
    centres = (torch.arange(size, device=corners.device) + 0.5) / size
    low, high = corners.amin(-1), corners.amax(-1)  # [B, 2]
    inside = (low[..., None] <= centres) & (centres < high[..., None])  # [B, 2, S]
    return (inside[:, 1, :, None] & inside[:, 0, None, :])[:, None]


def divergence_from_prior(mean: Float[Tensor, "b l"], log_var: Float[Tensor, "b l"]) -> Float[Tensor, "b l"]:
    """Return the KL divergence of each latent's Gaussian from the standard one, in nats."""
    return 0.5 * (mean.square() + log_var.exp() - 1 - log_var)
