"""What stands beside a result so that it can be trusted: versions, machine, renderer."""

import dataclasses
import json
import os
import platform
from importlib.metadata import version
from pathlib import Path
from typing import Any

from alda.config import Config
from alda.envs.rendering import renderer_name
from alda.errors import UserError
from alda.types import EnvSpec

PACKAGES = ("alda", "torch", "mujoco", "dm_control", "gymnasium", "numpy")


def describe_machine(config: Config, spec: EnvSpec) -> dict[str, Any]:
    """Content of RUN/meta.json."""
    return {
        "spec": dataclasses.asdict(spec),
        "versions": {"python": platform.python_version(), **{name: version(name) for name in PACKAGES}},
        "renderer": renderer_name(),
        "opengl": os.environ.get("MUJOCO_GL", "system"),
        "device": device_name(config.device or "cpu"),
        "cores": os.cpu_count(),
        "system": platform.platform(),
    }


def load_spec(run_dir: Path) -> EnvSpec:
    """The shapes that a run's agent was built for, from RUN/meta.json."""
    path = run_dir / "meta.json"
    try:
        return EnvSpec(**json.loads(path.read_text())["spec"])
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise UserError(f"{path} is missing or damaged: {error}") from error


def device_name(device: str) -> str:
    if device.startswith("cuda"):
        import torch

        return torch.cuda.get_device_name(device)
    return processor_name()


def processor_name() -> str:
    try:
        with open("/proc/cpuinfo") as info:
            return next(line.split(":", 1)[1].strip() for line in info if line.startswith("model name"))
    except (OSError, StopIteration):
        return platform.processor() or platform.machine()
