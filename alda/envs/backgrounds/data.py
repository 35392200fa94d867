"""Folders of real backgrounds and colours, and the videos and images found in them."""

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
Videos = dict[str, list[Path]]  # name -> its frames in order, or one file


def find_davis(folder: Path) -> Videos:
    """Return the 60 training videos of DAVIS 2017, in alphabetical order. Raises UserError where a frame is missing."""
    inner = folder / "DAVIS"
    frames = (inner if inner.is_dir() else folder) / "JPEGImages" / "480p"
    videos = {}
    for video in DAVIS_VIDEOS:
        last = max((int(file.stem) for file in (frames / video).glob(f"{'[0-9]' * 5}.jpg")), default=0)
        videos[video] = [frames / video / f"{i:05d}.jpg" for i in range(last + 1)]
    return _complete("DAVIS 2017", videos)


def find_videos(folder: Path, shift: str) -> Videos:
    """Return the videos of video_easy or video_hard, in numeric order. Raises UserError where one is missing."""
    names = [f"video{i}" for i in range(VIDEO_COUNTS[shift])]
    return _complete(shift, {name: [folder / shift / f"{name}.mp4"] for name in names})


def find_places(folder: Path) -> list[str]:
    """Return all images of Places365, sorted; two million of them are too many Path objects.

    Raises UserError where there are none.
    """
    images = [
        os.path.join(inner, file)
        for inner, _, files in os.walk(folder)
        for file in files
        if file.lower().endswith((".jpg", ".jpeg")) and not file.startswith(".")
    ]
    if not images:
        raise UserError(f"{folder} is not a folder of Places365: expected .jpg images in it or in folders in it")
    return sorted(images)


def _complete(name: str, videos: Videos) -> Videos:
    """Return the videos, which are used all or not at all. Raises UserError where a file is absent or empty."""
    files = [file for video in videos.values() for file in video]
    missing = [str(file) for file in files if not (file.is_file() and file.stat().st_size)]
    if missing:
        raise UserError(
            f"{name} is not complete: {len(missing)} of {len(files)} files are missing or empty, such as "
            f"{', '.join(missing[:3])}; `alda data prepare` says where to get it"
        )
    return videos
