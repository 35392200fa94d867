"""Real backgrounds, prepared once: every set of videos or images is one array on disk, mapped into memory to be read.

    CACHE/v2/dmcgb-video_hard-64-FINGERPRINT.npy     uint8 [frames of all clips, 64, 64, 3]
    CACHE/v2/dmcgb-video_hard-64-FINGERPRINT.json    [500, 500, ...], how many frames each clip has

The fingerprint is that of the source files, so that other files never meet an old array. Files are written under
temporary names and renamed when they are whole, the array last: it is complete or not there, whoever else prepares it
and whenever one is killed.
"""

import functools
import hashlib
import json
import os
import time
import uuid
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import IO, Any

import numpy as np
from jaxtyping import UInt8

from alda.envs.backgrounds.data import Clip, Data, find_places
from alda.envs.backgrounds.shrinking import shrink_image, shrink_video
from alda.errors import UserError

FORMAT = "v2"  # another one for other arrays from the same files
Frames = Iterable[UInt8[np.ndarray, "size size 3"]]
Prepared = tuple[UInt8[np.ndarray, "n size size 3"], list[int]]  # all frames, and how many each clip has


class PreparedClips:
    """The first `count` clips of a set (None: all), each [t, size, size, 3] and read-only.

    The whole set is prepared when it is first read. Raises UserError then for a file that cannot be read, or a cache
    that cannot be written. `name` is for records: it has a digest of the files' names and sizes.
    """

    def __init__(self, name: str, clips: Sequence[Clip], size: int, cache: Path, count: int | None = None) -> None:
        sizes = [[clip.name, *(file.stat().st_size for file in clip.files)] for clip in clips[:count]]
        self.name = f"{name} {hashlib.blake2b(json.dumps(sizes).encode(), digest_size=4).hexdigest()}"
        self._set, self._clips, self._size, self._count = name, clips, size, len(sizes)
        self._file = _place(cache, f"{name}-{size}", [file for clip in clips for file in clip.files])

    def __len__(self) -> int:
        return self._count

    def __getitem__(self, i: int) -> UInt8[np.ndarray, "t size size 3"]:
        frames, ends = self._content
        return frames[ends[i] : ends[i + 1]]

    def prepare(self) -> None:
        """Prepare the set, where it is not yet."""
        assert self._content

    @functools.cached_property
    def _content(self) -> Prepared:
        frames, lengths = _read_or_write(self._file, self._shrunk)
        return frames, [0, *np.cumsum(lengths).tolist()]

    def _shrunk(self) -> Iterator[Frames]:
        for clip in _tracked(self._clips, f"preparing {self._set}"):
            if clip.files[0].suffix == ".mp4":
                yield shrink_video(clip.files[0], self._size)
            else:
                yield (shrink_image(file, self._size) for file in clip.files)


def overlay_images(data: Data, size: int = 128, limit: int = 10_000) -> UInt8[np.ndarray, "n size size 3"]:
    """Return at most `limit` images of Places365, evenly spread over all of them; read-only.

    size: side in pixels, of the square in the middle of each. Raises UserError where there are no images, or one of
    them is damaged.
    """
    every = find_places(data)
    count = min(limit, len(every))
    images = [Path(every[i * len(every) // count]) for i in range(count)]

    def shrunk() -> Iterator[Frames]:
        yield (shrink_image(image, size, crop=True) for image in _tracked(images, "preparing images of Places365"))

    return _read_or_write(_place(data.cache_dir, f"places365-{size}", images), shrunk)[0]


def prepared_bytes(cache: Path) -> int:
    """Return what prepared arrays take on disk."""
    return sum(file.stat().st_size for file in (cache / FORMAT).glob("*.npy"))


def _place(cache: Path, name: str, sources: Iterable[Path]) -> Path:
    """Return the file for what is made of these sources; equal sources in another folder have the same."""
    facts = [(file.parent.name, file.name, (stat := file.stat()).st_size, stat.st_mtime_ns) for file in sources]
    return cache / FORMAT / f"{name}-{hashlib.blake2b(json.dumps(facts).encode(), digest_size=8).hexdigest()}.npy"


def _read_or_write(file: Path, clips: Callable[[], Iterator[Frames]]) -> Prepared:
    """Map an array, which is written first where it is absent or damaged."""
    try:
        return _read(file)
    except (OSError, ValueError, EOFError):
        with _replacing(file) as array, _replacing(file.with_suffix(".json")) as text:  # the inner is renamed first
            text.write(json.dumps(_write(array, clips())).encode())
        return _read(file)


def _read(file: Path) -> Prepared:
    return np.load(file, mmap_mode="r", allow_pickle=False), json.loads(file.with_suffix(".json").read_text())


def _write(array: IO[bytes], clips: Iterator[Frames]) -> list[int]:
    """Write frames as they come; return how many each clip has."""
    lengths: list[int] = []
    shape: tuple[int, ...] = ()
    for frames in clips:
        lengths.append(0)
        for frame in frames:
            if not shape:
                shape = frame.shape
                _write_header(array, (0, *shape))
            assert frame.shape == shape
            array.write(np.ascontiguousarray(frame).data)
            lengths[-1] += 1
    array.seek(0)
    _write_header(array, (sum(lengths), *shape))  # as long as the first: NumPy leaves room for the number of rows
    return lengths


def _write_header(array: IO[bytes], shape: tuple[int, ...]) -> None:
    np.lib.format.write_array_header_1_0(array, {"descr": "|u1", "fortran_order": False, "shape": shape})


@contextmanager
def _replacing(file: Path) -> Iterator[IO[bytes]]:
    """Open a temporary file, which becomes `file` in the end. Raises UserError where that cannot be written."""
    partial = file.with_name(f"{file.name}.{uuid.uuid4().hex}.partial")
    try:
        file.parent.mkdir(parents=True, exist_ok=True)
        for left in file.parent.glob("*.partial"):
            with suppress(FileNotFoundError):
                if time.time() - left.stat().st_mtime > 3600:  # its writer was killed
                    left.unlink()
        with partial.open("xb") as opened:
            yield opened
            opened.flush()
            os.fsync(opened.fileno())
        os.replace(partial, file)
    except OSError as error:
        raise UserError(
            f"the prepared backgrounds {file} cannot be written ({error.strerror or error}); free some space, or name "
            "another folder with --data.cache DIR"
        ) from error
    finally:
        with suppress(OSError):
            partial.unlink()


def _tracked(items: Sequence[Any], description: str) -> Iterable[Any]:
    from rich.console import Console
    from rich.progress import track

    return track(items, description, console=Console(stderr=True))
