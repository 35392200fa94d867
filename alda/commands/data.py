"""`alda data prepare`."""

from collections.abc import Callable
from functools import partial
from pathlib import Path

from alda.envs.backgrounds.clips import Clips, sky_clips, sky_side, video_clips
from alda.envs.backgrounds.data import NO_PATHS, VIDEO_COUNTS, Data
from alda.envs.backgrounds.procedural import NAME as PROCEDURAL
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
    complete = [
        _report(
            "davis",
            data.davis,
            lambda: _describe(sky_clips(data, None, sky_side(image_size))),
            "shifts distracting_cs, distracting_background",
            "https://davischallenge.org/davis2017/code.html (DAVIS 2017 TrainVal, 480p)",
        ),
        *(
            _report(shift, data.videos, partial(_videos, data, shift, image_size), f"shift {shift}", _BENCHMARK)
            for shift in VIDEO_COUNTS
        ),
        _report(
            "places",
            data.places,
            lambda: _places(data),
            "overlay augmentation of SVEA and SADA",
            "http://places2.csail.mit.edu/download.html (Places365)",
        ),
    ]
    print(f"{'cache':17} {data.cache_dir}")
    return 0 if all(complete) else 1


def _report(name: str, folder: Path | None, make_ready: Callable[[], str], used_in: str, official_place: str) -> bool:
    """Prepare a set and print what was found; return whether it is complete, or not given."""
    print(f"{name:17} {folder or f'not given; {PROCEDURAL} is used'}")
    complete = True
    if folder:
        try:
            print(f"  {'found':15} {make_ready()}")
        except (UserError, OSError) as error:
            print(f"  {'problem':15} {error}")
            complete = False
    print(f"  {'used in':15} {used_in}\n  {'official place':15} {official_place}")
    return complete


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
