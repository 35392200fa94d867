"""What moves behind the agent: real videos where their folder is given, generated clips otherwise, always by name."""

from typing import Any, Protocol, runtime_checkable

from alda.envs.backgrounds import procedural
from alda.envs.backgrounds.data import Data
from alda.errors import UserError

_VIDEOS = {"video_easy": (0, 10), "video_hard": (10, 100)}  # world -> first of the test clips, and how many


@runtime_checkable
class Clips(Protocol):
    """Clips by number; each is a sequence of uint8 [size, size, 3] frames. `name` stands in records."""

    name: str

    def __len__(self) -> int: ...
    def __getitem__(self, i: int) -> Any: ...
    def store(self) -> list[UserError]:
        """Makes all clips ready to be played; gives back what is wrong with those that cannot be read."""


class ProceduralClips:
    """A range of the generated clips of one split."""

    name = procedural.NAME

    def __init__(self, split: str, first: int, count: int, size: int) -> None:
        if size < procedural.SMALLEST:
            raise UserError(f"generated backgrounds need images of at least {procedural.SMALLEST} pixels, not {size}")
        self.split, self.first, self.count, self.size = split, first, count, size

    def __len__(self) -> int:
        return self.count

    def __getitem__(self, i: int) -> procedural.ProceduralClip:
        return procedural.ProceduralClip(self.split, self.first + i, self.size)

    def store(self) -> list[UserError]:
        """Nothing to do: frames are computed when they are shown."""
        return []


def sky_side(image_size: int) -> int:
    """Pixels along one side of the sky's cube: a picture sees half of it, pixel by pixel."""
    return 2 * image_size


def sky_clips(data: Data, count: int | None, size: int) -> Clips:
    """For the Distracting Control Suite: the first `count` training clips (None: all), as it picks them.

    Raises UserError for a DAVIS folder that is given and not complete.
    """
    if data.davis is None:
        return ProceduralClips("train", 0, count or procedural.SPLITS["train"], size)
    from alda.envs.backgrounds.stored_clips import davis_clips

    return davis_clips(data, count, size)


def video_clips(data: Data, world: str, size: int) -> Clips:
    """For video_easy and video_hard. Raises UserError for a folder of videos that is given and not complete."""
    if data.videos is None:
        return ProceduralClips("test", *_VIDEOS[world], size)
    from alda.envs.backgrounds.stored_clips import video_clips as stored

    return stored(data, world, size)
