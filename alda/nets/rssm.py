"""Recurrent state-space model (Hafner et al., 2019): a belief about the environment, carried from step to step.

belief, action -> GRU -> deter -+--------------> prior: the state as expected
                                '-- + frame ---> posterior: the state as seen
"""

from typing import NamedTuple

import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float
from torch import Tensor, nn

from alda.nets.mlp import mlp


class Belief(NamedTuple):
    """The GRU's memory and a sample of the stochastic state."""

    deter: Float[Tensor, "*n d"]
    stoch: Float[Tensor, "*n s"]

    @property
    def features(self) -> Float[Tensor, "*n f"]:
        return torch.cat([self.deter, self.stoch], dim=-1)

    def detach(self) -> "Belief":
        return Belief(self.deter.detach(), self.stoch.detach())


class Gaussian(NamedTuple):
    """Distribution of independent numbers."""

    mean: Float[Tensor, "*n s"]
    std: Float[Tensor, "*n s"]

    def rsample(self) -> Float[Tensor, "*n s"]:
        return self.mean + self.std * torch.randn_like(self.mean)

    def detach(self) -> "Gaussian":
        return Gaussian(self.mean.detach(), self.std.detach())


class RSSM(nn.Module):
    def __init__(self, action_dim: int, embed_dim: int, deter_dim: int, stoch_dim: int, hidden_dim: int) -> None:
        super().__init__()
        self.deter_dim, self.stoch_dim = deter_dim, stoch_dim
        self.mix = nn.Sequential(nn.Linear(stoch_dim + action_dim, deter_dim), nn.ELU())
        self.gru = nn.GRUCell(deter_dim, deter_dim)
        self.prior_net = mlp(deter_dim, hidden_dim, 2 * stoch_dim, "elu", depth=1)
        # One layer on memory and embedding, in two parts: that of the embedding does not wait for the recurrence.
        self.from_embed = nn.Linear(embed_dim, hidden_dim)
        self.from_deter = nn.Linear(deter_dim, hidden_dim, bias=False)
        self.posterior_net = nn.Sequential(nn.ELU(), nn.Linear(hidden_dim, 2 * stoch_dim))
        bound = (deter_dim + embed_dim) ** -0.5  # PyTorch's own, for the width of both
        for parameter in (*self.from_embed.parameters(), *self.from_deter.parameters()):
            nn.init.uniform_(parameter, -bound, bound)

    def initial(self, batch_size: int) -> Belief:
        """Return the belief before anything is known: zeros."""
        zeros = self.gru.weight_hh.new_zeros
        return Belief(zeros(batch_size, self.deter_dim), zeros(batch_size, self.stoch_dim))

    def advance(self, belief: Belief, action: Float[Tensor, "b a"]) -> Float[Tensor, "b d"]:
        """Return the memory after an action."""
        return self.gru(self.mix(torch.cat([belief.stoch, action], dim=-1)), belief.deter)

    def prior(self, deter: Float[Tensor, "*n d"]) -> Gaussian:
        return gaussian(self.prior_net(deter))

    def posterior(self, deter: Float[Tensor, "b d"], from_embed: Float[Tensor, "b h"]) -> Gaussian:
        return gaussian(self.posterior_net(self.from_deter(deter) + from_embed))

    def imagine(self, belief: Belief, action: Float[Tensor, "b a"]) -> Belief:
        """Advance by one step without an observation."""
        deter = self.advance(belief, action)
        return Belief(deter, self.prior(deter).rsample())

    def observe(
        self, embed: Float[Tensor, "b t e"], action: Float[Tensor, "b t a"], first: Bool[Tensor, "b t"]
    ) -> tuple[Belief, Gaussian, Gaussian]:
        """Return beliefs, priors and posteriors along sequences.

        action: the one that led to each frame. first: where an episode begins, with an empty belief and no action.
        """
        kept = (~first).to(embed.dtype)[..., None]  # [B, T, 1]
        from_embed, action = self.from_embed(embed), action * kept
        belief, noise = self.initial(len(embed)), embed.new_empty(*embed.shape[:2], self.stoch_dim).normal_()
        steps = []
        for t in range(embed.shape[1]):
            known = Belief(belief.deter * kept[:, t], belief.stoch * kept[:, t])
            deter = self.advance(known, action[:, t])
            posterior = self.posterior(deter, from_embed[:, t])
            belief = Belief(deter, posterior.mean + posterior.std * noise[:, t])
            steps.append((*belief, *posterior))
        deter, stoch, mean, std = (torch.stack(part, dim=1) for part in zip(*steps, strict=True))
        return Belief(deter, stoch), self.prior(deter), Gaussian(mean, std)


def gaussian(parameters: Float[Tensor, "*n p"]) -> Gaussian:
    """Return the Gaussian of network outputs, whose standard deviation is at least 0.1."""
    mean, std = parameters.chunk(2, dim=-1)
    return Gaussian(mean, F.softplus(std) + 0.1)


def kl_divergence(p: Gaussian, q: Gaussian) -> Float[Tensor, "*n"]:
    """Return KL(p || q) in nats, summed over the last axis."""
    ratio = p.std / q.std
    return 0.5 * (ratio.square() + ((p.mean - q.mean) / q.std).square() - 1 - 2 * ratio.log()).sum(-1)
