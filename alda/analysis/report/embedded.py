"""Pictures and videos as data URLs, for pages that need no other file."""

import base64
import io
from pathlib import Path
from typing import Any

from PIL import Image

from alda.errors import UserError
from alda.files import read_bytes

Item = dict[str, Any]  # something on a page; its "kind" says how page.html lays it out
_BROKEN = (OSError, ValueError, SyntaxError, EOFError, Image.DecompressionBombError)  # what PIL raises for broken files


def embed_picture(file: Path, alt: str) -> Item:
    """Return a PNG or GIF file. Raises UserError where it is damaged."""
    content = _content(file)
    try:
        with Image.open(io.BytesIO(content), formats=("PNG", "GIF")) as image:
            image.load()
    except _BROKEN as error:
        raise UserError(f"{file} is damaged: {error}") from error
    return _embedded("picture", Image.MIME[str(image.format)], content, alt, image.size)


def embed_video(file: Path, alt: str) -> Item:
    """Return an MP4 or GIF file. Raises UserError where it is damaged, which of an MP4 only PyAV can tell."""
    if file.suffix == ".gif":
        return embed_picture(file, alt)
    content, size = _content(file), (512, 256)
    try:
        import av
    except ImportError:
        return _embedded("video", "video/mp4", content, alt, size)
    try:
        with av.open(io.BytesIO(content), "r", format="mp4") as container:  # as no list of other files
            frame = next(container.decode(video=0))
    except (av.FFmpegError, StopIteration, IndexError, ValueError) as error:
        raise UserError(f"{file} is damaged: {error or 'it has no frame'}") from error
    return _embedded("video", "video/mp4", content, alt, (frame.width, frame.height))


def embed_figure(figure: Any, alt: str) -> Item:
    """Return a matplotlib figure as SVG; the same figure gives the same text."""
    from matplotlib import rc_context

    content = io.BytesIO()
    with rc_context({"svg.hashsalt": "alda"}):
        figure.savefig(content, format="svg", metadata={"Date": None})
    width, height = (round(96 * inches) for inches in figure.get_size_inches())
    return _embedded("picture", "image/svg+xml", content.getvalue(), alt, (width, height))


def _content(file: Path) -> bytes:
    """Return what a file of a run holds. Raises UserError for a link: a page that is passed on must not show others."""
    if file.is_symlink() or file.parent.is_symlink():
        raise UserError(f"{file} is a link, which may lead anywhere; it is left out")
    return read_bytes(file)


def _embedded(kind: str, mime: str, content: bytes, alt: str, size: tuple[int, int]) -> Item:
    url = f"data:{mime};base64,{base64.b64encode(content).decode()}"
    return {"kind": kind, "url": url, "alt": alt, "width": size[0], "height": size[1]}
