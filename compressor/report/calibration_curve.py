"""Calibration curve: the share of images with p <= alpha, against alpha.

Among normal images that are exchangeable with the n calibration images the expected share is alpha.
For scores without ties the number X of m images with p <= k / (n + 1), that is, with a score above
the k-th largest calibration score, is beta-binomial (m, k, n + 1 - k), whatever the scores'
distribution (Vovk 2012). Binomial (m, alpha) would ignore that the calibration images are a random
sample, too. The probabilities are counted from ranks: X >= j exactly where fewer than k of the
j + k - 1 highest of all n + m scores are the calibration's, a hypergeometric tail of k terms.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from .charts import Axis, Numbers, axis, line

Counts = npt.NDArray[np.int64]

BAND_PROBABILITY = 0.95  # with which a normal batch is within the band, at each alpha
CURVE_POINTS, BAND_POINTS = 200, 40


@dataclass(frozen=True)
class CalibrationCurve:
    """SVG paths in a box of 100 x 100, y upwards; both axes logarithmic.

    flagged: the threshold's place, its alpha and the realised rate; None where it is not finite.
    """

    batch: str
    calibration: str
    band: str
    even: str
    x: Axis
    y: Axis
    flagged: tuple[float, float, float] | None


def calibration_curve(
    calibration: Numbers, counts: Counts, threshold: float
) -> CalibrationCurve | None:
    """calibration: (n,), ascending; counts: (n + 1,), how many images have the p-value (k + 1) /
    (n + 1). None where either is empty."""
    n, m = len(calibration), int(counts.sum())
    if not n or not m:
        return None
    k = np.unique(np.geomspace(1, n + 1, CURVE_POINTS).astype(np.int64))
    alphas, rates = k / (n + 1), np.cumsum(counts)[k - 1] / m
    low = 10.0 ** np.floor(np.log10(min(1 / (n + 1), 1 / m)) + 1e-9)
    x = axis(np.array([1 / (n + 1), 1.0]), logarithmic=True)
    y = axis(np.array([max(low, 1e-6), 1.0]), logarithmic=True)
    # Each calibration image against the others: without ties, the diagonal.
    others = n - np.searchsorted(calibration, calibration, side="left")  # 1 to n: itself and above
    calibration_rates = np.cumsum(np.bincount(others, minlength=n + 1))[np.minimum(k, n)] / n
    at = np.unique(np.geomspace(1, n + 1, BAND_POINTS).astype(np.int64))
    lower, upper = np.array([band(n, m, int(rank)) for rank in at]).T / m
    flagged = None
    if np.isfinite(threshold):
        rank = 1 + n - int(np.searchsorted(calibration, threshold, side="right"))
        alpha, rate = rank / (n + 1), float(np.cumsum(counts)[rank - 1]) / m
        flagged = float(x.place(alpha)), alpha, rate
    sides = x.place(np.concatenate([at, at[::-1]]) / (n + 1))
    return CalibrationCurve(
        _path(x, y, alphas, rates),
        _path(x, y, np.minimum(k, n) / n, calibration_rates),
        line(sides, np.clip(y.place(np.concatenate([lower, upper[::-1]])), 0, 100)) + "Z",
        _path(x, y, alphas, alphas),
        x,
        y,
        flagged,
    )


def _path(x: Axis, y: Axis, alphas: Numbers, rates: Numbers) -> str:
    """From the first rate above 0, since the axis is logarithmic."""
    shown = rates > 0
    return line(x.place(alphas[shown]), y.place(rates[shown]))


def band(n: int, m: int, k: int) -> tuple[int, int]:
    """How many of m normal images have p <= k / (n + 1), least and most, in 95% of batches.

    At most 2.5% of batches lie outside on either side. 1 <= k <= n + 1.
    """
    if k == n + 1:
        return m, m
    outside = (1 - BAND_PROBABILITY) / 2
    return _last(n, m, k, 1 - outside), _last(n, m, k, outside)


def _last(n: int, m: int, k: int, probability: float) -> int:
    """The largest j in 0..m for which P(X >= j) is above ``probability``."""
    low, high = 0, m + 1  # P(X >= 0) = 1, P(X >= m + 1) = 0
    while high - low > 1:
        middle = (low + high) // 2
        low, high = (middle, high) if tail(n, m, k, middle) > probability else (low, middle)
    return low


def tail(n: int, m: int, k: int, j: int) -> float:
    """P(X >= j), 1 <= k <= n, 1 <= j <= m: see the module's docstring."""
    highest = j + k - 1
    i = np.arange(max(0, highest - m), k, dtype=np.float64)
    logs = _log_choose(n, i) + _log_choose(m, highest - i)
    return float(min(1.0, np.exp(logs - _log_choose(n + m, np.float64(highest))).sum()))


def _log_choose(n: int, k: Numbers | np.float64) -> Numbers:
    logs: Numbers = _log_factorial(np.float64(n)) - _log_factorial(k) - _log_factorial(n - k)
    return logs


def _log_factorial(n: Numbers | np.float64) -> Numbers:
    """Stirling's series at n + 8, divided by the factors in between: errors below 1e-11."""
    x = n + 9.0
    series = (x - 0.5) * np.log(x) - x + 0.5 * np.log(2 * np.pi)
    series += 1 / (12 * x) - 1 / (360 * x**3) + 1 / (1260 * x**5) - 1 / (1680 * x**7)
    product = np.ones_like(n)
    for step in range(1, 9):
        product = product * (n + step)
    logs: Numbers = series - np.log(product)
    return logs
