"""After training: codes are rounded as coarsely as a stated loss of quality allows."""

from __future__ import annotations

import math
from collections.abc import Callable

import torch
from torch import Tensor

from ..bottleneck.bottleneck import Bottleneck
from ..bottleneck.hyperprior import Hyperprior
from ..entropy.prior import Prior
from ..likelihood import LIKELIHOODS
from ..normalisation import Normalisation
from ..plugin import Autoencoder, Pass
from .dataset import ELEMENTS_AT_ONCE
from .rate import Aim

STEP_SCALES = 2.0**-20, 2.0**10  # between which Delta is searched
STEP_FACTORS = (0.5, 2.0)  # of a trained bottleneck's steps: how far they may be moved
PROBE_INPUTS = 64


@torch.no_grad()
def choose_steps(model: Autoencoder, x: Tensor, loss_db: float) -> Tensor:
    """Quantiser steps, one a channel (or element of a vector), shaped to multiply a code.

    Rounding an element by a step d adds d^2/12 times the output's sensitivity to it. At a given
    total the rate is least where every element adds the same (reverse water-filling; Cover &
    Thomas 2006, section 10.3.3), so steps are Delta / sqrt(sensitivity), with the one Delta at
    which PSNR on ``x`` falls by ``loss_db``.
    """
    code = model_code(model, x)
    sensitivity = sensitivity_of(model, code[:PROBE_INPUTS])
    sensitivity = sensitivity.clamp_min(1e-9 * sensitivity.max().clamp_min(1e-30))
    shape = (-1, *[1] * (code.ndim - 2))
    unit = sensitivity.rsqrt().reshape(shape)
    limit = squared_error(model, x, code) * 10 ** (loss_db / 10)

    def fine_enough(delta: float) -> bool:
        trial = unit * delta
        return squared_error(model, x, torch.floor(code / trial + 0.5) * trial) <= limit

    steps: Tensor = unit * largest(fine_enough, STEP_SCALES, 24)
    return steps


@torch.no_grad()
def fitted_steps(
    model: Autoencoder, bottleneck: Bottleneck, x: Tensor, trained_on: Tensor, aim: Aim
) -> Tensor:
    """The bottleneck's steps, times the one factor that brings ``x`` to the aim.

    Bits are those of tables that are counted on other codes, ``trained_on``: the bottleneck's own
    densities belong to its own steps. What a hyperprior saves is taken to stay the same part.
    """
    code = model_code(model, x)

    def counted_bits(steps: Tensor) -> float:
        seen, here = (torch.floor(c / steps + 0.5).int().numpy() for c in (trained_on, code))
        return Prior.learn(seen).ideal_bits(here) / len(here)

    saved = 1.0
    if isinstance(bottleneck.prior, Hyperprior) and aim.settings.bits is not None:
        bottleneck.settle(torch.floor(trained_on / bottleneck.steps + 0.5))
        integers = torch.floor(code / bottleneck.steps + 0.5)
        bits = bottleneck.bits(integers).mean().item()
        saved = bits / max(1e-6, counted_bits(bottleneck.steps))

    def miss(factor: float) -> float:
        steps = bottleneck.steps * factor
        error = squared_error(model, x, torch.floor(code / steps + 0.5) * steps)
        bits = saved * counted_bits(steps) if aim.settings.bits is not None else 0.0
        return aim.miss(model.spec, error, bits)

    factor = largest(lambda factor: miss(factor) > 0, STEP_FACTORS, 12)
    steps: Tensor = bottleneck.steps * factor
    return steps


def largest(
    acceptable: Callable[[float], bool], limits: tuple[float, float], halvings: int
) -> float:
    """The largest acceptable factor within ``limits``, by bisection of its logarithm."""
    low, high = (math.log2(limit) for limit in limits)
    for _ in range(halvings):
        middle = (low + high) / 2
        low, high = (middle, high) if acceptable(2.0**middle) else (low, middle)
    return math.exp2(low)


@torch.no_grad()
def sensitivity_of(model: Autoencoder, code: Tensor) -> Tensor:
    """For each channel: the output's squared change for one element's, by random signs."""
    base = clipped_pixels(model, code)
    values = code.transpose(0, 1).flatten(1)
    spread = values.std(1, correction=0).maximum(1e-3 * values.abs().amax(1)).clamp_min(1e-6)
    result = torch.empty(code.shape[1], device=code.device)
    for channel in range(code.shape[1]):
        moved = code.clone()
        size = 0.1 * spread[channel]
        signs = torch.randint(0, 2, moved[:, channel].shape, device=code.device) * 2 - 1
        moved[:, channel] += size * signs
        change = (clipped_pixels(model, moved) - base).square().sum()
        result[channel] = change / (size.square() * signs.numel())
    return result


@torch.no_grad()
def model_code(model: Autoencoder, x: Tensor) -> Tensor:
    """f(x), unrounded and without noise, in pieces that fit memory."""
    return torch.cat([Pass(model, p, training=False).code.mean for p in in_pieces(x, x)])


@torch.no_grad()
def squared_error(model: Autoencoder, x: Tensor, code: Tensor) -> float:
    """The mean squared error of what ``code`` is decoded to, clipped as the decoder clips it."""
    total, count = 0.0, 0
    for piece, piece_code in zip(in_pieces(x, x), in_pieces(code, x), strict=True):
        target = model.target(piece)
        total += (clipped_pixels(model, piece_code) - target).square().sum().item()
        count += target.numel()
    return total / count


def in_pieces(values: Tensor, x: Tensor) -> tuple[Tensor, ...]:
    return torch.split(values, max(1, ELEMENTS_AT_ONCE // x[0].numel()))


def clipped_pixels(model: Autoencoder, code: Tensor) -> Tensor:
    """What ``code`` is decoded to; features have no range."""
    pixels = LIKELIHOODS[model.likelihood].pixels(model.decode(code))
    return pixels if model.rebuilds_features else Normalisation(model.spec).clipped(pixels)
