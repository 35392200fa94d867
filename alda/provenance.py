"""Versions, machine and renderer, as they are recorded beside every result."""

import json
import os
import platform
from importlib.metadata import version
from pathlib import Path
from typing import Any

import torch

from alda.envs.rendering import renderer_name
from alda.errors import UserError
from alda.training.acceleration import has_bfloat16
from alda.types import EnvSpec

Conditions = dict[str, str | bool]  # see describe_conditions
PACKAGES = ("alda", "torch", "mujoco", "dm_control", "gymnasium", "numpy")


def describe_machine(device: str) -> dict[str, Any]:
    """Return versions, renderer and processors; `device` is where the agent runs."""
    return {
        "versions": {"python": platform.python_version(), **{name: version(name) for name in PACKAGES}},
        "renderer": renderer_name(),
        "opengl": os.environ.get("MUJOCO_GL", "system"),
        "device": device_name(device),
        "bfloat16": has_bfloat16(torch.device(device).type),
        "threads": torch.get_num_threads(),
        "cores": os.cpu_count(),
        "system": f"{platform.system()} {platform.machine()}",
    }


def describe_conditions(
    made_of: dict[str, str], *, profile: str, visuals: str, reference: bool, **_: Any
) -> Conditions:
    """Return what a score depends on besides agent and task; only scores with equal conditions are comparable.

    made_of: colours and background (Shift.prepare). The other arguments are as in EnvConfig.
    """
    return {
        "simulator": f"mujoco {version('mujoco')}",
        "renderer": renderer_name(),
        "profile": profile,
        "visuals": visuals,
        "reference": reference,
        **made_of,
    }


def load_spec(run_dir: Path) -> EnvSpec:
    """Return the shapes that a run's agent was built for, from RUN/meta.json."""
    path = run_dir / "meta.json"
    try:
        return EnvSpec(**json.loads(path.read_text())["spec"])
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise UserError(f"{path} is missing or damaged: {error}") from error


def device_name(device: str) -> str:
    return torch.cuda.get_device_name(device) if device.startswith("cuda") else processor_name()


def processor_name() -> str:
    try:
        with open("/proc/cpuinfo") as info:
            return next(line.split(":", 1)[1].strip() for line in info if line.startswith("model name"))
    except (OSError, StopIteration):
        return platform.processor() or platform.machine()
