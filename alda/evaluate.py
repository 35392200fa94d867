"""Playing episodes without exploration, in any world."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from jaxtyping import UInt8

from alda.agents.base import Agent


@dataclass
class Episode:
    """One episode: its return, its length in agent steps, and the observations it went through, where kept."""

    total: float
    length: int
    observations: list[UInt8[np.ndarray, "f c h w"]]


def play(
    agent: Agent, env: Any, seed: int, *, keep: bool = False, checkpoint: Callable[[], None] = lambda: None
) -> Episode:
    """One deterministic episode from a seeded start. `checkpoint` is called every step and may raise to stop."""
    device = next(agent.parameters()).device
    devices = [device] if device.type == "cuda" else []
    obs, _ = env.reset(seed=seed)
    state = agent.initial_state(num_envs=1)
    episode = Episode(0.0, 0, [obs] if keep else [])
    done = False
    while not done:
        checkpoint()
        with torch.random.fork_rng(devices=devices):  # training's random numbers stay as they are
            torch.manual_seed(seed + episode.length)
            action, state = agent.act(torch.from_numpy(obs)[None].to(device), state, explore=False)
        obs, reward, terminated, truncated, _ = env.step(action[0].cpu().numpy())
        episode.total += reward
        episode.length += 1
        if keep:
            episode.observations.append(obs)
        done = terminated or truncated
    return episode


def episode_seeds(seed: int, stream: int, count: int) -> list[int]:
    """Seeds of `count` evaluation episodes: equal for every world and method, apart from training's."""
    return [int(s) for s in np.random.SeedSequence([seed, stream, 1]).generate_state(count)]


def bootstrap_interval(
    values: Sequence[float], *, confidence: float = 0.95, resamples: int = 10_000, seed: int = 0
) -> tuple[float, float]:
    """Percentile bootstrap interval of the mean; the same values give the same interval."""
    sample = np.asarray(values, float)
    rng = np.random.default_rng(seed)
    means = rng.choice(sample, (resamples, len(sample))).mean(1)
    tail = (1 - confidence) / 2
    low, high = np.quantile(means, [tail, 1 - tail])
    return float(low), float(high)
