"""alda data check: which real backgrounds are at hand, what is missing, and where to get it."""

from collections.abc import Callable

from rich.console import Console
from rich.table import Table
from rich.text import Text

from alda.envs.backgrounds import sky_side
from alda.envs.data import VIDEO_COUNTS, Data, Found, find_davis, find_places, find_videos, first_few
from alda.envs.frame_cache import cache_bytes
from alda.envs.procedural import NAME as PROCEDURAL
from alda.envs.stored_clips import StoredClips, davis_clips, overlay_images, video_clips
from alda.errors import UserError

USES = {
    "davis": "worlds distracting_cs, distracting_background",
    "video_easy": "world video_easy",
    "video_hard": "world video_hard",
    "places": "overlay augmentation of SVEA",
}
NOT_GIVEN = {name: "not given" if name == "places" else f"not given; {PROCEDURAL} is used" for name in USES}
SOURCES = {
    "davis": "https://davischallenge.org/davis2017/code.html (DAVIS 2017 TrainVal, 480p)",
    "video_easy": "https://github.com/nicklashansen/dmcontrol-generalization-benchmark (src/env/data)",
    "video_hard": "https://github.com/nicklashansen/dmcontrol-generalization-benchmark (src/env/data)",
    "places": "http://places2.csail.mit.edu/download.html (Places365)",
}

Lines = list[tuple[str, str]]  # label and text


def check(data: Data, *, size: int = 64) -> int:
    """Prints a report and shrinks what is complete into the cache; returns 0 where all that is given is complete.

    size: of the frames that agents see, in pixels.
    """
    table = Table(show_header=False, box=None, padding=(0, 2, 0, 0))
    table.add_column(no_wrap=True)
    table.add_column(overflow="fold")
    complete = True
    for name, folder, look in (
        ("davis", data.davis, lambda: _clips(find_davis(data), lambda: davis_clips(data, None, sky_side(size)))),
        ("video_easy", data.videos, lambda: _videos(data, "video_easy", size)),
        ("video_hard", data.videos, lambda: _videos(data, "video_hard", size)),
        ("places", data.places, lambda: _places(data)),
    ):
        lines = _looked(look) if folder else []
        complete &= all(label == "found" for label, _ in lines)
        table.add_row(name, Text(str(folder or NOT_GIVEN[name])))
        for label, text in (*lines, ("used in", USES[name]), ("official place", SOURCES[name])):
            table.add_row(f"  {label}", Text(text))
    table.add_row("cache", Text(f"{data.cache_dir}, {cache_bytes(data.cache_dir) / 1e6:,.1f} MB"))
    Console().print(table, highlight=False)
    return 0 if complete else 1


def _looked(look: Callable[[], Lines]) -> Lines:
    try:
        return look()
    except (UserError, OSError) as error:
        return [("problem", str(error))]


def _videos(data: Data, world: str, size: int) -> Lines:
    there = [other for other in VIDEO_COUNTS if data.videos and (data.videos / other).is_dir()]
    if there and world not in there:  # one of the two is enough
        return [("found", f"no folder {world}: this world can only be played without --data.videos")]
    return _clips(find_videos(data, world), lambda: video_clips(data, world, size))


def _clips(found: Found, opened: Callable[[], StoredClips]) -> Lines:
    count = f"{len(found.clips)} of {found.expected} clips"
    if found.missing:
        return [("found", count), ("missing", first_few(found.missing, 10))]
    clips = opened()
    if errors := clips.store():
        return [("found", count), *(("problem", str(error)) for error in errors)]
    frames = sum(len(clips[i]) for i in range(len(clips)))
    return [("found", f"{count}, {frames:,} frames")]


def _places(data: Data) -> Lines:
    count, used = len(find_places(data)), len(overlay_images(data))
    return [("found", f"{count:,} images, of which {used:,} are used")]
