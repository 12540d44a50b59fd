"""After training: weights and codes are rounded as coarsely as a stated loss of quality allows."""

from __future__ import annotations

import copy
import math

import torch
from torch import Tensor

from ..engine.engine import batch_size
from ..plugin import Autoencoder
from .likelihood import LIKELIHOODS

WEIGHT_BITS = range(5, 16)
WEIGHT_LOSS = 1.01  # factor on the mean squared error that rounded weights may cost
PROBE_IMAGES = 64


def round_weights(model: Autoencoder, x: Tensor) -> int | None:
    """Rounds weights, in place, to fixed point: multiples of a power of two for each tensor.

    Such float32 numbers end in zero bits, so that every runtime reads them as they are and xz
    stores them in little more than the bits they have. Takes the fewest bits that raise the mean
    squared error on ``x`` by at most 1%; gives them, or None where the weights stay as they are.
    """
    limit = WEIGHT_LOSS * squared_error(model, x, model_code(model, x))
    exact = copy.deepcopy(model.state_dict())
    for bits in WEIGHT_BITS:
        model.load_state_dict({name: _fixed_point(t, bits) for name, t in exact.items()})
        if squared_error(model, x, model_code(model, x)) <= limit:
            return bits
    model.load_state_dict(exact)
    return None


def _fixed_point(tensor: Tensor, bits: int) -> Tensor:
    if not tensor.is_floating_point() or not tensor.any():
        return tensor
    if tensor.ndim < 2:  # biases and the like are few and add up: keep them finer
        bits += 6
    step = 2.0 ** (math.ceil(math.log2(tensor.abs().max().item())) - bits)
    return torch.round(tensor / step) * step


@torch.no_grad()
def choose_steps(model: Autoencoder, x: Tensor, loss_db: float) -> Tensor:
    """Quantiser steps, one a channel (or element of a vector), shaped to multiply a code.

    Rounding an element by a step d adds d^2/12 times the output's sensitivity to it. At a given
    total the rate is least where every element adds the same (reverse water-filling; Cover &
    Thomas 2006, section 10.3.3), so steps are Delta / sqrt(sensitivity), with the one Delta at
    which PSNR on ``x`` falls by ``loss_db``.
    """
    code = model_code(model, x)
    sensitivity = _sensitivity(model, code[:PROBE_IMAGES])
    sensitivity = sensitivity.clamp_min(1e-9 * sensitivity.max().clamp_min(1e-30))
    shape = (-1, *[1] * (code.ndim - 2))
    unit = sensitivity.rsqrt().reshape(shape)
    limit = squared_error(model, x, code) * 10 ** (loss_db / 10)
    low, high = -20.0, 10.0  # log2 of Delta
    for _ in range(24):
        middle = (low + high) / 2
        trial = unit * 2.0**middle
        error = squared_error(model, x, torch.floor(code / trial + 0.5) * trial)
        low, high = (middle, high) if error <= limit else (low, middle)
    steps: Tensor = unit * 2.0**low
    return steps


def _sensitivity(model: Autoencoder, code: Tensor) -> Tensor:
    """For each channel: the output's squared change for one element's, by random signs."""
    base = _pixels(model, code)
    spread = code.transpose(0, 1).flatten(1).std(1).clamp_min(1e-6)
    result = torch.empty(code.shape[1])
    for channel in range(code.shape[1]):
        moved = code.clone()
        size = 0.1 * spread[channel]
        signs = torch.randint(0, 2, moved[:, channel].shape) * 2 - 1
        moved[:, channel] += size * signs
        change = (_pixels(model, moved) - base).square().sum()
        result[channel] = change / (size.square() * signs.numel())
    return result


@torch.no_grad()
def model_code(model: Autoencoder, x: Tensor) -> Tensor:
    """f(x), unrounded, in pieces that fit memory."""
    return torch.cat(
        [model.encode(piece).mean for piece in torch.split(x, batch_size(*x.shape[2:]))]
    )


@torch.no_grad()
def squared_error(model: Autoencoder, x: Tensor, code: Tensor) -> float:
    """The mean squared error of clipped pixels in [0, 1]."""
    total = 0.0
    for piece, its_code in zip(
        torch.split(x, batch_size(*x.shape[2:])),
        torch.split(code, batch_size(*x.shape[2:])),
        strict=True,
    ):
        total += (_pixels(model, its_code) - piece).square().sum().item()
    return total / x.numel()


def _pixels(model: Autoencoder, code: Tensor) -> Tensor:
    return LIKELIHOODS[model.likelihood].pixels(model.decode(code)).clamp(0, 1)
