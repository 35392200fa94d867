"""The same states of the simulator in several worlds: episodes that are played in one and repeated in the others."""

from collections.abc import Iterator, Sequence
from contextlib import ExitStack, closing
from typing import NamedTuple

import numpy as np
from jaxtyping import Float, UInt8

from alda.envs.dmc import DMCEnv
from alda.policy import Policy
from alda.training.acceleration import one_thread


class Twin(NamedTuple):
    """One agent step of an episode, before the action is taken."""

    seen: tuple[UInt8[np.ndarray, "f c h w"], ...]  # in each world
    action: Float[np.ndarray, " a"]  # the same in all of them
    env: DMCEnv  # of the first world, in this state: to look at, not to move
    seed: int  # of the episode


def twins(policy: Policy, worlds: Sequence[str], seeds: Sequence[int], *, explore: bool = False) -> Iterator[Twin]:
    """The steps of an episode for each seed. The policy acts on what it sees in the first world; equal seeds give equal
    states.

    explore: sample actions instead of taking the policy's modes; they then differ from call to call.
    """
    with ExitStack() as stack:
        envs = [stack.enter_context(closing(policy.config.make_env(world))) for world in worlds]
        for seed in seeds:
            seen = [env.reset(seed=seed)[0] for env in envs]
            policy.reset()
            done = False
            while not done:
                with one_thread():
                    action = policy.act(seen[0], explore=explore)
                yield Twin(tuple(seen), action, envs[0], seed)
                steps = [env.step(action) for env in envs]
                seen = [obs for obs, *_ in steps]
                done = any(terminated or truncated for _, _, terminated, truncated, _ in steps)
