"""Anomaly scores as modules for export: what ``scorer.onnx`` and ``further.onnx`` compute.

x^ = g(f(x)), from the code before rounding and the output before clipping. Scores are raw,
unclamped, float32 (N,), higher is stranger:

l2, l1     the mean of (x - x^)^2 and of |x - x^| over the elements of x, or of the features of x
           that are rebuilt in its place
gradient   of images: 1 - the similarity of the gradients' magnitudes in x and in x^, a mean over
           pixels and three scales (Xue et al. 2014, eq. 4; over scales: Zavrtanik et al. 2021)
kl, elbo   where codes are Gaussian and there is no rate: KL(q(z | x) || N(0, I)), and -ELBO at
           z = f(x), both in nats (Kingma & Welling 2013, eq. 3; with the likeliest deviation of
           p(x | z) for all x: Rybkin et al. 2021)
hidden     sum_i |h_i(x) - h_i(x^)|^2 over f's layers, the code's included (Kim et al. 2020, eq. 2,
           without its layer 0, which is x; of convolutions a mean over positions)

The plugin's own scores follow. gradient and hidden, which runs f twice, cost more than all others
together: they have a second graph, further.onnx, which runs only in jobs that ask for them. Both
need x^ to be an input for f, so models that rebuild features lack them.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ..errors import ExportError
from ..model import RESERVED_SCORES
from ..normalisation import Normalisation, example
from ..plugin import Autoencoder, Pass
from .operators import gradient_error, layer_difference

# The mean of -log p(x | z) over elements, at the likeliest scale, up to a constant; None where the
# distortion is in nats already. Without the discretised logistic, whose operators are not portable.
NATS_PER_ELEMENT = {"square": 0.5, "absolute": 1.0, "cross-entropy": None}
MAX_HIDDEN_DIFFERENCES = 512  # whose covariance a model stores
BORDER = 2  # places of features from the border inwards that have a scale of their own
UNUSUAL = 2.5  # deviations above the mean are where scales make normal inputs' errors equal
SMALLEST_SCALE = 0.01


@dataclass(frozen=True)
class Scales:
    """What scores are relative to; known after the training.

    nats: what a unit of distortion is in nats, for -ELBO; None where codes are not Gaussian.
    border: of models that rebuild features; None of others. What is padded makes features near the
    border that are rare, and so badly rebuilt: there error_map has the error relative to that of
    normal inputs. A kernel (1, 1, 5, 5) which, applied to ones with zeros around them, gives the
    logarithm of what squared errors are multiplied by.
    """

    nats: float | None = None
    border: Tensor | None = None

    @classmethod
    @torch.no_grad()
    def learn(
        cls, model: Autoencoder, x: Tensor, images: Iterable[Tensor], rate_asked: bool
    ) -> Scales:
        """From held-out inputs x (N, ...), and from ``images``, batches of them, where borders are
        looked at. With a rate nothing has held the scale of a Gaussian code: no nats."""
        nats = None if rate_asked else nats_of(model, x)
        if not model.rebuilds_features:
            return cls(nats)
        passes = (Pass(model, piece, training=False) for piece in images)
        errors = torch.cat([feature_errors(passed) for passed in passes])
        return cls(nats, _border_kernel(_equalising(errors[:, 0])))


UNSCALED = Scales()


def _equalising(errors: Tensor) -> Tensor:
    """Squared errors (N, h, w) -> what they are to be multiplied by, from SMALLEST_SCALE to 1, in
    each of the 5x5 kinds of places that there are: BORDER on each side, and the middle."""
    kinds = 2 * BORDER + 1
    scales = torch.ones(kinds, kinds)
    if min(errors.shape[1:]) < kinds:
        return scales
    down, across = (
        torch.arange(size).clamp_max(BORDER) + (torch.arange(size) - size + kinds - BORDER).clamp(0)
        for size in errors.shape[1:]
    )  # of each row and column the kind
    unusual = torch.empty(kinds, kinds)
    for row in range(kinds):
        for column in range(kinds):
            of_kind = errors[:, down == row][:, :, across == column]
            unusual[row, column] = of_kind.mean() + UNUSUAL * of_kind.std(correction=0)
    middle = unusual[BORDER, BORDER]
    return (middle / unusual.clamp_min(1e-12)).clamp(SMALLEST_SCALE, 1)


def _border_kernel(scales: Tensor) -> Tensor:
    """Scales.border, from the scales of an image with 5x5 places, which has each kind once."""
    # Which ones of a line of 5 each number of a kernel of 5 meets: row by row the kind of place.
    covers = torch.ones_like(scales).triu(-BORDER).tril(BORDER).flip(1)
    uncover: Tensor = torch.linalg.inv(covers)
    return (uncover @ scales.log() @ uncover.T)[None, None]


class GradientError(nn.Module):
    """1 - gradient magnitude similarity of two batches of images (N, C, H, W), (N,)."""

    prewitt: Tensor
    binomial: Tensor

    def __init__(self) -> None:
        super().__init__()
        across = torch.tensor([[1.0, 0.0, -1.0]]).expand(3, 3) / 3
        self.register_buffer("prewitt", torch.stack([across, across.T])[:, None].clone())
        line = torch.tensor([0.25, 0.5, 0.25])
        self.register_buffer("binomial", torch.outer(line, line)[None, None])

    def forward(self, x: Tensor, other: Tensor) -> Tensor:
        error: Tensor = gradient_error(x, other, self.prewitt, self.binomial)
        return error


class Scorer(nn.Module):
    """data (N, *spec.shape) -> each score (N,), then error_map (N, H, W) or (N, D).

    error_map has l2's errors, for images a mean over channels only, for features resized to the
    image's size.
    """

    nats: Tensor | None
    border: Tensor | None

    def __init__(self, model: Autoencoder, scales: Scales = UNSCALED) -> None:
        super().__init__()
        self.model, self.normalisation = model, Normalisation(model.spec)
        # Buffers, and no constants: their values are known after the training.
        self.register_buffer("nats", None if scales.nats is None else torch.tensor(scales.nats))
        border = scales.border
        if border is None and model.rebuilds_features:
            border = torch.zeros(1, 1, 2 * BORDER + 1, 2 * BORDER + 1)
        self.register_buffer("border", border)

    def named(self, passed: Pass) -> dict[str, Tensor]:
        """The scores by name, without error_map; raises ExportError if two share one."""
        difference = passed.target - passed.pixels
        scores = {"l2": per_input(difference.square()), "l1": per_input(difference.abs())}
        if self.nats is not None and passed.code.scale is not None:
            variance = passed.code.scale.square()
            terms = passed.code.mean.square() + variance - variance.log() - 1
            scores["kl"] = 0.5 * terms.flatten(1).sum(1)
            if self.model.likelihood in NATS_PER_ELEMENT:
                scores["elbo"] = scores["kl"] + self.nats * self._distortion(passed)
        of_plugin = self.model.scores(passed)
        if clash := {*scores, "error_map", *RESERVED_SCORES} & of_plugin.keys():
            raise ExportError(f"the plugin calls a score {clash.pop()!r}, a name of the core")
        return {**scores, **of_plugin}

    def _distortion(self, passed: Pass) -> Tensor:
        """The likelihood's, (N,); cross-entropy in operators that run everywhere."""
        if self.model.likelihood != "cross-entropy":
            return passed.distortion
        x, out = passed.target, passed.out
        # log(1 + e^out) - x out, without softplus, which is exported as a comparison
        losses = F.relu(out) - x * out + (1 + (out.abs() * -1.0).exp()).log()
        return losses.flatten(1).sum(1)

    def forward(self, data: Tensor) -> tuple[Tensor, ...]:
        return self.of(Pass(self.model, self.normalisation(data)))

    def of(self, passed: Pass) -> tuple[Tensor, ...]:
        """What ``forward`` returns."""
        return *self.named(passed).values(), self.error_map(passed)

    def error_map(self, passed: Pass) -> Tensor:
        """The squared error, a mean over an image's channels: (N, H, W), or (N, D) of vectors."""
        if self.border is None:
            error = (passed.target - passed.pixels).square()
            return error if error.ndim == 2 else error.mean(1)
        error = feature_errors(passed)
        error = error * F.conv2d(error * 0 + 1, self.border, padding=BORDER).exp()
        return F.interpolate(error, passed.x.shape[2:], mode="bilinear")[:, 0]


def feature_errors(passed: Pass) -> Tensor:
    """The squared error of features, a mean over channels and over 3x3 places, which a defect fills
    and noise rarely: (N, 1, h, w)."""
    error = (passed.target - passed.pixels).square().mean(1, keepdim=True)
    ones = error.new_ones(1, 1, 3, 3)
    mean: Tensor = F.conv2d(error, ones, padding=1) / F.conv2d(error * 0 + 1, ones, padding=1)
    return mean


class FurtherScorer(nn.Module):
    """data (N, *spec.shape) -> gradient and hidden (N,), then hidden_differences (N, K), for NAP.

    hidden_differences are h_i(x) - h_i(x^); for convolutions, of each channel, the root of the mean
    square over positions. They come from the innermost layer and as many before it as
    MAX_HIDDEN_DIFFERENCES allows.
    """

    def __init__(self, model: Autoencoder) -> None:
        super().__init__()
        self.model, self.normalisation = model, Normalisation(model.spec)
        self.gradient_error = GradientError()

    @property
    def names(self) -> tuple[str, ...]:
        """The scores' names; vectors have no gradient."""
        return ("gradient", "hidden") if self.model.spec.kind == "image" else ("hidden",)

    def forward(self, data: Tensor) -> tuple[Tensor, ...]:
        return self.of(Pass(self.model, self.normalisation(data)))

    def of(self, passed: Pass) -> tuple[Tensor, ...]:
        """What ``forward`` returns."""
        scores: list[Tensor] = []
        if "gradient" in self.names:
            scores.append(self.gradient_error(passed.x, passed.pixels))
        again = self.model.encode(passed.pixels)
        layers, others = ([*code.hidden.values(), code.mean] for code in (passed.code, again))
        sizes: list[Tensor] = []
        kept: list[Tensor] = []
        count = 0
        for layer, other in zip(layers[::-1], others[::-1], strict=True):
            size, difference = layer_difference(layer, other)
            sizes.append(size)
            count += difference.shape[1]
            if not kept or count <= MAX_HIDDEN_DIFFERENCES:
                kept.append(difference)
        return *scores, torch.stack(sizes, 1).sum(1), torch.cat(kept[::-1], 1)


def per_input(values: Tensor) -> Tensor:
    """The mean over all but the first axis, (N,)."""
    return values.mean(tuple(range(1, values.ndim)))


def score_names(model: Autoencoder, scales: Scales = UNSCALED) -> tuple[str, ...]:
    """The names of the scorer's outputs, except error_map."""
    with torch.no_grad():
        x = Normalisation(model.spec)(example(model.spec, 2))
        return tuple(Scorer(model, scales).named(Pass(model, x)))


@torch.no_grad()
def nats_of(model: Autoencoder, x: Tensor) -> float | None:
    """What a unit of distortion is in nats, for -ELBO; None where codes are not Gaussian.

    A square or absolute error is -log p(x | z) up to a scale. The scale taken is the likeliest for
    ``x`` and the same for all inputs (Rybkin et al. 2021, eq. 5). Cross-entropy is in nats already.
    """
    passed = Pass(model, x, training=False)
    if passed.code.scale is None:
        return None
    at_best = NATS_PER_ELEMENT.get(model.likelihood)
    if at_best is None:
        return 1.0
    return at_best * x[0].numel() / max(passed.distortion.mean().item(), 1e-12)
