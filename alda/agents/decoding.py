"""Agents whose view of a frame can be shown: as latents, as a reconstruction, or as both, where latents are decoded."""

from abc import abstractmethod

import torch
import torch.nn.functional as F
from jaxtyping import Float, UInt8
from torch import Tensor

from alda.agents.base import Agent
from alda.latents.base import over_range
from alda.nets.representation import to_float
from alda.types import Image, Latents, Metrics, Obs

TRAVERSED = 9  # values of each latent in a traversal


class LatentAgent(Agent):
    """Agent that describes the newest frame by a few numbers, which analyses probe."""

    @abstractmethod
    def latents(self, obs: Obs) -> Latents:
        """Return the latents of the newest frames, without gradient."""

    def sweep(self, latents: Latents, count: int) -> Float[Tensor, "l v"]:
        """Return `count` values over the range of every latent; here, the range of the given ones."""
        return over_range(latents.code, count)


class ReconstructingAgent(Agent):
    """Agent that can draw what it believes the newest frame looks like."""

    @abstractmethod
    def reconstruct(self, obs: Obs) -> UInt8[Tensor, "b c h w"]:
        """Reconstruct the newest frames. An agent with a memory takes them for one episode, in order."""

    @torch.no_grad()
    def diagnose(self, obs: Obs) -> Metrics:
        return {"psnr": psnr(to_float(self.reconstruct(obs)), to_float(obs[:, -1]))}


class DecodingAgent(LatentAgent, ReconstructingAgent):
    """Agent that decodes its latents."""

    @abstractmethod
    def decode(self, code: Float[Tensor, "n l"]) -> Image:
        """Decode codes into frames in [0, 1]."""

    @torch.no_grad()
    def reconstruct(self, obs: Obs) -> UInt8[Tensor, "b c h w"]:
        return to_pixels(self.decode(self.latents(obs).code))

    @torch.no_grad()
    def traverse(self, obs: Obs, count: int = TRAVERSED) -> UInt8[Tensor, "l v c h w"]:
        """Decode the first observation's code with each latent in turn moved through `count` values of its range."""
        latents = self.latents(obs)
        values = self.sweep(latents, count)  # [L, V]
        codes = traversal_codes(latents.code[0], values)
        return to_pixels(self.decode(codes.flatten(0, 1))).unflatten(0, values.shape)

    @torch.no_grad()
    def diagnose(self, obs: Obs) -> Metrics:
        return {"psnr": psnr(self.decode(self.latents(obs).code), to_float(obs[:, -1]))}


def to_pixels(image: Image) -> UInt8[Tensor, "n c h w"]:
    """Convert images in [0, 1] to bytes; what is no number becomes black."""
    return (image.nan_to_num(0.0) * 255).round().to(torch.uint8)


def psnr(image: Image, truth: Image) -> Float[Tensor, ""]:
    """Return the peak signal-to-noise ratio of images in [0, 1], in dB."""
    return -10 * F.mse_loss(image, truth).log10()


def traversal_codes(code: Float[Tensor, " l"], values: Float[Tensor, "l v"]) -> Float[Tensor, "l v l"]:
    """Repeat a code, replacing each latent in turn by each of its values."""
    codes = code.repeat(*values.shape, 1)
    codes.diagonal(dim1=0, dim2=2).copy_(values.T)
    return codes
