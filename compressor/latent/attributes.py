"""What can be measured of an image, and which latents go with it.

With ink = |grey - ground|, the ground being the median of the image's border, and m the ink's
moments about its centre:

grey        the mean, 0 to 255
area        the share of pixels with more than half of the most ink
slant       atan(-m11 / m02) in degrees: how far strokes lean to the right (deslanting: LeCun et al.
            1998)
thickness   2 sum(ink) / sum |gradient of ink|, in pixels: twice the area over the outline (coarea
            formula), which of a long stroke is its width
aspect      sqrt(m20 / m02): width over height
symmetry    1 - sum |ink - mirrored| / (2 sum(ink)), mirrored left to right about the centre; 0 to 1

Correlations are Spearman's, of ranks: a latent that grows with an attribute need not do so evenly.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from statistics import NormalDist
from typing import Any

import numpy as np
import numpy.typing as npt

from ..data.images import Pixels
from ..data.sources import open_source
from ..errors import DataError

Floats = npt.NDArray[np.float64]

BUILT_IN = ("grey", "area", "slant", "thickness", "aspect", "symmetry")
LUMA = (0.299, 0.587, 0.114)  # of R, G, B (ITU-R BT.601)
NAMED = 2  # attributes beside a latent in a picture
BY_CHANCE = 0.05
ROWS_AT_ONCE = 4096


def measured(pixels: Pixels) -> Floats:
    """The BUILT_IN attributes of images (n, H, W, C) uint8: (n, 6), NaN where there is no ink."""
    weights = np.array(LUMA if pixels.shape[3] >= 3 else (1.0,))
    grey = pixels[..., :3].astype(np.float64) @ weights
    border = [grey[:, 0], grey[:, -1], grey[:, 1:-1, 0], grey[:, 1:-1, -1]]
    ground = np.median(np.concatenate(border, axis=1), axis=1)
    ink = np.abs(grey - ground[:, None, None])
    total = ink.sum((1, 2))
    with np.errstate(invalid="ignore", divide="ignore"):  # of an image without ink
        share = ink / total[:, None, None]
        y, x = (np.arange(side, dtype=np.float64) for side in ink.shape[1:])
        centre_y = (share.sum(2) * y).sum(1)
        centre_x = (share.sum(1) * x).sum(1)
        off_y, off_x = y - centre_y[:, None], x - centre_x[:, None]
        m02 = (share.sum(2) * off_y**2).sum(1)
        m20 = (share.sum(1) * off_x**2).sum(1)
        m11 = np.einsum("nyx,ny,nx->n", share, off_y, off_x)
        around = np.pad(ink, ((0, 0), (1, 1), (1, 1)))
        down = np.diff(around, axis=1)[:, :, :-1]
        across = np.diff(around, axis=2)[:, :-1]
        columns = {
            "grey": grey.mean((1, 2)),
            "area": (ink > ink.max((1, 2), keepdims=True) / 2).mean((1, 2)),
            "slant": np.degrees(np.arctan(-m11 / m02)),
            "thickness": 2 * total / np.hypot(down, across).sum((1, 2)),
            "aspect": np.sqrt(m20 / m02),
            "symmetry": 1 - np.abs(ink - _mirrored(ink, centre_x)).sum((1, 2)) / (2 * total),
        }
    return np.stack([columns[name] for name in BUILT_IN], axis=1)


def _mirrored(ink: Floats, centre: Floats) -> Floats:
    """Left to right about a column each, (n,); nothing comes in from outside of the image."""
    width = ink.shape[2]
    found = np.isfinite(centre)
    places = np.rint(2 * np.where(found, centre, 0))[:, None] - np.arange(width)
    inside = (places >= 0) & (places < width)
    taken = np.clip(places, 0, width - 1).astype(np.int64)
    mirrored = np.take_along_axis(ink, taken[:, None, :], axis=2)
    return np.where(inside[:, None, :], mirrored, 0)


def read_table(path: str | Path) -> tuple[tuple[str, ...], dict[str, Floats]]:
    """Names of the columns, and the numbers of each row by its ``path``: CSV or Parquet.

    Raises DataError, naming the file, where it is no such table.
    """
    source = open_source(path)
    columns = source.columns
    if columns is None:
        raise DataError(
            f"{path} is no table of attributes: give a CSV or Parquet file with a column path, and "
            "one of numbers for each attribute"
        )
    rows: dict[str, Floats] = {}
    for chunk in source.chunks(ROWS_AT_ONCE):
        for piece in chunk.load():
            for group in piece.groups:
                names = [piece.names[position] for position in group.positions.tolist()]
                rows |= zip(names, group.pixels.astype(np.float64), strict=True)
    return columns, rows


def spearman(latents: Floats, attributes: Floats) -> Floats:
    """(L, A) rank correlations of (n, L) and (n, A); 0 where one of the two never changes."""
    one, other = _standard_ranks(latents), _standard_ranks(attributes)
    correlations: Floats = one.T @ other
    return correlations


def _standard_ranks(values: Floats) -> Floats:
    """Of each column, centred and of length one; equal values share their mean rank."""
    result = np.empty(values.shape)
    for column, numbers in enumerate(values.T):
        _, place, counts = np.unique(numbers, return_inverse=True, return_counts=True)
        ranks = (np.cumsum(counts) - (counts - 1) / 2)[place]
        ranks -= ranks.mean()
        result[:, column] = ranks / (np.linalg.norm(ranks) or 1.0)
    return result


def chance_level(inputs: int, latents: int) -> float:
    """What the largest of so many latents' |correlations| with one attribute exceeds in a twentieth
    of cases where there is nothing: of n independent pairs, Spearman's has the deviation
    1 / sqrt(n - 1) (bounded by Sidak 1967)."""
    if inputs < 2:
        return 1.0
    each = 1 - (1 - BY_CHANCE) ** (1 / latents)
    return min(1.0, NormalDist().inv_cdf(1 - each / 2) / math.sqrt(inputs - 1))


def best(
    names: Sequence[str], correlations: Floats, chance: float, numbers: npt.NDArray[np.int64]
) -> list[dict[str, Any]]:
    """For each attribute the two latents that carry it most, by their numbers (L,).

    correlations: (L, A). What is not above chance is None.
    """
    rows = []
    for name, column in zip(names, correlations.T, strict=True):
        row: dict[str, Any] = {"attribute": name}
        order = np.argsort(-np.abs(column), kind="stable")[:2]
        for place, key in zip(order, ("", "next_"), strict=False):
            told = abs(column[place]) > chance
            row[f"{key}latent"] = int(numbers[place]) if told else None
            row[f"{key}correlation"] = round(float(column[place]), 3) if told else None
        rows.append(row)
    return rows


def names_of(attributes: Sequence[Mapping[str, Any]]) -> dict[int, str]:
    """What stands beside a latent in a picture: the attributes that it carries most of all, as
    ``best`` has them."""
    found: dict[int, list[str]] = {}
    told = [row for row in attributes if row["latent"] is not None]
    for row in sorted(told, key=lambda row: -abs(row["correlation"])):
        words = f"{row['attribute']} {row['correlation']:+.2f}"
        found.setdefault(row["latent"], []).append(words)
    return {latent: ", ".join(words[:NAMED]) for latent, words in found.items()}
