"""What ``compress`` measures: per image, and over all of a job."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from ..codecs.quality import Numbers, decibels, squared_errors, ssim
from ..data.images import Rows
from ..spec import VectorSpec

MEASUREMENTS = pa.schema(
    [("path", pa.string()), ("psnr", pa.float64()), ("ssim", pa.float64()), ("codec", pa.string())]
)


@dataclass(frozen=True)
class Rebuilt:
    """Images of one size, uint8 (n, H, W, C), or vectors, float32 (n, D), and what they come back
    as; ``positions``, (n,), says which of a chunk they are, ``codec`` what stored them."""

    positions: npt.NDArray[np.int64]
    codec: str
    original: Rows
    decoded: Rows


class Quality(Protocol):
    """Grows by what ``measure``, which may run in any thread, found in each chunk of a job."""

    def measure(self, names: list[str], rebuilt: list[Rebuilt]) -> Any:
        """What ``add`` takes, of a chunk with these names."""

    def add(self, measures: Any) -> None: ...

    def figures(self) -> dict[str, float | None]:
        """The keys of the job's summary."""


@dataclass(frozen=True)
class ImageMeasures:
    """A chunk's images that were not unreadable, in order; ``codecs`` says what stored each, and
    ``squared_error`` is the sum over all of their ``elements`` numbers."""

    names: list[str]
    codecs: list[str]
    psnr: Numbers
    ssim: Numbers
    squared_error: int
    elements: int

    def table(self) -> pa.Table:
        """A row an image; no SSIM is null, and the PSNR of an exact one is infinity."""
        similarity = pa.array(self.ssim, mask=np.isnan(self.ssim))
        return pa.table([self.names, self.psnr, similarity, self.codecs], MEASUREMENTS)


class ImageQuality:
    """Of images: PSNR and SSIM; the latter needs scikit-image, and ``similarity``."""

    def __init__(self, similarity: bool = True) -> None:
        self._similarity = similarity
        self._squared_error, self._elements, self._exact = 0, 0, 0
        self._psnr, self._ssim = _Mean(), _Mean()

    def measure(self, names: list[str], rebuilt: list[Rebuilt]) -> ImageMeasures:
        groups = [group for group in rebuilt if len(group.positions)]
        errors = [squared_errors(group.original, group.decoded) for group in groups]
        psnrs = [
            decibels(error, group.original[0].size)
            for error, group in zip(errors, groups, strict=True)
        ]
        similarities = [
            ssim(group.original, group.decoded)
            if self._similarity
            else np.full(len(group.positions), np.nan)
            for group in groups
        ]
        places = np.concatenate([np.empty(0, np.int64), *(group.positions for group in groups)])
        order = np.argsort(places)
        codecs = [group.codec for group in groups for _ in group.positions]
        return ImageMeasures(
            names=[names[place] for place in places[order]],
            codecs=[codecs[row] for row in order],
            psnr=np.concatenate([np.empty(0), *psnrs])[order],
            ssim=np.concatenate([np.empty(0), *similarities])[order],
            squared_error=sum(int(error.sum()) for error in errors),
            elements=sum(group.original.size for group in groups),
        )

    def add(self, measures: ImageMeasures) -> None:
        exact = np.isinf(measures.psnr)
        self._exact += int(exact.sum())
        self._psnr.add(measures.psnr[~exact])
        self._ssim.add(measures.ssim[~np.isnan(measures.ssim)])
        self._squared_error += measures.squared_error
        self._elements += measures.elements

    def figures(self) -> dict[str, float | None]:
        """psnr, psnr_mean, psnr_min, exact_images, ssim, ssim_min.

        A PSNR is None, in place of infinity, where every image came back exactly; exact ones do
        not enter psnr_mean. SSIM is None where no image is large enough, or without scikit-image.
        """
        error = self._squared_error
        return {
            "psnr": round(float(decibels(error, self._elements)), 4) if error else None,
            "psnr_mean": self._psnr.mean(4),
            "psnr_min": self._psnr.least(4),
            "exact_images": self._exact,
            "ssim": self._ssim.mean(6),
            "ssim_min": self._ssim.least(6),
        }


class _Mean:
    """Sum, number and least of what was added."""

    def __init__(self) -> None:
        self._sum, self._count, self._least = 0.0, 0, math.inf

    def add(self, values: Numbers) -> None:
        self._sum += float(values.sum())
        self._count += len(values)
        self._least = min([self._least, *values.tolist()])

    def mean(self, digits: int) -> float | None:
        return round(self._sum / self._count, digits) if self._count else None

    def least(self, digits: int) -> float | None:
        return round(self._least, digits) if self._count else None


@dataclass(frozen=True)
class VectorMeasures:
    """Sums over ``elements`` numbers in standardised units, (value - mean) / scale."""

    squared_error: float
    squares: float
    elements: int


class VectorQuality:
    """Of vectors: mean squared error, and signal-to-noise ratio."""

    def __init__(self, spec: VectorSpec) -> None:
        self._mean, self._scale = np.array(spec.mean), np.array(spec.scale)
        self._sums = VectorMeasures(0.0, 0.0, 0)

    def measure(self, names: list[str], rebuilt: list[Rebuilt]) -> VectorMeasures:
        error, squares, elements = 0.0, 0.0, 0
        for one in rebuilt:
            difference = (one.original.astype(np.float64) - one.decoded) / self._scale
            error += float(np.square(difference).sum())
            squares += float(np.square((one.original - self._mean) / self._scale).sum())
            elements += one.original.size
        return VectorMeasures(error, squares, elements)

    def add(self, measures: VectorMeasures) -> None:
        sums = self._sums
        self._sums = VectorMeasures(
            sums.squared_error + measures.squared_error,
            sums.squares + measures.squares,
            sums.elements + measures.elements,
        )

    def figures(self) -> dict[str, float | None]:
        """mse, and snr in dB, None where nothing was lost or where it is no finite number."""
        error, squares = self._sums.squared_error, self._sums.squares
        if not math.isfinite(error):
            return {"mse": None, "snr": None}
        known = error > 0 and squares > 0
        snr = round(10 * math.log10(squares / error), 4) if known else None
        return {"mse": error / self._sums.elements, "snr": snr}
