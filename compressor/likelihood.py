"""How a decoder's output becomes pixels, and how far it is from the input.

square               pixels = out; distortion = sum (x - out)^2                 (Gaussian)
absolute             pixels = out; distortion = sum |x - out|                   (Laplacian)
cross-entropy        pixels = sigmoid(out);
                     distortion = -sum x log(pixels) + (1 - x) log(1 - pixels)  (Bernoulli)
discretised-logistic out has two numbers an element, a location and a log scale; pixels = location;
                     distortion = -sum log P(x), P the logistic distribution's mass on x's grey
                     level, in nats (Salimans et al. 2017, eq. 2, with one component)
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor

LikelihoodName = Literal["square", "absolute", "cross-entropy", "discretised-logistic"]
HALF_LEVEL = 0.5 / 255  # of the 256 grey levels in [0, 1]
LOG_SCALES = (-7.0, 2.0)  # from a quarter of a grey level to wider than all of them


@dataclass(frozen=True)
class Likelihood:
    """pixels: out -> float32, shaped like x; distortion: (x, out) -> the loss of every element.

    outputs: how many numbers decode returns for an element, along axis 1. data: what x must be:
    "any", "unit" for values in [0, 1], "levels" for images.
    """

    pixels: Callable[[Tensor], Tensor]
    distortion: Callable[[Tensor, Tensor], Tensor]
    outputs: int = 1
    data: Literal["any", "unit", "levels"] = "any"


def _same(out: Tensor) -> Tensor:
    return out


def _square(x: Tensor, out: Tensor) -> Tensor:
    return (x - out).square()


def _absolute(x: Tensor, out: Tensor) -> Tensor:
    return (x - out).abs()


def _cross_entropy(x: Tensor, out: Tensor) -> Tensor:
    return F.binary_cross_entropy_with_logits(out, x, reduction="none")


def _location(out: Tensor) -> Tensor:
    return out[:, : out.shape[1] // 2]


def _discretised_logistic(x: Tensor, out: Tensor) -> Tensor:
    location, log_scale = out.chunk(2, 1)
    precision = torch.exp(-log_scale.clamp(*LOG_SCALES))
    upper = (x - location + HALF_LEVEL) * precision
    lower = (x - location - HALF_LEVEL) * precision
    # log(sigmoid(upper) - sigmoid(lower)), without overflow or lost digits in the tails
    inner = (
        -F.softplus(-upper)
        - F.softplus(lower)
        + torch.log(-torch.expm1(-2 * HALF_LEVEL * precision))
    )
    # The first and the last level take the whole tail.
    return -torch.where(
        x < HALF_LEVEL,
        -F.softplus(-upper),
        torch.where(x > 1 - HALF_LEVEL, -F.softplus(lower), inner),
    )


LIKELIHOODS = {
    "square": Likelihood(_same, _square),
    "absolute": Likelihood(_same, _absolute),
    "cross-entropy": Likelihood(torch.sigmoid, _cross_entropy, data="unit"),
    "discretised-logistic": Likelihood(_location, _discretised_logistic, outputs=2, data="levels"),
}
