"""Split-conformal calibration: p-values and thresholds from images not trained on.

With n calibration scores s_1..s_n of normal images and a new normal image's score s, exchangeable
with them, p = (1 + #{i: s_i >= s}) / (n + 1) is at most alpha with probability at most alpha
(Vovk, Gammerman & Shafer 2005; Laxhammar & Falkman 2010). "p <= alpha" is the same as "s is above
the k-th largest calibration score, k = floor(alpha (n + 1))".
"""

from __future__ import annotations

import math

import numpy as np
import numpy.typing as npt

from ..data.images import Rows
from ..engine.engine import Engine
from ..errors import ConfigError

Scores = npt.NDArray[np.float64]


def calibration_scores(
    engine: Engine, pixels: Rows, indices: npt.NDArray[np.int64]
) -> dict[str, Scores]:
    """Every score of the images ``pixels[indices]``, float64."""
    pieces = [
        engine.score(pixels[indices[start : start + 256]]) for start in range(0, len(indices), 256)
    ]
    names = [name for name in (pieces[0] if pieces else ()) if name != "error_map"]
    return {name: np.concatenate([p[name] for p in pieces]).astype(np.float64) for name in names}


def p_values(calibration: Scores, scores: Scores) -> Scores:
    """(1 + #{calibration >= score}) / (n + 1) of each score. calibration: ascending."""
    above = len(calibration) - np.searchsorted(calibration, scores, side="left")
    return (1 + above) / (len(calibration) + 1)


def threshold_for(calibration: Scores, fpr: float) -> float:
    """The score above which a normal image falls with probability at most ``fpr``.

    calibration: ascending. Raises ConfigError that says how many images the level needs.
    """
    if not 0 < fpr < 1:
        raise ConfigError(f"--fpr {fpr:g}: it must lie between 0 and 1")
    rank = math.floor(fpr * (len(calibration) + 1) + 1e-9)
    if rank == 0:
        needed = math.ceil(1 / fpr - 1e-9) - 1
        raise ConfigError(
            f"--fpr {fpr:g} needs at least {needed} calibration scores, the model has "
            f"{len(calibration)}; ask for --fpr {1 / (len(calibration) + 1):.2g} or more, or "
            "calibrate with more data (compressor calibrate MODEL DATA)"
        )
    return float(calibration[len(calibration) - rank])


def benjamini_hochberg(counts: npt.NDArray[np.int64], fdr: float) -> float:
    """The largest p-value that is rejected at false discovery rate ``fdr``; 0 if none is.

    counts[k]: how many images have the p-value (k + 1) / len(counts). Conformal p-values of one
    calibration set are positively dependent, so the bound holds (Benjamini & Hochberg 1995;
    Bates et al. 2023).
    """
    if not 0 < fdr < 1:
        raise ConfigError(f"--fdr {fdr:g}: it must lie between 0 and 1")
    levels = np.arange(1, len(counts) + 1) / len(counts)
    rejected = np.cumsum(counts)
    passing = np.flatnonzero((counts > 0) & (levels * rejected[-1] <= fdr * rejected))
    return float(levels[passing[-1]]) if len(passing) else 0.0
