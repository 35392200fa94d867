"""Versions, machine and renderer, as they are recorded beside every result."""

import os
import platform
from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch

from alda.envs.rendering import renderer_name
from alda.envs.tasks import is_foreign
from alda.errors import UserError
from alda.files import read_json
from alda.training.acceleration import has_bfloat16
from alda.types import EnvSpec

if TYPE_CHECKING:
    from alda.config import Config

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
    made_of: dict[str, str], *, task: str, profile: str, visuals: str, reference: bool, **_: Any
) -> Conditions:
    """Return what a score depends on besides agent and task; only scores with equal conditions are comparable.

    made_of: colours and background (Shift.prepare). The other arguments are as in EnvConfig.
    """
    return {
        "simulator": f"gymnasium {version('gymnasium')}" if is_foreign(task) else f"mujoco {version('mujoco')}",
        "renderer": renderer_name(),
        "profile": profile,
        "visuals": visuals,
        "reference": reference,
        **made_of,
    }


def load_meta(run_dir: Path) -> dict[str, Any]:
    """Return RUN/meta.json: what the agent was built for ("spec") and learned from, and on which machine.

    Raises UserError where it is missing or damaged.
    """
    path = run_dir / "meta.json"
    try:
        meta = read_json(path)
        if any(type(number) is not int or number < 1 for number in meta["spec"].values()):
            raise ValueError("its spec is not three whole numbers")
        EnvSpec(**meta["spec"])
        if not all(isinstance(meta.get(name, {}), dict) for name in ("versions", "trained_in", "overlays")):
            raise ValueError("versions, trained_in and overlays are not what they should be")
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise UserError(f"{path} is missing or damaged: {error}") from error
    return dict(meta)


def load_spec(run_dir: Path, config: "Config") -> EnvSpec:
    """Return the shapes that a run's agent was built for. Raises UserError where they are not those of its config."""
    spec = EnvSpec(**load_meta(run_dir)["spec"])
    if (spec.frames, spec.image_size) != (config.env.frames, config.env.image_size):
        raise UserError(f"meta.json and config.json in {run_dir} name different observations")
    return spec


def device_name(device: str) -> str:
    return torch.cuda.get_device_name(device) if device.startswith("cuda") else processor_name()


def processor_name() -> str:
    try:
        with open("/proc/cpuinfo") as info:
            return next(line.split(":", 1)[1].strip() for line in info if line.startswith("model name"))
    except (OSError, StopIteration):
        return platform.processor() or platform.machine()
