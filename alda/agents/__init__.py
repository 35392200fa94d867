"""Every method, by the name used on the command line."""

from collections.abc import Callable
from typing import Any

from alda.agents.alda import ALDA, ALDAConfig
from alda.agents.base import Agent, AgentConfig
from alda.agents.darla import DARLA, DARLAConfig
from alda.agents.drq import DrQ, DrQConfig
from alda.agents.repo import RePo, RePoConfig
from alda.agents.sac import SAC, SACConfig
from alda.agents.sac_ae import SACAE, SACAEConfig
from alda.agents.sada import SADA, SADAConfig
from alda.agents.svea import SVEA, SVEAConfig
from alda.types import EnvSpec

__all__ = ["AGENTS", "Agent", "AgentConfig", "make_agent"]

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


def make_agent(config: AgentConfig, spec: EnvSpec) -> Agent:
    return AGENTS[method_name(config)][1](config, spec)


def method_name(config: AgentConfig) -> str:
    return next(name for name, (config_type, _) in AGENTS.items() if config_type is type(config))
