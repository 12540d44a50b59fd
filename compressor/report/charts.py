"""Charts as paths in a box of 100 x 100, for inline SVG, and sheets of small pictures."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
from PIL import Image

from ..data.images import Pixels
from .pictures import enlarged, shrunk

Numbers = npt.NDArray[np.float64]
# Blue, white, red, of equal lightness steps on both sides (after Moreland 2009).
DIVERGING = np.array([(59, 76, 192), (241, 241, 241), (180, 4, 38)], np.float64)


@dataclass(frozen=True)
class Axis:
    """Where values lie, 0 to 100; ticks as (place, label)."""

    low: float
    high: float
    logarithmic: bool
    ticks: list[tuple[float, str]]

    def place(self, values: Numbers | float) -> Numbers:
        """The places of values, which may lie outside of 0 to 100."""
        if self.logarithmic:
            low, high = np.log(self.low), np.log(self.high)
            values = np.log(np.maximum(values, self.low))
        else:
            low, high = self.low, self.high
        places: Numbers = 100 * (np.asarray(values, np.float64) - low) / (high - low)
        return places


def axis(values: Numbers, *, logarithmic: bool = False) -> Axis:
    """An axis for ``values``; logarithmic only if they are also positive and far apart."""
    low, high = float(values.min()), float(values.max())
    if not high > low:
        low, high = low - 0.5, high + 0.5
    logarithmic = logarithmic and low > 0 and high > 20 * low
    at = _decades(low, high) if logarithmic else _steps(low, high)
    made = Axis(low, high, logarithmic, [])
    labels = [(float(made.place(value)), f"{value:,.10g}") for value in at if low <= value <= high]
    return Axis(low, high, logarithmic, labels)


def _steps(low: float, high: float) -> list[float]:
    """Round numbers, two to six of them, between two numbers."""
    rough = (high - low) / 5
    power = 10.0 ** math.floor(math.log10(rough))
    step = next(power * factor for factor in (1, 2, 5, 10) if power * factor >= rough)
    return [round(n * step, 12) for n in range(math.ceil(low / step), math.floor(high / step) + 1)]


def _decades(low: float, high: float) -> list[float]:
    """Powers of ten between two numbers, and where these are few twice and five times them."""
    powers = range(math.floor(math.log10(low)), math.ceil(math.log10(high)) + 1)
    factors = (1, 2, 5) if len(powers) <= 3 else (1,)
    return [factor * 10.0**power for power in powers for factor in factors]


def line(x: Numbers, y: Numbers) -> str:
    """An SVG path through points in percent, y upwards; one point is a short dash."""
    if len(x) == 1:
        x, y = np.array([x[0] - 0.5, x[0] + 0.5]), np.repeat(y, 2)
    return "M" + "L".join(f"{a:.2f} {100 - b:.2f}" for a, b in zip(x, y, strict=True))


def bars(integers: npt.NDArray[np.int64], bins: int) -> tuple[str, int, int]:
    """A histogram as an SVG path, and the first and the last integer that it covers.

    A bar covers one integer, or more where that would make over ``bins`` bars; its height is the
    root of the count.
    """
    low, high = int(integers.min()), int(integers.max())
    width = -(-(high - low + 1) // bins)
    counts = np.bincount((integers - low) // width)
    heights = 100 * np.sqrt(counts / counts.max())
    places = np.linspace(0, 100, len(counts) + 1)[1:]
    steps = [f"V{100 - h:.2f}H{x:.2f}" for h, x in zip(heights, places, strict=True)]
    return "M0 100" + "".join(steps) + "V100Z", low, low + len(counts) * width - 1


def diverging(values: Numbers) -> Pixels:
    """(H, W) to colours (H, W, 3): blue below 0, red above, relative to the largest magnitude."""
    largest = float(np.abs(values).max()) or 1.0
    at = (values / largest + 1) / 2
    colours = [np.interp(at, (0, 0.5, 1), channel) for channel in DIVERGING.T]
    pixels: Pixels = np.rint(np.stack(colours, axis=-1)).astype(np.uint8)
    return pixels


def sheet(pictures: Sequence[Pixels], columns: int, side: int, gap: int | None = None) -> Pixels:
    """Pictures of one size in rows, each about ``side`` pixels large: RGBA (H, W, 4)."""
    tiles = [rgba(enlarged(shrunk(picture, side), side)) for picture in pictures]
    height, width, _ = tiles[0].shape
    gap = gap or max(1, side // 24)
    columns = min(columns, len(tiles))
    rows = -(-len(tiles) // columns)
    made = np.zeros((rows * (height + gap) - gap, columns * (width + gap) - gap, 4), np.uint8)
    for number, tile in enumerate(tiles):
        top, left = number // columns * (height + gap), number % columns * (width + gap)
        made[top : top + height, left : left + width] = tile
    return made


def map_sheet(points: Numbers, pictures: Sequence[Pixels]) -> Pixels:
    """Pictures at their places, (n, 2), on a grid; each cell shows the nearest to its centre."""
    columns, rows, side = 30, 20, 34
    low, high = np.quantile(points, 0.01, axis=0), np.quantile(points, 0.99, axis=0)
    scaled = (points - low) / np.maximum(high - low, 1e-12) * (columns, rows)
    cells = np.clip(np.floor(scaled), 0, (columns - 1, rows - 1)).astype(int)
    apart = np.abs(scaled - cells - 0.5).max(1)
    nearest: dict[tuple[int, int], int] = {}
    for number in np.argsort(-apart):  # the nearest comes last and stays
        nearest[(int(cells[number, 0]), int(cells[number, 1]))] = int(number)
    made = np.zeros((rows * side, columns * side, 4), np.uint8)
    for (column, row), number in nearest.items():
        tile = rgba(enlarged(shrunk(pictures[number], side - 2), side - 2))
        top, left = (rows - 1 - row) * side, column * side
        made[top : top + tile.shape[0], left : left + tile.shape[1]] = tile
    return made


def rgba(pixels: Pixels) -> Pixels:
    """(H, W, C), C in 1, 3, 4, as (H, W, 4)."""
    image = Image.fromarray(pixels[:, :, 0] if pixels.shape[2] == 1 else pixels)
    return np.asarray(image.convert("RGBA"))
