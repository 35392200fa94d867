"""Real backgrounds: which sets of videos and images the test worlds can use, and where they are on this machine.

    Data --find_davis, find_videos--> Found: clips, and what is missing --complete()--> clips --> stored_clips.py

A set is used whole or not at all: one that is only half there is refused with the list of what is missing.
"""

import os
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
    """Where real backgrounds and colours are, if anywhere; what is not named is generated (procedural-v1, our own
    colour tables)."""

    davis: Path | None = None
    """Folder of DAVIS 2017, 480p: the one that holds JPEGImages/480p, or its parent."""
    videos: Path | None = None
    """Folder that holds video_easy/video0.mp4 to video9.mp4, video_hard/video0.mp4 to video99.mp4, or both."""
    places: Path | None = None
    """Folder of Places365: its .jpg images, in folders of any depth."""
    color_table: Path | None = None
    """Colour settings to use in place of our own: a JSON file, or a folder with color_easy.json and color_hard.json."""
    cache: Path | None = None
    """Where shrunk copies of videos and images are kept (None: alda in $XDG_CACHE_HOME, or ~/.cache/alda)."""

    @property
    def cache_dir(self) -> Path:
        return self.cache or Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "alda"


NO_PATHS = Data()


@dataclass(frozen=True)
class Clip:
    """A video as it lies on disk: its frames in order, or one file."""

    name: str
    files: tuple[Path, ...]


@dataclass(frozen=True)
class Found:
    """What is there of a set of videos."""

    name: str
    folder: Path
    contents: str
    """What the folder should hold, in words."""
    expected: int
    clips: tuple[Clip, ...]
    """Those that are there in full."""
    missing: tuple[str, ...]
    """Files and folders that are absent or empty."""

    def complete(self) -> tuple[Clip, ...]:
        """All clips. Raises UserError where some are missing."""
        if self.missing:
            raise UserError(
                f"{self.name} is not complete in {self.folder}: expected {self.contents}, found {len(self.clips)} of "
                f"{self.expected}; missing: {first_few(self.missing)}; `alda data check` tells more"
            )
        return self.clips


def find_davis(data: Data, count: int | None = None) -> Found:
    """The first `count` of the 60 training videos (None: all). Raises UserError where the folder is another."""
    if data.davis is None:
        raise UserError("no folder of DAVIS 2017 is given; name it with --data.davis DIR")
    folders = [root / "JPEGImages" / "480p" for root in (data.davis, data.davis / "DAVIS")]
    folder = next((folder for folder in folders if folder.is_dir()), None)
    if folder is None:
        raise UserError(
            f"{data.davis} is not a folder of DAVIS 2017: expected JPEGImages/480p/bear/00000.jpg in it or in "
            f"its folder DAVIS, found {_contents(data.davis)}; `alda data check` tells more"
        )
    clips, missing = [], []
    names = DAVIS_VIDEOS[:count]
    for name in names:
        frames, absent = _frames(folder / name, folder.parents[1] / "Annotations" / "480p" / name)
        missing += absent
        if not absent:
            clips.append(Clip(name, frames))
    return Found("DAVIS 2017", folder, f"{len(names)} videos of its frames", len(names), tuple(clips), tuple(missing))


def find_videos(data: Data, world: str) -> Found:
    """The videos of video_easy or video_hard, in numeric order. Raises UserError where the folder is another."""
    if data.videos is None:
        raise UserError(f"no folder of the videos of {world} is given; name it with --data.videos DIR")
    folder, count = data.videos / world, VIDEO_COUNTS[world]
    files = f"video0.mp4 to video{count - 1}.mp4"
    if not folder.is_dir():
        raise UserError(
            f"{data.videos} has no videos of {world}: expected {files} in {folder}, found {_contents(data.videos)}; "
            "`alda data check` tells more"
        )
    clips, missing = [], []
    for i in range(count):
        file = folder / f"video{i}.mp4"
        if _size(file):
            clips.append(Clip(file.stem, (file,)))
        else:
            missing.append(_absent(file))
    return Found(world, folder, files, count, tuple(clips), tuple(missing))


def find_places(data: Data) -> list[str]:
    """All images of the Places folder, sorted. Raises UserError where there are none, OSError for a closed folder."""
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
            f"{_contents(data.places)}; `alda data check` tells more"
        )
    return sorted(images)


def first_few(names: tuple[str, ...], most: int = 5) -> str:
    """'a, b, c, d, e and 95 more'"""
    more = len(names) - most
    return ", ".join(names[:most]) + (f" and {more} more" if more > 0 else "")


def _frames(folder: Path, masks: Path) -> tuple[tuple[Path, ...], list[str]]:
    """Frames 00000.jpg, 00001.jpg, ... of a DAVIS video and those that are missing; there is a mask for each frame."""
    if not folder.is_dir():
        return (), [folder.name]
    stems = [file.stem for file in (*folder.glob("*.jpg"), *masks.glob("*.png"))]
    last = max((int(stem) for stem in stems if len(stem) == 5 and stem.isdecimal()), default=-1)
    files = tuple(folder / f"{i:05d}.jpg" for i in range(last + 1))
    missing = [f"{folder.name}/{_absent(file)}" for file in files if not _size(file)]
    return files, missing if files else [f"{folder.name} (empty)"]


def _size(file: Path) -> int:
    return file.stat().st_size if file.is_file() else 0


def _absent(file: Path) -> str:
    return f"{file.name} (empty)" if file.exists() else file.name


def _raise(error: OSError) -> None:
    raise error


def _contents(folder: Path) -> str:
    """'no such folder', 'an empty folder' or 'a, b, c, d, e and 3 more'"""
    if not folder.is_dir():
        return "a file" if folder.exists() else "no such folder"
    return first_few(tuple(sorted(entry.name for entry in folder.iterdir()))) or "an empty folder"
