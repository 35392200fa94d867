"""Clips that move behind the agent: real videos where their folder is given, else generated ones.

Real videos and images are shrunk once, each set of frames into one array on disk, which is mapped into memory:

    CACHE/v3/dmcgb-video_hard-64/video0-FINGERPRINT.npy     uint8 [frames, 64, 64, 3]

The fingerprint is that of the source files, so that other files never meet an old array.
"""

import hashlib
import json
import os
import uuid
from collections.abc import Callable, Iterable, Sequence
from contextlib import suppress
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import UInt8

from alda.envs.backgrounds import procedural
from alda.envs.backgrounds.data import Data, Videos, find_davis, find_videos
from alda.envs.backgrounds.shrinking import shrink_image, shrink_video
from alda.errors import UserError

_TEST_CLIPS = {"video_easy": range(10), "video_hard": range(10, 110)}  # numbers of their generated clips


class ProceduralClips:
    """Generated clips of one split by number; frames are computed when they are shown."""

    name = procedural.NAME

    def __init__(self, split: str, numbers: range, size: int) -> None:
        if size < procedural.SMALLEST:
            raise UserError(f"generated backgrounds need images of at least {procedural.SMALLEST} pixels, not {size}")
        self.split, self.numbers, self.size = split, numbers, size

    def __len__(self) -> int:
        return len(self.numbers)

    def __getitem__(self, i: int) -> procedural.ProceduralClip:
        return procedural.ProceduralClip(self.split, self.numbers[i], self.size)

    def prepare(self) -> None:
        """Do nothing: generated clips are always ready."""


class RecordedClips:
    """Videos on disk by number, each an array of frames; it is shrunk when it is first read.

    `name` stands in records; it ends with a digest of the files' names and sizes.
    """

    def __init__(self, name: str, videos: Videos, size: int, cache: Path) -> None:
        sizes = [[video, *(file.stat().st_size for file in files)] for video, files in videos.items()]
        self.name = f"{name} {_digest(sizes, 4)}"
        self.videos, self.size = list(videos.items()), size
        self.cache, self.folder = cache, f"{name}-{size}"

    def __len__(self) -> int:
        return len(self.videos)

    def __getitem__(self, i: int) -> UInt8[np.ndarray, "t size size 3"]:
        video, files = self.videos[i]
        return read_or_prepare(self.cache, f"{self.folder}/{video}", files, lambda: self._shrunk(files))

    def prepare(self) -> None:
        """Make all clips ready to be played. Raises UserError for a broken file or a cache that cannot be written."""
        for i in track(range(len(self)), f"preparing {self.name}"):
            self[i]

    def _shrunk(self, files: Sequence[Path]) -> Iterable[np.ndarray]:
        if files[0].suffix == ".mp4":
            return shrink_video(files[0], self.size)
        return (shrink_image(file, self.size) for file in files)


Clips = ProceduralClips | RecordedClips


def sky_side(image_size: int) -> int:
    """Return the pixels along one side of the sky's cube: a picture sees half of it, pixel by pixel."""
    return 2 * image_size


def sky_clips(data: Data, count: int | None, size: int) -> Clips:
    """Return the first `count` training clips (None: all), for the Distracting Control Suite.

    Raises UserError for a DAVIS folder that is given and not complete.
    """
    if data.davis is None:
        return ProceduralClips("train", range(count or procedural.SPLITS["train"]), size)
    videos = dict(islice(find_davis(data.davis).items(), count))
    return RecordedClips("davis-2017", videos, size, data.cache_dir)


def video_clips(data: Data, shift: str, size: int) -> Clips:
    """Return the clips of video_easy or video_hard. Raises UserError for a folder that is given and not complete."""
    if data.videos is None:
        return ProceduralClips("test", _TEST_CLIPS[shift], size)
    return RecordedClips(f"dmcgb-{shift}", find_videos(data.videos, shift), size, data.cache_dir)


def read_or_prepare(
    cache: Path, name: str, sources: Sequence[Path], frames: Callable[[], Iterable[UInt8[np.ndarray, "size size 3"]]]
) -> UInt8[np.ndarray, "n size size 3"]:
    """Map the array made from these files into memory, read-only; write it first where it is absent or damaged.

    Equal sources in another folder have the same array. The array is complete or absent, whoever else writes it and
    whenever this process is killed. Raises UserError where it cannot be written.
    """
    facts = [(file.parent.name, file.name, (stat := file.stat()).st_size, stat.st_mtime_ns) for file in sources]
    file = cache / "v3" / f"{name}-{_digest(facts, 8)}.npy"  # another version for other arrays from the same files
    with suppress(OSError, ValueError, EOFError):
        return np.load(file, mmap_mode="r", allow_pickle=False)
    array = np.stack(list(frames()))
    partial = file.with_name(f"{file.name}.{uuid.uuid4().hex}.partial")
    try:
        file.parent.mkdir(parents=True, exist_ok=True)
        with partial.open("xb") as opened:
            np.save(opened, array)
            opened.flush()
            os.fsync(opened.fileno())
        partial.replace(file)
    except OSError as error:
        raise UserError(
            f"the prepared backgrounds {file} cannot be written ({error.strerror or error}); free some space, or name "
            "another folder with --data.cache DIR"
        ) from error
    finally:
        with suppress(OSError):
            partial.unlink()
    return np.load(file, mmap_mode="r", allow_pickle=False)


def track(items: Sequence[Any], description: str) -> Iterable[Any]:
    """Yield the items, and show on standard error how many are left."""
    from rich.console import Console
    from rich.progress import track as show

    return show(items, description, console=Console(stderr=True), transient=True)


def _digest(facts: Any, size: int) -> str:
    return hashlib.blake2b(json.dumps(facts).encode(), digest_size=size).hexdigest()
