"""The second level of the prior (Ballé et al. 2018): side information v predicts the code h.

An encoder makes v, a few integers, of a code. They are sent first, and pay for themselves by the
locations and scales that a decoder computes from them. The decoder computes in exact integers, so
that its answer never depends on how floating-point numbers are rounded: see IntegerConv.
"""

from __future__ import annotations

import math
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ..entropy.hyperprior import FRACTIONS, LEVELS, MAX_SIDE_VALUE, SIDE_REACH, side_channels
from .density import Density, bits_between

HIDDEN_UNIT = 16  # hidden activations of the decoder are multiples of 1 / HIDDEN_UNIT
MAX_HIDDEN = 255  # of a hidden activation, in these units
MAX_WEIGHT = 127  # of an integer weight's magnitude
MAX_EXACT_SUM = 2.0**23  # below it float32 holds every integer and every half
SIDE_UNIT = 4  # v is SIDE_UNIT times what the encoder returns and the decoder takes
HIDDEN_CHANNELS = 64
UPSAMPLED_CHANNELS = 32  # after the decoder's first layer, which works at v's coarse resolution
SLOPE = 0.1  # of the encoder's leaky ReLU
LEAST_SCALE, LARGEST_SCALE = 0.06, 200.0  # of the logistic distribution
SCALE_PER_DEVIATION = math.sqrt(3) / math.pi  # of the logistic distribution
LOG_SCALE_STEP = math.log(LARGEST_SCALE / LEAST_SCALE) / (LEVELS - 1)
SCALES = [LEAST_SCALE * math.exp(LOG_SCALE_STEP * level) for level in range(LEVELS)]


class _Straight(torch.autograd.Function):
    """Rounds half up; gradients pass as if it did not (Bengio, Léonard & Courville 2013)."""

    @staticmethod
    def forward(ctx: object, x: Tensor) -> Tensor:
        return torch.floor(x + 0.5)

    @staticmethod
    def backward(ctx: object, gradient: Tensor) -> Tensor:
        return gradient


class _Within(torch.autograd.Function):
    """Clamps; gradients pass where descent leads back inside, and not where it leads outwards."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, low: float, high: float) -> Tensor:
        ctx.save_for_backward(x)
        ctx.limits = low, high
        return x.clamp(low, high)

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, None, None]:
        (x,), (low, high) = ctx.saved_tensors, ctx.limits
        stays = ((x >= low) | (gradient < 0)) & ((x <= high) | (gradient > 0))
        return gradient * stays, None, None


def within(x: Tensor, low: float, high: float) -> Tensor:
    """x, clamped, with gradients that can bring it back between ``low`` and ``high``."""
    result: Tensor = _Within.apply(x, low, high)  # type: ignore[no-untyped-call]  # see rounded
    return result


def rounded(x: Tensor) -> Tensor:
    result: Tensor = _Straight.apply(x)  # type: ignore[no-untyped-call]  # torch has no types for it
    return result


class IntegerConv(nn.Module):
    """floor(2^-k (W x + b) + 1/2) with integer W, b, k and x, carried in float32.

    Every partial sum stays below 2^23 for |x| <= ``largest``, so the sum is exact in any order.
    units: for each output, how many of its units make 1; unit: the same of the inputs. With
    exact=False nothing is rounded.
    """

    factor: Tensor

    def __init__(
        self, inputs: int, outputs: int, kernel: int, largest: int, unit: int, units: Tensor
    ) -> None:
        super().__init__()
        layer = nn.Conv2d(inputs, outputs, kernel)
        assert layer.bias is not None
        self.weight, self.bias = layer.weight, layer.bias
        self.padding, self.largest, self.unit = kernel // 2, largest, unit
        self.register_buffer("factor", units / unit, persistent=False)

    def scaled(self) -> tuple[Tensor, Tensor]:
        """W and b in the units of input and output."""
        return self.weight * self.factor[:, None, None, None], self.bias * self.factor * self.unit

    def integers(self) -> tuple[Tensor, Tensor, Tensor]:
        """W, b and, for each output, 2^-k (O, 1, 1), as the graph has them."""
        weight, bias = self.scaled()
        with torch.no_grad():
            largest = weight.abs().flatten(1).amax(1)
            total = weight.abs().flatten(1).sum(1) * self.largest + bias.abs()
            room = torch.minimum(MAX_WEIGHT / largest, MAX_EXACT_SUM / 2 / total)
            # NaN in the weights gives a NaN loss, which training reports.
            power = (
                room.nan_to_num(1.0, 2.0**14, 1.0).clamp(2.0**-14, 2.0**14).log2().floor().exp2()
            )
        weight, bias = weight * power[:, None, None, None], bias * power
        return rounded(weight), rounded(bias), 1 / power[:, None, None]

    def forward(self, x: Tensor, exact: bool) -> Tensor:
        if not exact:
            return F.conv2d(x, *self.scaled(), padding=self.padding)
        weight, bias, factor = self.integers()
        return rounded(F.conv2d(x, weight, bias, padding=self.padding) * factor)


class HyperEncoder(nn.Module):
    """Codes (N, C, h, w) -> v (N, c, h / SIDE_REACH, w / SIDE_REACH), sizes rounded up.

    Values are not rounded yet. It need not be exact, since v is sent. It sees distances from
    ``centres``, so that padding at the borders counts as the centre.
    """

    centres: Tensor

    def __init__(self, channels: int, side: int, spatial: bool) -> None:
        super().__init__()
        kernel, stride = (3, 2) if spatial else (1, 1)
        self.register_buffer("centres", torch.zeros(channels, 1, 1))
        self.first = nn.Conv2d(channels, HIDDEN_CHANNELS, kernel, padding=kernel // 2)
        self.second = nn.Conv2d(
            HIDDEN_CHANNELS, HIDDEN_CHANNELS, kernel, stride, padding=kernel // 2
        )
        self.third = nn.Conv2d(HIDDEN_CHANNELS, side, kernel, stride, padding=kernel // 2)

    def forward(self, codes: Tensor) -> Tensor:
        x = F.leaky_relu(self.first(codes - self.centres), SLOPE)
        x = F.leaky_relu(self.second(x), SLOPE)
        v: Tensor = self.third(x) * SIDE_UNIT
        return v


class HyperDecoder(nn.Module):
    """v and a plane of ones (N, c + 1, h', w') -> locations, then levels (N, 2 C, h, w).

    A location is in units of 1 / FRACTIONS; h and w are v's times SIDE_REACH, for codes (K,) 1.
    The plane of ones shows the borders, and so where an element lies.
    """

    def __init__(self, channels: int, side: int, spatial: bool) -> None:
        super().__init__()
        self.reach = SIDE_REACH if spatial else 1
        kernel = 3 if spatial else 1
        planes = UPSAMPLED_CHANNELS * self.reach**2
        first, second = (torch.full((n,), float(HIDDEN_UNIT)) for n in (planes, HIDDEN_CHANNELS))
        last = torch.tensor([FRACTIONS, 1 / LOG_SCALE_STEP]).repeat_interleave(channels)
        self.first = IntegerConv(side + 1, planes, kernel, MAX_SIDE_VALUE, SIDE_UNIT, first)
        self.second = IntegerConv(
            UPSAMPLED_CHANNELS, HIDDEN_CHANNELS, 1, MAX_HIDDEN, HIDDEN_UNIT, second
        )
        self.third = IntegerConv(HIDDEN_CHANNELS, 2 * channels, 1, MAX_HIDDEN, HIDDEN_UNIT, last)
        with torch.no_grad():
            self.third.bias[:channels] = 0.0
            self.third.bias[channels:] = -math.log(LEAST_SCALE)  # a scale of 1

    def forward(self, side: Tensor, exact: bool = True) -> Tensor:
        x = self.first(side.clamp(-MAX_SIDE_VALUE, MAX_SIDE_VALUE), exact)
        x = F.pixel_shuffle(x, self.reach).clamp(0, MAX_HIDDEN)
        x = self.second(x, exact).clamp(0, MAX_HIDDEN)
        answer: Tensor = self.third(x, exact)
        return answer


class Hyperprior(nn.Module):
    """The bits of codes (K,) or (C, h, w), their side information's included."""

    def __init__(self, shape: tuple[int, ...]) -> None:
        super().__init__()
        side, spatial = side_channels(shape), len(shape) == 3
        self.density = Density(side)
        self.encoder = HyperEncoder(shape[0], side, spatial)
        self.decoder = HyperDecoder(shape[0], side, spatial)

    @torch.no_grad()
    def start(self, centres: Tensor, deviations: Tensor) -> None:
        """At first, expects elements at their channel's centre, (C,), with its deviation, (C,)."""
        scales = (deviations * SCALE_PER_DEVIATION).clamp(LEAST_SCALE, LARGEST_SCALE)
        self.decoder.third.bias.copy_(torch.cat([centres, (scales / LEAST_SCALE).log()]))
        self.encoder.centres.copy_(torch.floor(centres + 0.5)[:, None, None])

    def bits(self, integers: Tensor, training: bool) -> Tensor:
        """-log2 P of integers (N, K) or (N, C, h, w), or in training of integers with noise, (N,).

        In training v has noise as well, and the decoder's weights and activations are not rounded:
        gradients would have to pass a rounding in every layer.
        """
        if integers.ndim == 2:
            integers = integers[:, :, None, None]
        side = self.encoder(integers)
        side = side + torch.rand_like(side) - 0.5 if training else rounded(side)
        side = within(side, -MAX_SIDE_VALUE, MAX_SIDE_VALUE)
        bits = self.density.bits(side).flatten(1).sum(1)
        side_and_ones = torch.cat([side, torch.ones_like(side[:, :1])], 1)
        answer = self.decoder(side_and_ones, exact=not training)
        height, width = integers.shape[2:]
        location, level = answer[:, :, :height, :width].chunk(2, 1)
        return bits + _bits(integers - location / FRACTIONS, level).flatten(1).sum(1)


def _bits(distance: Tensor, level: Tensor) -> Tensor:
    """-log2 of the logistic distribution's mass within 1/2 of ``distance`` from its location."""
    level = within(level, 0, LEVELS - 1)
    precision = torch.exp(-LOG_SCALE_STEP * level) / LEAST_SCALE
    return bits_between((distance - 0.5) * precision, (distance + 0.5) * precision)
