"""RePo (Zhu et al., 2023): a world model that keeps only what predicts the reward, not what reconstructs the frame.

    frame -> encoder -> RSSM -> belief -+-> reward, actor, value
                                        '-> probe: the frame, reconstructed to show what is kept; trains nothing else

The model maximises the likelihood of rewards while a multiplier holds KL(posterior || prior) at a target. The policy
learns by gradients through imagined steps.
"""

from dataclasses import dataclass, replace
from itertools import pairwise

import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float, UInt8
from torch import Tensor, nn
from torch.optim import Adam

from alda.agents.base import AgentConfig, parameters_of
from alda.agents.decoding import ReconstructingAgent, to_pixels
from alda.errors import UserError
from alda.nets.conv import Convolutions
from alda.nets.distributions import SquashedNormal
from alda.nets.mlp import mlp
from alda.nets.representation import to_float
from alda.nets.rssm import RSSM, Belief, Gaussian, kl_divergence
from alda.training.replay import Replay
from alda.types import EnvSpec, Metrics, Obs, Sequence

_EMBED = 1024  # what the convolutions leave of 64x64 pixels: 256 channels of 2x2
_CANDIDATES = 100  # actions among which acting without exploration chooses


@dataclass(frozen=True)
class RePoConfig(AgentConfig):
    random_steps: int = 5_000
    """Agent steps taken at random before learning starts."""
    batch_size: int = 50
    """Sequences per update."""
    sequence_length: int = 50
    """Agent steps per sequence; the first has no frame before it and teaches nothing."""
    update_every: int = 500
    """Agent steps between rounds of learning."""
    updates_each_time: int = 100
    """Updates per round."""
    deter_dim: int = 200
    """Width of the belief's memory, a GRU's."""
    stoch_dim: int = 30
    """Numbers in the belief's Gaussian state."""
    hidden_dim: int = 200
    """Width of the hidden layers of all heads."""
    horizon: int = 15
    """Imagined states per trajectory, with its start; as in the released code, returns reach two less."""
    return_lambda: float = 0.95
    """Decay of the weights with which returns mix values of later states, lambda in the paper."""
    entropy_coef: float = 3e-4
    """Weight of the policy's entropy."""
    entropy_samples: int = 100
    """Actions per imagined state from which the entropy is estimated."""
    model_learning_rate: float = 3e-4
    """Adam step size of encoder, world model, reward head and probe."""
    behaviour_learning_rate: float = 8e-5
    """Adam step size of actor and value."""
    max_norm: float = 100.0
    """Bound of each gradient's norm."""
    probe_stride: int = 1
    """Train the probe, most of the work but of no use to the rest, on every n-th frame (1: all, as released)."""
    joint_clip: bool = False
    """Bound the gradients of model and probe together, as released: the probe's then scales down the model's."""
    target_kl: float = 3.0
    """KL(posterior || prior) that the multiplier holds, in nats per step."""
    initial_multiplier: float = 1e-5
    """Weight of the KL divergence at the start, beta in the paper."""
    multiplier_learning_rate: float = 1e-4
    """Adam step size of the multiplier's logarithm."""
    prior_train_steps: int = 5
    """How many times as much the KL divergence moves the prior as the posterior."""

    @property
    def least_capacity(self) -> int:
        return 2 * self.sequence_length  # half of what is kept may be first frames

    def steady(self) -> "RePoConfig":
        every = max(1, self.update_every // self.updates_each_time)
        return replace(self, random_steps=2, update_every=every, updates_each_time=1)


class RePo(ReconstructingAgent):
    config: RePoConfig
    hot = ("learn",)
    draws: Tensor

    def __init__(self, config: RePoConfig, spec: EnvSpec) -> None:
        super().__init__(config)
        c = config
        if spec.image_size != 64:
            raise UserError(f"RePo needs images of 64x64 pixels, not {spec.image_size}x{spec.image_size}")
        if c.sequence_length < 2 or c.horizon < 3:
            raise UserError("RePo needs a sequence length of at least 2 and a horizon of at least 3")
        if not (c.max_norm > 0 and c.initial_multiplier > 0 and c.return_lambda <= 1):
            raise UserError("RePo needs a max norm and an initial multiplier above 0, and a return lambda of at most 1")
        self.action_dim = spec.action_dim
        width = c.deter_dim + c.stoch_dim
        self.encoder = Convolutions(*encoder_layers())
        self.rssm = RSSM(spec.action_dim, _EMBED, c.deter_dim, c.stoch_dim, c.hidden_dim)
        self.reward = mlp(width, c.hidden_dim, 1, "elu", depth=3)
        self.actor = mlp(width, c.hidden_dim, 2 * spec.action_dim, "elu", depth=4)
        self.value = mlp(width, c.hidden_dim, 1, "elu", depth=3)
        self.probe = nn.Sequential(nn.Linear(width, _EMBED), Convolutions(*probe_layers()))
        self.log_multiplier = nn.Parameter(torch.tensor(c.initial_multiplier).log())
        g = torch.Generator().manual_seed(0)  # of the CPU, wherever the agent is built
        draws = torch.randn(_CANDIDATES, 1, spec.action_dim, generator=g, device="cpu")
        self.register_buffer("draws", draws, persistent=False)

        model = parameters_of(self.encoder, self.rssm, self.reward)
        self.optimizers = {
            "model": Adam(model, c.model_learning_rate),
            "probe": Adam(self.probe.parameters(), c.model_learning_rate),
            "multiplier": Adam([self.log_multiplier], c.multiplier_learning_rate),
            "actor": Adam(self.actor.parameters(), c.behaviour_learning_rate),
            "value": Adam(self.value.parameters(), c.behaviour_learning_rate),
        }

    def updates_due(self, step: int) -> int:
        c = self.config
        return c.updates_each_time if step >= c.random_steps and step % c.update_every == 0 else 0

    def initial_state(self, num_envs: int) -> dict[str, Tensor]:
        """Return the empty belief and a zero action, the one taken on it."""
        belief = self.rssm.initial(num_envs)
        return {"action": self.draws.new_zeros(num_envs, self.action_dim), **belief._asdict()}

    @torch.no_grad()
    def act(
        self, obs: Obs, state: dict[str, Tensor], *, explore: bool
    ) -> tuple[Float[Tensor, "b a"], dict[str, Tensor]]:
        deter = self.rssm.advance(Belief(state["deter"], state["stoch"]), state["action"])
        posterior = self.rssm.posterior(deter, self.rssm.from_embed(self.encoder(centred(obs[:, -1]))))
        belief = Belief(deter, posterior.rsample() if explore else posterior.mean)
        policy = self.policy(belief)
        action = policy.rsample()[0] if explore else self.likeliest(policy)
        return action, {"action": action, **belief._asdict()}

    def policy(self, belief: Belief) -> SquashedNormal:
        mean, std = self.actor(belief.features).chunk(2, dim=-1)
        return SquashedNormal(5 * (mean / 5).tanh(), (F.softplus(std) + 0.1).log())

    def likeliest(self, policy: SquashedNormal) -> Float[Tensor, "b a"]:
        """Return the likeliest of the actions that the fixed draws lead to."""
        action, log_prob = policy.at(self.draws.expand(-1, *policy.mean.shape))  # [K, B, A], [K, B]
        best = log_prob.argmax(0)[None, :, None].expand(1, *policy.mean.shape)  # [1, B, A]
        return action.gather(0, best)[0]

    @torch.no_grad()
    def reconstruct(self, obs: Obs) -> UInt8[Tensor, "b c h w"]:
        """Reconstruct frames from the beliefs along them, by the probe; the first frame has no past."""
        state, beliefs = self.initial_state(1), []
        for one in obs.split(1):
            _, state = self.act(one, state, explore=False)
            beliefs.append(Belief(state["deter"], state["stoch"]).features)
        return to_pixels((0.5 * self.probe(torch.cat(beliefs)) + 0.5).clamp(0, 1))

    def update(self, replay: Replay, step: int) -> Metrics:
        return self.learn(replay.sample_sequences(self.config.batch_size, self.config.sequence_length))

    def learn(self, batch: Sequence) -> Metrics:
        """Take one step of the model on sequences, and one of the behaviour on what it imagines from there."""
        belief, metrics = self.update_model(batch)
        start = Belief(belief.deter.flatten(0, 1), belief.stoch.flatten(0, 1))
        return metrics | self.update_behaviour(start)

    def update_model(self, batch: Sequence) -> tuple[Belief, Metrics]:
        """Take one step of model, probe and multiplier; return the beliefs before it, without gradient."""
        c = self.config
        image, action, reward, _, first = (part[:, 1:] for part in batch)
        image = centred(image.flatten(0, 1))  # [B*T, C, H, W]
        embed = self.encoder(image).unflatten(0, first.shape)
        belief, prior, posterior = self.rssm.observe(embed, action, first)
        reward_loss = masked_error(self.reward(belief.features).squeeze(-1), reward, first)
        kl = balanced_kl(posterior, prior, c.prior_train_steps)
        loss = reward_loss + self.log_multiplier.detach().exp() * (kl - c.target_kl)
        belief = belief.detach()  # nothing else trains the model

        shown = slice(None, None, c.probe_stride)
        error = (self.probe(belief.features.flatten(0, 1)[shown]) - image[shown]).square()
        probe_loss = 0.5 * error.sum((1, 2, 3)).mean()
        if c.joint_clip:
            self.descend("model", "probe", loss=loss + probe_loss, max_norm=c.max_norm)
        else:
            self.descend("model", loss=loss, max_norm=c.max_norm)
            self.descend("probe", loss=probe_loss, max_norm=c.max_norm)
        self.descend("multiplier", loss=-self.log_multiplier * (kl.detach() - c.target_kl))
        return belief, {
            "model/loss": loss.detach(),
            "model/reward_loss": reward_loss.detach(),
            "model/kl": kl.detach(),
            "multiplier/value": self.log_multiplier.detach().exp(),
            "probe/loss": probe_loss.detach(),
            "probe/psnr": -10 * (error.detach().mean() / 4).log10(),  # of pixels in [0, 1]
        }

    def update_behaviour(self, start: Belief) -> Metrics:
        c = self.config
        imagined = self.imagine(start)
        features = imagined.features  # [H, N, D]
        reward, value = self.reward(features[:-1]).squeeze(-1), self.value(features).squeeze(-1)
        returns = lambda_returns(reward, value[1:], c.discount, c.return_lambda)
        entropy = self.entropy(imagined)
        loss = -returns.mean() - c.entropy_coef * entropy
        self.descend("actor", loss=loss, max_norm=c.max_norm)

        returns = returns.detach()
        prediction = self.value(features[:-1].detach()).squeeze(-1)
        value_loss = 0.5 * (prediction - returns).square().mean()
        self.descend("value", loss=value_loss, max_norm=c.max_norm)
        return {
            "actor/loss": loss.detach(),
            "actor/entropy": entropy.detach(),
            "actor/return": returns.mean(),
            "actor/reward": reward.detach().mean(),
            "value/loss": value_loss.detach(),
            "value/mean": prediction.detach().mean(),
        }

    def imagine(self, belief: Belief) -> Belief:
        """Roll out the policy in the model, for horizon - 1 steps."""
        steps = []
        for _ in range(self.config.horizon - 1):
            action, _ = self.policy(belief.detach()).rsample()  # later actions reach this one through the model alone
            belief = self.rssm.imagine(belief, action)
            steps.append(belief)
        deter, stoch = (torch.stack(part) for part in zip(*steps, strict=True))
        return Belief(deter, stoch)

    def entropy(self, belief: Belief) -> Float[Tensor, ""]:
        """Estimate the policy's entropy after the tanh from samples, in nats."""
        policy = self.policy(belief)
        noise = policy.mean.new_empty(self.config.entropy_samples, *policy.mean.shape).normal_()
        return -policy.at(noise)[1].mean()


def encoder_layers() -> list[nn.Module]:
    channels = pairwise((3, 32, 64, 128, 256))
    return [*(layer for i, o in channels for layer in (nn.Conv2d(i, o, 4, 2), nn.ReLU())), nn.Flatten()]


def probe_layers() -> list[nn.Module]:
    shapes = zip(pairwise((_EMBED, 128, 64, 32, 3)), (5, 5, 6, 6), strict=True)
    layers = [layer for (i, o), size in shapes for layer in (nn.ConvTranspose2d(i, o, size, 2), nn.ReLU())]
    return [nn.Unflatten(-1, (_EMBED, 1, 1)), *layers[:-1]]


def centred(image: UInt8[Tensor, "n c h w"]) -> Float[Tensor, "n c h w"]:
    """Convert bytes to pixel values in [-1, 1]."""
    return 2 * to_float(image) - 1


def masked_error(
    predicted: Float[Tensor, "b t"], reward: Float[Tensor, "b t"], first: Bool[Tensor, "b t"]
) -> Float[Tensor, ""]:
    """Return half the squared error (the negative log-likelihood at unit variance, up to a constant), mean over all
    steps. An episode's first frame has no reward and counts as no error."""
    return 0.5 * ((predicted - reward).square() * ~first).mean()


def balanced_kl(posterior: Gaussian, prior: Gaussian, prior_train_steps: int) -> Float[Tensor, ""]:
    """Return KL(posterior || prior), mean over steps; its gradient moves the prior prior_train_steps times as much."""
    moves_prior = kl_divergence(posterior.detach(), prior).mean()
    moves_posterior = kl_divergence(posterior, prior.detach()).mean()
    return (prior_train_steps * moves_prior + moves_posterior) / (prior_train_steps + 1)


def lambda_returns(
    reward: Float[Tensor, "h n"], next_value: Float[Tensor, "h n"], discount: float, return_lambda: float
) -> Float[Tensor, "h n"]:
    """Return R_t = r_t + gamma ((1 - lambda) v_{t+1} + lambda R_{t+1}); beyond the last step R is v."""
    later, returns = next_value[-1], []
    for r, v in zip(reward.flip(0), next_value.flip(0), strict=True):
        later = r + discount * torch.lerp(v, later, return_lambda)
        returns.append(later)
    return torch.stack(returns[::-1])
