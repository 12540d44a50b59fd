"""Whether a generative model makes what it was trained on, in numbers that need no labels.

Precision and recall (Kynkäänniemi et al. 2019): a set of points stands for all that lies within the
distance of a point to its third nearest neighbour in the set. Precision is the share of samples
that lie within held-out inputs so, recall the share of held-out inputs that lie within samples. A
generator that makes few kinds of inputs has a low recall, one that makes other things a low
precision.

The authors take features of a classifier of ImageNet. Here images are averaged down to 8x8, which
takes little notice of blur, and vectors are taken as they are: docs/generation.md has what that
tells, beside features of a classifier of the same data.
"""

from __future__ import annotations

from collections.abc import Mapping

import torch
import torch.nn.functional as F
from torch import Tensor

from ..likelihood import LIKELIHOODS
from ..plugin import Autoencoder

NEIGHBOUR = 3
SIDE = 8  # that images are averaged down to
FEWEST, MOST = 32, 256  # inputs that are compared
PRECISION, RECALL = "precision of samples", "recall of samples"
REFERENCE = "recall of held-out inputs"
FEW_KINDS = 0.4  # of the reference: below, the generator is said to make few kinds of inputs


@torch.no_grad()
def sample_measures(model: Autoencoder, held_out: Tensor) -> dict[str, float]:
    """Precision and recall of samples z ~ N(0, I), and the recall that other held-out inputs have.

    held_out: x, float32 (N, ...), shuffled; one half is compared with as many samples and with the
    other half. Nothing if there are fewer than FEWEST in a half. Draws from torch's generator.
    """
    count = min(MOST, len(held_out) // 2)
    if count < FEWEST:
        return {}
    code = model.encode(model.target(held_out[:1])).mean
    out = model.decode(torch.randn(count, *code.shape[1:]))
    samples = _features(LIKELIHOODS[model.likelihood].pixels(out))
    inputs, others = (_features(x) for x in torch.split(held_out[: 2 * count], count))
    return {
        PRECISION: covered(samples, inputs),
        RECALL: covered(inputs, samples),
        REFERENCE: covered(inputs, others),
    }


def few_kinds(measures: Mapping[str, float], inputs: str) -> str | None:
    """What a user is told of a generator that has collapsed; None if it has not.

    inputs: "images", say.
    """
    if RECALL not in measures or measures[RECALL] >= FEW_KINDS * measures[REFERENCE]:
        return None
    return (
        f"the generator makes few kinds of {inputs}: recall {measures[RECALL]:.2f}, where other "
        f"{inputs} have {measures[REFERENCE]:.2f}; train longer, or with another seed"
    )


def covered(points: Tensor, by: Tensor) -> float:
    """The share of ``points`` (N, D) within the manifold of ``by`` (M, D), M > NEIGHBOUR."""
    radii = _distances(by, by).kthvalue(NEIGHBOUR + 1, dim=1).values  # the nearest is itself
    return (_distances(points, by) <= radii).any(1).float().mean().item()


def _distances(a: Tensor, b: Tensor) -> Tensor:
    """(N, M), exactly 0 between equals."""
    return torch.cdist(a, b, compute_mode="donot_use_mm_for_euclid_dist")


def _features(x: Tensor) -> Tensor:
    if x.ndim == 4:
        x = F.adaptive_avg_pool2d(x.clamp(0, 1), (min(SIDE, x.shape[2]), min(SIDE, x.shape[3])))
    return x.flatten(1)
