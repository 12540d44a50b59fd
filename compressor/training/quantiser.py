"""After training: weights and codes are rounded as coarsely as a stated loss of quality allows."""

from __future__ import annotations

import copy
import math
from collections.abc import Callable, Set

import torch
from torch import Tensor

from ..bottleneck.bottleneck import Bottleneck
from ..bottleneck.hyperprior import Hyperprior
from ..entropy.prior import Prior
from ..likelihood import LIKELIHOODS
from ..log import log
from ..plugin import Autoencoder, Pass
from .dataset import ELEMENTS_AT_ONCE
from .normalisation import Normalisation
from .rate import Aim

MISSED = 0.5  # of Aim.miss: what is told
DELTAS = 2.0**-20, 2.0**10
STEP_FACTORS = (0.5, 2.0)  # of a trained bottleneck's, for what the training left open
WEIGHT_BITS = range(5, 16)
SCORE_LOSS = 0.05  # of a score's deviation that rounded weights may move it by, on average
PROBE_INPUTS = 64


def round_weights(model: Autoencoder, x: Tensor, loss_db: float) -> int | None:
    """Rounds weights, in place, to fixed point: multiples of a power of two for each tensor.

    Such float32 numbers end in zero bits, so that every runtime reads them as they are and xz
    stores them in little more than the bits they have. f and g take the fewest bits at which PSNR
    on ``x`` falls by at most ``loss_db``; gives them, or None where they stay as they are. Then
    what scores alone read, a discriminator, takes the fewest at which scores stay what they are,
    but for a twentieth of their deviation; so it never changes what is decoded.
    """
    limit = squared_error(model, x, model_code(model, x)) * 10 ** (loss_db / 10)
    judging = _read_by_scores_alone(model, x[:1])

    def decodes_as_well() -> bool:
        return squared_error(model, x, model_code(model, x)) <= limit

    bits = _round(model, model.state_dict().keys() - judging, decodes_as_well)
    scores = _scores(model, x)

    def scores_alike() -> bool:
        rounded = _scores(model, x)
        return all(
            bool((rounded[name] - s).abs().mean() <= SCORE_LOSS * s.std(correction=0))
            for name, s in scores.items()
        )

    if judging:
        _round(model, judging, scores_alike)
    return bits


def _round(model: Autoencoder, names: Set[str], acceptable: Callable[[], bool]) -> int | None:
    """Rounds the tensors ``names`` to the fewest bits that are acceptable, or not at all."""
    exact = copy.deepcopy(model.state_dict())
    for bits in WEIGHT_BITS:
        model.load_state_dict(
            {name: _fixed_point(t, bits) if name in names else t for name, t in exact.items()}
        )
        if acceptable():
            return bits
    model.load_state_dict(exact)
    return None


def _read_by_scores_alone(model: Autoencoder, x: Tensor) -> set[str]:
    """The names of the tensors in modules that no gradient reaches from the reconstruction."""
    weights = dict(model.requires_grad_(True).named_parameters())
    gradients = torch.autograd.grad(
        Pass(model, x).pixels.sum(), list(weights.values()), allow_unused=True
    )
    idle, used = (
        {
            name.rpartition(".")[0]
            for name, gradient in zip(weights, gradients, strict=True)
            if (gradient is None) == unread
        }
        for unread in (True, False)
    )
    return {name for name in model.state_dict() if name.rpartition(".")[0] in idle - used}


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
    sensitivity = sensitivity_of(model, code[:PROBE_INPUTS])
    sensitivity = sensitivity.clamp_min(1e-9 * sensitivity.max().clamp_min(1e-30))
    shape = (-1, *[1] * (code.ndim - 2))
    unit = sensitivity.rsqrt().reshape(shape)
    limit = squared_error(model, x, code) * 10 ** (loss_db / 10)

    def fine_enough(delta: float) -> bool:
        trial = unit * delta
        return squared_error(model, x, torch.floor(code / trial + 0.5) * trial) <= limit

    steps: Tensor = unit * _largest(fine_enough, DELTAS, 24)
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

    factor = _largest(lambda factor: miss(factor) > 0, STEP_FACTORS, 12)
    if abs(missed := miss(factor)) > MISSED:
        log.warning("the training missed its aim by %s", aim.in_words(missed))
    steps: Tensor = bottleneck.steps * factor
    return steps


def _largest(
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
    base = _pixels(model, code)
    values = code.transpose(0, 1).flatten(1)
    spread = values.std(1, correction=0).maximum(1e-3 * values.abs().amax(1)).clamp_min(1e-6)
    result = torch.empty(code.shape[1], device=code.device)
    for channel in range(code.shape[1]):
        moved = code.clone()
        size = 0.1 * spread[channel]
        signs = torch.randint(0, 2, moved[:, channel].shape, device=code.device) * 2 - 1
        moved[:, channel] += size * signs
        change = (_pixels(model, moved) - base).square().sum()
        result[channel] = change / (size.square() * signs.numel())
    return result


@torch.no_grad()
def model_code(model: Autoencoder, x: Tensor) -> Tensor:
    """f(x), unrounded, in pieces that fit memory."""
    return torch.cat([model.encode(piece).mean for piece in _pieces(x, x)])


@torch.no_grad()
def squared_error(model: Autoencoder, x: Tensor, code: Tensor) -> float:
    """The mean squared error of what ``code`` is decoded to, clipped as the decoder clips it."""
    total = 0.0
    for piece, its_code in zip(_pieces(x, x), _pieces(code, x), strict=True):
        total += (_pixels(model, its_code) - piece).square().sum().item()
    return total / x.numel()


@torch.no_grad()
def _scores(model: Autoencoder, x: Tensor) -> dict[str, Tensor]:
    parts = [model.scores(Pass(model, piece)) for piece in _pieces(x, x)]
    return {name: torch.cat([part[name] for part in parts]) for name in parts[0]}


def _pieces(values: Tensor, x: Tensor) -> tuple[Tensor, ...]:
    return torch.split(values, max(1, ELEMENTS_AT_ONCE // x[0].numel()))


def _pixels(model: Autoencoder, code: Tensor) -> Tensor:
    pixels = LIKELIHOODS[model.likelihood].pixels(model.decode(code))
    return Normalisation(model.spec).clipped(pixels)
