"""One HTML file on a scoring job and, where wanted, on a compression: opens without a network."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt

from ..data.images import Pixels, Rows
from .heatmaps import overlay, ramp
from .pictures import comparison_sheet, shrunk
from .rivals import RivalSize
from .template import data_uri, write_page

WORST_IMAGES = 60
UNREADABLE_SHOWN = 100
BINS = 60
PICTURE_SIDE = 320
COLUMNS_SHOWN = 5

Scores = npt.NDArray[np.float32] | npt.NDArray[np.float64]


@dataclass(frozen=True)
class ScoredImage:
    """One image and what was found: ``pixels`` uint8 (H, W, C); ``error_map`` float32 (H, W).

    A vector has float32 (D,) for each.
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

    ``scores`` and ``calibration_scores`` are (n,), higher is stranger; what is not finite is
    left out of the histogram; ``score_counts`` (n,): how many images have each score, or None where
    it is one each. ``worst`` are the images to show, about WORST_IMAGES, in any
    order. ``unreadable`` has (path, reason); ``facts`` are further rows of (label, value).
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
    worst: Sequence[ScoredImage]
    unreadable: Sequence[tuple[str, str]] = ()
    facts: Sequence[tuple[str, str]] = ()
    compression: CompressionSummary | None = None
    columns: Sequence[str] | None = None  # names of a vector's numbers
    score_counts: npt.NDArray[np.int64] | None = None


def write_report(path: Path, report: ScoringReport, force: bool) -> None:
    """Writes the page as one HTML file, pictures included.

    Raises OutputError if ``path`` exists and ``force`` is not given, or cannot be written.
    """
    worst = sorted(report.worst, key=lambda image: image.score, reverse=True)
    scale = _error_scale(worst)
    write_page(
        path,
        "page.html",
        force,
        report=report,
        histogram=_histogram(report),
        worst=[_card(image, scale, report.columns) for image in worst],
        error_scale=scale,
        error_ramp=[_css_colour(colour) for colour in ramp(np.linspace(0, 1, 9, dtype=np.float32))],
        unreadable_shown=UNREADABLE_SHOWN,
        strip=_strip(report.compression),
    )


@dataclass(frozen=True)
class _Card:
    image: ScoredImage
    pictures: list[tuple[str, str]]  # caption, data URI
    numbers: list[tuple[str, float, float]]  # of a vector: column, value, what it is rebuilt to


@dataclass(frozen=True)
class _Histogram:
    """SVG paths in a box of 100 x 100, ticks as (percent from the left, label)."""

    scores: str
    calibration: str
    threshold: float | None
    ticks: list[tuple[float, str]]


def _card(image: ScoredImage, scale: float, columns: Sequence[str] | None) -> _Card:
    if image.pixels.ndim == 1:
        return _Card(image, [], _worst_columns(image, columns))
    pictures = [("original", image.pixels)]
    if image.reconstruction is not None:
        pictures.append(("reconstruction", image.reconstruction))
    if image.error_map is not None:
        pictures.append(("error", overlay(image.pixels, image.error_map, scale)))
    return _Card(
        image,
        [(caption, data_uri(shrunk(pixels, PICTURE_SIDE))) for caption, pixels in pictures],
        [],
    )


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
    """One scale for all maps shown: what the strongest errors of a typical one reach.

    The largest error of all would leave most maps dark.
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
    counts = None
    if report.score_counts is not None:
        counts = report.score_counts[np.isfinite(report.scores)]
    threshold = [report.threshold] if np.isfinite(report.threshold) else []
    shown = np.concatenate([scores, calibration, threshold])
    if not len(scores):
        return None
    low, high = float(shown.min()), float(shown.max())
    logarithmic = low > 0 and high > 20 * low
    if logarithmic:
        edges = np.geomspace(low, high, BINS + 1)
    else:
        edges = np.linspace(low, high if high > low else low + 1, BINS + 1)

    def percent(value: float) -> float:
        place = np.interp(value, edges, np.linspace(0, 100, BINS + 1))
        return float(place)

    heights = [np.sqrt(_shares(scores, edges, counts)), np.sqrt(_shares(calibration, edges))]
    tallest = max(height.max() for height in heights)
    ticks = [edges[round(share * BINS)] for share in (0, 0.25, 0.5, 0.75, 1)]
    return _Histogram(
        scores=_steps(heights[0] / tallest),
        calibration=_steps(heights[1] / tallest) if len(calibration) else "",
        threshold=percent(threshold[0]) if threshold else None,
        ticks=[(percent(tick), f"{tick:.3g}") for tick in ticks],
    )


def _shares(
    values: npt.NDArray[np.float64],
    edges: npt.NDArray[np.float64],
    counts: npt.NDArray[np.int64] | None = None,
) -> Scores:
    """The share of all that each bin has; counts: how many have each value, one each if None."""
    each, _ = np.histogram(np.clip(values, edges[0], edges[-1]), edges, weights=counts)
    shares: Scores = each / max(1, each.sum())
    return shares


def _steps(heights: Scores) -> str:
    """The outline of bars as an SVG path, closed along the bottom."""
    places = np.linspace(0, 100, len(heights) + 1)
    points = [
        f"V{100 - 100 * height:.2f}H{right:.2f}"
        for height, right in zip(heights, places[1:], strict=True)
    ]
    return "M0 100" + "".join(points) + "V100Z"
