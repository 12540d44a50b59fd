"""Split-conformal calibration: p-values and thresholds from images not trained on.

With n calibration scores s_1..s_n of normal images and a new normal image's score s, exchangeable
with them, p = (1 + #{i: s_i >= s}) / (n + 1) is at most alpha with probability at most alpha
(Vovk, Gammerman & Shafer 2005; Laxhammar & Falkman 2010). "p <= alpha" is the same as "s is above
the k-th largest calibration score, k = floor(alpha (n + 1))".

That is an average over draws of the calibration images. Given one draw, the rate of false alarms
above the k-th largest score is Beta(k, n + 1 - k) distributed where scores have no ties, so that a
smaller k keeps the rate to alpha with a stated confidence (Wilks 1941; Vovk 2012).
"""

from __future__ import annotations

import math

import numpy as np
import numpy.typing as npt

from ..errors import ConfigError

Scores = npt.NDArray[np.float64]


def p_values(calibration: Scores, scores: Scores) -> Scores:
    """(1 + #{calibration >= score}) / (n + 1) of each score. calibration: ascending."""
    above = len(calibration) - np.searchsorted(calibration, scores, side="left")
    return (1 + above) / (len(calibration) + 1)


def threshold_for(calibration: Scores, fpr: float, confidence: float | None = None) -> float:
    """The score above which a normal image falls with probability at most ``fpr``.

    That probability is an average over calibrations; with ``confidence`` the one of this very
    threshold is at most ``fpr``, too, for at least that share of calibrations.

    calibration: (n,), ascending, not empty. fpr, confidence: above 0 and below 1. Raises
    ConfigError for others, and where n is too small; that one says how many images it takes.
    """
    needed = scores_needed(fpr, confidence)
    n, asked = len(calibration), f"fpr={fpr:g}"
    rank, lowest = _rounded_down(fpr * (n + 1)), 1 / (n + 1)
    if confidence is not None:
        asked += f" with confidence={confidence:g}"
        rank = min(rank, confident_rank(n, fpr, confidence))
        lowest = max(lowest, -math.expm1(math.log1p(-confidence) / n))
    if rank == 0:
        raise ConfigError(
            f"{asked} needs at least {needed} calibration scores, the model has {n}; ask for "
            f"fpr={_typed(lowest):g} or more, or calibrate with "
            "more data (compressor calibrate MODEL DATA)"
        )
    return float(calibration[n - rank])


def smallest_fpr(n: int) -> float | None:
    """What n calibration scores allow, 1 / (n + 1), as it is typed; None without any."""
    return _typed(1 / (n + 1)) if n else None


def _typed(fpr: float) -> float:
    """Rounded up to two digits that count."""
    digits = 1 - math.floor(math.log10(fpr))
    return float(_rounded_up(fpr * 10**digits) / 10**digits)


def scores_needed(fpr: float, confidence: float | None = None) -> int:
    """How many calibration scores ``threshold_for`` takes at least.

    Raises ConfigError unless both lie between 0 and 1.
    """
    refuse_improper(fpr=fpr)
    needed = _rounded_up(1 / fpr) - 1
    if confidence is not None:
        refuse_improper(confidence=confidence)
        # The largest of n scores is too low with probability (1 - fpr)^n.
        needed = max(needed, _rounded_up(math.log1p(-confidence) / math.log1p(-fpr)))
    return needed


def refuse_improper(**rates: float) -> None:
    """Raises ConfigError that names the first one which does not lie between 0 and 1."""
    for name, rate in rates.items():
        if not 0 < rate < 1:
            raise ConfigError(f"{name}={rate:g}: it must lie between 0 and 1")


def confident_rank(n: int, fpr: float, confidence: float) -> int:
    """The largest k for which P(Beta(k, n + 1 - k) <= fpr) >= confidence; 0 if there is none.

    Of n independent scores of normal images, the k-th largest is then exceeded by at most ``fpr``
    of all normal images with probability at least ``confidence`` (Wilks 1941; Vovk 2012). Ties
    only add to it: break them by chance, and the same threshold is exceeded by more images.

    The probability is that of k or more among n images lying in the highest ``fpr`` of all:
    P(Binomial(n, fpr) >= k), which is summed here.
    """
    k = np.arange(1, n)
    steps = np.log((n + 1 - k) / k) + math.log(fpr) - math.log1p(-fpr)
    log_probability = n * math.log1p(-fpr) + np.concatenate([[0.0], np.cumsum(steps)])
    fewer = np.cumsum(np.exp(log_probability))  # fewer[k - 1]: the probability of fewer than k
    return int(np.searchsorted(fewer, (1 - confidence) * (1 + 1e-9), side="right"))


def _rounded_down(value: float) -> int:
    """floor, of a value that may have lost its last digits."""
    return math.floor(value + 1e-9)


def _rounded_up(value: float) -> int:
    return math.ceil(value - 1e-9)


def benjamini_hochberg(counts: npt.NDArray[np.int64], fdr: float) -> float:
    """The largest p-value that is rejected at false discovery rate ``fdr``; 0 if none is.

    counts[k]: how many images have the p-value (k + 1) / len(counts). Conformal p-values of one
    calibration set are positively dependent, so the bound holds (Benjamini & Hochberg 1995;
    Bates et al. 2023).
    """
    refuse_improper(fdr=fdr)
    levels = np.arange(1, len(counts) + 1) / len(counts)
    rejected = np.cumsum(counts)
    passing = np.flatnonzero((counts > 0) & (levels * rejected[-1] <= fdr * rejected))
    return float(levels[passing[-1]]) if len(passing) else 0.0
