"""Exported policies: a run directory without replay, optimisers and records, to be mailed and read anywhere.

    FOLDER/
        policy.safetensors  weights, float32
        config.json         as in the run, without the folders of the machine
        meta.json           format, shapes, agent steps, versions, checksum of the weights
        policy.pt2          acting alone, as a program for those who have PyTorch and not this package
        README.md           a model card

alda.load reads numbers and JSON, and never policy.pt2: torch.export.load (PyTorch 2.13 and 2.14) unpickles parts of
such a file where the file asks for it, so one from a stranger can run anything.
"""

import hashlib
import json
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open

from alda.agents import Agent, AgentConfig, make_agent
from alda.agents.decoding import LatentAgent
from alda.config import Config
from alda.errors import UserError
from alda.files import read_tensors
from alda.types import EnvSpec

FORMAT = 1  # another number where this code would misread the folder
WEIGHTS, PROGRAM = "policy.safetensors", "policy.pt2"
FILES = (WEIGHTS, "config.json", "meta.json", PROGRAM, "README.md")
_MOST_NUMBERS = 10**8  # of an agent; those of the papers have 3 to 10 million
_NONSENSE = (RuntimeError, ValueError, TypeError, ArithmeticError, LookupError)  # raised for impossible sizes


def export_meta(folder: Path) -> dict[str, Any] | None:
    """Return the meta.json of an export, None for a folder that is no export.

    Raises UserError for one that this version cannot read.
    """
    file = folder / "meta.json"
    if not file.exists():
        return None
    try:
        meta = json.loads(file.read_text())
    except (OSError, ValueError, RecursionError) as error:
        raise UserError(f"{file} is missing or damaged: {error}") from error
    if not isinstance(meta, dict) or "format" not in meta:
        return None
    if meta["format"] != FORMAT:
        raise UserError(
            f"{folder} is an export of format {meta['format']}, and this version of alda reads format {FORMAT}: use "
            "the version that wrote it, or a newer one"
        )
    return meta


def read_export(folder: Path, meta: dict[str, Any], config: Config, spec: EnvSpec) -> tuple[Agent, bool]:
    """Return the agent, and whether it has all its weights: earlier exports left out those that only learning reads.

    A stranger's files may say anything: nothing large is made before they agree. Raises UserError where they do not.
    """
    if named := [name for name, path in vars(config.data).items() if path is not None]:
        raise UserError(f"{folder / 'config.json'} names folders to use ({', '.join(named)}), which no export does")
    step = meta.get("step")
    if any(type(n) is not int or n < 1 for n in vars(spec).values()) or type(step) is not int or step < 0:
        raise UserError(f"{folder / 'meta.json'} is damaged: spec and step are not whole numbers")
    if (spec.frames, spec.image_size) != (config.env.frames, config.env.image_size):
        raise UserError(f"meta.json and config.json in {folder} name different observations")
    file, shapes = folder / WEIGHTS, _shapes(config.agent, spec)
    try:
        with safe_open(file, "pt") as stored:
            found = {name: tuple(stored.get_slice(name).get_shape()) for name in stored.keys()}  # noqa: SIM118
        wrong = sorted(name for name, shape in found.items() if shape != shapes.get(name))
        if wrong:
            raise UserError(
                f"{file} holds another agent than config.json says: {len(wrong)} tensors differ; {wrong[0]} is "
                f"{found[wrong[0]]}, not {shapes.get(wrong[0], 'absent')}"
            )
        if checksum(file) != meta.get("sha256"):
            raise UserError(f"{file} is damaged: its checksum is not the one in meta.json")
        weights = read_tensors(file)
    except (OSError, SafetensorError) as error:
        raise UserError(f"{file} is missing or damaged: {error}") from error
    agent = make_agent(config.agent, spec)
    absent = {name: torch.full_like(tensor, torch.nan) for name, tensor in agent.state_dict().items()}
    agent.load_state_dict(absent | weights)
    complete = found.keys() == shapes.keys()
    if not complete and not _acts(agent.eval(), spec):
        raise UserError(f"{file} lacks weights that acting reads")
    agent.optimizers.clear()
    return agent, complete


def checksum(file: Path) -> str:
    with file.open("rb") as opened:
        return hashlib.file_digest(opened, "sha256").hexdigest()


def _shapes(config: AgentConfig, spec: EnvSpec) -> dict[str, tuple[int, ...]]:
    """Return the shapes of an agent's tensors by name; nothing is allocated. Raises UserError for an impossible one."""
    try:
        with torch.device("meta"):
            agent = make_agent(config, spec)
    except _NONSENSE as error:
        raise UserError(f"no agent can be made with these settings and shapes: {error}") from error
    if (size := sum(tensor.numel() for tensor in (*agent.parameters(), *agent.buffers()))) > _MOST_NUMBERS:
        raise UserError(f"no agent can be made with these settings and shapes: it would have {size:.1e} numbers")
    return {name: tuple(tensor.shape) for name, tensor in agent.state_dict().items()}


@torch.no_grad()
def _acts(agent: Agent, spec: EnvSpec) -> bool:
    """Return whether no weight that acting and latents read is absent, which means NaN."""
    obs = torch.zeros(1, *spec.obs_shape, dtype=torch.uint8)
    numbers = [agent.act(obs, agent.initial_state(1), explore=False)[0], *agent.diagnose(obs).values()]
    if isinstance(agent, LatentAgent):
        numbers += agent.latents(obs)[:2]
    return not any(number.isnan().any() for number in numbers)
