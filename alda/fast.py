"""Everything that makes a run fast and nothing that changes what it learns. Applied last, to a finished agent."""

from collections.abc import Callable
from pathlib import Path
from typing import Literal

import torch
from torch import Tensor

from alda.agents.base import Agent

Speed = Literal["plain", "fast"]


def accelerate(agent: Agent, speed: Speed) -> Agent:
    """plain leaves the agent as it is. fast runs its image layers in bfloat16, with float32 results, where the
    processor multiplies bfloat16, and fuses its optimisers."""
    if speed == "plain":
        return agent
    device = next(agent.parameters()).device.type
    if has_bfloat16(device):
        for module in agent.modules():
            if getattr(module, "low_precision", False):
                module.forward = _in_bfloat16(module.forward, device)
    for optimizer in agent.optimizers.values():
        for group in optimizer.param_groups:
            group["fused"], group["foreach"] = True, False
    return agent


def has_bfloat16(device: str) -> bool:
    """Whether bfloat16 products are computed by hardware."""
    if device == "cuda":
        return torch.cuda.is_bf16_supported(including_emulation=False)
    try:
        flags = Path("/proc/cpuinfo").read_text()
    except OSError:
        return False
    return "avx512_bf16" in flags or "amx_bf16" in flags


def _in_bfloat16(forward: Callable[..., Tensor], device: str) -> Callable[..., Tensor]:
    def low_precision_forward(x: Tensor) -> Tensor:
        with torch.autocast(device, torch.bfloat16):
            return forward(x).float()

    return low_precision_forward
