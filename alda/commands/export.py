"""`alda export`: the policy of a run in a folder to share."""

import dataclasses
import os
import shutil
from importlib.metadata import version
from io import BytesIO
from pathlib import Path
from typing import Any

import torch
from jaxtyping import UInt8
from torch import Tensor, nn
from torch.utils._pytree import tree_map

from alda.agents import Agent, make_loaded_agent
from alda.agents.base import State
from alda.config import load_config, to_json
from alda.envs.backgrounds.data import Data
from alda.errors import UserError
from alda.export.bundle import FILES, FORMAT, PROGRAM, WEIGHTS, export_meta
from alda.export.model_card import evaluations_of, model_card
from alda.files import write_json, write_text
from alda.provenance import load_meta, load_spec
from alda.training.checkpoint import load_weights
from alda.training.tensors import write_tensors
from alda.types import EnvSpec


def export(run: Path, /, *, out: Path | None = None) -> Path:
    """Write the policy of a run to a folder to share: weights, a PyTorch program, a model card.

    Args:
        run: Run directory; it is only read.
        out: Folder to write, some 20 to 60 MB; an earlier export in it is replaced (None: RUN/export).

    Returns:
        The folder. Raises UserError for a directory without a trained agent, and for a folder that holds anything but
        an export; OSError where it cannot be written, with an earlier export as it was.
    """
    if export_meta(run) is not None:
        raise UserError(f"{run} is an export itself; name the run that it is from")
    if out is None and (run / "export").is_symlink():
        raise UserError(f"{run / 'export'} is a link, which may lead anywhere; name the folder by --out")
    folder = (run / "export" if out is None else out).resolve()
    _check_place(folder)
    config = load_config(run)
    spec, of_run = load_spec(run, config), load_meta(run)
    agent = make_loaded_agent(config.agent, spec).eval()
    step = load_weights(run, agent)
    config = dataclasses.replace(config, data=Data())
    meta = {
        "format": FORMAT,
        "spec": vars(spec),
        "step": step,
        "trained_in": of_run.get("trained_in", {}),
        "versions": of_run.get("versions", {}),
        "exported_with": {name: version(name) for name in ("alda", "torch")},
    }
    card = model_card(config, meta, agent.initial_state(1), evaluations_of(run, step))
    folder.parent.mkdir(parents=True, exist_ok=True)
    new = folder.with_name(f".{folder.name}.partial")
    shutil.rmtree(new, ignore_errors=True)  # of an export that was killed
    try:
        new.mkdir()
        digest = write_tensors(new / WEIGHTS, agent.state_dict())
        write_json(new / "meta.json", {**meta, "sha256": digest})
        write_json(new / "config.json", to_json(config))
        write_text(new / "README.md", card)
        write_program(new / PROGRAM, agent, spec)
        if folder.exists():
            shutil.rmtree(folder)
        new.rename(folder)
    finally:
        shutil.rmtree(new, ignore_errors=True)
    print(f"written to {folder}")
    return folder


def _check_place(folder: Path) -> None:
    """Raise UserError where something would be lost."""
    there = {entry.name for entry in folder.iterdir()} if folder.exists() else set()
    if there and export_meta(folder) is None:
        raise UserError(f"{folder} is there already and is not an export; choose another --out")
    if others := sorted(there.difference(FILES)):
        raise UserError(f"{folder} holds more than an export ({', '.join(others)}); move that, or choose another --out")


class Acting(nn.Module):
    """Maps obs to action; of a policy with a memory, obs and state to action and state."""

    def __init__(self, agent: Agent) -> None:
        super().__init__()
        self.agent = agent

    def forward(self, obs: UInt8[Tensor, "b f c h w"], state: State = None) -> Any:
        action, state = self.agent.act(obs, state, explore=False)
        return action if state is None else (action, state)


def write_program(file: Path, agent: Agent, spec: EnvSpec) -> None:
    """Write acting without exploration as a torch.export program, for any number of observations at a time.

    uint8 [B, F, 3, H, W] -> float32 [B, A] in [-1, 1], the same bits as the agent's. A policy with a memory takes and
    returns its state as well; episodes begin with zeros.
    """
    agent.requires_grad_(False)
    obs, state = torch.zeros(2, *spec.obs_shape, dtype=torch.uint8), agent.initial_state(2)
    given = (obs,) if state is None else (obs, state)
    batch = torch.export.Dim("batch", min=1)
    with torch.no_grad():
        program = torch.export.export(Acting(agent), given, dynamic_shapes=tree_map(lambda _: {0: batch}, given))
    _keep_what_acts(program)
    buffer = BytesIO()  # PyTorch's own writing does not tell a full disk from other troubles
    torch.export.save(program, buffer)
    with file.open("wb") as opened:
        opened.write(buffer.getvalue())
        opened.flush()
        os.fsync(opened.fileno())


def _keep_what_acts(program: torch.export.ExportedProgram) -> None:
    """Take weights that acting does not read out of a program, and the paths of this machine."""
    signature = program.graph_signature
    stored = {**signature.inputs_to_parameters, **signature.inputs_to_buffers}
    for node in list(program.graph.nodes):
        node.meta.pop("stack_trace", None)
        if node.op == "placeholder" and node.name in stored and not node.users:
            program.graph.erase_node(node)
            program.state_dict.pop(stored[node.name], None)
    left = {node.name for node in program.graph.nodes}
    signature.input_specs = [spec for spec in signature.input_specs if spec.arg.name in left]
