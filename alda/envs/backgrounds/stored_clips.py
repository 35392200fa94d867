"""Real backgrounds, shrunk once: every clip is one file of the frame cache, and playing it reads nothing else."""

import hashlib
import json
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

import numpy as np
from jaxtyping import UInt8

from alda.envs.backgrounds.data import Clip, Data, find_davis, find_places, find_videos
from alda.envs.backgrounds.frame_cache import check_writable, fingerprint, folder_of, load_frames, store_frames
from alda.envs.backgrounds.shrinking import NO_PYAV, has_pyav, shrink_image, shrink_video
from alda.errors import UserError


class StoredClips:
    """Clips by number, each a read-only memory map; a clip is shrunk when it is first asked for.

    Indexing raises UserError where the clip cannot be read or the cache cannot be written, OSError on a full disk.
    """

    def __init__(self, name: str, clips: Sequence[Clip], size: int, cache: Path) -> None:
        sizes = [[clip.name, *(file.stat().st_size for file in clip.files)] for clip in clips]
        digest = hashlib.blake2b(json.dumps(sizes).encode(), digest_size=4).hexdigest()
        self.name = f"{name} {digest}"  # another set in the folder of this one is not this one
        self._set, self._clips, self._size = name, clips, size
        folder = folder_of(cache, name, size)
        self._stored = [folder / f"{clip.name}-{fingerprint(clip.files)}.npy" for clip in clips]

    def __len__(self) -> int:
        return len(self._clips)

    def __getitem__(self, index: int) -> UInt8[np.ndarray, "t size size 3"]:
        frames = load_frames(self._stored[index], self._size)
        return self._shrink(index) if frames is None else frames

    @property
    def unstored(self) -> list[int]:
        """Numbers of the clips that are still to be shrunk."""
        return [i for i, file in enumerate(self._stored) if not file.exists()]

    def store(self) -> list[UserError]:
        """Shrinks what is not stored yet, with a progress bar; gives back the errors of clips that cannot be read."""
        errors = []
        if unstored := self.unstored:
            with _bar(f"shrinking {self._set}", total=len(self), done=len(self) - len(unstored)) as advance:
                for i in unstored:
                    try:
                        self._shrink(i)
                    except UserError as error:
                        errors.append(error)
                    advance()
        return errors

    def _shrink(self, index: int) -> UInt8[np.ndarray, "t size size 3"]:
        clip, size = self._clips[index], self._size
        if clip.files[0].suffix == ".mp4":
            frames = shrink_video(clip.files[0], size)
            return store_frames(self._stored[index], frames, len(frames), size)
        return store_frames(
            self._stored[index], (shrink_image(file, size) for file in clip.files), len(clip.files), size
        )


def davis_clips(data: Data, count: int | None, size: int) -> StoredClips:
    """The first `count` of the 60 training videos of DAVIS 2017, in alphabetical order (None: all).

    size: side in pixels; the frames are squeezed to a square. Raises UserError where one is missing.
    """
    return _opened("davis-2017", find_davis(data, count).complete(), size, data)


def video_clips(data: Data, world: str, size: int) -> StoredClips:
    """The videos of video_easy (10) or video_hard (100), in numeric order.

    size: side in pixels. Raises UserError where one is missing, or where PyAV is needed to decode one and is not there.
    """
    clips = _opened(f"dmcgb-{world}", find_videos(data, world).complete(), size, data)
    if clips.unstored and not has_pyav():
        raise UserError(NO_PYAV)
    return clips


def overlay_images(data: Data, size: int = 128, limit: int = 10_000) -> UInt8[np.ndarray, "n size size 3"]:
    """Images of Places365 to lay over observations: at most `limit`, evenly spread over all of them.

    size: side in pixels, of the square in the middle of each. The result is a read-only memory map. Raises UserError
    where there are no images, or one of them is damaged.
    """
    every = find_places(data)
    count = min(limit, len(every))
    images = [Path(every[i * len(every) // count]) for i in range(count)]
    file = folder_of(data.cache_dir, "places365", size) / f"{count}-{fingerprint(images, data.places)}.npy"
    stored = load_frames(file, size)
    if stored is not None:
        return stored
    with _bar("shrinking images of Places365", total=count) as advance:

        def shrunk() -> Iterator[np.ndarray]:
            for image in images:
                yield shrink_image(image, size, crop=True)
                advance()

        return store_frames(file, shrunk(), count, size)


def _opened(name: str, clips: Sequence[Clip], size: int, data: Data) -> StoredClips:
    opened = StoredClips(name, clips, size, data.cache_dir)
    if opened.unstored:
        check_writable(data.cache_dir)  # now, rather than at the first evaluation
    return opened


@contextmanager
def _bar(description: str, total: int, done: int = 0) -> Iterator[Callable[[], None]]:
    """shrinking davis-2017 ━━━━━━ 37/60 0:00:12"""
    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
    with Progress(*columns, console=Console(stderr=True)) as progress:
        task = progress.add_task(description, total=total, completed=done)
        yield lambda: progress.advance(task)
