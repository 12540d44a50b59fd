"""Building blocks for plugins' networks; only operators that every ONNX runtime has."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise
from typing import Literal

import torch
from torch import Tensor, nn

from ..spec import DataSpec

ActivationName = Literal["linear", "sigmoid", "tanh", "relu", "leaky_relu", "elu", "silu"]

_ACTIVATIONS: dict[str, type[nn.Module]] = {
    "linear": nn.Identity,
    "sigmoid": nn.Sigmoid,
    "tanh": nn.Tanh,
    "relu": nn.ReLU,
    "leaky_relu": nn.LeakyReLU,
    "elu": nn.ELU,
    "silu": nn.SiLU,
}


def activation(name: ActivationName) -> nn.Module:
    """sigma(.) by name."""
    return _ACTIVATIONS[name]()


class AsImage(nn.Module):
    """(N, C*H*W) to (N, C, H, W)."""

    def __init__(self, spec: DataSpec) -> None:
        super().__init__()
        self.shape = (spec.channels, spec.height, spec.width)

    def forward(self, flat: Tensor) -> Tensor:
        return torch.unflatten(flat, 1, self.shape)


def dense(
    sizes: Sequence[int], between: ActivationName, last: ActivationName = "linear"
) -> nn.Sequential:
    """Fully connected layers sizes[0] -> ... -> sizes[-1]."""
    layers: list[nn.Module] = []
    for number, (inputs, outputs) in enumerate(pairwise(sizes), start=2):
        layers += [
            nn.Linear(inputs, outputs),
            activation(last if number == len(sizes) else between),
        ]
    return nn.Sequential(*layers)


def conv_down(
    inputs: int, widths: Sequence[int], outputs: int, between: ActivationName, last: ActivationName
) -> nn.Sequential:
    """(N, inputs, H, W) to (N, outputs, H / 2^k, W / 2^k) for k widths."""
    layers: list[nn.Module] = []
    for width in widths:
        layers += [nn.Conv2d(inputs, width, 4, stride=2, padding=1), activation(between)]
        inputs = width
    return nn.Sequential(*layers, nn.Conv2d(inputs, outputs, 3, padding=1), activation(last))


def conv_up(
    inputs: int, widths: Sequence[int], outputs: int, between: ActivationName, last: ActivationName
) -> nn.Sequential:
    """(N, inputs, h, w) to (N, outputs, h * 2^k, w * 2^k) for k widths.

    Each doubling is a convolution whose channels become pixels (Shi et al. 2016), which leaves no
    checkerboard.
    """
    if not widths:
        return nn.Sequential(nn.Conv2d(inputs, outputs, 3, padding=1), activation(last))
    layers: list[nn.Module] = [nn.Conv2d(inputs, widths[0], 3, padding=1), activation(between)]
    for width, wider in pairwise([*widths, outputs]):
        layers += [
            nn.Conv2d(width, wider * 4, 3, padding=1),
            nn.PixelShuffle(2),
            activation(between),
        ]
    layers[-1] = activation(last)
    return nn.Sequential(*layers)
