"""How a decoder's output becomes pixels, and how far it is from the input.

square          pixels = out; distortion = sum (x - out)^2                 (Gaussian)
absolute        pixels = out; distortion = sum |x - out|                   (Laplacian)
cross-entropy   pixels = sigmoid(out);
                distortion = -sum x log(pixels) + (1 - x) log(1 - pixels)  (Bernoulli)
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor


@dataclass(frozen=True)
class Likelihood:
    """pixels: out -> float32 in about [0, 1]; distortion: (x, out) -> the loss of every element."""

    pixels: Callable[[Tensor], Tensor]
    distortion: Callable[[Tensor, Tensor], Tensor]


def _same(out: Tensor) -> Tensor:
    return out


def _square(x: Tensor, out: Tensor) -> Tensor:
    return (x - out).square()


def _absolute(x: Tensor, out: Tensor) -> Tensor:
    return (x - out).abs()


def _cross_entropy(x: Tensor, out: Tensor) -> Tensor:
    return F.binary_cross_entropy_with_logits(out, x, reduction="none")


LIKELIHOODS = {
    "square": Likelihood(_same, _square),
    "absolute": Likelihood(_same, _absolute),
    "cross-entropy": Likelihood(torch.sigmoid, _cross_entropy),
}
