"""Videos and images at the size of a picture, scaled as in the benchmarks they come from, without PyTorch."""

import functools
from collections.abc import Iterator
from pathlib import Path

import numpy as np
from jaxtyping import Float32, Int, UInt8

from alda.errors import UserError


def shrink_image(file: Path, size: int, *, crop: bool = False) -> UInt8[np.ndarray, "size size 3"]:
    """Return the image at size x size: the whole of it, squeezed, or the square in its middle. Bicubic.

    Raises UserError for a file that is no image, or only a part of one.
    """
    from PIL import Image

    try:
        with Image.open(file) as opened:
            image = opened.convert("RGB")
    except (OSError, ValueError, SyntaxError) as error:
        raise UserError(f"the image {file} cannot be read ({error}); copy it again") from error
    if crop:
        side = min(image.size)
        left, top = (image.width - side) // 2, (image.height - side) // 2
        image = image.crop((left, top, left + side, top + side))
    return np.asarray(image.resize((size, size)))


def shrink_video(file: Path, size: int) -> Iterator[UInt8[np.ndarray, "size size 3"]]:
    """Yield all frames of the video at size x size. Raises UserError for a broken or cut off file, or without PyAV."""
    try:
        import av
    except ImportError:
        raise UserError("reading videos needs PyAV: pip install 'alda[video]'") from None
    count, promised = 0, 1
    try:
        with av.open(str(file)) as container:
            stream = container.streams.video[0]
            stream.thread_type = "AUTO"
            promised = max(stream.frames, 1)  # 0 where the file does not say
            for frame in container.decode(stream):
                if frame.is_corrupt:
                    break
                yield bilinear(frame.to_ndarray(format="rgb24"), size)
                count += 1
    except (av.FFmpegError, IndexError) as error:
        raise UserError(f"the video {file} cannot be decoded ({error}); copy it again") from error
    if count < promised:
        raise UserError(f"the video {file} is cut off or damaged: {count} of {promised} frames; copy it again")


def bilinear(frame: UInt8[np.ndarray, "h w 3"], size: int) -> UInt8[np.ndarray, "size size 3"]:
    """Interpolate between the nearest four pixels, with no smoothing before: some pixels of a large frame do not count.

    As torch.nn.functional.interpolate on pixels in [0, 1], then times 255 and cut off. Where the result is a whole
    number, rounding decides: about one value in a hundred is one level away from PyTorch's.
    """
    (top, bottom, down), (left, right, along) = (_neighbours(length, size) for length in frame.shape[:2])
    down, along = down[:, None, None], along[None, :, None]
    white = np.float32(255)
    total = (1 - down) * (1 - along) * (frame[top][:, left] / white)
    total += (1 - down) * along * (frame[top][:, right] / white)
    total += down * (1 - along) * (frame[bottom][:, left] / white)
    total += down * along * (frame[bottom][:, right] / white)
    return (255 * total).astype(np.uint8)


@functools.cache
def _neighbours(
    length: int, size: int
) -> tuple[Int[np.ndarray, " size"], Int[np.ndarray, " size"], Float32[np.ndarray, " size"]]:
    """Return for each of `size` pixels its two neighbours among `length`, and the weight of the second."""
    centres = (np.arange(size, dtype=np.float32) + np.float32(0.5)) * np.float32(length / size) - np.float32(0.5)
    centres = np.maximum(centres, 0)
    first = centres.astype(int)
    return first, np.minimum(first + 1, length - 1), centres - first.astype(np.float32)
