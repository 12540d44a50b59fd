"""Pictures for people: enlarged enough to see something, and side by side."""

from __future__ import annotations

import io
from collections.abc import Sequence

import numpy as np
import numpy.typing as npt
from PIL import Image

from ..data.images import Pixels


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
    columns = min(columns, len(originals))
    pairs = [
        [_rgba(enlarged(shrunk(image, side), side)) for image in pair]
        for pair in zip(originals, reconstructions, strict=True)
    ]
    height, width, _ = pairs[0][0].shape
    gap = max(2, side // 28)
    pair_height = 2 * height + gap
    # Twice the gap between rows of pairs shows what belongs together.
    rows = -(-len(pairs) // columns)
    sheet = np.zeros(
        (rows * (pair_height + 2 * gap) - 2 * gap, columns * (width + gap) - gap, 4), np.uint8
    )
    for number, (original, reconstruction) in enumerate(pairs):
        row, column = divmod(number, columns)
        top, left = row * (pair_height + 2 * gap), column * (width + gap)
        sheet[top : top + height, left : left + width] = original
        sheet[top + height + gap :][:height, left : left + width] = reconstruction
    return sheet


def _image(pixels: Pixels) -> Image.Image:
    return Image.fromarray(pixels[:, :, 0] if pixels.shape[2] == 1 else pixels)


def _rgba(pixels: Pixels) -> Pixels:
    return np.asarray(_image(pixels).convert("RGBA"))
