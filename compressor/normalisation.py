"""From data as they are stored to x, which networks take, and back; exported with the graphs.

Images: uint8 (N, H, W, C), x = image / 255 as (N, C, H, W). Vectors: float32 (N, D),
x = (vector - mean) / scale, column by column.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor, nn

from .data.rounding import Moments
from .spec import DataSpec, ImageSpec, VectorSpec

ROWS_AT_ONCE = 65536  # at a time, of the vectors that mean and scale are computed from
# A deviation, in steps of float32 at the mean, that may be rounding alone: that of two neighbours
# is a half.
FLOAT32_NOISE = 0.6


class Normalisation(nn.Module):
    """stored -> x, and back with ``stored``."""

    mean: Tensor
    scale: Tensor

    def __init__(self, spec: DataSpec) -> None:
        super().__init__()
        self.is_image = isinstance(spec, ImageSpec)
        if isinstance(spec, VectorSpec):
            self.register_buffer("mean", torch.tensor(spec.mean))
            self.register_buffer("scale", torch.tensor(spec.scale))

    def forward(self, stored: Tensor) -> Tensor:
        """(N, *spec.shape), uint8 or float32 -> x."""
        if self.is_image:
            return stored.permute(0, 3, 1, 2).float() / 255
        return (stored - self.mean) / self.scale

    def stored(self, x: Tensor) -> Tensor:
        """x, clipped and rounded to grey levels where it is an image -> (N, *spec.shape)."""
        if self.is_image:
            # Half up, since runtimes disagree about Round at halves.
            levels = torch.floor(x * 255 + 0.5).clamp(0, 255)
            return levels.to(torch.uint8).permute(0, 2, 3, 1)
        return x * self.scale + self.mean

    def clipped(self, x: Tensor) -> Tensor:
        """x clipped as by ``stored``, but not rounded."""
        return x.clamp(0, 1) if self.is_image else x


def example(spec: DataSpec, count: int) -> Tensor:
    """Random data of the kind, as stored, from torch's generator: (count, *spec.shape)."""
    if isinstance(spec, ImageSpec):
        return torch.randint(0, 256, (count, *spec.shape), dtype=torch.uint8)
    return torch.randn(count, *spec.shape) * torch.tensor(spec.scale) + torch.tensor(spec.mean)


def mean_and_scale(
    rows: npt.NDArray[np.float32], indices: npt.NDArray[np.int64]
) -> tuple[tuple[float, ...], tuple[float, ...]]:
    """The mean and the standard deviation of each column of ``rows[indices]``; memory is flat.

    A column that is constant up to float32's rounding has the scale 1.
    """
    moments = Moments(rows.shape[1])
    for start in range(0, len(indices), ROWS_AT_ONCE):
        moments.add(rows[indices[start : start + ROWS_AT_ONCE]].astype(np.float64))
    mean, scale = moments.mean.astype(np.float32), moments.deviation
    scale[scale <= FLOAT32_NOISE * np.spacing(np.abs(mean))] = 1.0
    scale[scale < np.finfo(np.float32).tiny] = 1.0
    scale = scale.astype(np.float32)
    return tuple(mean.tolist()), tuple(scale.tolist())
