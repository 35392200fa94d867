"""ALDA once more, written straight from the paper and the released code's formulas, for comparison.

One function, no sharing: every encoding is computed where it is needed, in the released order, with a plain loop over
target parameters. It shares no code with the package; only the random numbers are drawn in the same order.
"""

import copy
import math
from itertools import pairwise

import torch
import torch.nn.functional as F
from torch import nn


def mlp(*widths):
    layers = [layer for i, o in pairwise(widths) for layer in (nn.Linear(i, o), nn.GELU())]
    return layers[:-1]


def encoder(latents, size):
    layers, width = [], 3
    for out in (32, 64, 128, 256):
        layers += [nn.Conv2d(width, out, 4, 2, 1), nn.GroupNorm(out, out), nn.GELU()]
        width = out
    return nn.Sequential(*layers, nn.Flatten(), *mlp(size * size, 256, 256, latents))


def decoder(latents, size):
    layers, width = (
        [*mlp(latents, 256, 256, size * size), nn.GELU(), nn.Unflatten(1, (256, size // 16, size // 16))],
        256,
    )
    for out in (128, 64, 32, 16):
        layers += [nn.ConvTranspose2d(width, out, 4, 2, 1), nn.GroupNorm(out, out), nn.GELU()]
        width = out
    return nn.Sequential(*layers, nn.ConvTranspose2d(16, 3, 3, 1, 1))


def history(latents, frames, width):
    convs = [nn.Conv1d(frames, 8, 4, 2, 1), nn.GELU(), nn.Conv1d(8, 16, 4, 2, 2), nn.GELU(), nn.Flatten()]
    return nn.Sequential(*convs, nn.Linear(16 * (latents // 4 + 1), width))


def projection(width):
    return nn.Sequential(nn.Linear(width, width), nn.LayerNorm(width), nn.Tanh())


class Reference:
    def __init__(self, *, size, hidden, beta=100.0, switches=(), latents=12, frames=3, actions=2, width=256):
        self.beta, self.actions, self.switches = beta, actions, switches
        self.f, self.g, self.h = encoder(latents, size), decoder(latents, size), history(latents, frames, width)
        self.V = nn.Parameter(torch.linspace(-1, 1, 12).repeat(latents, 1))
        self.actor_projection, self.critic_projection = projection(width), projection(width)
        self.actor = nn.Sequential(*mlp(width, hidden, hidden, 2 * actions))
        self.q1, self.q2 = (nn.Sequential(*mlp(width + actions, hidden, hidden, 1)) for _ in range(2))
        self.log_alpha = nn.Parameter(torch.tensor(math.log(0.1)))

    def parts(self):
        online = ("critic.q.0", "critic.q.1", "critic.trunk", "representation.history", "representation.encoder")
        trained = dict(zip(online, (self.q1, self.q2, self.critic_projection, self.h, self.f), strict=True))
        return trained | {"decoder": self.g, "actor.trunk": self.actor_projection, "actor.policy": self.actor}

    def target_parts(self):
        return {f"target_{name}": part for name, part in zip(self.parts(), self.targets, strict=False)}

    def copy_from(self, agent):
        for name, part in self.parts().items():
            for mine, other in zip(part.parameters(), agent.get_submodule(name).parameters(), strict=True):
                mine.data.copy_(other.data)
        self.targets = [copy.deepcopy(m) for m in (self.q1, self.q2, self.critic_projection, self.h, self.f)]
        self.V_target = self.V.detach().clone()
        critic = [*self.q1.parameters(), *self.q2.parameters(), *self.critic_projection.parameters()]
        critic += [*self.h.parameters(), *(self.f.parameters() if "critic_ste" in self.switches else [])]
        self.critic_adam = torch.optim.Adam(critic, 1e-3)
        self.actor_adam = torch.optim.Adam([*self.actor.parameters(), *self.actor_projection.parameters()], 1e-3)
        self.alpha_adam = torch.optim.Adam([self.log_alpha], 1e-4, betas=(0.5, 0.999))
        self.ae_adam = torch.optim.AdamW([*self.f.parameters(), *self.g.parameters()], 1e-3, weight_decay=0.1)
        self.v_adam = torch.optim.Adam([self.V], 1e-3)

    def associate(self, z, V):
        weights = torch.softmax(-self.beta * (z.unsqueeze(-1) - V).abs(), -1)
        return torch.einsum("nlv,lv->nl", weights, V)

    def features(self, obs, f, V, h):
        z = f(obs.flatten(0, 1) / 255.0)
        code = self.associate(z.detach(), V)
        if "critic_ste" in self.switches:
            code = z + (code - z).detach()
        return h(code.reshape(*obs.shape[:2], -1))

    def policy(self, e):
        mu, s = self.actor(e).split(self.actions, -1)
        log_std = -10 + 0.5 * 12 * (torch.tanh(s) + 1)
        u = mu + log_std.exp() * torch.randn_like(mu)
        normal = torch.distributions.Normal(mu, log_std.exp())
        log_prob = normal.log_prob(u) - 2 * (math.log(2) - u - F.softplus(-2 * u))
        return torch.tanh(u), log_prob.sum(-1, keepdim=True)

    def update(self, obs, action, reward, discount, next_obs, step):
        reward, discount, alpha = reward[:, None], discount[:, None], self.log_alpha.exp()
        q1t, q2t, proj_t, h_t, f_t = self.targets
        with torch.no_grad():
            a, log_prob = self.policy(self.actor_projection(self.features(next_obs, self.f, self.V, self.h)))
            e = torch.cat([proj_t(self.features(next_obs, f_t, self.V_target, h_t)), a], -1)
            y = reward + discount * (torch.min(q1t(e), q2t(e)) - alpha * log_prob)
        e = torch.cat([self.critic_projection(self.features(obs, self.f, self.V, self.h)), action], -1)
        loss = F.mse_loss(self.q1(e), y) + F.mse_loss(self.q2(e), y)
        self.critic_adam.zero_grad()
        self.v_adam.zero_grad()
        loss.backward()
        self.critic_adam.step()
        if "codebook_critic" in self.switches:
            self.v_adam.step()
        losses = {"critic/loss": loss}

        x = obs[:, -1] / 255.0
        z = self.f(x)
        z_q = self.associate(z.detach(), self.V)
        logits = self.g(z + (z_q - z).detach())
        reconstruction = (F.softplus(logits) - x * logits).mean()
        commit, quant = ((z - z_q.detach()) ** 2).mean(), ((z.detach() - z_q) ** 2).mean()
        loss = reconstruction + 0.01 * commit + (0.01 * quant if "codebook_quant" in self.switches else 0)
        self.ae_adam.zero_grad()
        self.v_adam.zero_grad()
        loss.backward()
        self.ae_adam.step()
        if "codebook_quant" in self.switches:
            self.v_adam.step()
        losses |= {"autoencoder/loss": loss, "autoencoder/reconstruction": reconstruction}

        if step % 2 == 0:
            shared = self.features(obs, self.f, self.V, self.h).detach()
            a, log_prob = self.policy(self.actor_projection(shared))
            e = torch.cat([self.critic_projection(shared), a], -1)
            loss = (alpha.detach() * log_prob - torch.min(self.q1(e), self.q2(e))).mean()
            self.actor_adam.zero_grad()
            loss.backward()
            self.actor_adam.step()
            alpha_loss = (self.log_alpha.exp() * (-log_prob + self.actions).detach()).mean()
            self.alpha_adam.zero_grad()
            alpha_loss.backward()
            self.alpha_adam.step()
            losses |= {"actor/loss": loss, "temperature/loss": alpha_loss}
            online = (self.q1, self.q2, self.critic_projection, self.h, self.f)
            for target, source, tau in zip(self.targets, online, (0.01, 0.01, 0.05, 0.05, 0.05), strict=True):
                for old, new in zip(target.parameters(), source.parameters(), strict=True):
                    old.data.copy_(tau * new.data + (1 - tau) * old.data)
            self.V_target = 0.05 * self.V.detach() + 0.95 * self.V_target
        return {name: value.item() for name, value in losses.items()}
