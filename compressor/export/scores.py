"""Anomaly scores as modules for export: what ``scorer.onnx`` and ``further.onnx`` compute.

x^ = g(f(x)), from the code before rounding and the output before clipping. Scores are raw,
unclamped, float32 (N,), higher is stranger:

l2, l1     the mean of (x - x^)^2 and of |x - x^| over the elements of x, or of the features of x
           that are rebuilt in its place
gradient   of images: 1 - the similarity of the gradients' magnitudes in x and in x^, a mean over
           pixels and three scales (Xue et al. 2014, eq. 4; over scales: Zavrtanik et al. 2021)
kl, elbo   where codes are Gaussian and no rate was asked: KL(q(z | x) || N(0, I)), and -ELBO
           at z = f(x), both in nats (Kingma & Welling 2013, eq. 3; with the
           likeliest deviation of p(x | z) for all x: Rybkin et al. 2021)
hidden     sum_i |h_i(x) - h_i(x^)|^2 over f's layers, the code's included (Kim et al. 2020, eq. 2,
           without its layer 0, which is x; of convolutions a mean over positions)

The plugin's own come behind. gradient and hidden, which runs f twice, cost more than the others
together: they are a graph of their own, for jobs that ask for them. Both take x^ for an image, and
where features are rebuilt there are none of them.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ..errors import ExportError
from ..model import FURTHER_SCORES
from ..normalisation import Normalisation, example
from ..plugin import Autoencoder, Pass

SCALES = 3
# -log p(x | z) of an element on average, at the likeliest scale, up to a constant; None where the
# distortion is in nats already. The discretised logistic's operators do not run everywhere.
NATS = {"square": 0.5, "absolute": 1.0, "cross-entropy": None}
STABILITY = 0.0026  # c of Xue et al. 2014, for values in [0, 1]
MOST_DIFFERENCES = 512  # of hidden layers, whose covariance a model stores


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
        x, other = x.mean(1, keepdim=True), other.mean(1, keepdim=True)
        errors: list[Tensor] = []
        for scale in range(SCALES):
            if scale:  # half of a side, rounded up, so that there is always a pixel left
                x, other = (F.conv2d(i, self.binomial, stride=2, padding=1) for i in (x, other))
            squares, others = (
                F.conv2d(i, self.prewitt, padding=1).square().sum(1) for i in (x, other)
            )
            both = (squares * others).sqrt()
            similarity = (2 * both + STABILITY) / (squares + others + STABILITY)
            errors.append((1 - similarity).mean((1, 2)))
        return torch.stack(errors, 1).mean(1)


class Scorer(nn.Module):
    """data (N, *spec.shape) -> each score (N,), then error_map (N, H, W) or (N, D).

    error_map is l2's, a mean over an image's channels alone, and of features brought to the image's
    size. nats: of a unit of distortion, where
    codes are Gaussian; see ``nats_of``.
    """

    def __init__(self, model: Autoencoder, nats: float | None = None) -> None:
        super().__init__()
        self.model, self.normalisation = model, Normalisation(model.spec)
        self.nats = nats

    def named(self, passed: Pass) -> dict[str, Tensor]:
        """The scores by name, without error_map; raises ExportError if two share one."""
        difference = passed.target - passed.pixels
        scores = {"l2": per_input(difference.square()), "l1": per_input(difference.abs())}
        if self.nats is not None and passed.code.scale is not None:
            variance = passed.code.scale.square()
            terms = passed.code.mean.square() + variance - variance.log() - 1
            scores["kl"] = 0.5 * terms.flatten(1).sum(1)
            if self.model.likelihood in NATS:
                scores["elbo"] = scores["kl"] + self.nats * self._distortion(passed)
        further = self.model.scores(passed)
        if clash := {*scores, "error_map", *FURTHER_SCORES} & further.keys():
            raise ExportError(f"the plugin calls a score {clash.pop()!r}, a name of the core")
        return {**scores, **further}

    def _distortion(self, passed: Pass) -> Tensor:
        """The likelihood's, (N,); cross-entropy in operators that run everywhere."""
        if self.model.likelihood != "cross-entropy":
            return passed.distortion
        x, out = passed.target, passed.out
        # log(1 + e^out) - x out; softplus is exported as a comparison
        losses = F.relu(out) - x * out + (1 + (out.abs() * -1.0).exp()).log()
        return losses.flatten(1).sum(1)

    def forward(self, data: Tensor) -> tuple[Tensor, ...]:
        return self.of(Pass(self.model, self.normalisation(data)))

    def of(self, passed: Pass) -> tuple[Tensor, ...]:
        """What forward gives."""
        return *self.named(passed).values(), error_map(passed)


def error_map(passed: Pass) -> Tensor:
    """The squared error, a mean over an image's channels: (N, H, W), or (N, D) of vectors.

    That of features is averaged over 3x3 places first, which a defect fills more often than noise.
    """
    error = (passed.target - passed.pixels).square()
    if error.ndim == 2:
        return error
    error = error.mean(1, keepdim=True)
    if passed.model.rebuilds_features:
        ones = error.new_ones(1, 1, 3, 3)
        error = F.conv2d(error, ones, padding=1) / F.conv2d(error * 0 + 1, ones, padding=1)
        error = F.interpolate(error, passed.x.shape[2:], mode="bilinear")
    return error[:, 0]


class FurtherScorer(nn.Module):
    """data (N, *spec.shape) -> gradient and hidden (N,), then hidden_differences (N, K), for NAP.

    Those are h_i(x) - h_i(x^), of a convolution's channels the root of the mean square over
    positions, of as many of the innermost layers as MOST_DIFFERENCES allows, one at least.
    """

    def __init__(self, model: Autoencoder) -> None:
        super().__init__()
        self.model, self.normalisation = model, Normalisation(model.spec)
        self.gradient_error = GradientError()

    @property
    def names(self) -> tuple[str, ...]:
        """Of the scores; vectors have no gradient."""
        return ("gradient", "hidden") if self.model.spec.kind == "image" else ("hidden",)

    def forward(self, data: Tensor) -> tuple[Tensor, ...]:
        return self.of(Pass(self.model, self.normalisation(data)))

    def of(self, passed: Pass) -> tuple[Tensor, ...]:
        """What forward gives."""
        scores: list[Tensor] = []
        if "gradient" in self.names:
            scores.append(self.gradient_error(passed.x, passed.pixels))
        again = self.model.encode(passed.pixels)
        layers, others = ([*code.hidden.values(), code.mean] for code in (passed.code, again))
        sizes: list[Tensor] = []
        kept: list[Tensor] = []
        count = 0
        for layer, other in zip(layers[::-1], others[::-1], strict=True):
            difference = layer - other
            squares = difference.square()
            if difference.ndim > 2:
                squares = squares.flatten(2).mean(2)
                difference = squares.sqrt()
            sizes.append(squares.sum(1))
            count += difference.shape[1]
            if not kept or count <= MOST_DIFFERENCES:
                kept.append(difference)
        return *scores, torch.stack(sizes, 1).sum(1), torch.cat(kept[::-1], 1)


def per_input(values: Tensor) -> Tensor:
    """The mean over all but the first axis, (N,)."""
    return values.mean(tuple(range(1, values.ndim)))


def score_names(model: Autoencoder, nats: float | None = None) -> tuple[str, ...]:
    """The names of the scorer's outputs, error_map apart."""
    with torch.no_grad():
        x = Normalisation(model.spec)(example(model.spec, 2))
        return tuple(Scorer(model, nats).named(Pass(model, x)))


@torch.no_grad()
def nats_of(model: Autoencoder, x: Tensor) -> float | None:
    """What a unit of distortion is in nats, for -ELBO; None where codes are no Gaussians.

    A square or absolute error is -log p(x | z) up to a scale: the one that is likeliest for ``x``,
    the same for all inputs (Rybkin et al. 2021, eq. 5). Cross-entropy is in nats as it is.
    """
    passed = Pass(model, x, training=False)
    if passed.code.scale is None:
        return None
    at_best = NATS.get(model.likelihood)
    if at_best is None:
        return 1.0
    return at_best * x[0].numel() / max(passed.distortion.mean().item(), 1e-12)
