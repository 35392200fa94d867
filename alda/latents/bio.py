"""BioAE (Whittington et al., 2023): latents that are never negative and cost energy, as neurons do. No association.

Two definitions are in use, on the scale of a reconstruction loss that is a mean over pixels:

    bio           code = relu(x)    0.5 sum_j code_j^2 + 0.03 ||W||^2 over the decoder's dense weights, both / 12,288
    bio_penalty   code = x          mean_j relu(-x_j) + 0.01 mean_j x_j^2

The first is the port of ALDA's authors, divided by the 3 x 64 x 64 pixels over which they sum; the second that of the
authors of latent quantisation.
"""

import torch
from jaxtyping import Float
from torch import Tensor, nn

from alda.latents.base import Code, LatentModel
from alda.types import Metrics

_PIXELS = 3 * 64 * 64
_ACTIVITY, _WEIGHTS = 0.5 / _PIXELS, 0.03 / _PIXELS
_NEGATIVE, _ENERGY = 1.0, 0.01


class BioLatent(LatentModel):
    """Rectified latents with an energy cost on activity and on the decoder's dense weights."""

    def code(self, encoded: Code) -> Code:
        return encoded.relu()

    def regulariser(self, encoded: Code, code: Code) -> tuple[Float[Tensor, ""], Metrics]:
        energy = code.square().sum(-1).mean()
        return _ACTIVITY * energy, {"energy": energy.detach()}

    def decoder_loss(self, decoder: nn.Module) -> Float[Tensor, ""]:
        dense = [module.weight for module in decoder.modules() if isinstance(module, nn.Linear)]
        return _WEIGHTS * torch.stack([weight.square().sum() for weight in dense]).sum()


class BioPenaltyLatent(LatentModel):
    """Linear latents that pay for being negative, and for their size."""

    def code(self, encoded: Code) -> Code:
        return encoded

    def regulariser(self, encoded: Code, code: Code) -> tuple[Float[Tensor, ""], Metrics]:
        negative, energy = (-encoded).relu().mean(), encoded.square().mean()
        return _NEGATIVE * negative + _ENERGY * energy, {"negative": negative.detach(), "energy": energy.detach()}
