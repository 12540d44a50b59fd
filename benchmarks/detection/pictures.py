"""Images in other sizes, for methods that take smaller ones than a data set has."""

from __future__ import annotations

import numpy as np
from PIL import Image

from .metrics import Scores
from .tasks import Rows


def resized(rows: Rows, side: int | None) -> Rows:
    """uint8 (N, H, W, C) to (N, side, side, C), each pixel a mean; None leaves rows alone."""
    if side is None or rows.shape[1] == side:
        return rows
    if rows.shape[3] == 1:
        images = [Image.fromarray(row[..., 0]) for row in rows]
    else:
        images = [Image.fromarray(row) for row in rows]
    small = [np.asarray(image.resize((side, side), Image.Resampling.BOX)) for image in images]
    return np.stack(small).reshape(len(rows), side, side, rows.shape[3])


def enlarged(maps: Scores, side: int) -> Scores:
    """Maps (N, h, w) to (N, side, side), bilinear."""
    if maps.shape[1] == side:
        return maps
    images = [Image.fromarray(one.astype(np.float32)) for one in maps]
    return np.stack(
        [np.asarray(image.resize((side, side), Image.Resampling.BILINEAR)) for image in images]
    )
