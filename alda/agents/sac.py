"""Soft actor-critic from pixels (Haarnoja et al., 2018; Hansen et al., 2021), which the model-free methods change."""

from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.optim import Adam

from alda.agents.base import AgentConfig, State, frozen_copy, parameters_of, polyak_
from alda.agents.decoding import LatentAgent
from alda.errors import check_ascending
from alda.nets.mlp import Activation, Actor, Critic, initialize_
from alda.nets.representation import PixelEncoder, Representation, TransitionFeatures
from alda.training.replay import Replay
from alda.types import EnvSpec, Features, Latents, Metrics, Obs, Seen, Transition


@dataclass(frozen=True)
class ActorCriticConfig(AgentConfig):
    """Settings of actor, critic and their schedule, independent of the representation."""

    hidden_dim: int = 1024
    """Width of the two hidden layers of actor and critic."""
    embed_dim: int = 100
    """Width of the normalised bottleneck at the foot of actor and critic."""
    activation: Activation = "relu"
    """Activation of actor and critic."""
    learning_rate: float = 1e-3
    """Adam step size of actor, critic and encoder."""
    q_norm: bool = False
    """Layer normalisation in the hidden layers of the Q-functions (published: none)."""
    log_std_bounds: tuple[float, float] = (-10.0, 2.0)
    """Range of the policy's log standard deviation."""
    initial_temperature: float = 0.1
    """Entropy weight at the start, alpha in the paper."""
    temperature_learning_rate: float = 1e-4
    """Adam step size of the entropy weight's logarithm."""
    critic_tau: float = 0.01
    """Polyak rate of the target Q-functions."""
    encoder_tau: float = 0.05
    """Polyak rate of the target representation and of the critic's bottleneck."""
    actor_update_every: int = 2
    """Agent steps between updates of actor and temperature."""
    target_update_every: int = 2
    """Agent steps between updates of the target networks."""
    updates_per_step: int = 1
    """Learning steps per agent step."""

    def __post_init__(self) -> None:
        super().__post_init__()
        check_ascending(self, "agent", "log_std_bounds")


@dataclass(frozen=True)
class SACConfig(ActorCriticConfig):
    conv_channels: int = 32
    """Channels of each convolution."""
    conv_layers: int = 11
    """Convolutions of the image encoder."""
    halvings: int = 1
    """How many of them, from the first on, halve the image."""


class SAC(LatentAgent):
    """SAC. Other methods change the representation, `augment`, or one of the losses."""

    config: ActorCriticConfig
    hot: tuple[str, ...] = ("learn",)

    def __init__(self, config: ActorCriticConfig, spec: EnvSpec, representation: Representation | None = None) -> None:
        super().__init__(config)
        c = config
        if representation is None:
            assert isinstance(c, SACConfig)
            representation = PixelEncoder(spec, c.conv_channels, c.conv_layers, c.halvings)
        self.representation = representation
        width = self.representation.out_dim
        self.actor = Actor(width, spec.action_dim, c.embed_dim, c.hidden_dim, c.activation, c.log_std_bounds)
        self.critic = Critic(width, spec.action_dim, c.embed_dim, c.hidden_dim, c.activation, norm=c.q_norm)
        self.log_temperature = nn.Parameter(torch.tensor(c.initial_temperature).log())
        self.target_entropy = -float(spec.action_dim)

        self.apply(initialize_)
        self.target_representation = frozen_copy(self.representation)
        self.target_critic = frozen_copy(self.critic)

        self.optimizers = {
            "critic": Adam(parameters_of(self.critic, *self.representation.critic_trained()), c.learning_rate),
            "actor": Adam(self.actor.parameters(), c.learning_rate),
            "temperature": Adam([self.log_temperature], c.temperature_learning_rate, betas=(0.5, 0.999)),
        }
        self.critic_optimizers: tuple[str, ...] = ("critic",)  # those that the critic loss steps

    @property
    def temperature(self) -> Tensor:
        return self.log_temperature.exp()

    def updates_due(self, step: int) -> int:
        return self.config.updates_per_step * super().updates_due(step)

    @torch.no_grad()
    def act(self, obs: Seen, state: State, *, explore: bool) -> tuple[Float[Tensor, "b a"], State]:
        policy = self.actor(self.representation(obs))
        return (policy.rsample()[0] if explore else policy.mode), state

    @torch.no_grad()
    def latents(self, obs: Obs) -> Latents:
        """Return the critic's bottleneck."""
        code = self.critic.trunk(self.representation(obs))
        return Latents(code, code)

    def update(self, replay: Replay, step: int) -> Metrics:
        c = self.config
        actor, targets = step % c.actor_update_every == 0, step % c.target_update_every == 0
        return self.learn(self.sample(replay), actor=actor, targets=targets)

    def sample(self, replay: Replay) -> Transition:
        return replay.sample(self.config.batch_size)

    def learn(self, batch: Transition, *, actor: bool, targets: bool) -> Metrics:
        """Take one learning step, with or without actor and target networks."""
        batch = self.augment(batch)
        features = self.representation.encode_transition(batch)
        metrics = self.update_critic(batch, features) | self.update_representation(batch, features)
        if actor:
            metrics |= self.update_actor(batch)
        if targets:
            self.update_targets()
        return metrics

    def augment(self, batch: Transition) -> Transition:
        """Change what is learned from. A method that changes obs and next_obs apart declares shares_frames = False."""
        return batch

    def update_representation(self, batch: Transition, features: TransitionFeatures) -> Metrics:
        return {}

    def update_critic(self, batch: Transition, features: TransitionFeatures) -> Metrics:
        loss, metrics = self.critic_loss(batch, features.obs, self.td_target(batch, features.next_obs))
        self.descend(*self.critic_optimizers, loss=loss)
        return metrics

    @torch.no_grad()
    def td_target(self, batch: Transition, next_features: Features) -> Float[Tensor, " b"]:
        """Return r + gamma (min_i Q_i(s', a') - alpha log pi(a'|s')), gamma being 0 at a terminal state."""
        next_action, log_prob = self.actor(next_features).rsample()
        next_q = self.target_critic(self.target_features(batch, next_features), next_action).amin(0)
        return batch.reward + batch.discount * (next_q - self.temperature * log_prob)

    def target_features(self, batch: Transition, next_features: Features) -> Features:
        """Return the features of next_obs that the target Q-functions read."""
        return self.target_representation(batch.next_obs)

    def critic_loss(self, batch: Transition, features: Features, target: Float[Tensor, " b"]) -> tuple[Tensor, Metrics]:
        q = self.critic(features, batch.action)  # [2, B]
        loss = (q - target).square().mean(-1).sum()
        return loss, {"critic/loss": loss.detach(), "critic/q": q.detach().mean(), "critic/target": target.mean()}

    def update_actor(self, batch: Transition) -> Metrics:
        with torch.no_grad():
            features = self.representation(batch.obs)
        return self.actor_step(features, features)

    def actor_step(self, policy_features: Features, q_features: Features) -> Metrics:
        """Take one step of actor and temperature; q_features: those by which Q judges the actions."""
        policy = self.actor(policy_features)
        action, log_prob = policy.rsample()
        q = self.critic(q_features, action).amin(0)
        loss = (self.temperature.detach() * log_prob - q).mean()
        self.descend("actor", loss=loss)

        entropy = -log_prob.detach().mean()
        temperature_loss = self.temperature * (entropy - self.target_entropy)
        self.descend("temperature", loss=temperature_loss)
        return {
            "actor/loss": loss.detach(),
            "actor/entropy": entropy,
            "actor/gaussian_entropy": policy.gaussian_entropy().detach().mean(),
            "temperature/loss": temperature_loss.detach(),
            "temperature/value": self.temperature.detach(),
        }

    def update_targets(self) -> None:
        c = self.config
        polyak_(self.target_critic.q, self.critic.q, c.critic_tau)
        polyak_(self.target_critic.trunk, self.critic.trunk, c.encoder_tau)
        polyak_(self.target_representation, self.representation, c.encoder_tau)
