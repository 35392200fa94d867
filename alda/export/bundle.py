"""`alda export`: the policy of a run alone, in a folder that can be mailed and needs nothing of the run.

    FOLDER/
        policy.safetensors  weights, float32
        config.json         as in the run, without the folders of the machine
        meta.json           format, shapes, agent steps, versions, checksum of the weights
        policy.pt2          acting alone, as a program for those who have PyTorch and not this package
        README.md           a model card

The weights are those that acting reads, and looking at latents and at what they decode to: both are done once, and
what they touch is kept. Left out are target networks, Q-functions, value and reward heads, temperatures: more than half
of an agent of SAC's kind. One that is read back does not have them at all, so that nobody takes an untrained Q for that
of the run. It cannot learn, and analyses of Q refer to the run.

alda.load reads numbers and JSON, and never policy.pt2. A .pt2 from a stranger is not safe: torch.export.load (PyTorch
2.13 and 2.14) unpickles weights, constants and example inputs with weights_only=False where the file asks for it, and
has SymPy evaluate the expressions of its shapes.
"""

import dataclasses
import hashlib
import json
import os
import shutil
from collections.abc import Callable, Collection, Iterator
from contextlib import contextmanager
from importlib.metadata import version
from io import BytesIO
from pathlib import Path
from typing import Any

import torch
from jaxtyping import UInt8
from safetensors import SafetensorError, safe_open
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode
from torch.utils._pytree import tree_leaves, tree_map

from alda.agents import Agent, AgentConfig, make_agent
from alda.agents.base import State
from alda.agents.decoding import DecodingAgent, LatentAgent, ReconstructingAgent
from alda.config import Config, load_config, to_json
from alda.envs.backgrounds.data import Data
from alda.errors import UserError
from alda.export.model_card import evaluations_of, model_card
from alda.files import read_tensors, write_json, write_tensors, write_text
from alda.provenance import load_spec
from alda.training.checkpoint import load_weights
from alda.types import EnvSpec

FORMAT = 1  # another number where this code would misread the folder
WEIGHTS, PROGRAM = "policy.safetensors", "policy.pt2"
FILES = (WEIGHTS, "config.json", "meta.json", PROGRAM, "README.md")
_NONSENSE = (RuntimeError, ValueError, TypeError, ArithmeticError, LookupError)  # what impossible sizes raise


def export_run(run: Path, *, out: Path | None = None) -> Path:
    """Writes a run's newest policy into a folder (None: RUN/export) and returns it. An export there is replaced.

    Raises UserError for a directory that holds no trained agent, and where the folder holds anything but an export;
    OSError where it cannot be written: what was there is then as it was.
    """
    if export_meta(run) is not None:
        raise UserError(f"{run} is an export itself; name the run that it is from")
    folder = (run / "export" if out is None else out).resolve()
    _check_place(folder)
    config, spec = load_config(run), load_spec(run)
    agent = make_agent(config.agent, spec).eval()
    step = load_weights(run, agent)
    evaluations = evaluations_of(run, step)
    everything = set(agent.state_dict())
    keep_only(agent, tensors_read(config.agent, spec, look))
    left_out = everything - set(agent.state_dict())
    config = dataclasses.replace(config, data=Data())
    of_run = json.loads((run / "meta.json").read_text())
    meta = {
        "format": FORMAT,
        "spec": vars(spec),
        "step": step,
        "trained_in": of_run.get("trained_in", {}),
        "versions": of_run.get("versions", {}),
        "exported_with": {name: version(name) for name in ("alda", "torch")},
    }
    with _whole(folder) as place:
        write_tensors(place / WEIGHTS, agent.state_dict())
        write_json(place / "meta.json", {**meta, "sha256": _checksum(place / WEIGHTS)})
        shutil.copymode(place / "meta.json", place / WEIGHTS)  # safetensors lets only the owner read
        write_json(place / "config.json", to_json(config))
        write_text(place / "README.md", model_card(config, meta, agent.initial_state(1), evaluations, left_out))
        keep_only(agent, tensors_read(config.agent, spec, act))
        write_program(place / PROGRAM, agent, spec)
    print(f"written to {folder}")
    return folder


def export_meta(folder: Path) -> dict[str, Any] | None:
    """What an exported folder says of itself; None for a folder that is no export.

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


def read_export(folder: Path, meta: dict[str, Any], config: Config, spec: EnvSpec) -> tuple[Agent, int]:
    """The agent and the agent steps it was trained for. A stranger's files may say anything, so nothing large is made
    before all of them agree. Raises UserError where they do not."""
    if named := [name for name, path in vars(config.data).items() if path is not None]:
        raise UserError(f"{folder / 'config.json'} names folders to use ({', '.join(named)}), which no export does")
    step = meta.get("step")
    if any(type(n) is not int or n < 1 for n in vars(spec).values()) or type(step) is not int or step < 0:
        raise UserError(f"{folder / 'meta.json'} is damaged: spec and step are not whole numbers")
    if (spec.frames, spec.image_size) != (config.env.frames, config.env.image_size):
        raise UserError(f"meta.json and config.json in {folder} speak of different observations")
    file, wanted = folder / WEIGHTS, tensors_read(config.agent, spec, look)
    try:
        with safe_open(file, "pt") as stored:
            found = {name: tuple(stored.get_slice(name).get_shape()) for name in stored.keys()}  # noqa: SIM118
        if found != wanted:
            differing = sorted(name for name in {**wanted, **found} if wanted.get(name) != found.get(name))
            here, there = (shapes.get(differing[0], "absent") for shapes in (found, wanted))
            raise UserError(
                f"{file} holds another agent than config.json says: {len(differing)} tensors differ; {differing[0]} is "
                f"{here}, not {there}"
            )
        if _checksum(file) != meta.get("sha256"):
            raise UserError(f"{file} is damaged: its checksum is not the one in meta.json")
        weights = read_tensors(file)
    except (OSError, SafetensorError) as error:
        raise UserError(f"{file} is missing or damaged: {error}") from error
    agent = make_agent(config.agent, spec)
    keep_only(agent, weights)
    agent.load_state_dict(weights)
    return agent, step


# what an agent is made of


def act(agent: Agent, obs: UInt8[Tensor, "b f c h w"]) -> None:
    """With exploration and without."""
    for explore in (False, True):
        agent.act(obs, agent.initial_state(len(obs)), explore=explore)


def look(agent: Agent, obs: UInt8[Tensor, "b f c h w"]) -> None:
    """Everything that can be asked of an agent without teaching it."""
    act(agent, obs)
    agent.diagnose(obs)
    if isinstance(agent, LatentAgent):
        agent.latents(obs)
    if isinstance(agent, ReconstructingAgent):
        agent.reconstruct(obs)
    if isinstance(agent, DecodingAgent):
        agent.traverse(obs)


def tensors_read(
    config: AgentConfig, spec: EnvSpec, do: Callable[[Agent, UInt8[Tensor, "b f c h w"]], None]
) -> dict[str, tuple[int, ...]]:
    """Shapes, by name, of an agent's tensors that it reads when it does something.

    Nothing is allocated or computed. Raises UserError where there can be no such agent.
    """
    try:
        with torch.device("meta"):
            agent = make_agent(config, spec).to("meta")
            obs = torch.zeros(2, *spec.obs_shape, dtype=torch.uint8)
            with _Touched() as touched:
                do(agent, obs)
    except _NONSENSE as error:
        raise UserError(f"no agent can be made with these settings and shapes: {error}") from error
    tensors = agent.state_dict(keep_vars=True)
    return {name: tuple(tensor.shape) for name, tensor in tensors.items() if id(tensor) in touched.ids}


class _Touched(TorchFunctionMode):
    """Notes every tensor that a function is called with."""

    def __init__(self) -> None:
        super().__init__()
        self.ids: set[int] = set()

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        self.ids |= {id(leaf) for leaf in tree_leaves((args, kwargs)) if isinstance(leaf, Tensor)}
        return func(*args, **(kwargs or {}))


def keep_only(agent: Agent, names: Collection[str]) -> None:
    """Takes all other tensors, and the means to learn, out of an agent."""
    for name in set(agent.state_dict()).difference(names):
        module, _, tensor = name.rpartition(".")
        setattr(agent.get_submodule(module), tensor, None)
    agent.optimizers.clear()


# acting as a program


class Acting(nn.Module):
    """obs -> action; of a policy with a memory: obs, state -> action, state."""

    def __init__(self, agent: Agent) -> None:
        super().__init__()
        self.agent = agent

    def forward(self, obs: UInt8[Tensor, "b f c h w"], state: State = None) -> Any:
        action, state = self.agent.act(obs, state, explore=False)
        return action if state is None else (action, state)


def write_program(file: Path, agent: Agent, spec: EnvSpec) -> None:
    """Acting without exploring as a torch.export program, for any number of observations at a time.

    uint8 [B, F, 3, H, W] -> float32 [B, A] in [-1, 1], the same bits as of the agent. A policy with a memory takes and
    gives back its state as well; episodes begin with zeros.
    """
    agent.requires_grad_(False)
    obs, state = torch.zeros(2, *spec.obs_shape, dtype=torch.uint8), agent.initial_state(2)
    given = (obs,) if state is None else (obs, state)
    batch = torch.export.Dim("batch", min=1)
    with torch.no_grad():
        program = torch.export.export(Acting(agent), given, dynamic_shapes=tree_map(lambda _: {0: batch}, given))
    for node in program.graph.nodes:
        node.meta.pop("stack_trace", None)  # has paths of this machine in it
    buffer = BytesIO()  # writing a file itself, PyTorch does not tell a full disk from other troubles
    torch.export.save(program, buffer)
    with file.open("wb") as opened:
        opened.write(buffer.getvalue())
        opened.flush()
        os.fsync(opened.fileno())


# the folder


def _check_place(folder: Path) -> None:
    """Raises UserError where something would be lost."""
    there = {entry.name for entry in folder.iterdir()} if folder.exists() else set()
    if there and export_meta(folder) is None:
        raise UserError(f"{folder} is there already and is not an export; choose another --out")
    if others := sorted(there.difference(FILES)):
        raise UserError(f"{folder} holds more than an export ({', '.join(others)}); move that, or choose another --out")


@contextmanager
def _whole(folder: Path) -> Iterator[Path]:
    """A place to write to, which becomes the folder when all is written; until then what was there stays."""
    new, old = (folder.with_name(f".{folder.name}.{word}") for word in ("partial", "before"))
    folder.parent.mkdir(parents=True, exist_ok=True)
    shutil.rmtree(new, ignore_errors=True)  # of an export that was killed
    try:
        new.mkdir()
        yield new
        if folder.exists():
            shutil.rmtree(old, ignore_errors=True)
            folder.rename(old)
        new.rename(folder)
    except BaseException:
        shutil.rmtree(new, ignore_errors=True)
        if old.exists() and not folder.exists():
            old.rename(folder)
        raise
    shutil.rmtree(old, ignore_errors=True)


def _checksum(file: Path) -> str:
    with file.open("rb") as opened:
        return hashlib.file_digest(opened, "sha256").hexdigest()
