"""Tensors in safetensors files, which hold numbers and nothing that could run."""

from pathlib import Path
from typing import Any

from safetensors import SafetensorError, safe_open
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from alda.errors import UserError
from alda.files import checksum, open_regular, replacing


def write_tensors(path: Path, tensors: dict[str, Tensor]) -> str:
    """Write a safetensors file; return its SHA-256."""
    ready: dict[str, Tensor] = {}
    places: set[int] = set()
    for name, tensor in tensors.items():
        there = tensor.detach().cpu().contiguous()
        place = there.untyped_storage().data_ptr()
        ready[name] = there.clone() if place in places else there  # safetensors refuses to write shared memory
        places.add(place)
    with replacing(path) as temporary:
        try:
            save_file(ready, temporary)
        except SafetensorError as error:  # how safetensors reports a full disk
            raise OSError(str(error)) from error
        return checksum(temporary)


def read_tensors(path: Path) -> dict[str, Tensor]:
    """Read tensors from a safetensors file, which holds numbers and nothing that could run."""
    with open_regular(path):  # raises what safetensors would report as damage: a missing or forbidden file
        return load_file(path)


def tensors_for(path: Path, module: nn.Module, *, some: bool = False) -> dict[str, Tensor]:
    """Read the tensors of a module's state. some: they need not be all. Raises UserError where the file holds others,
    before any is read, and for a damaged file."""
    wanted = {name: list(tensor.shape) for name, tensor in module.state_dict().items()}
    with open_regular(path):  # raises what safetensors would report as damage: a missing or forbidden file
        pass
    try:
        with safe_open(path, "pt") as stored:
            found = {name: stored.get_slice(name).get_shape() for name in stored.keys()}  # noqa: SIM118
        names = found.keys() if some else found.keys() | wanted.keys()
        if wrong := sorted(name for name in names if found.get(name) != wanted.get(name)):
            is_, should = (of.get(wrong[0], "absent") for of in (found, wanted))
            raise UserError(
                f"{path} holds another agent than config.json says: {len(wrong)} tensors differ; {wrong[0]} is {is_}, "
                f"not {should}"
            )
        return load_file(path)
    except SafetensorError as error:
        raise UserError(f"{path} is damaged: {error}") from error


def split_tensors(tree: dict[str, Any]) -> tuple[dict[str, Any], dict[str, Tensor]]:
    """Return a nested dict with tensors replaced by their names, for JSON, and the tensors by name."""
    tensors: dict[str, Tensor] = {}

    def walk(node: Any, name: str) -> Any:
        if isinstance(node, Tensor):
            tensors[name] = node
            return {"tensor": name}
        if isinstance(node, dict):
            return {str(key): walk(value, f"{name}/{key}" if name else str(key)) for key, value in node.items()}
        return node

    return walk(tree, ""), tensors


def join_tensors(tree: Any, tensors: dict[str, Tensor]) -> Any:
    """Undo split_tensors."""
    if isinstance(tree, dict):
        if set(tree) == {"tensor"}:
            return tensors[tree["tensor"]]
        return {key: join_tensors(value, tensors) for key, value in tree.items()}
    return tree
