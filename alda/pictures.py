"""Images composed of frames in rows and columns, with titles and labels."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import UInt8
from PIL import Image, ImageDraw, ImageFont

from alda.files import replacing

_GAP, _LINE, _FONT = 4, 15, 12  # screen pixels: between tiles, a line of words, its letters


def write_traversal(path: Path, traversal: UInt8[np.ndarray, "l v c h w"]) -> None:
    """Write a PNG with a row for each latent, from its lowest value to its highest."""
    ends = [""] * (traversal.shape[1] - 2)
    labels = [f"latent {i}" for i in range(len(traversal))]
    save_picture(sheet(list(map(list, traversal)), ["lowest", *ends, "highest"], labels, scale=1), path)


def save_picture(picture: Any, path: Path, **options: Any) -> None:
    """Write an image of PIL or a figure of matplotlib, whole or not at all. options: of its own save or savefig."""
    with replacing(path) as temporary:
        (picture.savefig if hasattr(picture, "savefig") else picture.save)(temporary, **options)


def sheet(
    rows: Sequence[Sequence[UInt8[np.ndarray, "c h w"]]],
    titles: Sequence[str],
    labels: Sequence[str] = (),
    scale: int = 2,
) -> Image.Image:
    """Return one image of rows of equal length, with a title over each column and a label to the left of each row.

    scale: screen pixels per pixel. Width and height are even, as video codecs require.
    """
    font = ImageFont.load_default(_FONT)
    draw = ImageDraw.Draw(Image.new("RGB", (1, 1)))
    side = rows[0][0].shape[-1] * scale
    left = max((int(draw.multiline_textbbox((0, 0), label, font)[2]) + 2 * _GAP for label in labels), default=0)
    top = _GAP + _LINE * max((1 + title.count("\n") for title in titles), default=0)
    width = left + len(rows[0]) * (side + _GAP) + _GAP
    height = top + len(rows) * (side + _GAP)
    picture = Image.new("RGB", (width + width % 2, height + height % 2), "white")
    draw = ImageDraw.Draw(picture)
    for i, title in enumerate(titles):
        draw.multiline_text((left + _GAP + i * (side + _GAP), 2), title, fill="black", font=font, spacing=1)
    for j, label in enumerate(labels):
        draw.multiline_text((_GAP, top + j * (side + _GAP) + 2), label, fill="black", font=font, spacing=2)
    for j, row in enumerate(rows):
        for i, image in enumerate(row):
            tile = Image.fromarray(image.transpose(1, 2, 0)).resize((side, side), Image.Resampling.NEAREST)
            picture.paste(tile, (left + _GAP + i * (side + _GAP), top + j * (side + _GAP)))
    return picture
