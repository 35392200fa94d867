"""ALDA's autoencoder alone. It learns by ALDA's own code, from frames in the place of a replay."""

from collections.abc import Callable

import torch
from jaxtyping import UInt8
from torch import Tensor

from alda.agents.alda import ALDA, ALDAConfig
from alda.nets.representation import to_float
from alda.training.acceleration import accelerate
from alda.types import EnvSpec


def learn(
    config: ALDAConfig,
    frame: UInt8[Tensor, "n 3 h w"],
    *,
    updates: int,
    seed: int,
    step: Callable[[], None] = lambda: None,
) -> ALDA:
    """An agent whose encoder, latent model and decoder have learned, and nothing else of it.

    config: batch size, latent model, normalisation and everything else as in ALDA. frame: to learn from, on the device
    where learning takes place; drawn with replacement. step: is called after each of the updates. Equal seeds give
    equal agents on equal machines, and equal first weights and batches for all latent models.
    """
    torch.manual_seed(seed)
    agent = ALDA(config, EnvSpec(frames=1, image_size=frame.shape[-1], action_dim=1)).to(frame.device)
    accelerate(agent, "fast")
    batches = torch.Generator(frame.device).manual_seed(seed)
    for _ in range(updates):
        chosen = torch.randint(len(frame), (config.batch_size,), generator=batches, device=frame.device)
        agent.update_autoencoder(to_float(frame[chosen]))
        step()
    return agent
