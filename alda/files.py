"""Files that are complete or absent: written beside their place, flushed to disk, then moved into it.

A run directory may be a stranger's: links in it are not followed where something is written, and pipes and devices are
not read.
"""

import hashlib
import json
import os
import stat
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from alda.errors import UserError

_MOST_TEXT = 1 << 28  # bytes of a JSON or text file; metrics of the longest runs have a hundredth of it


def read_bytes(path: Path) -> bytes:
    """Return the content of a text file as bytes. Raises UserError for what is no file of at most 256 MiB."""
    with open_regular(path) as file:
        content: bytes = file.read(_MOST_TEXT + 1)
    if len(content) > _MOST_TEXT:
        raise UserError(f"{path} is larger than {_MOST_TEXT >> 20} MiB")
    return content


def read_json(path: Path) -> Any:
    """Return the content of a JSON file. Raises as read_bytes does, and ValueError for anything but JSON."""
    try:
        return json.loads(read_bytes(path))
    except RecursionError as error:
        raise ValueError("its JSON is nested too deeply") from error


def open_regular(path: Path, mode: str = "rb") -> Any:
    """Open a file. Raises UserError for a pipe, device or folder, and where writing would follow a link."""
    if mode != "rb" and path.is_symlink():
        raise UserError(f"{path} is a link, which may lead anywhere; put a file in its place")

    def opener(name: str, flags: int) -> int:
        follow = 0 if mode == "rb" else os.O_NOFOLLOW
        descriptor = os.open(name, flags | os.O_NONBLOCK | follow, 0o666)  # opening a pipe waits for nobody
        if not stat.S_ISREG(os.fstat(descriptor).st_mode):
            os.close(descriptor)
            raise UserError(f"{path} is no regular file")
        return descriptor

    return open(path, mode, opener=opener)


def own_folder(path: Path) -> Path:
    """Make a folder inside a run directory. Raises UserError for a link, which would lead out of it."""
    if path.is_symlink():
        raise UserError(f"{path} is a link, which may lead anywhere; put a folder in its place")
    path.mkdir(exist_ok=True)
    return path


def checksum(path: Path) -> str:
    """Return the SHA-256 of a file."""
    with open_regular(path) as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def check_digest(path: Path, digest: str | None) -> None:
    """Raise ValueError for a file that was changed since its digest was taken. digest: None of earlier versions."""
    if digest is not None and checksum(path) != digest:
        raise ValueError("its checksum is another")


def write_json(path: Path, content: Any) -> str:
    """Write JSON; return its SHA-256."""
    return write_text(path, json.dumps(content, indent=2) + "\n")


def write_text(path: Path, text: str) -> str:
    """Write text, in which bytes of file names that are no text become question marks; return its SHA-256."""
    content = text.encode(errors="replace")
    with replacing(path) as temporary:
        temporary.write_bytes(content)
    return hashlib.sha256(content).hexdigest()


def check_writable(path: Path) -> None:
    """Make the folder of a file to be written later; raise OSError where that cannot be. The file is left alone."""
    path.parent.mkdir(parents=True, exist_ok=True)
    if path.is_dir():
        raise IsADirectoryError(f"{path} is a folder, not a file to write")
    with tempfile.NamedTemporaryFile(dir=path.parent):
        pass


@contextmanager
def replacing(path: Path) -> Iterator[Path]:
    """Provide a temporary file of the same ending; put it into its place when the block has written it."""
    temporary = path.with_name(f".partial.{path.name}")
    temporary.unlink(missing_ok=True)  # a link of that name would be followed
    try:
        with temporary.open("xb") as file:
            mode = os.fstat(file.fileno()).st_mode
        yield temporary
        temporary.chmod(mode)  # safetensors lets only the owner read
        with temporary.open("rb+") as file:
            os.fsync(file.fileno())
        os.replace(temporary, path)
    except BaseException:
        temporary.unlink(missing_ok=True)
        raise
