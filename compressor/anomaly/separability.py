"""What the scorer ``auto`` goes by: how well each score tells normal inputs from spoilt ones.

No label is needed: validation inputs, on which neither the network nor a threshold was learned,
are spoilt in ways that keep what they are made of and take away how it belongs together. (Blending
two images is not among them: it takes contrast away, which makes all errors smaller.) A score is as
good as its mean AUROC over these ways. Calibration inputs are not looked at, so that p-values hold
as ever.

images    pasted    a part of another image at another place, lighter or darker; its sides are
                    a tenth to a half of the image's (CutPaste: Li et al. 2021)
          joined    the upper half of another image
          cut       the quarters in another order (Noroozi & Favaro 2016)
          flipped   upside down, half of the images left to right as well (Golan & El-Yaniv 2018)
vectors   shuffled  half of the columns of another row
          stretched twice as far from the mean (where a column has outliers, that is where they are)
"""

from __future__ import annotations

from collections.abc import Callable, Mapping

import numpy as np

from ..data.images import Rows
from .calibration import Scores

MAX_INPUTS = 256  # that are spoilt


def separability(
    score: Callable[[Rows], Mapping[str, Scores]],
    normal: Rows,
    usual: Mapping[str, Scores],
    seed: int,
) -> dict[str, float]:
    """The mean AUROC of each score. normal: validation inputs (n, *shape), n above 1, and what
    ``score`` gives for them."""
    random = np.random.default_rng(seed)
    ways = _IMAGES if normal.ndim == 4 else _VECTORS
    spoilt_scores = [score(spoil(normal, random)) for spoil in ways]
    return {
        name: float(np.mean([auroc(usual[name], spoilt[name]) for spoilt in spoilt_scores]))
        for name in usual
    }


def auroc(normal: Scores, strange: Scores) -> float:
    """How often a strange input scores above a normal one; ties count a half."""
    ordered = np.sort(normal)
    below = np.searchsorted(ordered, strange, "left") + np.searchsorted(ordered, strange, "right")
    return float(below.mean() / (2 * len(normal)))


def _others(normal: Rows, random: np.random.Generator) -> Rows:
    """For each input another."""
    others: Rows = normal[(np.arange(len(normal)) + random.integers(1, len(normal))) % len(normal)]
    return others


def _pasted(images: Rows, random: np.random.Generator) -> Rows:
    spoilt, others = images.copy(), _others(images, random)
    for image, other in zip(spoilt, others, strict=True):
        sides = [max(1, round(side * random.uniform(0.1, 0.5))) for side in image.shape[:2]]
        there, here = (
            tuple(
                slice(start := random.integers(0, length - side + 1), start + side)
                for side, length in zip(sides, image.shape[:2], strict=True)
            )
            for _ in range(2)
        )
        patch = other[there].astype(np.int64) + random.integers(-64, 65)
        image[here] = np.clip(patch, 0, 255)
    return spoilt


def _joined(images: Rows, random: np.random.Generator) -> Rows:
    spoilt, half = _others(images, random), images.shape[1] // 2
    spoilt[:, half:] = images[:, half:]
    return spoilt


def _cut(images: Rows, random: np.random.Generator) -> Rows:
    """Each image's quarters moved round, by one to three places."""
    height, width = (side // 2 for side in images.shape[1:3])
    places = [
        (slice(None), slice(top, top + height), slice(left, left + width))
        for top, left in ((0, 0), (0, width), (height, width), (height, 0))
    ]
    spoilt, turns = images.copy(), random.integers(1, 4, len(images))
    for number, place in enumerate(places):
        for turn in (1, 2, 3):
            moved = np.flatnonzero(turns == turn)
            spoilt[(moved, *place[1:])] = images[(moved, *places[(number + turn) % 4][1:])]
    return spoilt


def _flipped(images: Rows, random: np.random.Generator) -> Rows:
    spoilt = images[:, ::-1].copy()
    half = random.permutation(len(images))[: len(images) // 2]
    spoilt[half] = spoilt[half][:, :, ::-1]
    return spoilt


def _shuffled(rows: Rows, random: np.random.Generator) -> Rows:
    taken = random.random(rows.shape) < 0.5
    return np.where(taken, _others(rows, random), rows)


def _stretched(rows: Rows, _: np.random.Generator) -> Rows:
    mean = rows.mean(0, dtype=np.float64)
    stretched: Rows = (mean + 2 * (rows - mean)).astype(rows.dtype)
    return stretched


_IMAGES = (_pasted, _joined, _cut, _flipped)
_VECTORS = (_shuffled, _stretched)
