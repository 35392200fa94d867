"""What autoencoders of one task learn from and are measured on, made once and kept in a file.

policy, exploring   --+--> episodes of the plain task --> frames, with the joints that they show
random actions      --+--> held-out episodes          --> twins: the same states under every shift
                           the factor dataset         --> samples: joints and colours drawn one by one
"""

from collections.abc import Callable, Iterator, Sequence
from contextlib import closing
from itertools import groupby
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from jaxtyping import Bool, Float, UInt8
from safetensors import SafetensorError
from torch import Tensor

from alda.analysis.latents.factor_dataset import draw_samples, joints_of, read_joints
from alda.analysis.latents.readout import episode_steps
from alda.analysis.paired_rollouts import paired_rollouts
from alda.errors import UserError
from alda.policy import Policy
from alda.progress import Begin
from alda.training.tensors import read_tensors, write_tensors

STATES = 20  # of a held-out episode, evenly spread
_HELD_OUT = 10_000  # seeds of held-out episodes begin here
_KIND = 1_000  # and those of random actions so much later than the policy's


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

    def write(self, path: Path) -> None:
        write_tensors(path, self._asdict())

    @classmethod
    def read(cls, path: Path) -> "Dataset":
        """Raise UserError for a damaged file."""
        try:
            return cls(**read_tensors(path))
        except (OSError, SafetensorError, TypeError) as error:
            raise UserError(f"{path} is damaged: {error}; delete it, and the same command makes it anew") from error

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

    def __init__(self, policy: Policy, seed: int) -> None:
        super().__init__(policy.agent, policy.config, policy.spec, policy.step)
        self._rng = np.random.default_rng(seed)

    def act(self, obs: UInt8[np.ndarray, "f c h w"], *, explore: bool = False) -> Float[np.ndarray, " a"]:
        return self._rng.uniform(-1, 1, self.spec.action_dim).astype(np.float32)


def collect(
    policy: Policy, shifts: Sequence[str], *, frames: int, states: int, samples: int, seed: int, begin: Begin
) -> Dataset:
    """Play and draw a dataset. Half of its frames and states are those of the policy, exploring as in training, half
    those of random actions.

    states: twenty of each held-out episode, seen in the plain task and under every shift. samples: frames with every
    joint drawn by itself over the range in which the policy moves it, and with independent colours.
    """
    task, length = policy.config.env.task, episode_steps(policy)
    actors = (policy, RandomPolicy(policy, seed))
    half, episodes = -(-frames // 2), -(-states // (2 * STATES))
    to_fill = -(-half // length)  # episodes
    torch.manual_seed(seed)
    seen, looked_at = [], []
    step = begin(f"{task}: frames to learn from", 2 * to_fill * length)
    for kind, actor in enumerate(actors):
        played = _played(actor, ("train",), seed + kind * _KIND, to_fill, step)
        seen += [state for episode in played for state in episode][:half]
    step = begin(f"{task}: states under {', '.join(shifts)}", 2 * episodes * length)
    for kind, actor in enumerate(actors):
        for episode in _played(actor, ("train", *shifts), seed + _HELD_OUT + kind * _KIND, episodes, step):
            looked_at += [episode[t] for t in np.linspace(0, len(episode) - 1, STATES).round().astype(int)]
    with closing(policy.config.make_env()) as env:
        turns = [joint.turns for joint in joints_of(env)]
    drawn = draw_samples(policy, samples, seed=seed, begin=begin)
    return Dataset(
        frame=torch.from_numpy(np.stack([frame for (frame,), _ in seen])),
        joints=_float([joints for _, joints in seen]),
        twin=torch.from_numpy(np.stack([frames for frames, _ in looked_at], axis=1)),
        twin_joints=_float([joints for _, joints in looked_at]),
        turns=torch.tensor(turns),
        sample=torch.from_numpy(drawn.frame),
        sample_joints=_float(drawn.joints),
        sample_colors=_float(drawn.nuisance),
    )


_State = tuple[UInt8[np.ndarray, "shifts 3 h w"], Float[np.ndarray, " d"]]  # newest frame under every shift; joints


def _played(
    actor: Policy, shifts: Sequence[str], first: int, count: int, step: Callable[[], None]
) -> Iterator[list[_State]]:
    """Yield the states of episodes, from a first seed on."""
    played = paired_rollouts(actor, shifts, range(first, first + count), explore=True)
    for _, episode in groupby(played, key=lambda state: state.seed):
        states = []
        for state in episode:
            states.append((np.stack([obs[-1] for obs in state.seen]), read_joints(state.env)))
            step()
        yield states


def _float(rows: Sequence[np.ndarray] | np.ndarray) -> Float[Tensor, "n d"]:
    return torch.from_numpy(np.array(rows, dtype=np.float32))
