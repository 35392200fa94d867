"""Small agents of every method on the smallest images that each can see, for tests of learning itself."""

import torch
from conftest import CODE_DIM, fill, make_agent

from alda.agents import Agent
from alda.training.acceleration import Speed
from alda.training.replay import Replay
from alda.types import EnvSpec

CONVS = {"conv_layers": 3, "conv_channels": 8}
WIDTHS = {"widths": (4, 6, 8, 8)}
SETTINGS = {
    **dict.fromkeys(("sac", "sac_ae", "drq", "svea", "sada"), CONVS),
    **dict.fromkeys(("alda", "alda_stored", "darla", "darla_stored"), WIDTHS),
    "repo": {"batch_size": 2, "sequence_length": 4, "horizon": 3, "probe_stride": 3},
}


SIZES = {"repo": 64, "alda": 32, "alda_stored": 32}  # instance normalisation needs more than one pixel in the end


def spec_of(name: str) -> EnvSpec:
    return EnvSpec(frames=3, image_size=SIZES.get(name, 16), action_dim=2)


def tiny_agent(name: str, speed: Speed = "plain", **config) -> Agent:
    return make_agent(name, speed, spec_of(name), **{**SETTINGS[name], **config})


def tiny_replay(name: str, steps: int = 60, length: int = 20) -> Replay:
    """Episodes of random frames, equal for equal arguments."""
    return fill(Replay(spec_of(name), 100, 0.99, code_dim=CODE_DIM), steps, length)


def parts_moved(agent: Agent, change) -> set[str]:
    """Names of all parameters that a change moves."""
    before = {name: p.clone() for name, p in agent.named_parameters()}
    change()
    return {name for name, p in agent.named_parameters() if not torch.equal(p, before[name])}
