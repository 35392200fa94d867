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

from pathlib import Path
from typing import Any

import torch

from alda.agents import Agent
from alda.agents.decoding import LatentAgent
from alda.config import Config
from alda.errors import UserError
from alda.files import check_digest
from alda.provenance import load_meta
from alda.training.tensors import tensors_for
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
    if not (folder / "meta.json").exists():
        return None
    meta = load_meta(folder)
    if "format" not in meta:
        return None
    if meta["format"] != FORMAT:
        raise UserError(
            f"{folder} is an export of format {meta['format']}, and this version of alda reads format {FORMAT}: use "
            "the version that wrote it, or a newer one"
        )
    return meta


def read_export(folder: Path, meta: dict[str, Any], config: Config, spec: EnvSpec, agent: Agent) -> tuple[int, bool]:
    """Load the weights of an export; return the agent step they are from, and whether they are all.

    Earlier exports left out those that only learning reads. Raises UserError where the files do not agree.
    """
    if named := [name for name, path in vars(config.data).items() if path is not None]:
        raise UserError(f"{folder / 'config.json'} names folders to use ({', '.join(named)}), which no export does")
    step, file = meta.get("step"), folder / WEIGHTS
    if type(step) is not int or step < 0:
        raise UserError(f"{folder / 'meta.json'} is damaged: its step is not a whole number")
    try:
        weights = tensors_for(file, agent, some=True)
        check_digest(file, meta.get("sha256", ""))
    except (OSError, ValueError) as error:
        raise UserError(f"{file} is missing or damaged: {error}") from error
    state = agent.state_dict()
    agent.load_state_dict({name: torch.full_like(tensor, torch.nan) for name, tensor in state.items()} | weights)
    complete = weights.keys() == state.keys()
    if not complete and not _acts(agent.eval(), spec):
        raise UserError(f"{file} lacks weights that acting reads")
    agent.optimizers.clear()
    return step, complete


@torch.no_grad()
def _acts(agent: Agent, spec: EnvSpec) -> bool:
    """Return whether no weight that acting and latents read is absent, which means NaN."""
    obs = torch.zeros(1, *spec.obs_shape, dtype=torch.uint8)
    numbers = [agent.act(obs, agent.initial_state(1), explore=False)[0], *agent.diagnose(obs).values()]
    if isinstance(agent, LatentAgent):
        numbers += agent.latents(obs)[:2]
    return not any(number.isnan().any() for number in numbers)
