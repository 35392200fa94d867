"""Frames whose sources are known and drawn independently, with what an agent makes of them."""

from typing import NamedTuple

import numpy as np
import torch
from jaxtyping import Float, Real, UInt8
from torch import Tensor

from alda.analysis.latents.look import Begin, episode_steps, in_chunks, require_latents
from alda.analysis.latents.studio import CAMERA_REACH, COLORS, NUISANCES, open_studio, read_joints
from alda.analysis.paired_rollouts import twins
from alda.errors import UserError
from alda.policy import Policy

_TAILS = 0.01  # of what the policy visits, cut off at both ends of every joint's range
_EPISODES, _MANY_EPISODES = 4, 16  # played to learn the range of joints, and to visit states


class Samples(NamedTuple):
    """N frames. Joints are the task's sources, colours and camera those that a policy need not know."""

    joints: Float[np.ndarray, "n d"]  # metres and radians
    nuisance: Float[np.ndarray, "n e"]
    joint_names: tuple[str, ...]
    nuisance_names: tuple[str, ...]
    frame: UInt8[np.ndarray, "n 3 h w"]
    elsewhere: UInt8[np.ndarray, "m 3 h w"]  # the states of the first m once more, under another nuisance


def draw_samples(
    policy: Policy,
    count: int,
    *,
    nuisances: tuple[str, ...] = ("colors",),
    independent: bool = True,
    twice: int = 0,
    seed: int = 0,
    begin: Begin,
) -> Samples:
    """Frames of the task with sources drawn one by one.

    nuisances: of NUISANCES, those that vary; colours are uniform in [0, 1], the camera within CAMERA_REACH.
    independent: joints are uniform, each by itself, over the range in which the policy moves it (less 1 % at both
    ends); else they are states that it visits, each at most once (so there may be fewer than `count`), whose joints
    depend on each other and whose neighbours in time are alike. twice: frames that are drawn once more under another
    nuisance.
    Raises UserError for an unknown nuisance.
    """
    if not nuisances or len(set(nuisances)) < len(nuisances) or not set(nuisances) <= set(NUISANCES):
        raise UserError(f"--nuisances are {' and '.join(NUISANCES)}, or one of them, not {' '.join(nuisances)!r}")
    rng = np.random.default_rng(seed)
    visited = np.array(visited_joints(policy, seed, begin, _EPISODES if independent else _MANY_EPISODES))
    if independent:
        low, high = np.quantile(visited, [_TAILS, 1 - _TAILS], axis=0)
        joints = rng.uniform(low, high, (count, len(low)))
    else:
        joints = rng.permutation(visited)[:count]
    count = len(joints)
    colors = rng.uniform(0, 1, (2, count, len(COLORS)))
    camera = rng.uniform(-CAMERA_REACH, CAMERA_REACH, (2, count, len(CAMERA_REACH)))
    varied = {"colors": colors, "camera": camera}

    with open_studio(policy.config.env) as studio:
        names = tuple(joint.name for joint in studio.joints)
        step = begin("drawing", count + twice)
        sides = []
        for side, amount in enumerate((count, twice)):
            frames = []
            for i in range(amount):
                frames.append(studio.picture(joints[i], **{name: varied[name][side, i] for name in nuisances}))
                step()
            sides.append(np.stack(frames) if frames else np.empty((0, *policy.spec.obs_shape[1:]), np.uint8))
    return Samples(
        joints=joints,
        nuisance=np.concatenate([varied[name][0] for name in nuisances], axis=-1),
        joint_names=names,
        nuisance_names=tuple(name for kind in nuisances for name in NUISANCES[kind]),
        frame=sides[0],
        elsewhere=sides[1],
    )


def visited_joints(policy: Policy, seed: int, begin: Begin, episodes: int) -> list[Float[np.ndarray, " d"]]:
    """The joints of every state of some episodes of the policy, which explores as in training."""
    torch.manual_seed(seed)
    step, visited = begin("playing episodes", episodes * episode_steps(policy)), []
    for twin in twins(policy, ("train",), range(seed, seed + episodes), explore=True):
        visited.append(read_joints(twin.env))
        step()
    return visited


def still(frame: UInt8[np.ndarray, "n 3 h w"], policy: Policy) -> UInt8[Tensor, "n f 3 h w"]:
    """Frames as the agent takes them: each stands still, as at the beginning of an episode."""
    device = next(policy.agent.parameters()).device
    return torch.from_numpy(frame).to(device)[:, None].expand(-1, policy.spec.frames, -1, -1, -1)


@torch.no_grad()
def read_latents(policy: Policy, frame: UInt8[np.ndarray, "n 3 h w"]) -> Real[np.ndarray, "n l"]:
    """The latents of frames: which stored value each retrieves, where values are stored; else the code."""
    agent = require_latents(policy)

    def read(part: Tensor) -> Tensor:
        latents = agent.latents(part)
        return latents.code if latents.nearest is None else latents.nearest

    return in_chunks(read, still(frame, policy)).cpu().numpy()
