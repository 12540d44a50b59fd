"""One HTML file about a scoring job and, where given, a compression; opens without a network."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import numpy.typing as npt

from ..codecs.rivals import RivalSize
from ..data.images import Pixels, Rows
from .calibration_curve import BAND_PROBABILITY, CalibrationCurve, calibration_curve
from .charts import axis
from .heatmaps import overlay, ramp
from .pictures import comparison_sheet, shrunk, shrunk_map
from .template import data_uri, write_page

WORST_IMAGES = 60
UNREADABLE_SHOWN = 100
BINS = 60
PICTURE_SIDE = 320
MAX_EXACT_SIDE = 128  # of pictures that show single pixels, stored without loss
COLUMNS_SHOWN = 5
LABELLED_SHARES = (0.001, 0.01, 0.05, 0.2, 0.5, 1)  # on the histogram's axis, where they fit

Scores = npt.NDArray[np.float32] | npt.NDArray[np.float64]


@dataclass(frozen=True)
class ScoredImage:
    """One image and its scores: ``pixels`` uint8 (H, W, C); ``error_map`` float32 (H, W).

    For a vector both are float32 (D,).
    """

    path: str
    score: float
    p_value: float | None
    is_anomaly: bool
    pixels: Rows
    error_map: npt.NDArray[np.float32] | None = None
    reconstruction: Rows | None = None


@dataclass(frozen=True)
class CompressionSummary:
    """A compression to show: rows of (label, value); pictures uint8 (n, H, W, C) of one size.

    ``archive_bytes`` is the archive's row in the table of rivals.
    """

    rows: Sequence[tuple[str, str]] = ()
    originals: Sequence[Pixels] | Pixels = ()
    reconstructions: Sequence[Pixels] | Pixels = ()
    rivals: Sequence[RivalSize] = ()
    archive_bytes: int | None = None


@dataclass(frozen=True)
class ScoringReport:
    """What the page says about a scoring job.

    ``scores`` and ``calibration_scores`` are (n,), higher is stranger; the histogram leaves out
    what is not finite. ``score_counts`` (n,): how many images have each score; None: one each.
    ``p_value_counts`` (n + 1,): how many images have the p-value (k + 1) / (n + 1), for n
    calibration scores. ``worst`` are the images to show, about WORST_IMAGES, in any order, read one
    at a time. ``unreadable`` has (path, reason); ``facts`` are more rows of (label, value).
    ``drift`` and ``drift_limit`` are as in the job's summary.
    """

    title: str
    data: str
    model: str
    scorer: str
    threshold: float
    images: int
    anomalies: int
    scores: Scores
    calibration_scores: Scores
    worst: Iterable[ScoredImage]
    unreadable: Sequence[tuple[str, str]] = ()
    facts: Sequence[tuple[str, str]] = ()
    compression: CompressionSummary | None = None
    columns: Sequence[str] | None = None  # names of a vector's numbers
    kind: str = "image"
    score_counts: npt.NDArray[np.int64] | None = None
    p_value_counts: npt.NDArray[np.int64] | None = None
    unreadable_count: int | None = None  # where not all are named
    drift: float | None = None
    drift_limit: float | None = None


def write_report(path: Path, report: ScoringReport, force: bool) -> None:
    """Writes the page as one HTML file, pictures included.

    Raises OutputError if ``path`` exists and ``force`` is not given, or cannot be written.
    """
    shown = [_at_size_shown(image) for image in report.worst]
    worst = sorted(shown, key=lambda image: image.score, reverse=True)
    scale = _error_scale(worst)
    write_page(
        path,
        "page.html",
        force,
        report=report,
        histogram=_histogram(report),
        curve=_curve(report),
        worst=[_card(image, scale, report.columns) for image in worst],
        error_scale=scale,
        error_ramp=[_css_colour(colour) for colour in ramp(np.linspace(0, 1, 9, dtype=np.float32))],
        unreadable_count=report.unreadable_count or len(report.unreadable),
        unreadable_shown=UNREADABLE_SHOWN,
        strip=_strip(report.compression),
        band=BAND_PROBABILITY,
        infinity=math.inf,
    )


@dataclass(frozen=True)
class _Picture:
    caption: str
    uri: str
    width: int
    height: int
    exact: bool  # single pixels are shown


@dataclass(frozen=True)
class _Card:
    image: ScoredImage
    pictures: list[_Picture]
    numbers: list[tuple[str, float, float]]  # of a vector: column, value, rebuilt value


@dataclass(frozen=True)
class _Histogram:
    """SVG paths in a box of 100 x 100, ticks as (percent from the left or the bottom, label)."""

    scores: str
    calibration: str
    threshold: float | None
    ticks: list[tuple[float, str]]
    shares: list[tuple[float, str]]


def _card(image: ScoredImage, scale: float, columns: Sequence[str] | None) -> _Card:
    if image.pixels.ndim == 1:
        return _Card(image, [], _worst_columns(image, columns))
    pictures = [("original", image.pixels)]
    if image.reconstruction is not None:
        pictures.append(("reconstruction", image.reconstruction))
    if image.error_map is not None:
        pictures.append(("error", overlay(image.pixels, image.error_map, scale)))
    return _Card(image, [_picture(caption, pixels) for caption, pixels in pictures], [])


def _at_size_shown(image: ScoredImage) -> ScoredImage:
    """Large images are made smaller at once, so that a page of them fits into memory."""
    if image.pixels.ndim == 1:
        return image
    return replace(
        image,
        pixels=shrunk(image.pixels, PICTURE_SIDE),
        error_map=None if image.error_map is None else shrunk_map(image.error_map, PICTURE_SIDE),
        reconstruction=None
        if image.reconstruction is None
        else shrunk(image.reconstruction, PICTURE_SIDE),
    )


def _picture(caption: str, pixels: Pixels) -> _Picture:
    height, width = pixels.shape[:2]
    exact = max(height, width) <= MAX_EXACT_SIDE
    return _Picture(caption, data_uri(pixels, lossless=exact), width, height, exact)


def _worst_columns(
    image: ScoredImage, columns: Sequence[str] | None
) -> list[tuple[str, float, float]]:
    """The numbers of a vector with the largest errors."""
    if image.error_map is None or image.reconstruction is None:
        return []
    return [
        (
            columns[place] if columns else f"c{place}",
            float(image.pixels[place]),
            float(image.reconstruction[place]),
        )
        for place in np.argsort(-image.error_map)[:COLUMNS_SHOWN]
    ]


def _error_scale(images: Sequence[ScoredImage]) -> float:
    """One scale for all maps shown: the median of their strongest errors.

    With the largest error of all most maps would be dark.
    """
    maps = [image.error_map for image in images if image.error_map is not None]
    strongest = [float(np.quantile(errors, 0.98, method="lower")) for errors in maps]
    usable = [error for error in strongest if np.isfinite(error) and error > 0]
    return float(np.median(usable)) if usable else 1.0


def _strip(compression: CompressionSummary | None) -> str | None:
    if compression is None or len(compression.originals) == 0:
        return None
    return data_uri(comparison_sheet(compression.originals, compression.reconstructions))


def _css_colour(colour: npt.NDArray[np.float32]) -> str:
    return "#" + "".join(f"{round(float(value)):02x}" for value in colour)


def _histogram(report: ScoringReport) -> _Histogram | None:
    """Shares of images by score, on a logarithmic axis where the scores span a wide range.

    Heights are square roots, so that a few anomalies among many images stay visible.
    """
    scores, calibration = (
        np.asarray(values, np.float64)[np.isfinite(values)]
        for values in (report.scores, report.calibration_scores)
    )
    counts = report.score_counts
    if counts is not None:
        counts = counts[np.isfinite(report.scores)]
    threshold = [report.threshold] if np.isfinite(report.threshold) else []
    if not len(scores):
        return None
    across = axis(np.concatenate([scores, calibration, threshold]), logarithmic=True)
    places, calibration_places = across.place(scores), across.place(calibration)
    heights = [np.sqrt(_shares(places, counts)), np.sqrt(_shares(calibration_places))]
    tallest = max(height.max() for height in heights)
    marks = [(100 * float(np.sqrt(share)) / tallest, share) for share in LABELLED_SHARES]
    return _Histogram(
        scores=_steps(heights[0] / tallest),
        calibration=_steps(heights[1] / tallest) if len(calibration) else "",
        threshold=float(across.place(threshold[0])) if threshold else None,
        ticks=across.ticks,
        shares=[(place, f"{100 * share:g}%") for place, share in marks if 8 <= place <= 100],
    )


def _curve(report: ScoringReport) -> CalibrationCurve | None:
    if report.p_value_counts is None:
        return None
    calibration = np.asarray(report.calibration_scores, np.float64)
    return calibration_curve(calibration, report.p_value_counts, report.threshold)


def _shares(places: Scores, counts: npt.NDArray[np.int64] | None = None) -> Scores:
    """The share of values in each of BINS bins along an axis; counts: of values at each place."""
    sums, _ = np.histogram(np.clip(places, 0, 100), BINS, (0, 100), weights=counts)
    shares: Scores = sums / max(1, sums.sum())
    return shares


def _steps(heights: Scores) -> str:
    """The outline of bars as an SVG path, closed along the bottom."""
    places = np.linspace(0, 100, len(heights) + 1)
    points = [
        f"V{100 - 100 * height:.2f}H{right:.2f}"
        for height, right in zip(heights, places[1:], strict=True)
    ]
    return "M0 100" + "".join(points) + "V100Z"
