"""alda data check: which real backgrounds are at hand, what is missing, and where to get it."""

from collections.abc import Callable

from alda.envs.backgrounds.clips import sky_side
from alda.envs.backgrounds.data import VIDEO_COUNTS, Data, Found, find_davis, find_places, find_videos, first_few
from alda.envs.backgrounds.frame_cache import cache_bytes
from alda.envs.backgrounds.procedural import NAME as PROCEDURAL
from alda.envs.backgrounds.stored_clips import StoredClips, davis_clips, overlay_images, video_clips
from alda.envs.shifts.base import ShiftOptions
from alda.envs.shifts.color import OWN_TABLES, ColorEasy, ColorHard
from alda.errors import UserError

USES = {
    "davis": "worlds distracting_cs, distracting_background",
    "video_easy": "world video_easy",
    "video_hard": "world video_hard",
    "places": "overlay augmentation of SVEA and SADA",
    "colours": "worlds color_easy, color_hard",
}
NOT_GIVEN = dict.fromkeys(USES, f"not given; {PROCEDURAL} is used")
NOT_GIVEN |= {"colours": f"not given; {OWN_TABLES} is used"}
SOURCES = {
    "davis": "https://davischallenge.org/davis2017/code.html (DAVIS 2017 TrainVal, 480p)",
    "video_easy": "https://github.com/nicklashansen/dmcontrol-generalization-benchmark (src/env/data)",
    "video_hard": "https://github.com/nicklashansen/dmcontrol-generalization-benchmark (src/env/data)",
    "places": "http://places2.csail.mit.edu/download.html (Places365)",
}

Lines = list[tuple[str, str]]  # label and text


class Incomplete(Exception):  # noqa: N818 (what is there is told all the same)
    """What was found of a set that is not complete, or cannot be read."""

    def __init__(self, lines: Lines) -> None:
        self.lines = lines


def check(data: Data, *, size: int = 64) -> int:
    """Prints a report and shrinks what is complete into the cache; returns 0 where all that is given is complete.

    size: of the frames that agents see, in pixels. Raises UserError for a size below 1.
    """
    if size < 1:
        raise UserError(f"--image-size must be at least 1, not {size}")
    complete = True
    for name, folder, look in (
        ("davis", data.davis, lambda: _clips(find_davis(data), lambda: davis_clips(data, None, sky_side(size)))),
        ("video_easy", data.videos, lambda: _videos(data, "video_easy", size)),
        ("video_hard", data.videos, lambda: _videos(data, "video_hard", size)),
        ("places", data.places, lambda: _places(data)),
        ("colours", data.color_table, lambda: _colors(data)),
    ):
        lines: Lines = []
        if folder:
            try:
                lines = look()
            except Incomplete as found:
                lines, complete = found.lines, False
            except (UserError, OSError) as error:
                lines, complete = [("problem", str(error))], False
        print(f"{name:17} {folder or NOT_GIVEN[name]}")
        for label, text in (
            *lines,
            ("used in", USES[name]),
            *([("official place", SOURCES[name])] if name in SOURCES else []),
        ):
            print(f"  {label:15} {text}")
    print(f"{'cache':17} {data.cache_dir}, {cache_bytes(data.cache_dir) / 1e6:,.1f} MB")
    return 0 if complete else 1


def _videos(data: Data, world: str, size: int) -> Lines:
    there = [other for other in VIDEO_COUNTS if data.videos and (data.videos / other).is_dir()]
    if there and world not in there:  # one of the two is enough
        return [("absent", f"no folder {world}: this world can only be played without --data.videos")]
    return _clips(find_videos(data, world), lambda: video_clips(data, world, size))


def _clips(found: Found, opened: Callable[[], StoredClips]) -> Lines:
    count = f"{len(found.clips)} of {found.expected} clips"
    if found.missing:
        raise Incomplete([("found", count), ("missing", first_few(found.missing, 10))])
    clips = opened()
    if errors := clips.store():
        readable = f"{found.expected - len(errors)} of {found.expected} clips"
        raise Incomplete([("found", readable), *(("problem", str(error)) for error in errors)])
    frames = sum(len(clips[i]) for i in range(len(clips)))
    return [("found", f"{count}, {frames:,} frames"), ("in records", clips.name)]


def _places(data: Data) -> Lines:
    count, used = len(find_places(data)), len(overlay_images(data, limit=2_000))
    return [("found", f"{count:,} images, of which {used:,} are used")]


def _colors(data: Data) -> Lines:
    return [(shift.name, shift(ShiftOptions(data=data)).colors) for shift in (ColorEasy, ColorHard)]
