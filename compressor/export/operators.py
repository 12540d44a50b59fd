"""Formulas of the core that the exporter takes as one operator each, and as ONNX from here.

Tracing costs it some hundredths of a second for every small operation on images of any size, and
these formulas, the same in every model, were two fifths of an export. So each is written twice, for
torch and for ONNX; ``check_parity`` compares the two in every export.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
import torch.nn.functional as F
from onnxscript import opset18
from torch import Tensor

op: Any = opset18  # portable.OPSET; Any, since its types know no numbers in place of tensors

GRADIENT_SCALES = 3
GRADIENT_STABILITY = 0.0026  # c of Xue et al. 2014, for values in [0, 1]


@torch.library.custom_op(
    "compressor::gradient_error",
    mutates_args=(),
    schema="(Tensor x, Tensor other, Tensor prewitt, Tensor binomial) -> Tensor",
)
def gradient_error(x: Tensor, other: Tensor, prewitt: Tensor, binomial: Tensor) -> Tensor:
    """1 - gradient magnitude similarity of two batches of images (N, C, H, W), (N,).

    prewitt: (2, 1, 3, 3), the two derivatives; binomial: (1, 1, 3, 3), the blur.
    """
    x, other = x.mean(1, keepdim=True), other.mean(1, keepdim=True)
    errors: list[Tensor] = []
    for scale in range(GRADIENT_SCALES):
        if scale:  # half of each side, rounded up, so that a pixel is always left
            x, other = (F.conv2d(i, binomial, stride=2, padding=1) for i in (x, other))
        squares, others = (F.conv2d(i, prewitt, padding=1).square().sum(1) for i in (x, other))
        both = (squares * others).sqrt()
        similarity = (2 * both + GRADIENT_STABILITY) / (squares + others + GRADIENT_STABILITY)
        errors.append((1 - similarity).mean((1, 2)))
    return torch.stack(errors, 1).mean(1)


@gradient_error.register_fake
def _(x: Tensor, other: Tensor, prewitt: Tensor, binomial: Tensor) -> Tensor:
    return x.new_empty(x.shape[:1])


def _gradient_error(x: Any, other: Any, prewitt: Any, binomial: Any) -> Any:
    x, other = (op.ReduceMean(i, [1], keepdims=1) for i in (x, other))
    padded = {"kernel_shape": [3, 3], "pads": [1, 1, 1, 1]}
    errors = []
    for scale in range(GRADIENT_SCALES):
        if scale:
            x, other = (op.Conv(i, binomial, strides=[2, 2], **padded) for i in (x, other))
        slopes = (op.Conv(i, prewitt, strides=[1, 1], **padded) for i in (x, other))
        squares, others = (op.ReduceSum(op.Mul(s, s), [1], keepdims=1) for s in slopes)
        both = op.Sqrt(op.Mul(squares, others))
        similarity = op.Div(
            op.Add(op.Mul(both, 2.0), GRADIENT_STABILITY),
            op.Add(op.Add(squares, others), GRADIENT_STABILITY),
        )
        errors.append(op.ReduceMean(op.Sub(1.0, similarity), [2, 3], keepdims=0))
    return op.ReduceMean(op.Concat(*errors, axis=1), [1], keepdims=0)


@torch.library.custom_op(
    "compressor::layer_difference",
    mutates_args=(),
    schema="(Tensor layer, Tensor other) -> (Tensor, Tensor)",
)
def layer_difference(layer: Tensor, other: Tensor) -> tuple[Tensor, Tensor]:
    """Of two batches of activations (N, K, ...): |difference|^2 (N,), and the difference (N, K).

    Where there are positions, the first is a mean over them, and the second, of each channel, the
    root of the mean square.
    """
    difference = layer - other
    squares = difference.square()
    if difference.ndim > 2:
        squares = squares.flatten(2).mean(2)
        difference = squares.sqrt()
    return squares.sum(1), difference


@layer_difference.register_fake
def _(layer: Tensor, other: Tensor) -> tuple[Tensor, Tensor]:
    return layer.new_empty(layer.shape[:1]), layer.new_empty(layer.shape[:2])


def _layer_difference(layer: Any, other: Any) -> Any:
    difference = op.Sub(layer, other)
    squares = op.Mul(difference, difference)
    if len(layer.shape) > 2:
        squares = op.ReduceMean(squares, [*range(2, len(layer.shape))], keepdims=0)
        difference = op.Sqrt(squares)
    return op.ReduceSum(squares, [1], keepdims=0), difference


TRANSLATIONS: dict[Callable[..., Any], Callable[..., Any]] = {
    torch.ops.compressor.gradient_error.default: _gradient_error,
    torch.ops.compressor.layer_difference.default: _layer_difference,
}
