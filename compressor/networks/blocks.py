"""Building blocks for plugins' networks; only operators that every ONNX runtime has."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise
from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ..spec import DataSpec, ImageSpec

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


class Shaped(nn.Module):
    """Flat rows to the shape of x: (N, elements) to (N, C, H, W); for vectors they stay flat.

    numbers: how many a row has for each element, for some likelihoods; they come along axis 1.
    """

    def __init__(self, spec: DataSpec, numbers: int = 1) -> None:
        super().__init__()
        self.shape = (
            (spec.channels * numbers, spec.height, spec.width)
            if isinstance(spec, ImageSpec)
            else (spec.length * numbers,)
        )

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


def with_hidden(network: nn.Sequential, x: Tensor) -> tuple[Tensor, dict[str, Tensor]]:
    """network(x), and by name the input of each layer with weights but the first."""
    hidden: dict[str, Tensor] = {}
    for number, layer in enumerate(network):
        if number and isinstance(layer, nn.Linear | nn.Conv2d):
            hidden[f"layer {len(hidden) + 1}"] = x
        x = layer(x)
    return x, hidden


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


class Pair(nn.Module):
    """A layer and its mirror: f(x) = s(W x + b), g(h) = s'(V h + c), with V = W^T where tied.

    Tied, there is one tensor ``weight`` and both directions read it. Dense: (N, inputs) to
    (N, outputs). conv: (N, inputs, H, W) to (N, outputs, H / 2, W / 2), and the transposed
    convolution back.
    """

    def __init__(
        self,
        inputs: int,
        outputs: int,
        above: ActivationName,
        below: ActivationName,
        *,
        tied: bool,
        conv: bool,
    ) -> None:
        super().__init__()
        layer: nn.Conv2d | nn.Linear = nn.Linear(inputs, outputs)
        if conv:
            layer = nn.Conv2d(inputs, outputs, 4, stride=2, padding=1)
        assert layer.bias is not None
        self.conv = conv
        self.weight, self.bias = layer.weight, layer.bias  # PyTorch's own initial values
        self.mirror_weight = None if tied else nn.Parameter(layer.weight.detach().clone())
        self.mirror_bias = nn.Parameter(torch.zeros(inputs))
        self.above, self.below = activation(above), activation(below)

    def f(self, x: Tensor) -> Tensor:
        """Up: towards the code."""
        if self.conv:
            x = F.conv2d(x, self.weight, self.bias, stride=2, padding=1)
        else:
            x = F.linear(x, self.weight, self.bias)
        above: Tensor = self.above(x)
        return above

    def g(self, h: Tensor) -> Tensor:
        """Down: towards the input."""
        weight = self.weight if self.mirror_weight is None else self.mirror_weight
        if self.conv:
            h = F.conv_transpose2d(h, weight, self.mirror_bias, stride=2, padding=1)
        else:
            h = F.linear(h, weight.t(), self.mirror_bias)
        below: Tensor = self.below(h)
        return below


def dcgan_generator(latent: int, widths: Sequence[int], spec: ImageSpec) -> nn.Sequential:
    """(N, latent) to (N, C, H, W) in (0, 1): transposed convolutions with batch normalisation.

    Radford, Metz & Chintala 2016: no pooling, ReLU inside, no batch normalisation at the output.
    The first width belongs to the smallest image; each width doubles it, H and W are divisible by
    2^len(widths).
    """
    height, width = spec.height >> len(widths), spec.width >> len(widths)
    layers: list[nn.Module] = [
        nn.Linear(latent, widths[0] * height * width),
        nn.Unflatten(1, (widths[0], height, width)),
    ]
    for inputs, outputs in pairwise([*widths, spec.channels]):
        layers += [
            nn.BatchNorm2d(inputs),
            nn.ReLU(),
            nn.ConvTranspose2d(inputs, outputs, 4, stride=2, padding=1),
        ]
    return nn.Sequential(*layers, nn.Sigmoid())


def conv_to_vector(spec: ImageSpec, widths: Sequence[int], outputs: int) -> nn.Sequential:
    """(N, C, H, W) to (N, outputs): strided convolutions, then one dense layer."""
    layers: list[nn.Module] = []
    inputs: int = spec.channels
    for width in widths:
        layers += [nn.Conv2d(inputs, width, 4, stride=2, padding=1), nn.LeakyReLU(0.2)]
        inputs = width
    size = inputs * (spec.height >> len(widths)) * (spec.width >> len(widths))
    return nn.Sequential(*layers, nn.Flatten(), nn.Linear(size, outputs))
