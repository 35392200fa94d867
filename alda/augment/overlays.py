"""Images to lay over observations: photographs where a folder of them is given, else generated ones."""

from typing import Any

import numpy as np
import torch
from jaxtyping import UInt8
from torch import Tensor

from alda.envs.backgrounds import procedural
from alda.envs.backgrounds.data import Data
from alda.envs.backgrounds.prepared import overlay_images
from alda.envs.backgrounds.procedural import LENGTH, SPLITS, ProceduralClip
from alda.errors import UserError

SIDE = 128  # pixels of an image; crops of it are shown at 64 or 84


def overlay_bank(data: Data, count: int) -> tuple[UInt8[Tensor, "n 3 side side"], dict[str, Any]]:
    """Return at most `count` images of Places365, or as many generated ones, and their description for the records.

    No shift shows the clips of the generated ones. Raises UserError where Places365 is named but not there.
    """
    if count < 1:
        raise UserError(f"--agent.overlay-images must be at least 1, not {count}")
    images = overlay_images(data, SIDE, count) if data.places else _painted(count)
    source = "places365" if data.places else f"{procedural.NAME} overlay"
    bank = torch.from_numpy(images.transpose(0, 3, 1, 2).copy())
    return bank, {"source": source, "images": len(bank), "size": SIDE}


def _painted(count: int) -> UInt8[np.ndarray, "n side side 3"]:
    """Paint frames of the generated clips, as far apart as possible."""
    from rich.console import Console
    from rich.progress import track

    clips = min(count, SPLITS["overlay"])
    frames = []
    for index in track(range(clips), "painting overlay images", console=Console(stderr=True), transient=True):
        clip = ProceduralClip("overlay", index, SIDE)
        share = count // clips + (index < count % clips)
        frames += [clip[i * LENGTH // share] for i in range(share)]
    return np.stack(frames)
