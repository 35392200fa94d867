"""Actor, critic and the small parts they share."""

from itertools import pairwise
from typing import Literal

import torch
from jaxtyping import Float
from torch import Tensor, nn

from alda.nets.distributions import SquashedNormal

Activation = Literal["elu", "gelu", "relu"]
ACTIVATIONS: dict[Activation, type[nn.Module]] = {"elu": nn.ELU, "gelu": nn.GELU, "relu": nn.ReLU}


def mlp(
    in_dim: int, hidden_dim: int, out_dim: int, activation: Activation, depth: int = 2, *, norm: bool = False
) -> nn.Sequential:
    """Return a network of `depth` hidden layers; norm: layer normalisation before each activation."""
    layers: list[nn.Module] = []
    for i, o in pairwise((in_dim, *[hidden_dim] * depth)):
        layers += [nn.Linear(i, o), *[nn.LayerNorm(o)] * norm, ACTIVATIONS[activation]()]
    return nn.Sequential(*layers, nn.Linear(hidden_dim, out_dim))


def trunk(in_dim: int, out_dim: int) -> nn.Sequential:
    """Return the normalised bottleneck at the foot of a head."""
    return nn.Sequential(nn.Linear(in_dim, out_dim), nn.LayerNorm(out_dim), nn.Tanh())


class Actor(nn.Module):
    def __init__(
        self,
        in_dim: int,
        action_dim: int,
        embed_dim: int,
        hidden_dim: int,
        activation: Activation,
        log_std_bounds: tuple[float, float],
    ) -> None:
        super().__init__()
        self.log_std_bounds = log_std_bounds
        self.trunk = trunk(in_dim, embed_dim)
        self.policy = mlp(embed_dim, hidden_dim, 2 * action_dim, activation)

    def forward(self, features: Float[Tensor, "b d"]) -> SquashedNormal:
        mean, log_std = self.policy(self.trunk(features)).chunk(2, dim=-1)
        low, high = self.log_std_bounds
        return SquashedNormal(mean, low + 0.5 * (high - low) * (log_std.tanh() + 1))


class Critic(nn.Module):
    """Two Q-functions on one trunk."""

    def __init__(
        self,
        in_dim: int,
        action_dim: int,
        embed_dim: int,
        hidden_dim: int,
        activation: Activation,
        *,
        norm: bool = False,
    ) -> None:
        super().__init__()
        self.trunk = trunk(in_dim, embed_dim)
        self.q = nn.ModuleList(mlp(embed_dim + action_dim, hidden_dim, 1, activation, norm=norm) for _ in range(2))

    def forward(self, features: Float[Tensor, "b d"], action: Float[Tensor, "b a"]) -> Float[Tensor, "2 b"]:
        x = torch.cat([self.trunk(features), action], dim=-1)
        return torch.stack([q(x).squeeze(-1) for q in self.q])


@torch.no_grad()
def initialize_(module: nn.Module) -> None:
    """Initialise a layer as in SAC from pixels, for `Module.apply`.

    Linear layers orthogonal with zero bias. Square convolutions delta-orthogonal: zero but for one tap, at
    (k//2, k//2), which holds an orthogonal matrix. Everything else keeps PyTorch's default.
    """
    if isinstance(module, nn.Linear):
        nn.init.orthogonal_(module.weight)
        nn.init.zeros_(module.bias)
    elif isinstance(module, nn.Conv2d | nn.ConvTranspose2d):
        tap = module.kernel_size[0] // 2
        nn.init.zeros_(module.weight)
        nn.init.orthogonal_(module.weight[:, :, tap, tap], gain=nn.init.calculate_gain("relu"))
        if module.bias is not None:
            nn.init.zeros_(module.bias)
