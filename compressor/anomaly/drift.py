"""Drift: has the distribution of a batch's scores left that of the calibration images?

Compared are the two shares above each calibration score; the largest difference is the two-sample
Kolmogorov-Smirnov distance. If a share e of the batch are anomalies and the rest are like the
calibration images, the batch's distribution is (1 - e) F + e H (Huber 1964), which lies within e of
F whatever H is. What lies farther off than that and chance allow is more than a few anomalies.
"""

from __future__ import annotations

import math
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from .calibration import Scores

MAX_ANOMALIES = 0.1  # the share of a batch that may be anomalies without a warning
LEVEL = 1e-4  # the probability of a warning by chance


class Drift(NamedTuple):
    """Where the share of the batch above a score and that of the calibration images differ most.

    score: a calibration score; batch, calibration: the shares above it, 0 to 1; limit: how far
    apart they may be.
    """

    score: float
    batch: float
    calibration: float
    limit: float

    @property
    def distance(self) -> float:
        """From 0, no drift, to 1: every image is stranger, or less strange, than all before."""
        return abs(self.batch - self.calibration)


def drift(calibration: Scores, counts: npt.NDArray[np.int64]) -> Drift:
    """How far a batch is from the calibration images.

    calibration: (n,), ascending; counts: (n + 1,), how many images of the batch have the p-value
    (k + 1) / (n + 1), m of them in all, neither n nor m 0.

    Without drift, and with up to MAX_ANOMALIES of the batch anomalies, the distance is above the
    limit with probability at most about ``LEVEL``: two samples are further apart than x by chance
    with probability 2 exp(-2 x^2 n m / (n + m)) (Smirnov 1939; Wei & Dudley 2012), for independent
    images; ties only make it less.
    """
    n, m = len(calibration), int(counts.sum())
    above = n - np.searchsorted(calibration, calibration, side="right")
    # An image is above a calibration score just where its p-value is (1 + above) / (n + 1) or less.
    batch, normal = np.cumsum(counts)[above] / m, above / n
    at = int(np.argmax(np.abs(batch - normal)))
    chance = math.sqrt(math.log(2 / LEVEL) / 2 * (1 / n + 1 / m))
    return Drift(
        float(calibration[at]), float(batch[at]), float(normal[at]), MAX_ANOMALIES + chance
    )
