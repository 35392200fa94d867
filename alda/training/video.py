"""Videos of what the agent sees beside what it decodes."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
from jaxtyping import UInt8
from PIL import Image

from alda.agents.base import Agent
from alda.agents.decoding import ReconstructingAgent
from alda.files import replacing
from alda.pictures import save_picture

_SCALE = 4  # screen pixels per pixel of a frame


def side_by_side(
    agent: Agent, observations: Sequence[UInt8[np.ndarray, "f c h w"]]
) -> list[UInt8[np.ndarray, "height width c"]]:
    """Return newest frame | reconstruction of each observation; the frame alone for a method without a decoder."""
    device = next(agent.parameters()).device
    pictures = []
    for chunk in torch.split(torch.from_numpy(np.stack(observations)), 64):
        images = chunk[:, -1]
        if isinstance(agent, ReconstructingAgent):
            images = torch.cat([images, agent.reconstruct(chunk.to(device)).cpu()], dim=-1)
        pictures += list(images.movedim(1, -1).numpy())
    return pictures


def write_video(path: Path, pictures: Sequence[UInt8[np.ndarray, "h w c"]], fps: int) -> Path:
    """Write PATH.mp4, or PATH.gif where PyAV (the extra `video`) is not installed; return the file."""
    path.parent.mkdir(parents=True, exist_ok=True)
    enlarged = [picture.repeat(_SCALE, 0).repeat(_SCALE, 1) for picture in pictures]
    try:
        import av
    except ImportError:
        file = path.with_name(path.name + ".gif")
        first, *rest = [Image.fromarray(picture) for picture in enlarged]
        save_picture(first, file, save_all=True, append_images=rest, duration=1000 / fps, loop=0)
        return file
    file = path.with_name(path.name + ".mp4")
    with replacing(file) as temporary, av.open(str(temporary), "w") as container:
        stream = container.add_stream("libx264", rate=fps, options={"crf": "18"})
        stream.height, stream.width = enlarged[0].shape[:2]
        stream.pix_fmt = "yuv420p"
        for picture in enlarged:
            container.mux(stream.encode(av.VideoFrame.from_ndarray(picture)))
        container.mux(stream.encode())
    return file
