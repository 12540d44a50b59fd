"""What is measured of scores: AUROC of images, and of pixels with the per-region overlap."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
import numpy.typing as npt
from scipy.ndimage import gaussian_filter, label
from sklearn.metrics import roc_auc_score, roc_curve

from .tasks import Flags, Sample

Scores = npt.NDArray[Any]
FPR_LIMIT = 0.3
SMOOTHING = 4.0  # pixels: the deviation of a Gaussian over every method's maps
EIGHT_NEIGHBOURS = np.ones((3, 3), int)
LARGEST = float(np.finfo(np.float64).max)


@dataclass(frozen=True)
class Figures:
    """auroc: of each score that a method gives; scorer: the one that it is judged by.

    Seconds of CPU time; scoring with what it takes to open the model, where that is from a file.
    """

    auroc: Mapping[str, float]
    scorer: str
    images: int
    train_seconds: float
    score_seconds: float
    pixel_auroc: float | None = None
    pro: float | None = None
    facts: Mapping[str, Any] = field(default_factory=dict)

    @property
    def judged(self) -> float:
        return self.auroc[self.scorer]


def auroc(strange: Flags, scores: Scores) -> float:
    """How often a strange one scores above a normal one, ties counting a half; from raw scores.

    A score of infinity is above all others.
    """
    return float(roc_auc_score(strange, np.minimum(scores.astype(np.float64), LARGEST)))


def with_pixels(figures: Figures, sample: Sample, maps: Scores) -> Figures:
    """Adds pixel AUROC and PRO of error maps (N, H, W), smoothed alike for all methods."""
    assert sample.masks is not None
    smooth = np.stack([gaussian_filter(one.astype(np.float64), SMOOTHING) for one in maps])
    return replace(
        figures,
        pixel_auroc=float(roc_auc_score(sample.masks.ravel(), smooth.ravel())),
        pro=region_overlap(sample.masks, smooth),
    )


def region_overlap(masks: Flags, maps: Scores, limit: float = FPR_LIMIT) -> float:
    """The area under per-region overlap over false positive rate, up to ``limit``, divided by it.

    The overlap at a threshold is the share of a region's pixels above it, in the mean over all
    regions, which are components of 8 neighbours; the rate is over all pixels without a defect
    (Bergmann et al. 2021). A ROC curve whose positives weigh one over their region's size is that.
    """
    weights = np.ones(masks.shape)
    for number, mask in enumerate(masks):
        regions, _ = label(mask, EIGHT_NEIGHBOURS)
        weights[number][mask] = 1 / np.bincount(regions.ravel())[regions[mask]]
    rate, overlap, _ = roc_curve(masks.ravel(), maps.ravel(), sample_weight=weights.ravel())
    inside = rate < limit
    x = np.append(rate[inside], limit)
    y = np.append(overlap[inside], np.interp(limit, rate, overlap))
    return float(np.trapezoid(y, x) / limit)
