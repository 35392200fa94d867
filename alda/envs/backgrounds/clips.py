"""Clips that move behind the agent: real videos where their folder is given, else generated ones; always by name."""

from typing import Any, Protocol, runtime_checkable

from alda.envs.backgrounds import procedural
from alda.envs.backgrounds.data import Data, find_davis, find_videos
from alda.envs.backgrounds.prepared import PreparedClips
from alda.errors import UserError

_VIDEOS = {"video_easy": (0, 10), "video_hard": (10, 100)}  # shift -> first of the test clips, and how many


@runtime_checkable
class Clips(Protocol):
    """Clips by number; each is a sequence of uint8 [size, size, 3] frames. `name` stands in records."""

    name: str

    def __len__(self) -> int: ...
    def __getitem__(self, i: int) -> Any: ...
    def prepare(self) -> None:
        """Make all clips ready to be played. Raises UserError where that cannot be."""


class ProceduralClips:
    """A range of the generated clips of one split; frames are computed when they are shown."""

    name = procedural.NAME

    def __init__(self, split: str, first: int, count: int, size: int) -> None:
        if size < procedural.SMALLEST:
            raise UserError(f"generated backgrounds need images of at least {procedural.SMALLEST} pixels, not {size}")
        self.split, self.first, self.count, self.size = split, first, count, size

    def __len__(self) -> int:
        return self.count

    def __getitem__(self, i: int) -> procedural.ProceduralClip:
        return procedural.ProceduralClip(self.split, self.first + i, self.size)

    def prepare(self) -> None:
        """Nothing is to be done."""


def sky_side(image_size: int) -> int:
    """Return the pixels along one side of the sky's cube: a picture sees half of it, pixel by pixel."""
    return 2 * image_size


def sky_clips(data: Data, count: int | None, size: int) -> Clips:
    """Return the first `count` training clips (None: all), for the Distracting Control Suite.

    Raises UserError for a DAVIS folder that is given and not complete.
    """
    if data.davis is None:
        return ProceduralClips("train", 0, count or procedural.SPLITS["train"], size)
    return PreparedClips("davis-2017", find_davis(data), size, data.cache_dir, count)


def video_clips(data: Data, shift: str, size: int) -> Clips:
    """Return the clips of video_easy or video_hard. Raises UserError for a folder that is given and not complete."""
    if data.videos is None:
        return ProceduralClips("test", *_VIDEOS[shift], size)
    return PreparedClips(f"dmcgb-{shift}", find_videos(data, shift), size, data.cache_dir)
