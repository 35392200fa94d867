"""The contract between a method and the training loop."""

from abc import ABC, abstractmethod
from copy import deepcopy
from dataclasses import dataclass, replace
from typing import Any, ClassVar, TypeVar

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.optim import Optimizer

from alda.envs.backgrounds.data import Data
from alda.errors import UserError, check_numbers
from alda.training.replay import Replay
from alda.types import Metrics, Obs, Seen

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

    def __post_init__(self) -> None:
        check_numbers(self, "agent", self.from_zero)
        if self.discount > 1:
            raise UserError(f"--agent.discount must be from 0 to 1, not {self.discount}")

    @property
    def least_capacity(self) -> int:
        """Return the transitions of each environment that a replay must hold."""
        return 1

    def steady(self) -> "AgentConfig":
        """Return settings for benchmarks: learning from the start, evenly spread over the steps."""
        return replace(self, random_steps=2)


class Agent(nn.Module, ABC):
    """Acts on pixels and learns from replay.

    `optimizers` is the table of what trains what. Methods named in `hot` take and return tensors only and never wait
    for the device, so alda.training.acceleration may replace them by faster ones.
    """

    hot: tuple[str, ...] = ()
    shares_frames: ClassVar[bool] = True
    """Whether next_obs, as learned from, is obs moved on by one frame, as in replay; False if they are augmented."""
    code_dim: int = 0
    """Numbers that replay keeps beside each frame for this agent."""

    def __init__(self, config: AgentConfig) -> None:
        super().__init__()
        self.config = config
        self.optimizers: dict[str, Optimizer] = {}

    def prepare(self, data: Data) -> dict[str, Any]:
        """Load what learning needs besides replay, once, before it begins; return a description for the records."""
        return {}

    def updates_due(self, step: int) -> int:
        """Return the number of learning steps to take at this agent step."""
        if step == self.config.random_steps:
            return self.config.random_steps  # catch up on the data collected at random
        return int(step > self.config.random_steps)

    def initial_state(self, num_envs: int) -> State:
        """Return the policy's state at the start of an episode."""
        return None

    def observe(self, replay: Replay, obs: Obs) -> Seen:
        """Return what `act` is to read of observations that have just been added to replay, one per environment."""
        return obs.to(next(self.parameters()).device)

    @abstractmethod
    def act(self, obs: Seen, state: State, *, explore: bool) -> tuple[Float[Tensor, "b a"], State]:
        """Choose one action per environment, in [-1, 1]."""

    @abstractmethod
    def update(self, replay: Replay, step: int) -> Metrics:
        """Take one learning step."""

    def diagnose(self, obs: Obs) -> Metrics:
        """Return numbers about how the agent sees these observations, logged for every evaluated shift."""
        return {}

    def descend(self, *names: str, loss: Tensor, max_norm: float | None = None) -> None:
        """Take one gradient step of `loss` on all parameters of the named optimisers; max_norm bounds the gradient."""
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
        """Return what learning needs besides the weights, except hyper-parameters, which the config sets."""
        return {name: optimizer.state_dict()["state"] for name, optimizer in self.optimizers.items()}

    def load_training_state(self, saved: dict[str, Any]) -> None:
        for name, optimizer in self.optimizers.items():
            groups = optimizer.state_dict()["param_groups"]
            optimizer.load_state_dict({"state": {int(i): s for i, s in saved[name].items()}, "param_groups": groups})


def parameters_of(*modules: nn.Module) -> list[nn.Parameter]:
    """Return the trainable parameters of some modules, in order."""
    return [p for m in modules for p in m.parameters() if p.requires_grad]


M = TypeVar("M", bound=nn.Module)


def frozen_copy(module: M) -> M:
    """Return a target network: equal weights, never trained by gradient."""
    return deepcopy(module).requires_grad_(False)


@torch.no_grad()
def polyak_(target: nn.Module, source: nn.Module, tau: float) -> None:
    """Move a target network towards its source by name; it may lack parts that are never read."""
    moving = dict(source.named_parameters())
    torch._foreach_lerp_(list(target.parameters()), [moving[name] for name, _ in target.named_parameters()], tau)
