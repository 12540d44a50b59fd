"""Rate-distortion curves, the best of several, and the BD-rate between two."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

import numpy as np
import numpy.typing as npt
from scipy.interpolate import PchipInterpolator

from .figures import Figures

Numbers = npt.NDArray[np.float64]
LEAST_POINTS = 5
GRID = 2001


@dataclass(frozen=True)
class Point:
    """A measured setting: ``bits`` a pixel, and dB."""

    bits: float
    psnr: float


class RateOfPsnr(Protocol):
    """Bits a pixel as a function of the PSNR, known from ``low`` to ``high`` dB."""

    low: float
    high: float
    points: int

    def bits(self, psnr: Numbers) -> Numbers: ...


class Curve:
    """Log rate over PSNR through measured points, by PCHIP (Fritsch & Carlson 1980).

    Points that need no fewer bits than another one for no more quality are left out. Between points
    nothing is measured; outside of them ``bits`` is not a number.
    """

    def __init__(self, points: Sequence[Point]) -> None:
        kept: list[Point] = []
        for point in sorted(points, key=lambda point: (-point.psnr, point.bits)):
            if not kept or (point.bits < kept[-1].bits and point.psnr < kept[-1].psnr):
                kept.append(point)
        kept.reverse()
        if not kept:
            raise ValueError("a curve needs points")
        self.points = len(kept)
        self.low, self.high = kept[0].psnr, kept[-1].psnr
        self.psnrs = np.array([point.psnr for point in kept])
        self.rates = np.array([point.bits for point in kept])

    def bits(self, psnr: Numbers) -> Numbers:
        if self.points == 1:
            return np.where(psnr == self.low, self.rates[0], np.nan)
        log = PchipInterpolator(self.psnrs, np.log(self.rates), extrapolate=False)(psnr)
        rates: Numbers = np.exp(log)
        return rates


class Best:
    """At each PSNR the fewest bits of several curves.

    A curve serves below its lowest PSNR too, with the bits that it has there: whoever asks for less
    quality may be given more.
    """

    def __init__(self, curves: Sequence[Curve]) -> None:
        self.curves = curves
        self.low = min(curve.low for curve in curves)
        self.high = max(curve.high for curve in curves)
        self.points = max(curve.points for curve in curves)

    def all_bits(self, psnr: Numbers) -> Numbers:
        """(curves, len(psnr)); not a number above the highest PSNR of a curve."""
        return np.stack([curve.bits(np.maximum(psnr, curve.low)) for curve in self.curves])

    def bits(self, psnr: Numbers) -> Numbers:
        found = self.all_bits(psnr)
        known = ~np.isnan(found).all(axis=0) & (psnr >= self.low)
        best = np.full(len(psnr), np.nan)
        best[known] = np.nanmin(found[:, known], axis=0)
        return best


@dataclass(frozen=True)
class BdRate:
    """``change``: -0.2 is a fifth fewer bits; from ``low`` to ``high`` dB."""

    change: float
    low: float
    high: float


def bd_rate(
    ours: RateOfPsnr, theirs: RateOfPsnr, low: float = -np.inf, high: float = np.inf
) -> BdRate | None:
    """The mean difference in log rate at equal PSNR (Bjøntegaard 2001), as a change of rate.

    Over what both curves cover between ``low`` and ``high`` dB; None where that is nothing or a
    curve has fewer than five points. The integral is a sum over 2,001 places.
    """
    low, high = max(low, ours.low, theirs.low), min(high, ours.high, theirs.high)
    if min(ours.points, theirs.points) < LEAST_POINTS or not low < high:
        return None
    psnr = np.linspace(low, high, GRID)
    difference = np.log(ours.bits(psnr)) - np.log(theirs.bits(psnr))
    mean = float(np.trapezoid(difference, psnr)) / (high - low)
    return BdRate(float(np.expm1(mean)), low, high)


def bits_a_pixel(figures: Figures, sharing: int | None) -> float:
    """With the part of the model, and of what an archive holds once, that is an image's where
    ``sharing`` images share them; None: of the files as measured, without the model."""
    size = float(figures.bytes)
    if sharing is not None:
        once = figures.model_bytes + figures.fixed_bytes
        size += figures.images / sharing * once - figures.fixed_bytes
    return 8 * size / figures.pixels
