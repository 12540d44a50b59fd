"""A flexible density for each channel: what a code's integers cost without side information."""

from __future__ import annotations

import math
from itertools import pairwise

import torch
import torch.nn.functional as F
from torch import Tensor, nn

LAYER_SIZES = (1, 3, 3, 3, 1)
INITIAL_SCALE = 10.0  # of the range with most of the mass, at first
MIN_LOGIT_DIFFERENCE = 1e-6  # float32 may lose smaller ones


class Density(nn.Module):
    """P(z) = c(z + 1/2) - c(z - 1/2), c a monotone network with its own weights for each channel.

    Ballé et al. 2018, appendix 6.1: c = sigmoid(f_4(...f_1(z))), f_k(v) = g_k(softplus(H_k) v + b),
    g_k(v) = v + tanh(a_k) tanh(v).
    """

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.channels = channels
        scale = INITIAL_SCALE ** (1 / (len(LAYER_SIZES) - 1))
        self.matrices, self.biases, self.factors = (nn.ParameterList() for _ in range(3))
        for inputs, outputs in pairwise(LAYER_SIZES):
            initial = torch.expm1(torch.tensor(1 / scale / outputs)).log()
            self.matrices.append(nn.Parameter(initial.expand(channels, outputs, inputs).clone()))
            self.biases.append(nn.Parameter(torch.rand(channels, outputs, 1) - 0.5))
            self.factors.append(nn.Parameter(torch.zeros(channels, outputs, 1)))

    @torch.no_grad()
    def start(self, centres: Tensor, deviations: Tensor) -> None:
        """Moves the initial densities to ``centres``, (C,); ``deviations`` are left to learning."""
        self.biases[0].sub_(F.softplus(self.matrices[0]) * centres[:, None, None])

    def bits(self, z: Tensor) -> Tensor:
        """-log2 P of each element of z: (N, C) or (N, C, h, w)."""
        values = z.transpose(0, 1).flatten(1).unsqueeze(1)
        bits = bits_between(self._logits(values - 0.5), self._logits(values + 0.5)).squeeze(1)
        return bits.reshape(z.transpose(0, 1).shape).transpose(0, 1)

    def _logits(self, v: Tensor) -> Tensor:
        last = len(self.matrices) - 1
        for number, (matrix, bias, factor) in enumerate(
            zip(self.matrices, self.biases, self.factors, strict=True)
        ):
            v = F.softplus(matrix) @ v + bias
            if number < last:
                v = v + torch.tanh(factor) * torch.tanh(v)
        return v


def bits_between(lower: Tensor, upper: Tensor) -> Tensor:
    """-log2(sigmoid(upper) - sigmoid(lower)).

    Far out the difference would be 0 in float32, and its gradient too: codes there could never come
    back, nor the density widen. With x = lower and y = upper it is exactly
    sigmoid(y) sigmoid(-x) (1 - exp(x - y)), which does not underflow.
    """
    apart = (upper - lower).clamp_min(MIN_LOGIT_DIFFERENCE)
    log_p = F.logsigmoid(upper) + F.logsigmoid(-lower) + torch.log(-torch.expm1(-apart))
    return log_p / -math.log(2)
