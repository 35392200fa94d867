"""`alda data prepare`."""

from alda.envs.backgrounds.clips import Clips, sky_clips, sky_side, video_clips
from alda.envs.backgrounds.data import NO_PATHS, VIDEO_COUNTS, Data
from alda.envs.backgrounds.procedural import NAME as PROCEDURAL
from alda.envs.shifts.base import ShiftOptions
from alda.envs.shifts.color import OWN_TABLES, ColorEasy, ColorHard
from alda.errors import UserError

_BENCHMARK = "https://github.com/nicklashansen/dmcontrol-generalization-benchmark (src/env/data)"


def prepare(*, data: Data = NO_PATHS, image_size: int = 64) -> int:
    """Prepare real backgrounds for use, once; report which are there, what is missing and where to get it.

    Args:
        image_size: Side of a frame in pixels, as in training.

    Returns:
        Exit code: 0 where all that is given is complete, else 1. Raises UserError for an image size below 1.
    """
    if image_size < 1:
        raise UserError(f"--image-size must be at least 1, not {image_size}")
    sets = {  # folder that is given, what prepares it, where it is used, where it officially comes from
        "davis": (
            data.davis,
            lambda: _describe(sky_clips(data, None, sky_side(image_size))),
            "shifts distracting_cs, distracting_background",
            "https://davischallenge.org/davis2017/code.html (DAVIS 2017 TrainVal, 480p)",
        ),
        "video_easy": (data.videos, lambda: _videos(data, "video_easy", image_size), "shift video_easy", _BENCHMARK),
        "video_hard": (data.videos, lambda: _videos(data, "video_hard", image_size), "shift video_hard", _BENCHMARK),
        "places": (
            data.places,
            lambda: _places(data),
            "overlay augmentation of SVEA and SADA",
            "http://places2.csail.mit.edu/download.html (Places365)",
        ),
        "colours": (data.color_table, lambda: _colors(data), "shifts color_easy, color_hard", ""),
    }
    complete = True
    for name, (folder, make_ready, used_in, source) in sets.items():
        generated = OWN_TABLES if name == "colours" else PROCEDURAL
        print(f"{name:17} {folder or f'not given; {generated} is used'}")
        if folder:
            try:
                print(f"  {'found':15} {make_ready()}")
            except (UserError, OSError) as error:
                print(f"  {'problem':15} {error}")
                complete = False
        print(f"  {'used in':15} {used_in}")
        if source:
            print(f"  {'official place':15} {source}")
    print(f"{'cache':17} {data.cache_dir}")
    return 0 if complete else 1


def _videos(data: Data, shift: str, size: int) -> str:
    there = [other for other in VIDEO_COUNTS if data.videos and (data.videos / other).is_dir()]
    if there and shift not in there:  # one of the two is enough
        return f"no folder {shift}: this shift can only be played without --data.videos"
    return _describe(video_clips(data, shift, size))


def _describe(clips: Clips) -> str:
    clips.prepare()
    frames = sum(len(clips[i]) for i in range(len(clips)))
    return f"{len(clips)} clips, {frames:,} frames; in records: {clips.name}"


def _places(data: Data) -> str:
    from alda.agents.svea import SVEAConfig  # brings PyTorch
    from alda.augment.overlays import overlay_bank

    return f"{len(overlay_bank(data, SVEAConfig().overlay_images)[0]):,} images"


def _colors(data: Data) -> str:
    return ", ".join(f"{shift.name} {shift(ShiftOptions(data=data)).colors}" for shift in (ColorEasy, ColorHard))
