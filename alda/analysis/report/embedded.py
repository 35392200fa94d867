"""Pictures and videos as data URLs, for pages that need no other file."""

import base64
import io
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from PIL import Image

from alda.errors import UserError

MOST_VIDEO = 2_000_000  # bytes of a video that is embedded whole
MOST_PICTURE = 8_000_000
_BROKEN = (OSError, ValueError, SyntaxError, EOFError, Image.DecompressionBombError)  # what PIL raises for broken files


@dataclass(frozen=True)
class Embedded:
    """url: data:TYPE;base64,... alt: what there is to see. width, height: pixels."""

    url: str
    alt: str
    width: int
    height: int
    caption: str = ""
    kind: str = "picture"


def embed_picture(file: Path, alt: str) -> Embedded:
    """A PNG or GIF file. Raises UserError where it is damaged, or larger than 8 MB."""
    if file.stat().st_size > MOST_PICTURE:
        raise UserError(f"{file} is left out: it is larger than {MOST_PICTURE / 1e6:.0f} MB")
    content = file.read_bytes()
    try:
        with Image.open(io.BytesIO(content), formats=("PNG", "GIF")) as image:
            image.load()
    except _BROKEN as error:
        raise UserError(f"{file} is damaged: {error}") from error
    return Embedded(_url(str(Image.MIME[str(image.format)]), content), alt, *image.size)


def embed_figure(figure: Any, alt: str) -> Embedded:
    """A matplotlib figure as SVG; the same figure gives the same text."""
    from matplotlib import rc_context

    content = io.BytesIO()
    with rc_context({"svg.hashsalt": "alda"}):
        figure.savefig(content, format="svg", metadata={"Date": None})
    width, height = (round(96 * inches) for inches in figure.get_size_inches())
    return Embedded(_url("image/svg+xml", content.getvalue()), alt, width, height)


def embed_video(file: Path, alt: str) -> Embedded:
    """An MP4 or GIF file, whole up to 2 MB, else its first frame. Raises UserError where it is damaged.

    Without PyAV an MP4 is taken as it is, and of a large one there is no frame: UserError.
    """
    small = file.stat().st_size <= MOST_VIDEO
    if file.suffix == ".gif" and small:
        return embed_picture(file, alt)
    still = _first_frame(file)
    if small:
        size = still.size if still else (512, 256)
        return Embedded(_url("video/mp4", file.read_bytes()), alt, *size, kind="video")
    if still is None:
        raise UserError(f"{file} is too large for a page, and a frame of it needs PyAV: pip install 'alda[video]'")
    content = io.BytesIO()
    still.save(content, "PNG")
    caption = f"First frame only: {file} has {file.stat().st_size / 1e6:.1f} MB."
    return Embedded(_url("image/png", content.getvalue()), alt, *still.size, caption=caption)


def _first_frame(file: Path) -> Image.Image | None:
    """None where only PyAV could tell, and it is not installed."""
    if file.suffix == ".gif":
        try:
            with Image.open(file, formats=("GIF",)) as image:
                return image.convert("RGB")
        except _BROKEN as error:
            raise UserError(f"{file} is damaged: {error}") from error
    try:
        import av
    except ImportError:
        return None
    try:
        with av.open(str(file)) as container:
            return next(container.decode(video=0)).to_image()
    except (av.FFmpegError, StopIteration, IndexError, ValueError) as error:
        raise UserError(f"{file} is damaged: {error or 'it has no frame'}") from error


def _url(kind: str, content: bytes) -> str:
    return f"data:{kind};base64,{base64.b64encode(content).decode()}"
