"""The second level of the prior: what is known of a code tells what to expect of the rest.

A code's elements come in passes. The first channels, coded by fixed tables, are what a hyperprior
(Ballé et al. 2018) sends as side information; each later pass sees all earlier ones (Minnen & Singh
2020, by channels; He et al. 2021, by positions), through a small network that gives a location
and a scale of every element, as integers. These are computed in integers too, so that decoding
never depends on how floating-point numbers are rounded: see IntegerNetwork.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ..entropy.passes import FRACTIONS, LEVELS, Pass, location_and_level

UNIT = 16  # hidden activations are multiples of 1 / UNIT
TOP = 255  # of a hidden activation, in such units
KNOWN = 127  # known integers are clipped to +-KNOWN
WEIGHT = 127  # of an integer weight, at most
EXACT = 2.0**23  # below it a half is exact too
HIDDEN = 64
KERNEL = 3
LEAST = 1e-9
LEAST_SCALE, LARGEST_SCALE = 0.06, 60.0  # of the logistic distribution
LEVEL = math.log(LARGEST_SCALE / LEAST_SCALE) / (LEVELS - 1)
SCALES = [LEAST_SCALE * math.exp(LEVEL * level) for level in range(LEVELS)]


class _Straight(torch.autograd.Function):
    """Rounds half up; gradients pass as if it did not (Bengio, Léonard & Courville 2013)."""

    @staticmethod
    def forward(ctx: object, x: Tensor) -> Tensor:
        return torch.floor(x + 0.5)

    @staticmethod
    def backward(ctx: object, gradient: Tensor) -> Tensor:
        return gradient


def rounded(x: Tensor) -> Tensor:
    result: Tensor = _Straight.apply(x)  # type: ignore[no-untyped-call]  # torch has no types for it
    return result


class IntegerConv(nn.Module):
    """floor(2^-k (W x + b) + 1/2) with integer W, b, k and x, carried in float32.

    Every partial sum stays below 2^23 for |x| <= ``largest``, so each is exact in whatever order
    it is summed. factor: of an output's unit over an input's, for each output.
    """

    factor: Tensor

    def __init__(
        self, inputs: int, outputs: int, kernel: int, stride: int, largest: int, factor: Tensor
    ) -> None:
        super().__init__()
        layer = nn.Conv2d(inputs, outputs, kernel)
        assert layer.bias is not None
        self.weight, self.bias = layer.weight, layer.bias
        self.stride, self.largest = stride, largest
        self.register_buffer("factor", factor, persistent=False)

    def integers(self) -> tuple[Tensor, Tensor, float]:
        """W, b and 2^-k, as the graph has them."""
        weight = self.weight * self.factor[:, None, None, None]
        bias = self.bias * self.factor * (UNIT if self.largest == TOP else 1)
        with torch.no_grad():
            total = (weight.abs().flatten(1).sum(1) * self.largest + bias.abs()).max()
            room = min(WEIGHT / weight.abs().max(), EXACT / 2 / total).item()
            # Weights that are no numbers give a loss that is none, which training tells.
            power = 2.0 ** min(14, math.floor(math.log2(room))) if 0 < room < math.inf else 1.0
        return rounded(weight * power), rounded(bias * power), 1 / power

    def forward(self, x: Tensor) -> Tensor:
        weight, bias, factor = self.integers()
        return rounded(F.conv2d(x, weight, bias, stride=self.stride) * factor)


class IntegerNetwork(nn.Module):
    """Known integers of some channels -> location and level of a pass's elements, as integers.

    (N, inputs, h, w) -> (N, 2 outputs, h', w'): a location in units of 1 / FRACTIONS, then a level,
    for each element of the pass.
    """

    def __init__(self, which: Pass, spatial: bool) -> None:
        super().__init__()
        self.which = which
        outputs = which.stop - which.start
        kernel = KERNEL if spatial else 1
        reach = kernel // 2
        # left, right, top, bottom: such that the output has the pass's positions alone
        self.padding = (reach - which.column, reach, reach - which.row, reach)
        hidden = torch.full((HIDDEN,), float(UNIT))
        last = torch.tensor([FRACTIONS, 1 / LEVEL]).repeat_interleave(outputs) / UNIT
        self.first = IntegerConv(which.inputs, HIDDEN, kernel, which.step, KNOWN, hidden)
        self.second = IntegerConv(HIDDEN, HIDDEN, 1, 1, TOP, torch.ones(HIDDEN))
        self.third = IntegerConv(HIDDEN, 2 * outputs, 1, 1, TOP, last)
        with torch.no_grad():
            self.third.bias[:outputs] = 0.0
            self.third.bias[outputs:] = -math.log(LEAST_SCALE)  # a scale of 1

    def forward(self, known: Tensor) -> Tensor:
        x = F.pad(known.clamp(-KNOWN, KNOWN), self.padding)
        x = self.first(x).clamp(0, TOP)
        x = self.second(x).clamp(0, TOP)
        answer: Tensor = self.third(x)
        return answer


class Context(nn.Module):
    """The networks of the passes behind the first."""

    def __init__(self, passes: Sequence[Pass], *, spatial: bool) -> None:
        super().__init__()
        self.networks = nn.ModuleList(IntegerNetwork(which, spatial) for which in passes)

    @torch.no_grad()
    def start(self, centres: Tensor) -> None:
        """Expects elements at their channel's centre, (C,), at first."""
        for network in self.networks:
            assert isinstance(network, IntegerNetwork)
            start, stop = network.which.start, network.which.stop
            network.third.bias[: stop - start] = centres[start:stop]

    def bits(self, integers: Tensor, known: Tensor) -> Tensor:
        """-log2 P of the passes' elements of integers (N, K) or (N, C, h, w), (N,)."""
        if integers.ndim == 2:
            integers, known = integers[:, :, None, None], known[:, :, None, None]
        total = integers.new_zeros(len(integers))
        for network in self.networks:
            assert isinstance(network, IntegerNetwork)
            elements = network.which.of(integers)
            if elements.numel():
                mask = torch.from_numpy(network.which.known(*known.shape[2:])).to(known.device)
                answer = network(known[:, : len(mask)] * mask)
                location, level = location_and_level(answer)
                total = total + _bits(elements - location / FRACTIONS, level).flatten(1).sum(1)
        return total


def _bits(distance: Tensor, level: Tensor) -> Tensor:
    """-log2 of the logistic distribution's mass within 1/2 of ``distance`` from its location."""
    # Straight through the limits as well, or an element beyond them would never come back.
    level = level + (level.clamp(0, LEVELS - 1) - level).detach()
    precision = torch.exp(-LEVEL * level) / LEAST_SCALE
    distance = distance.abs()
    upper, lower = (0.5 - distance) * precision, (-0.5 - distance) * precision
    p = torch.sigmoid(upper) - torch.sigmoid(lower)
    return -torch.log2(p.clamp_min(LEAST))
