"""Images to lay over observations: photographs where a folder of them is given, else generated ones."""

from pathlib import Path
from typing import Any

import numpy as np
import torch
from jaxtyping import UInt8
from torch import Tensor

from alda.envs.backgrounds import procedural
from alda.envs.backgrounds.clips import read_or_prepare, track
from alda.envs.backgrounds.data import Data, find_places
from alda.envs.backgrounds.procedural import LENGTH, SPLITS, ProceduralClip
from alda.envs.backgrounds.shrinking import shrink_image
from alda.errors import UserError

SIDE = 128  # pixels of an image; crops of it are shown at 64 or 84


def overlay_bank(data: Data, count: int) -> tuple[UInt8[Tensor, "n 3 side side"], dict[str, Any]]:
    """Return at most `count` images of Places365, or as many generated ones, and their description for the records.

    No shift shows the clips of the generated ones. Raises UserError where Places365 is named but not there, or one of
    its images is damaged.
    """
    if count < 1:
        raise UserError(f"--agent.overlay-images must be at least 1, not {count}")
    images = _photographs(data.places, data.cache_dir, count) if data.places else _painted(count)
    source = "places365" if data.places else f"{procedural.NAME} overlay"
    bank = torch.from_numpy(images.transpose(0, 3, 1, 2).copy())
    return bank, {"source": source, "images": len(bank), "size": SIDE}


def _photographs(places: Path, cache: Path, limit: int) -> UInt8[np.ndarray, "n side side 3"]:
    """Return the squares in the middle of images of Places365, evenly spread over all of them."""
    every = find_places(places)
    count = min(limit, len(every))
    files = [Path(every[i * len(every) // count]) for i in range(count)]
    shrunk = (shrink_image(file, SIDE, crop=True) for file in track(files, "preparing images of Places365"))
    return read_or_prepare(cache, f"places365-{SIDE}", files, lambda: shrunk)


def _painted(count: int) -> UInt8[np.ndarray, "n side side 3"]:
    """Paint frames of the generated clips, as far apart as possible."""
    clips = min(count, SPLITS["overlay"])
    frames = []
    for index in track(range(clips), "painting overlay images"):
        clip = ProceduralClip("overlay", index, SIDE)
        share = count // clips + (index < count % clips)
        frames += [clip[i * LENGTH // share] for i in range(share)]
    return np.stack(frames)
