"""Decisions: which score is an anomaly's, and what is promised of them."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from ..errors import ConfigError
from ..log import log
from .calibration import Scores, benjamini_hochberg, refuse_improper, threshold_for

DEFAULT_FPR = 0.01


@dataclass(frozen=True)
class Asked:
    """What a job is asked to hold: a rate of false alarms, with a confidence over calibrations; a
    rate of false discoveries; or a raw score. Raises ConfigError for what does not go together."""

    fpr: float | None = None
    confidence: float | None = None
    fdr: float | None = None
    threshold: float | None = None

    def __post_init__(self) -> None:
        if self.threshold is not None and not math.isfinite(self.threshold):
            raise ConfigError(f"threshold={self.threshold}: it must be a finite number")
        if self.confidence is not None and self.fpr is None:
            raise ConfigError(f"confidence={self.confidence:g} is that fpr holds: give both")
        if sum(value is not None for value in (self.fpr, self.fdr, self.threshold)) > 1:
            raise ConfigError("fpr, fdr and threshold are three ways to decide: give one")


def guarantee(asked: Asked) -> str | None:
    """What is promised of normal data that are like the calibration's; None for a raw threshold."""
    if asked.threshold is not None:
        return None
    if asked.fdr is not None:
        return f"at most {asked.fdr:g} of the alarms are false, on average"
    how_sure = "on average"
    if asked.confidence is not None:
        how_sure = f"with probability at least {asked.confidence:g}"
    rate = DEFAULT_FPR if asked.fpr is None else asked.fpr
    return f"at most {rate:g} of normal data are called anomalies, {how_sure} over calibrations"


def first_threshold(asked: Asked, calibration: Scores) -> float:
    """The score above which images are anomalies, as far as it is known before the batch is.

    calibration: (n,), ascending. Raises ConfigError where it is too small for what is asked.
    """
    if asked.threshold is not None:
        return asked.threshold
    if not len(calibration):
        raise ConfigError(
            "the model has no calibration scores of this kind: give a threshold, or calibrate it "
            "with normal data (compressor calibrate MODEL DATA)"
        )
    if asked.fdr is not None:
        refuse_improper(fdr=asked.fdr)
        # No p-value can be below 1 / (n + 1), but many images together may still pass.
        return threshold_for(calibration, max(asked.fdr, 1 / (len(calibration) + 1)))
    return threshold_for(
        calibration, DEFAULT_FPR if asked.fpr is None else asked.fpr, asked.confidence
    )


def fdr_threshold(counts: npt.NDArray[np.int64], fdr: float, calibration: Scores) -> float:
    largest = benjamini_hochberg(counts, fdr)
    if largest == 0:
        images, n = int(counts.sum()), len(calibration)
        if images * (1 / (n + 1)) > fdr:
            log.warning(
                "fdr=%g: with %d calibration scores nothing is rejected unless at least %d of "
                "these %d are the strangest of all; calibrate with more data",
                fdr,
                n,
                int(np.ceil(images / (n + 1) / fdr)),
                images,
            )
        return float("inf")
    return threshold_for(calibration, largest)
