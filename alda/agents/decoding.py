"""What methods with a decoder share: pixels, their quality, and traversals of the latents."""

import torch
import torch.nn.functional as F
from jaxtyping import Float, UInt8
from torch import Tensor

TRAVERSED = 9  # values of each latent in a traversal


def to_pixels(image: Float[Tensor, "n c h w"]) -> UInt8[Tensor, "n c h w"]:
    """From [0, 1]."""
    return (image * 255).round().to(torch.uint8)


def psnr(image: Float[Tensor, "n c h w"], truth: Float[Tensor, "n c h w"]) -> Float[Tensor, ""]:
    """Peak signal-to-noise ratio of images in [0, 1], in dB."""
    return -10 * F.mse_loss(image, truth).log10()


def traversal_codes(code: Float[Tensor, " l"], values: Float[Tensor, "l v"]) -> Float[Tensor, "l v l"]:
    """The code again and again, each latent in turn with each of its values."""
    codes = code.repeat(*values.shape, 1)
    codes.diagonal(dim1=0, dim2=2).copy_(values.T)
    return codes
