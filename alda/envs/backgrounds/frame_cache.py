"""Frames that were shrunk once, kept as files that processes share.

    CACHE/v1/dmcgb-video_hard-64/video37-FINGERPRINT.npy --memory map, read-only--> UInt8[t, size, size, 3]

The fingerprint is that of the files the frames come from, so that other files never meet old frames. A file in the
cache is whole or not there, whoever else writes it at the same time and whenever they are killed.
"""

import errno
import hashlib
import json
import os
import time
import uuid
from collections.abc import Iterable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import IO

import numpy as np
from jaxtyping import UInt8

from alda.errors import UserError

FORMAT = 1  # another one for other frames from the same files


def folder_of(cache: Path, name: str, size: int) -> Path:
    return cache / f"v{FORMAT}" / f"{name}-{size}"


def cache_bytes(cache: Path) -> int:
    """What the cache takes on disk."""
    return sum(file.stat().st_size for file in (cache / f"v{FORMAT}").rglob("*.npy"))


def fingerprint(files: Iterable[Path], root: Path | None = None) -> str:
    """Equal for files of equal names (below `root`, if given), sizes and times of change, wherever they are."""
    facts = []
    for file in files:
        stat = file.stat()
        facts.append((str(file.relative_to(root)) if root else file.name, stat.st_size, stat.st_mtime_ns))
    return hashlib.blake2b(json.dumps(facts).encode(), digest_size=8).hexdigest()


def load_frames(file: Path, size: int) -> UInt8[np.ndarray, "t size size 3"] | None:
    """The map of a stored file; None where there is none, or where it is damaged."""
    try:
        frames = np.load(file, mmap_mode="r")
    except (FileNotFoundError, NotADirectoryError, ValueError, EOFError):
        return None
    return frames if frames.dtype == np.uint8 and len(frames) and frames.shape[1:] == (size, size, 3) else None


def store_frames(
    file: Path, frames: Iterable[np.ndarray], count: int, size: int
) -> UInt8[np.ndarray, "count size size 3"]:
    """Writes `count` frames as they come and gives back the map of the file.

    Raises UserError where the cache cannot be written, OSError with a remedy where writing fails; then nothing is left.
    """
    header = {"descr": "|u1", "fortran_order": False, "shape": (count, size, size, 3)}
    with _replacing(file) as partial:
        np.lib.format.write_array_header_1_0(partial, header)
        for frame in frames:
            partial.write(np.ascontiguousarray(frame).data)
    return np.load(file, mmap_mode="r")


def check_writable(folder: Path) -> None:
    """Makes the folder. Raises UserError where that cannot be, or where it cannot be written."""
    try:
        folder.mkdir(parents=True, exist_ok=True)
        if not os.access(folder, os.W_OK | os.X_OK):
            raise PermissionError(errno.EACCES, os.strerror(errno.EACCES))
    except OSError as error:
        raise UserError(
            f"the folder for shrunk copies, {folder}, cannot be written ({error.strerror}); name another with "
            "--data.cache DIR"
        ) from error


@contextmanager
def _replacing(file: Path) -> Iterator[IO[bytes]]:
    """A file of our own beside `file`, which becomes it in the end."""
    check_writable(file.parent)
    for left in file.parent.glob(f".{file.name}.*.partial"):
        with suppress(FileNotFoundError):
            if time.time() - left.stat().st_mtime > 3600:  # its writer was killed
                left.unlink()
    partial = file.with_name(f".{file.name}.{uuid.uuid4().hex}.partial")
    try:
        with partial.open("xb") as opened:
            yield opened
            opened.flush()
            os.fsync(opened.fileno())
        os.replace(partial, file)
    except OSError as error:
        raise OSError(
            f"the shrunk copy {file} could not be written ({error.strerror or error}); free some space, or name "
            "another folder with --data.cache DIR"
        ) from error
    finally:
        partial.unlink(missing_ok=True)
