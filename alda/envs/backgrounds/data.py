"""Folders of real backgrounds and colours, and the videos and images found in them.

A set of videos is used whole or not at all: an incomplete one is refused with the list of what is missing.
"""

import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from alda.errors import UserError

VIDEO_COUNTS = {"video_easy": 10, "video_hard": 100}  # files of the DMControl Generalization Benchmark
# fmt: off
DAVIS_VIDEOS = (  # the training videos of DAVIS 2017
    "bear", "bmx-bumps", "boat", "boxing-fisheye", "breakdance-flare", "bus", "car-turn", "cat-girl", "classic-car",
    "color-run", "crossing", "dance-jump", "dancing", "disc-jockey", "dog-agility", "dog-gooses", "dogs-scale",
    "drift-turn", "drone", "elephant", "flamingo", "hike", "hockey", "horsejump-low", "kid-football", "kite-walk",
    "koala", "lady-running", "lindy-hop", "longboard", "lucia", "mallard-fly", "mallard-water", "miami-surf",
    "motocross-bumps", "motorbike", "night-race", "paragliding", "planes-water", "rallye", "rhino", "rollerblade",
    "schoolgirls", "scooter-board", "scooter-gray", "sheep", "skate-park", "snowboard", "soccerball", "stroller",
    "stunt", "surf", "swing", "tennis", "tractor-sand", "train", "tuk-tuk", "upside-down", "varanus-cage", "walking",
)
# fmt: on


@dataclass(frozen=True)
class Data:
    """Folders of real backgrounds and colours; what is not named is generated (procedural-v1, own colour tables)."""

    davis: Path | None = None
    """Folder of DAVIS 2017, 480p: the one that holds JPEGImages/480p, or its parent."""
    videos: Path | None = None
    """Folder that holds video_easy/video0.mp4 to video9.mp4, video_hard/video0.mp4 to video99.mp4, or both."""
    places: Path | None = None
    """Folder of Places365: its .jpg images, in folders of any depth."""
    color_table: Path | None = None
    """Colour settings to use in place of our own: a JSON file, or a folder with color_easy.json and color_hard.json."""
    cache: Path | None = None
    """Folder for prepared copies of videos and images (None: alda in $XDG_CACHE_HOME, or ~/.cache/alda)."""

    @property
    def cache_dir(self) -> Path:
        return self.cache or Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "alda"


NO_PATHS = Data()


@dataclass(frozen=True)
class Clip:
    """A video on disk: its frames in order, or one file."""

    name: str
    files: tuple[Path, ...]


def find_davis(data: Data) -> list[Clip]:
    """Return the 60 training videos of DAVIS 2017, in alphabetical order. Raises UserError where one is missing."""
    if data.davis is None:
        raise UserError("no folder of DAVIS 2017 is given; name it with --data.davis DIR")
    folders = [root / "JPEGImages" / "480p" for root in (data.davis, data.davis / "DAVIS")]
    folder = next((folder for folder in folders if folder.is_dir()), None)
    if folder is None:
        raise UserError(
            f"{data.davis} is not a folder of DAVIS 2017: expected JPEGImages/480p/bear/00000.jpg in it or in "
            f"its folder DAVIS, found {_contents(data.davis)}"
        )
    clips = [Clip(name, _frames(folder, name)) for name in DAVIS_VIDEOS]
    return _complete(f"DAVIS 2017 in {folder}", "60 videos of its frames", clips)


def find_videos(data: Data, shift: str) -> list[Clip]:
    """Return the videos of video_easy or video_hard, in numeric order. Raises UserError where one is missing."""
    if data.videos is None:
        raise UserError(f"no folder of the videos of {shift} is given; name it with --data.videos DIR")
    folder, names = data.videos / shift, [f"video{i}" for i in range(VIDEO_COUNTS[shift])]
    expected = f"{names[0]}.mp4 to {names[-1]}.mp4"
    if not folder.is_dir():
        raise UserError(
            f"{data.videos} has no videos of {shift}: expected {expected} in {folder}, found {_contents(data.videos)}"
        )
    return _complete(f"{shift} in {folder}", expected, [Clip(name, (folder / f"{name}.mp4",)) for name in names])


def find_places(data: Data) -> list[str]:
    """Return all images of Places365, sorted. Raises UserError where there are none, OSError for a closed folder."""
    if data.places is None:
        raise UserError("no folder of Places365 is given; name it with --data.places DIR")
    images = [
        os.path.join(folder, file)  # two million of them are too many Path objects
        for folder, _, files in os.walk(data.places, onerror=_raise if data.places.is_dir() else None)
        for file in files
        if file.lower().endswith((".jpg", ".jpeg")) and not file.startswith(".")
    ]
    if not images:
        raise UserError(
            f"{data.places} is not a folder of Places365: expected .jpg images in it or in folders in it, found "
            f"{_contents(data.places)}"
        )
    return sorted(images)


def _frames(folder: Path, video: str) -> tuple[Path, ...]:
    """Return frames 00000.jpg, 00001.jpg, ... of a DAVIS video up to the last that has an image or a mask."""
    masks = folder.parents[1] / "Annotations" / "480p" / video
    stems = [file.stem for file in (*(folder / video).glob("*.jpg"), *masks.glob("*.png"))]
    last = max((int(stem) for stem in stems if len(stem) == 5 and stem.isdecimal()), default=0)
    return tuple(folder / video / f"{i:05d}.jpg" for i in range(last + 1))


def _complete(name: str, expected: str, clips: list[Clip]) -> list[Clip]:
    """Return the clips. Raises UserError where files of them are absent or empty."""
    missing = {clip.name: [file for file in clip.files if not _size(file)] for clip in clips}
    files = [file for absent in missing.values() for file in absent]
    if files:
        names = [str(file.relative_to(file.parents[1])) + (" (empty)" if file.exists() else "") for file in files]
        found = sum(not absent for absent in missing.values())
        raise UserError(
            f"{name} is not complete: expected {expected}, found {found} of {len(clips)}; missing: {_first_few(names)}"
        )
    return clips


def _size(file: Path) -> int:
    return file.stat().st_size if file.is_file() else 0


def _raise(error: OSError) -> None:
    raise error


def _contents(folder: Path) -> str:
    """Return 'no such folder', 'a file', 'an empty folder' or 'a, b, c, d, e and 3 more'."""
    if not folder.is_dir():
        return "a file" if folder.exists() else "no such folder"
    return _first_few(sorted(entry.name for entry in folder.iterdir())) or "an empty folder"


def _first_few(names: Sequence[str], most: int = 5) -> str:
    more = len(names) - most
    return ", ".join(names[:most]) + (f" and {more} more" if more > 0 else "")
