"""The contract between a method and the training loop."""

from abc import ABC, abstractmethod
from copy import deepcopy
from dataclasses import dataclass, replace
from typing import Any, ClassVar, TypeVar

import torch
from jaxtyping import Float, UInt8
from torch import Tensor, nn
from torch.optim import Optimizer

from alda.agents.decoding import TRAVERSED, psnr, to_pixels, traversal_codes
from alda.envs.backgrounds.data import Data
from alda.latents.base import over_range
from alda.nets.representation import to_float
from alda.training.replay import Replay
from alda.types import Latents, Metrics, Seen

State = Any  # of a policy with a memory: tensors, or dicts of them, with the environment first; else None


@dataclass(frozen=True)
class AgentConfig:
    from_zero: ClassVar[tuple[str, ...]] = ()
    """Whole-number settings that may be 0; others are at least 1."""

    random_steps: int = 1_000
    """Agent steps taken at random before learning starts; as many updates then catch up (even: the actor's too)."""
    batch_size: int = 128
    """Transitions per update."""
    discount: float = 0.99
    """Discount factor per agent step."""

    @property
    def least_capacity(self) -> int:
        """Transitions of each environment that a replay must hold."""
        return 1

    def steady(self) -> "AgentConfig":
        """The same learning, without what comes before it and evenly spread over the steps: what benchmarks measure."""
        return replace(self, random_steps=2)


class Agent(nn.Module, ABC):
    """Acts on pixels and learns from replay.

    `optimizers` is the table of what trains what. Methods named in `hot` take and return tensors only and never wait
    for the device, so alda.training.acceleration may replace them by faster ones.
    """

    hot: tuple[str, ...] = ()
    shares_frames: bool = True
    """Whether next_obs is learned from as obs moved on by one frame, as it comes from replay."""
    code_dim: int = 0
    """Numbers that replay keeps beside each frame for this agent."""

    def __init__(self, config: AgentConfig) -> None:
        super().__init__()
        self.config = config
        self.optimizers: dict[str, Optimizer] = {}

    def prepare(self, data: Data) -> dict[str, Any]:
        """Gets what learning needs from outside the replay, once, before it begins; says what that is, for records."""
        return {}

    def updates_due(self, step: int) -> int:
        """How many learning steps to take at this agent step."""
        if step == self.config.random_steps:
            return self.config.random_steps  # catch up on the data collected at random
        return int(step > self.config.random_steps)

    def initial_state(self, num_envs: int) -> State:
        """Policy state at the start of an episode."""
        return None

    def observe(self, replay: Replay, obs: UInt8[Tensor, "b f c h w"]) -> Seen:
        """Return what `act` is to read of observations that have just been added to replay, one per environment."""
        return obs.to(next(self.parameters()).device)

    @abstractmethod
    def act(self, obs: Seen, state: State, *, explore: bool) -> tuple[Float[Tensor, "b a"], State]:
        """Choose one action per environment, in [-1, 1]."""

    @abstractmethod
    def update(self, replay: Replay, step: int) -> Metrics:
        """Take one learning step."""

    def latents(self, obs: UInt8[Tensor, "b f c h w"]) -> Latents | None:
        """What the agent finds in the newest frames, without gradient; None where a method has no such numbers."""
        return None

    def decode(self, code: Float[Tensor, "n l"]) -> Float[Tensor, "n c h w"] | None:
        """The newest frames that codes stand for, in [0, 1]; None where a method has no decoder for them."""
        return None

    def sweep(self, latents: Latents, count: int) -> Float[Tensor, "l v"]:
        """`count` codes over the range of every latent: here, of these."""
        return over_range(latents.code, count)

    @torch.no_grad()
    def reconstruct(self, obs: UInt8[Tensor, "b f c h w"]) -> UInt8[Tensor, "b c h w"] | None:
        """What the agent believes the newest frames look like; None where a method has no decoder. An agent with a
        memory takes them for an episode, one after the other."""
        image = self._decoded(obs)
        return None if image is None else to_pixels(image)

    @torch.no_grad()
    def traverse(self, obs: UInt8[Tensor, "b f c h w"], count: int = TRAVERSED) -> UInt8[Tensor, "l v c h w"] | None:
        """Each latent of the first observation's newest frame led through `count` values of its range, the others as
        they are, decoded; None where a method has no latents or no decoder."""
        if (latents := self._decodable(obs)) is None:
            return None
        values = self.sweep(latents, count)  # [L, V]
        image = self.decode(traversal_codes(latents.code[0], values).flatten(0, 1))
        return None if image is None else to_pixels(image).unflatten(0, values.shape)

    @torch.no_grad()
    def diagnose(self, obs: UInt8[Tensor, "b f c h w"]) -> Metrics:
        """Numbers about how the agent sees these observations, logged for every evaluated world."""
        image = self._decoded(obs)
        return {} if image is None else {"psnr": psnr(image, to_float(obs[:, -1]))}

    def _decoded(self, obs: UInt8[Tensor, "b f c h w"]) -> Float[Tensor, "b c h w"] | None:
        """The newest frames as their latents stand for them."""
        return None if (latents := self._decodable(obs)) is None else self.decode(latents.code)

    def _decodable(self, obs: UInt8[Tensor, "b f c h w"]) -> Latents | None:
        """Latents, of a method that can decode them; nothing is encoded for one that cannot."""
        return None if type(self).decode is Agent.decode else self.latents(obs)

    def descend(self, *names: str, loss: Tensor, max_norm: float | None = None) -> None:
        """One gradient step of `loss` on everything the named optimisers own; its gradient norm is at most max_norm."""
        optimizers = [self.optimizers[name] for name in names]
        owned = [p for optimizer in optimizers for group in optimizer.param_groups for p in group["params"]]
        for p in owned:
            p.grad = None
        loss.backward(inputs=owned)
        if max_norm is not None:
            nn.utils.clip_grad_norm_(owned, max_norm)
        for optimizer in optimizers:
            optimizer.step()

    def training_state(self) -> dict[str, Any]:
        """What learning needs besides the weights. Hyper-parameters are left out: the config sets them."""
        return {name: optimizer.state_dict()["state"] for name, optimizer in self.optimizers.items()}

    def load_training_state(self, saved: dict[str, Any]) -> None:
        for name, state in saved.items():
            optimizer = self.optimizers[name]
            groups = optimizer.state_dict()["param_groups"]
            optimizer.load_state_dict({"state": {int(i): s for i, s in state.items()}, "param_groups": groups})


def parameters_of(*modules: nn.Module) -> list[nn.Parameter]:
    """The trainable parameters of some modules, in order."""
    return [p for m in modules for p in m.parameters() if p.requires_grad]


M = TypeVar("M", bound=nn.Module)


def frozen_copy(module: M) -> M:
    """A target network: same weights, never trained by gradient."""
    return deepcopy(module).requires_grad_(False)


@torch.no_grad()
def polyak_(target: nn.Module, source: nn.Module, tau: float) -> None:
    """Move a target network towards its source by name; it may lack parts that are never read."""
    moving = dict(source.named_parameters())
    torch._foreach_lerp_(list(target.parameters()), [moving[name] for name, _ in target.named_parameters()], tau)
