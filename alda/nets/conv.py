"""Image encoders and decoders. Images are float in [0, 1]; decoders of single frames give logits."""

from collections.abc import Sequence
from itertools import pairwise
from typing import Literal, get_args

import torch
from jaxtyping import Float
from torch import Tensor, nn

from alda.errors import UserError
from alda.types import Image

Norm = Literal["instance", "layer", "none"]
NORMS: tuple[str, ...] = get_args(Norm)
WIDTHS = (32, 64, 128, 256)  # channels after each halving of the image, as released
ELU_WIDTHS = (32, 32, 64, 64)  # those of DARLA
_HIDDEN = 256


class Convolutions(nn.Sequential):
    """A stack of image layers, which may run at low precision (see alda.training.acceleration)."""

    low_precision = True


class FrameEncoder(nn.Module):
    """One frame, or several as channels -> `out_dim` unbounded numbers. widths: channels after each halving."""

    def __init__(
        self, out_dim: int, size: int = 64, norm: Norm = "instance", frames: int = 1, widths: Sequence[int] = WIDTHS
    ) -> None:
        super().__init__()
        chans = (3 * frames, *widths)
        convs = [layer for i, o in pairwise(chans) for layer in _normed(nn.Conv2d(i, o, 4, 2, 1), o, norm)]
        self.convs = Convolutions(*convs, nn.Flatten())
        self.head = _head(widths[-1] * _sides(size)[-1] ** 2, out_dim)

    def forward(self, image: Image) -> Float[Tensor, "n l"]:
        return self.head(self.convs(image))


class FrameDecoder(nn.Module):
    """`in_dim` numbers -> logits of one frame, or of several as channels.

    widths: those of the encoder that it mirrors. shuffle: the two largest layers, which are most of the work, become
    one convolution at a quarter of the image's side whose channels are laid out as 4x4 pixels.
    """

    def __init__(
        self,
        in_dim: int,
        size: int = 64,
        norm: Norm = "instance",
        frames: int = 1,
        widths: Sequence[int] = WIDTHS,
        *,
        shuffle: bool = False,
    ) -> None:
        super().__init__()
        sides = _sides(size)[::-1]  # 4, 8, 16, 32, 64
        if shuffle and 4 * sides[2] != size:
            raise UserError(f"--agent.decoder shuffle needs images whose side is a multiple of 4 pixels, not {size}")
        smallest = (widths[-1], sides[0], sides[0])
        self.head = _head(in_dim, widths[-1] * sides[0] ** 2).extend([nn.GELU(), nn.Unflatten(-1, smallest)])
        chans = (*widths[::-1], max(1, widths[0] // 2))  # 256, 128, 64, 32, 16
        chans = chans[:3] if shuffle else chans
        doublings = zip(pairwise(chans), pairwise(sides), strict=False)
        layers = [layer for (i, o), both in doublings for layer in _normed(_doubling(i, o, *both), o, norm)]
        if shuffle:
            last: tuple[nn.Module, ...] = (nn.Conv2d(chans[-1], 16 * 3 * frames, 3, 1, 1), nn.PixelShuffle(4))
        else:
            last = (nn.ConvTranspose2d(chans[-1], 3 * frames, 3, 1, 1),)
        self.convs = Convolutions(*layers, *last)

    def forward(self, latent: Float[Tensor, "n l"]) -> Image:
        return self.convs(self.head(latent))


class EluEncoder(nn.Module):
    """One frame -> flat features: four convolutions that halve the image, each with an ELU, as in DARLA."""

    def __init__(self, size: int, widths: Sequence[int] = ELU_WIDTHS) -> None:
        super().__init__()
        layers = [layer for i, o in pairwise((3, *widths)) for layer in (nn.Conv2d(i, o, 4, 2, 1), nn.ELU())]
        self.convs = Convolutions(*layers, nn.Flatten())
        self.out_dim = widths[-1] * _sides(size)[-1] ** 2

    def forward(self, image: Image) -> Float[Tensor, "n d"]:
        return self.convs(image)


class EluDecoder(nn.Module):
    """`in_dim` numbers -> logits of one frame: EluEncoder in reverse."""

    def __init__(self, in_dim: int, size: int, widths: Sequence[int] = ELU_WIDTHS) -> None:
        super().__init__()
        sides = _sides(size)[::-1]
        smallest = (widths[-1], sides[0], sides[0])
        self.head = nn.Sequential(nn.Linear(in_dim, widths[-1] * sides[0] ** 2), nn.ELU(), nn.Unflatten(-1, smallest))
        doublings = zip(pairwise((*widths[::-1], 3)), pairwise(sides), strict=True)
        layers = [layer for (i, o), both in doublings for layer in (_doubling(i, o, *both), nn.ELU())]
        self.convs = Convolutions(*layers[:-1])

    def forward(self, code: Float[Tensor, "n d"]) -> Image:
        return self.convs(self.head(code))


class StackEncoder(nn.Module):
    """A stack of frames -> flat features: `depth` 3x3 convolutions, the first `halvings` of them of stride 2.

    depth 11 and no activation after the last is DMControl-GB's SAC; depth 4 with one (last_relu) that of SAC+AE.
    """

    def __init__(
        self, frames: int, size: int, channels: int = 32, depth: int = 11, halvings: int = 1, *, last_relu: bool = False
    ) -> None:
        super().__init__()
        sides = _stack_sides(size, depth, halvings)
        convs: list[nn.Module] = [nn.Conv2d(3 * frames, channels, 3, 2)]
        for layer in range(1, depth):
            convs += [nn.ReLU(), nn.Conv2d(channels, channels, 3, 2 if layer < halvings else 1)]
        self.convs = Convolutions(*convs, *[nn.ReLU()] * last_relu, nn.Flatten())
        self.out_dim = channels * sides[-1] ** 2

    def forward(self, stack: Float[Tensor, "b fc h w"]) -> Float[Tensor, "b d"]:
        return self.convs(stack)


class StackDecoder(nn.Module):
    """`in_dim` numbers -> a stack of frames, unbounded: StackEncoder in reverse, as in SAC+AE."""

    def __init__(
        self, in_dim: int, frames: int, size: int, channels: int = 32, depth: int = 4, halvings: int = 1
    ) -> None:
        super().__init__()
        sides = _stack_sides(size, depth, halvings)
        smallest = (channels, sides[-1], sides[-1])
        self.head = nn.Sequential(nn.Linear(in_dim, channels * sides[-1] ** 2), nn.ReLU(), nn.Unflatten(-1, smallest))
        convs: list[nn.Module] = []
        for layer in range(depth - 1, -1, -1):
            out, stride = channels if layer else 3 * frames, 2 if layer < halvings else 1
            remainder = sides[layer] - ((sides[layer + 1] - 1) * stride + 3)
            convs += [nn.ConvTranspose2d(channels, out, 3, stride, output_padding=remainder), nn.ReLU()]
        self.convs = Convolutions(*convs[:-1])

    def forward(self, code: Float[Tensor, "b d"]) -> Float[Tensor, "b fc h w"]:
        return self.convs(self.head(code))


class HistoryEncoder(nn.Module):
    """Mixes the codes of the stacked frames: frames are channels, the convolution slides over the latents."""

    def __init__(self, frames: int, num_latents: int, out_dim: int) -> None:
        super().__init__()
        convs = [nn.Conv1d(frames, 8, 4, 2, 1), nn.GELU(), nn.Conv1d(8, 16, 4, 2, 2), nn.GELU(), nn.Flatten()]
        with torch.no_grad():
            flat = nn.Sequential(*convs)(torch.zeros(1, frames, num_latents)).shape[1]
        self.net = nn.Sequential(*convs, nn.Linear(flat, out_dim))

    def forward(self, code: Float[Tensor, "b f l"]) -> Float[Tensor, "b d"]:
        return self.net(code)


def _normed(conv: nn.Module, channels: int, norm: Norm) -> list[nn.Module]:
    """Return a convolution with its normalisation and GELU. GroupNorm with one group per channel is instance
    normalisation, as released; with one group it is layer normalisation."""
    groups = {"instance": channels, "layer": 1}
    layers = [conv] if norm == "none" else [conv, nn.GroupNorm(groups[norm], channels)]
    return [*layers, nn.GELU()]


def _doubling(in_channels: int, out_channels: int, side: int, doubled: int) -> nn.Module:
    """Return a transposed convolution to an image twice as large, or one pixel more."""
    return nn.ConvTranspose2d(in_channels, out_channels, 4, 2, 1, output_padding=doubled - 2 * side)


def _head(in_dim: int, out_dim: int) -> nn.Sequential:
    first, second, last = nn.Linear(in_dim, _HIDDEN), nn.Linear(_HIDDEN, _HIDDEN), nn.Linear(_HIDDEN, out_dim)
    return nn.Sequential(first, nn.GELU(), second, nn.GELU(), last)


def _sides(size: int) -> list[int]:
    """Return the image's side after 0 to 4 halvings: 64, 32, 16, 8, 4."""
    return [size // 2**halvings for halvings in range(5)]


def _stack_sides(size: int, depth: int, halvings: int) -> list[int]:
    """Return the image's side after 0, 1, ... 3x3 convolutions. Raises UserError where it would vanish."""
    sides = [size]
    for layer in range(depth):
        sides.append((sides[-1] - 3) // (2 if layer < halvings else 1) + 1)
    if sides[-1] < 1:
        raise UserError(f"{depth} convolutions need larger images than {size}x{size} pixels")
    return sides
