"""What autoencoders of one task learn from and are measured on.

policy, exploring   --+--> episodes of the plain task --> frames, with the joints that they show
random actions      --+--> held-out episodes          --> twins: the same states under every shift
                           the factor dataset         --> samples: joints and colours drawn one by one
"""

from collections.abc import Callable, Iterator, Sequence
from contextlib import closing
from typing import NamedTuple

import numpy as np
import torch
from jaxtyping import Bool, Float, UInt8
from torch import Tensor

from alda.analysis.latents.factor_dataset import draw_samples, joints_of, read_joints
from alda.analysis.latents.readout import episode_steps
from alda.analysis.paired_rollouts import PairedStep, evenly_spread, read_episodes
from alda.policy import Policy
from alda.progress import Begin

STATES = 20  # of a held-out episode, evenly spread
_HELD_OUT = 10_000  # seeds of held-out episodes begin here
_KIND = 1_000  # and those of random actions so much later than the policy's
_State = tuple[UInt8[np.ndarray, "shifts 3 h w"], Float[np.ndarray, " d"]]  # newest frame under every shift; joints


class Dataset(NamedTuple):
    """N frames, M states seen under every shift, K samples. Joints are in metres and radians."""

    frame: UInt8[Tensor, "n 3 h w"]
    joints: Float[Tensor, "n d"]
    twin: UInt8[Tensor, "shifts m 3 h w"]  # the first is the plain task
    twin_joints: Float[Tensor, "m d"]
    turns: Bool[Tensor, " d"]  # joints that are angles without limits
    sample: UInt8[Tensor, "k 3 h w"]
    sample_joints: Float[Tensor, "k d"]
    sample_colors: Float[Tensor, "k 9"]

    def shown(self) -> UInt8[Tensor, "k 3 h w"]:
        """Return two states to draw under every shift: one of the policy and one of random actions."""
        count = self.twin.shape[1]
        return self.twin[:, [count // 4, 3 * count // 4]].flatten(0, 1)

    def pose(self, joints: Float[Tensor, "m d"]) -> Float[np.ndarray, "m p"]:
        """Return joints as numbers without jumps: sine and cosine of those that turn."""
        turning, rest = joints[:, self.turns], joints[:, ~self.turns]
        return torch.cat([rest, turning.sin(), turning.cos()], dim=1).double().numpy()


class RandomPolicy(Policy):
    """Acts uniformly at random."""

    def __init__(self, policy: Policy) -> None:
        super().__init__(policy.agent, policy.config, policy.spec, policy.step)
        self._rng = np.random.default_rng(0)

    def act(self, obs: UInt8[np.ndarray, "f c h w"], *, explore: bool = False) -> Float[np.ndarray, " a"]:
        return self._rng.uniform(-1, 1, self.spec.action_dim).astype(np.float32)


def collect(policy: Policy, shifts: Sequence[str], *, frames: int, states: int, samples: int, begin: Begin) -> Dataset:
    """Play and draw a dataset. Half of its frames and states are those of the policy, exploring as in training, half
    those of random actions.

    states: twenty of each held-out episode, seen in the plain task and under every shift. samples: frames with every
    joint drawn by itself over the range in which the policy moves it, and with independent colours.
    """
    torch.manual_seed(0)
    actors = (policy, RandomPolicy(policy))
    length = episode_steps(policy)
    episodes, held_out = -(-frames // (2 * length)), states // (2 * STATES)
    played = _play(actors, ("train",), 0, episodes, begin("frames to learn from", 2 * episodes * length))
    seen = evenly_spread([state for episode in played for state in episode], frames)
    step = begin(f"states under {', '.join(shifts)}", 2 * held_out * length)
    played = _play(actors, ("train", *shifts), _HELD_OUT, held_out, step)
    twins = [state for episode in played for state in evenly_spread(episode, STATES)]
    with closing(policy.config.make_env()) as env:
        turns = [joint.turns for joint in joints_of(env)]
    drawn = draw_samples(policy, samples, begin=begin)
    return Dataset(
        frame=torch.from_numpy(np.stack([frame for (frame,), _ in seen])),
        joints=_float([joints for _, joints in seen]),
        twin=torch.from_numpy(np.stack([frames for frames, _ in twins], axis=1)),
        twin_joints=_float([joints for _, joints in twins]),
        turns=torch.tensor(turns),
        sample=torch.from_numpy(drawn.frame),
        sample_joints=_float(drawn.joints),
        sample_colors=_float(drawn.nuisance),
    )


def _play(
    actors: Sequence[Policy], shifts: Sequence[str], first: int, count: int, step: Callable[[], None]
) -> Iterator[list[_State]]:
    """Yield the states of `count` episodes of each actor, whose seeds begin at `first`."""

    def read(state: PairedStep) -> _State:
        return np.stack([obs[-1] for obs in state.seen]), read_joints(state.env)

    for kind, actor in enumerate(actors):
        seeds = range(first + kind * _KIND, first + kind * _KIND + count)
        yield from read_episodes(actor, shifts, seeds, read=read, step=step, explore=True)


def _float(rows: Sequence[np.ndarray] | np.ndarray) -> Float[Tensor, "n d"]:
    return torch.from_numpy(np.array(rows, dtype=np.float32))
