"""Paired rollouts: episodes that pass through the same simulator states under several shifts."""

from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, closing
from itertools import groupby
from typing import NamedTuple, TypeVar

import numpy as np
from jaxtyping import Float, UInt8

from alda.envs.dmc import DMCEnv
from alda.policy import Policy
from alda.training.acceleration import one_thread

T = TypeVar("T")


class PairedStep(NamedTuple):
    """One agent step, before its action is taken."""

    seen: tuple[UInt8[np.ndarray, "f c h w"], ...]  # the observation under each shift
    action: Float[np.ndarray, " a"]  # the same under all shifts
    env: DMCEnv  # of the first shift, in this state: to read, not to step
    seed: int  # of the episode


def paired_rollouts(
    policy: Policy, shifts: Sequence[str], seeds: Sequence[int], *, explore: bool = False
) -> Iterator[PairedStep]:
    """Yield the steps of one episode per seed, in which the policy acts on what it sees under the first shift.

    explore: sample actions instead of taking the policy's mode; they then differ from call to call.
    """
    with ExitStack() as stack:
        envs = [stack.enter_context(closing(policy.config.make_env(shift))) for shift in shifts]
        for seed in seeds:
            seen = [env.reset(seed=seed)[0] for env in envs]
            policy.reset()
            done = False
            while not done:
                with one_thread():
                    action = policy.act(seen[0], explore=explore)
                yield PairedStep(tuple(seen), action, envs[0], seed)
                steps = [env.step(action) for env in envs]
                seen = [obs for obs, *_ in steps]
                done = any(terminated or truncated for _, _, terminated, truncated, _ in steps)


def read_episodes(
    policy: Policy,
    shifts: Sequence[str],
    seeds: Sequence[int],
    *,
    read: Callable[[PairedStep], T],
    step: Callable[[], None],
    explore: bool = False,
) -> Iterator[list[T]]:
    """Yield, for each episode of paired rollouts, what `read` returns for its steps; call `step` after each of them."""
    for _, steps in groupby(paired_rollouts(policy, shifts, seeds, explore=explore), key=lambda state: state.seed):
        episode = []
        for state in steps:
            episode.append(read(state))
            step()
        yield episode


def evenly_spread(states: Sequence[T], count: int) -> list[T]:
    """Return `count` of the states of an episode, from the first to the last."""
    return [states[t] for t in np.linspace(0, len(states) - 1, count).round().astype(int)]
