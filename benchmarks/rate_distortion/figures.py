"""What a cell of rate and distortion holds."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import numpy.typing as npt


@dataclass(frozen=True)
class Figures:
    """What was measured on ``images`` images with ``pixels`` pixels (height x width, summed).

    bytes: on disk, without the model; fixed_bytes: those of them that more images would not add
    to; model_bytes: of what a decoder needs to know beforehand. psnr: of the MSE pooled over all
    values; mean_psnr: the mean of the images' PSNRs; in dB. facts: what else is worth telling.
    """

    bytes: int
    model_bytes: int
    images: int
    pixels: int
    psnr: float
    mean_psnr: float
    fixed_bytes: int = 0
    facts: Mapping[str, Any] = field(default_factory=dict)


def psnrs(errors: npt.NDArray[Any], values: npt.NDArray[Any]) -> tuple[float, float]:
    """Pooled and mean PSNR in dB from each image's squared error and number of values, (N,).

    An image without loss counts as one grey level in one value.
    """
    pooled = 10 * math.log10(255**2 * float(values.sum()) / max(1.0, float(errors.sum())))
    return pooled, float(np.mean(10 * np.log10(255**2 * values / np.maximum(errors, 1))))
