"""Image augmentations from bytes to bytes on the device, with one draw per sample, shared by the frames of its stack.

random_X draws random numbers for the deterministic X: shift, convolve, overlay, crop, rotate.
"""

import math

import torch
import torch.nn.functional as F
from jaxtyping import Float, Int64, UInt8
from torch import Tensor

from alda.types import Obs

LARGE_SHIFT = 16  # pixels
_ATTEMPTS = 10  # at a box that fits into the image


def random_shift(obs: Obs, pad: int) -> Obs:
    """Shift by up to `pad` pixels along each axis."""
    top, left = torch.randint(-pad, pad + 1, (2, len(obs)), device=obs.device)
    return shift(obs, top, left)


def shift(obs: Obs, top: Int64[Tensor, " b"], left: Int64[Tensor, " b"]) -> Obs:
    """Cut out a window that begins at (top, left); beyond the edge the image repeats its last pixels."""
    h, w = obs.shape[-2:]
    rows = (top[:, None] + torch.arange(h, device=obs.device)).clamp(0, h - 1)  # [B, H]
    columns = (left[:, None] + torch.arange(w, device=obs.device)).clamp(0, w - 1)  # [B, W]
    pixels = (rows[:, :, None] * w + columns[:, None, :]).flatten(1)  # [B, HW]
    images = obs.flatten(1, 2).flatten(2)  # [B, FC, HW]
    return images.gather(2, pixels[:, None].expand_as(images)).view(obs.shape)


def random_conv(obs: Obs) -> Obs:
    """Convolve with a random 3x3 filter of normal weights."""
    c = obs.shape[2]
    return convolve(obs, torch.randn(len(obs), c, c, 3, 3, device=obs.device))


def convolve(obs: Obs, kernels: Float[Tensor, "b c c 3 3"]) -> Obs:
    """Filter images in [0, 1] by the kernel of their sample and apply the sigmoid; edges repeat the last pixels."""
    b, f, c, h, w = obs.shape
    images = (obs.transpose(0, 1).float() / 255).reshape(f, b * c, h, w)
    filtered = F.conv2d(F.pad(images, (1, 1, 1, 1), mode="replicate"), kernels.flatten(0, 1), groups=b)
    return _to_bytes(255 * filtered.sigmoid()).view(f, b, c, h, w).transpose(0, 1)


def random_overlay(obs: Obs, bank: UInt8[Tensor, "n c s s"]) -> Obs:
    """Blend half of each observation with half of a random crop from the bank."""
    return overlay(obs, random_crop(bank, len(obs), obs.shape[-1]))


def overlay(obs: Obs, images: UInt8[Tensor, "b c h w"], weight: float = 0.5) -> Obs:
    """Blend observations with images of the given weight."""
    return _to_bytes(obs.float().lerp_(images[:, None].float(), weight))


def random_crop(bank: UInt8[Tensor, "n c s s"], count: int, size: int) -> UInt8[Tensor, "count c size size"]:
    """Cut parts out of random images, stretched to size x size pixels and mirrored with probability one half."""
    images = bank[torch.randint(len(bank), (count,), device=bank.device)]
    return crop(images, random_boxes(count, bank.device), torch.rand(count, device=bank.device) < 0.5, size)


def random_boxes(count: int, device: torch.device) -> Float[Tensor, "count 4"]:
    """Draw top, left, height and width of boxes in the unit square, with area 0.08 to 1 and aspect ratio 3/4 to 4/3.

    As torchvision's RandomResizedCrop draws them, except that sides need not lie between pixels: the first of ten boxes
    that fits, or else the whole image.
    """
    area, ratio, down, right = torch.rand(4, count, _ATTEMPTS, device=device)
    area, log_ratio = 0.08 + 0.92 * area, (2 * ratio - 1) * math.log(4 / 3)
    width, height = (area * log_ratio.exp()).sqrt(), (area / log_ratio.exp()).sqrt()
    fits = (width <= 1) & (height <= 1)
    height, width = (F.pad(side, (0, 1), value=1.0) for side in (height, width))
    first = F.pad(fits, (0, 1), value=True).int().argmax(1, keepdim=True)
    height, width = height.gather(1, first), width.gather(1, first)
    return torch.cat([(1 - height) * down[:, :1], (1 - width) * right[:, :1], height, width], dim=1)


def crop(
    images: UInt8[Tensor, "b c s s"], boxes: Float[Tensor, "b 4"], mirrored: Tensor, size: int
) -> UInt8[Tensor, "b c size size"]:
    """Cut out boxes (top, left, height, width in the unit square) and resize them to size x size pixels, bilinear."""
    top, left, height, width = boxes.unbind(1)
    none, side = torch.zeros_like(top), torch.where(mirrored, -width, width)
    rows = [side, none, 2 * left + width - 1, none, height, 2 * top + height - 1]
    return _warp(images, torch.stack(rows, dim=1), size)


def random_rotation(obs: Obs) -> Obs:
    """Rotate by up to half a turn in either direction."""
    return rotate(obs, math.pi * (2 * torch.rand(len(obs), device=obs.device) - 1))


def rotate(obs: UInt8[Tensor, "b f c h h"], angle: Float[Tensor, " b"]) -> UInt8[Tensor, "b f c h h"]:
    """Rotate counter-clockwise about the centre, in radians, bilinear; edges repeat the last pixels."""
    cos, sin, none = angle.cos(), angle.sin(), torch.zeros_like(angle)
    rows = torch.stack([cos, -sin, none, sin, cos, none], dim=1)
    return _warp(obs.flatten(1, 2), rows, obs.shape[-1]).view(obs.shape)


def random_mix(obs: Obs, bank: UInt8[Tensor, "n c s s"]) -> Obs:
    """Apply to each sample one of convolution, convolution and overlay, overlay, rotation, rotation and shift, shift.

    Each goes to a sixth of the batch, by place: samples from replay are in random order, so all have the same chances.
    """
    cuts = [i * len(obs) // 6 for i in range(7)]
    mixed = obs.clone()
    for augmented, first, last in (
        (random_conv, cuts[0], cuts[2]),
        (lambda part: random_overlay(part, bank), cuts[1], cuts[3]),
        (random_rotation, cuts[3], cuts[5]),
        (lambda part: random_shift(part, LARGE_SHIFT), cuts[4], cuts[6]),
    ):
        mixed[first:last] = augmented(mixed[first:last])
    return mixed


def _warp(images: UInt8[Tensor, "b c s s"], rows: Float[Tensor, "b 6"], size: int) -> Tensor:
    """Sample square images under affine maps from places in the result to places in the image, both in [-1, 1]."""
    grid = F.affine_grid(rows.view(-1, 2, 3), [len(images), 1, size, size], align_corners=False)
    return _to_bytes(F.grid_sample(images.float(), grid, padding_mode="border", align_corners=False))


def _to_bytes(values: Float[Tensor, "*n"]) -> UInt8[Tensor, "*n"]:
    return values.round().to(torch.uint8)
