"""After training: weights are rounded as coarsely as a stated loss of quality allows.

They become fixed point, multiples of powers of two. Such float32 numbers are read by every runtime
as they are, and take little more than the bits they have when packed (compressor/packing.py).
"""

from __future__ import annotations

import copy
import math
from collections.abc import Iterable, Mapping

import numpy as np
import torch
from torch import Tensor

from ..plugin import Autoencoder, Pass
from .quantiser import PROBE_INPUTS, clipped_pixels, in_pieces, largest, model_code, squared_error

STEP_SCALES = 2.0**-24, 2.0**4  # between which Delta is searched
HALVINGS = 8  # of the octaves between those
PROJECTIONS = 16
ENCODER_WEIGHT = 16.0  # on the sensitivity to the encoder, whose bits no archive pays for
MIN_SENSITIVITY = 1e-3  # of a tensor's mean: what probes do not wake, other inputs may
JUDGING_BITS = range(5, 16)
SCORE_LOSS = 0.05  # of a score's deviation that rounded weights may move it by, on average


def round_weights(model: Autoencoder, x: Tensor, loss_db: float) -> float | None:
    """Rounds weights in place, so coarsely that PSNR on ``x`` falls by at most ``loss_db``.

    Rounding a weight to multiples of d adds d^2/12 times the output's sensitivity to it. At a given
    total the weights take the fewest bits where each adds the same (reverse water-filling; Cover &
    Thomas 2006, section 10.3.3), so steps are Delta / sqrt(sensitivity) to the nearest power of
    two: one for each of a tensor's inputs, axis 1, which differ the most, or for a whole bias.

    Gives the bits that a weight takes on average by its tensor's frequencies, or None where all
    stay as they are. What scores alone read, a discriminator, is rounded by what scores allow, so
    it never changes what is decoded.
    """
    judging = _read_by_scores_alone(model, x[:1])
    exact = copy.deepcopy(model.state_dict())
    sensitivities = _sensitivities(model, x[:PROBE_INPUTS], judging)
    limit = squared_error(model, x, model_code(model, x)) * 10 ** (loss_db / 10)

    def fine_enough(delta: float) -> bool:
        model.load_state_dict(exact | _rounded(exact, sensitivities, delta))
        return squared_error(model, x, model_code(model, x)) <= limit

    delta = largest(fine_enough, STEP_SCALES, HALVINGS)
    bits = None
    if fine_enough(delta):
        integers = (exact[name] / _steps(s, delta) for name, s in sensitivities.items())
        bits = _mean_bits(integers)
    else:
        model.load_state_dict(exact)
    if judging:
        _round_judging(model, judging, x)
    return bits


def _sensitivities(model: Autoencoder, x: Tensor, left_out: set[str]) -> dict[str, Tensor]:
    """For each tensor, shaped to divide it: the output's squared change for one weight's.

    Of v^T d out / d w with random signs v, the mean square is the sum over all outputs.
    """
    model.requires_grad_(True)
    weights = {name: w for name, w in model.named_parameters() if name not in left_out}
    squares = {name: torch.zeros_like(weight) for name, weight in weights.items()}
    for _ in range(PROJECTIONS):
        for piece in in_pieces(x, x):
            out = clipped_pixels(model, model.encode(piece).mean)
            for name, gradient in _gradients(out * _signs(out), weights).items():
                squares[name] += gradient.square() / (PROJECTIONS * x.numel())
    decoding = _gradients(model.decode(model.encode(x[:1]).mean.detach()), weights)
    sensitivities = {}
    # Weights that modules share have several names, each of which a state_dict has.
    for name, weight in model.named_parameters(remove_duplicate=False):
        first = next((n for n, w in weights.items() if w is weight), None)
        if first is None or not squares[first].any():
            continue
        square = squares[first] * (1 if first in decoding else ENCODER_WEIGHT)
        others = tuple(axis for axis in range(square.ndim) if axis != 1)
        of_input = square.mean(others, keepdim=True) if square.ndim > 1 else square.mean()
        sensitivities[name] = of_input.clamp_min(MIN_SENSITIVITY * square.mean())
    return sensitivities


def _signs(like: Tensor) -> Tensor:
    return torch.randint(0, 2, like.shape) * 2.0 - 1


def _gradients(out: Tensor, weights: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Of the sum of ``out``, by those of the weights that it depends on."""
    gradients = torch.autograd.grad(out.sum(), list(weights.values()), allow_unused=True)
    pairs = zip(weights, gradients, strict=True)
    return {name: gradient for name, gradient in pairs if gradient is not None}


def _steps(sensitivity: Tensor, delta: float) -> Tensor:
    return torch.exp2(torch.round(math.log2(delta) - sensitivity.log2() / 2))


def _rounded(
    exact: Mapping[str, Tensor], sensitivities: Mapping[str, Tensor], delta: float
) -> dict[str, Tensor]:
    steps = {name: _steps(sensitivity, delta) for name, sensitivity in sensitivities.items()}
    return {name: torch.round(exact[name] / step) * step + 0.0 for name, step in steps.items()}


def _mean_bits(tensors: Iterable[Tensor]) -> float:
    """Of integers, by their frequencies in their tensor."""
    bits, count = 0.0, 0
    for tensor in tensors:
        _, counts = np.unique(torch.round(tensor).numpy(), return_counts=True)
        bits -= float(counts @ np.log2(counts / counts.sum()))
        count += tensor.numel()
    return bits / max(1, count)


def _read_by_scores_alone(model: Autoencoder, x: Tensor) -> set[str]:
    """The names of the tensors in modules that no gradient reaches from the reconstruction."""
    weights = dict(model.requires_grad_(True).named_parameters())
    used = {name.rpartition(".")[0] for name in _gradients(Pass(model, x).pixels, weights)}
    idle = {name.rpartition(".")[0] for name in weights} - used
    return {name for name in model.state_dict() if name.rpartition(".")[0] in idle}


def _round_judging(model: Autoencoder, names: set[str], x: Tensor) -> None:
    """Rounds the tensors ``names`` to the fewest bits at which scores stay what they are, but for
    SCORE_LOSS of their deviation; or not at all."""
    scores, exact = _scores(model, x), copy.deepcopy(model.state_dict())
    for bits in JUDGING_BITS:
        rounded = {name: _fixed_point(exact[name], bits) for name in names}
        model.load_state_dict(exact | rounded)
        moved = _scores(model, x)
        if all(
            (moved[name] - s).abs().mean() <= SCORE_LOSS * s.std(correction=0)
            for name, s in scores.items()
        ):
            return
    model.load_state_dict(exact)


def _fixed_point(tensor: Tensor, bits: int) -> Tensor:
    if not tensor.is_floating_point() or not tensor.any():
        return tensor
    if tensor.ndim < 2:  # biases and the like are few and add up: keep them finer
        bits += 6
    step = 2.0 ** (math.ceil(math.log2(tensor.abs().max().item())) - bits)
    return torch.round(tensor / step) * step


@torch.no_grad()
def _scores(model: Autoencoder, x: Tensor) -> dict[str, Tensor]:
    parts = [model.scores(Pass(model, piece)) for piece in in_pieces(x, x)]
    return {name: torch.cat([part[name] for part in parts]) for name in parts[0]}
