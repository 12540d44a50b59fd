"""Decisions: which score is an anomaly's, and what is promised of them."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from ..errors import ConfigError
from ..log import log
from .calibration import Scores, benjamini_hochberg, threshold_for

DEFAULT_FPR = 0.01


def guarantee(
    fpr: float | None, confidence: float | None, fdr: float | None, threshold: float | None
) -> str | None:
    """What is promised of normal data that are like the calibration's; None for a raw threshold."""
    if threshold is not None:
        return None
    if fdr is not None:
        return f"at most {fdr:g} of the alarms are false, on average"
    how_sure = "on average" if confidence is None else f"with probability at least {confidence:g}"
    rate = DEFAULT_FPR if fpr is None else fpr
    return f"at most {rate:g} of normal data are called anomalies, {how_sure} over calibrations"


def first_threshold(
    fpr: float | None,
    confidence: float | None,
    fdr: float | None,
    threshold: float | None,
    calibration: Scores,
) -> float:
    if confidence is not None and fpr is None:
        raise ConfigError("--confidence is that --fpr holds: give both")
    if sum(value is not None for value in (fpr, fdr, threshold)) > 1:
        raise ConfigError("give one of --fpr, --fdr and --threshold")
    if threshold is not None:
        return threshold
    if not len(calibration):
        raise ConfigError(
            "the model has no calibration scores of this kind: give --threshold, or calibrate it "
            "with normal data (compressor calibrate MODEL DATA)"
        )
    if fdr is not None:
        if not 0 < fdr < 1:
            raise ConfigError(f"--fdr {fdr:g}: it must lie between 0 and 1")
        # No p-value can be below 1 / (n + 1), but many images together may still pass.
        return threshold_for(calibration, max(fdr, 1 / (len(calibration) + 1)))
    return threshold_for(calibration, DEFAULT_FPR if fpr is None else fpr, confidence)


def fdr_threshold(counts: npt.NDArray[np.int64], fdr: float, calibration: Scores) -> float:
    largest = benjamini_hochberg(counts, fdr)
    if largest == 0:
        images, n = int(counts.sum()), len(calibration)
        if images * (1 / (n + 1)) > fdr:
            log.warning(
                "--fdr %g: with %d calibration scores nothing is rejected unless at least %d of "
                "these %d are the strangest of all; calibrate with more data",
                fdr,
                n,
                int(np.ceil(images / (n + 1) / fdr)),
                images,
            )
        return float("inf")
    return threshold_for(calibration, largest)
