"""Pictures for people: enlarged enough to see something, and side by side."""

from __future__ import annotations

import io
from collections.abc import Sequence

import numpy as np
import numpy.typing as npt
from PIL import Image, ImageDraw, ImageFont

from ..data.images import Pixels

NAMES = (128, 128, 128, 255)  # of rows and columns: RGBA


def enlarged(pixels: Pixels, side: int = 224) -> Pixels:
    """(H, W, C) enlarged by the largest integer with which no side exceeds ``side``.

    Larger images come back unchanged.
    """
    factor = max(1, side // max(pixels.shape[:2]))
    return pixels.repeat(factor, axis=0).repeat(factor, axis=1)


def shrunk(pixels: Pixels, side: int) -> Pixels:
    """(H, W, C) with its longer side reduced to ``side``, if it is longer."""
    if max(pixels.shape[:2]) <= side:
        return pixels
    image = _image(pixels)
    image.thumbnail((side, side), Image.Resampling.BOX)
    return np.asarray(image).reshape(image.height, image.width, -1)


def shrunk_map(values: npt.NDArray[np.float32], side: int) -> npt.NDArray[np.float32]:
    """float32 (H, W) reduced as by ``shrunk``, by means."""
    if max(values.shape) <= side:
        return values
    image = Image.fromarray(values)
    image.thumbnail((side, side), Image.Resampling.BOX)
    return np.asarray(image)


def webp(pixels: Pixels) -> bytes:
    """(H, W, C) uint8, C in 1, 3, 4, as the bytes of a lossy WebP file, for viewing."""
    file = io.BytesIO()
    image = _image(pixels)
    (image.convert("RGB") if image.mode == "L" else image).save(file, format="WebP", quality=75)
    return file.getvalue()


def png(pixels: Pixels) -> bytes:
    """(H, W, C) uint8, C in 1, 3, 4, as the bytes of a PNG file."""
    file = io.BytesIO()
    _image(pixels).save(file, format="PNG", optimize=True)
    return file.getvalue()


def comparison_sheet(
    originals: Sequence[Pixels] | Pixels,
    reconstructions: Sequence[Pixels] | Pixels,
    columns: int = 10,
    side: int = 112,
) -> Pixels:
    """Originals, each above its reconstruction, ``columns`` pairs in a row: RGBA (H, W, 4).

    Both are uint8 (H, W, C) of one size, C in 1, 3, 4. Images are enlarged to about ``side``
    pixels, or shrunk to it; the gaps are transparent, so that the sheet suits light and dark
    pages.
    """
    if len(originals) != len(reconstructions):
        raise ValueError(f"{len(originals)} originals, {len(reconstructions)} reconstructions")
    rows: list[Sequence[Pixels] | Pixels] = []
    for start in range(0, len(originals), columns):
        rows += [images[start : start + columns] for images in (originals, reconstructions)]
    # Twice the gap between rows of pairs shows what belongs together.
    return sheet(rows, side=side, wider_after=2)


def sheet(
    rows: Sequence[Sequence[Pixels] | Pixels],
    *,
    row_names: Sequence[str] = (),
    column_names: Sequence[str] = (),
    side: int = 112,
    wider_after: int = 0,
) -> Pixels:
    """Images in rows, which may differ in length, on a transparent ground: RGBA (H, W, 4).

    Images are uint8 (H, W, C), C in 1, 3, 4, and enlarged to about ``side`` pixels, or shrunk to
    it. row_names stand on the left, column_names above, as far as there are some, in a grey that
    light and dark pages show. wider_after: the gap behind each so many rows is twice as wide.
    """
    pictures = [[_rgba(enlarged(shrunk(image, side), side)) for image in row] for row in rows]
    height = max(picture.shape[0] for row in pictures for picture in row)
    width = max(picture.shape[1] for row in pictures for picture in row)
    gap = max(2, side // 28)
    font = ImageFont.load_default(max(10, side // 8))
    left = max((round(font.getlength(name)) + 2 * gap for name in row_names), default=0)
    top = 2 * gap + max((round(font.getbbox(name)[3]) for name in column_names), default=-2 * gap)
    tops = [
        top + number * (height + gap) + (gap * (number // wider_after) if wider_after else 0)
        for number in range(len(rows))
    ]
    columns = max(len(row) for row in pictures)
    canvas = np.zeros((tops[-1] + height, left + columns * (width + gap) - gap, 4), np.uint8)
    for start, row in zip(tops, pictures, strict=True):
        for column, picture in enumerate(row):
            place = canvas[start:, left + column * (width + gap) :]
            place[: picture.shape[0], : picture.shape[1]] = picture
    if not row_names and not column_names:
        return canvas
    image = Image.fromarray(canvas)
    draw = ImageDraw.Draw(image)
    for start, name in zip(tops, row_names, strict=False):
        draw.text((left - 2 * gap, start + height // 2), name, NAMES, font, anchor="rm")
    for column, name in enumerate(column_names):
        centre = left + column * (width + gap) + width // 2
        draw.text((centre, gap), name, NAMES, font, anchor="mt")
    return np.asarray(image)


def _image(pixels: Pixels) -> Image.Image:
    return Image.fromarray(pixels[:, :, 0] if pixels.shape[2] == 1 else pixels)


def _rgba(pixels: Pixels) -> Pixels:
    return np.asarray(_image(pixels).convert("RGBA"))
