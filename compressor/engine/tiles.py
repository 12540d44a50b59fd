"""Images of any size, for graphs that take multiples of a stride and a limited number of pixels.

A large image goes through a graph in tiles. Each includes its surroundings, a *halo* of as many
code elements as can change it, so that what is kept of it equals the answer for the whole image,
up to float noise. Lengths are in code elements, each of which stands for stride x stride pixels.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import NamedTuple

import numpy as np

from ..data.images import Rows
from ..spec import CodeSpec

MAX_PIXELS = 2**20  # of an image, or a tile with its halo, that goes through a graph at once
MIN_HALOS_PER_TILE = 4  # along each side: a smaller tile would be halo for the most part


class Area(NamedTuple):
    """A rectangle of code elements."""

    rows: slice
    columns: slice
    stride: int

    @property
    def codes(self) -> tuple[slice, ...]:
        """Its place in (N, C, h, w)."""
        return slice(None), slice(None), self.rows, self.columns

    @property
    def pixels(self) -> tuple[slice, ...]:
        """Its place in (N, height, width, ...)."""
        return slice(None), _times(self.rows, self.stride), _times(self.columns, self.stride)

    @property
    def size(self) -> tuple[int, int]:
        """Height and width in pixels."""
        rows, columns = self.rows.stop - self.rows.start, self.columns.stop - self.columns.start
        return rows * self.stride, columns * self.stride


class Tile(NamedTuple):
    """window: what goes through the graph; kept: what is kept of it; within: kept in the window."""

    window: Area
    kept: Area
    within: Area


def padded(pixels: Rows, stride: int | None) -> Rows:
    """Images (N, H, W, C), the last row and column repeated up to multiples of the stride."""
    if stride is None:
        return pixels
    _, height, width, _ = pixels.shape
    below, right = -height % stride, -width % stride
    if not below and not right:
        return pixels
    return np.pad(pixels, ((0, 0), (0, below), (0, right), (0, 0)), mode="edge")


def tiles(code: CodeSpec, height: int, width: int) -> list[Tile]:
    """The tiles of an image of height x width pixels, all of one size; one if it is done whole."""
    stride = code.stride
    assert stride is not None
    _, h, w = code.shape_for(height, width)
    down, across = _tile_size(h, w, MAX_PIXELS // stride**2, code.halo)
    return [
        Tile(*(Area(r, c, stride) for r, c in zip(rows, columns, strict=True)))
        for rows in _along(h, down, code.halo or 0)
        for columns in _along(w, across, code.halo or 0)
    ]


def _tile_size(h: int, w: int, elements: int, halo: int | None) -> tuple[int, int]:
    """A tile with its halo: about ``elements`` of them, as square as the image allows."""
    if halo is None or h * w <= elements:
        return h, w
    side = max(math.isqrt(elements), MIN_HALOS_PER_TILE * halo, 1)
    across = min(w, max(side, elements // min(h, side)))
    return min(h, max(side, elements // across)), across


def _along(length: int, size: int, halo: int) -> Iterator[tuple[slice, slice, slice]]:
    """Window, kept and within along one axis; at the ends windows move inwards, not shrink."""
    step = length if size == length else size - 2 * halo
    for first in range(0, length, step):
        last = min(first + step, length)
        start = min(max(first - halo, 0), length - size)
        yield slice(start, start + size), slice(first, last), slice(first - start, last - start)


def _times(span: slice, stride: int) -> slice:
    return slice(span.start * stride, span.stop * stride)
