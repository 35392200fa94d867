"""Files that are complete or absent: written beside their place, flushed to disk, then moved into it."""

import json
import os
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor


def write_json(path: Path, content: Any) -> None:
    write_text(path, json.dumps(content, indent=2) + "\n")


def write_text(path: Path, text: str) -> None:
    """Write text; bytes of file names that are no text become question marks."""
    _replace(path, lambda temporary: temporary.write_bytes(text.encode(errors="replace")))


def check_writable(path: Path) -> None:
    """Make the folder of a file to be written later; raise OSError where that cannot be. The file is left alone."""
    path.parent.mkdir(parents=True, exist_ok=True)
    if path.is_dir():
        raise IsADirectoryError(f"{path} is a folder, not a file to write")
    with tempfile.NamedTemporaryFile(dir=path.parent):
        pass


def write_tensors(path: Path, tensors: dict[str, Tensor]) -> None:
    ready: dict[str, Tensor] = {}
    places: set[int] = set()
    for name, tensor in tensors.items():
        there = tensor.detach().cpu().contiguous()
        place = there.untyped_storage().data_ptr()
        ready[name] = there.clone() if place in places else there  # safetensors refuses to write shared memory
        places.add(place)

    def write(temporary: Path) -> None:
        try:
            save_file(ready, temporary)
        except SafetensorError as error:  # how safetensors reports a full disk
            raise OSError(str(error)) from error

    _replace(path, write)


def read_tensors(path: Path) -> dict[str, Tensor]:
    """Read tensors from a safetensors file, which holds numbers and nothing that could run."""
    with path.open("rb"):  # raises what safetensors would report as damage: a missing or forbidden file
        return load_file(path)


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


def _replace(path: Path, write: Callable[[Path], Any]) -> None:
    temporary = path.with_name(f".{path.name}.partial")
    temporary.unlink(missing_ok=True)  # a link of that name would be followed
    try:
        with temporary.open("xb") as file:
            mode = os.fstat(file.fileno()).st_mode
        write(temporary)
        temporary.chmod(mode)  # safetensors lets only the owner read
        with temporary.open("rb+") as file:
            os.fsync(file.fileno())
        os.replace(temporary, path)
    except BaseException:
        temporary.unlink(missing_ok=True)
        raise
