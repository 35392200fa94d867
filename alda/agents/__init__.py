"""Every method, by the name used on the command line."""

from collections.abc import Callable
from typing import Any

import torch

from alda.agents.alda import ALDA, ALDAConfig
from alda.agents.base import Agent, AgentConfig
from alda.agents.darla import DARLA, DARLAConfig
from alda.agents.drq import DrQ, DrQConfig
from alda.agents.repo import RePo, RePoConfig
from alda.agents.sac import SAC, SACConfig
from alda.agents.sac_ae import SACAE, SACAEConfig
from alda.agents.sada import SADA, SADAConfig
from alda.agents.svea import SVEA, SVEAConfig
from alda.errors import UserError
from alda.types import EnvSpec

__all__ = ["AGENTS", "Agent", "AgentConfig", "make_agent", "make_loaded_agent"]

AGENTS: dict[str, tuple[type[AgentConfig], Callable[[Any, EnvSpec], Agent]]] = {
    "alda": (ALDAConfig, ALDA),
    "sac": (SACConfig, SAC),
    "sac_ae": (SACAEConfig, SACAE),
    "darla": (DARLAConfig, DARLA),
    "repo": (RePoConfig, RePo),
    "drq": (DrQConfig, DrQ),
    "svea": (SVEAConfig, SVEA),
    "sada": (SADAConfig, SADA),
}


_MOST_NUMBERS = 10**8  # of an agent from a file; those of the papers have 3 to 10 million
_NONSENSE = (RuntimeError, ValueError, TypeError, ArithmeticError, LookupError)  # raised for impossible sizes


def make_agent(config: AgentConfig, spec: EnvSpec) -> Agent:
    return AGENTS[method_name(config)][1](config, spec)


def make_loaded_agent(config: AgentConfig, spec: EnvSpec) -> Agent:
    """Make an agent for settings that may be a stranger's. Raises UserError for impossible ones, and for huge ones
    before anything large is allocated."""
    try:
        with torch.device("meta"):
            agent = make_agent(config, spec)
    except _NONSENSE as error:
        raise UserError(f"no agent can be made with these settings and shapes: {error}") from error
    if (size := sum(tensor.numel() for tensor in (*agent.parameters(), *agent.buffers()))) > _MOST_NUMBERS:
        raise UserError(f"no agent can be made with these settings and shapes: it would have {size:.1e} numbers")
    return make_agent(config, spec)


def method_name(config: AgentConfig) -> str:
    return next(name for name, (config_type, _) in AGENTS.items() if config_type is type(config))
