"""Recall falls when a generator makes few kinds of images, and the user is told."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from compressor.data.images import Pixels
from compressor.normalisation import Normalisation
from compressor.plugin import Autoencoder, Code
from compressor.spec import ImageSpec
from compressor.training.samples import (
    PRECISION,
    RECALL,
    REFERENCE,
    covered,
    few_kinds,
    sample_measures,
)

SPEC = ImageSpec(height=28, width=28, channels=1)


class Memory(Autoencoder):
    """Samples are images that it was given, in turn, with a little noise."""

    def __init__(self, images: Tensor) -> None:
        super().__init__(None, SPEC)
        self.images = images

    def encode(self, x: Tensor) -> Code:
        return Code(x.flatten(1)[:, :2])

    def decode(self, z: Tensor) -> Tensor:
        images = self.images[torch.arange(len(z)) % len(self.images)]
        return images + 0.02 * torch.randn_like(images)


@pytest.fixture
def x(clothes: Pixels) -> Tensor:
    torch.manual_seed(0)
    images: Tensor = Normalisation(SPEC)(torch.from_numpy(clothes))
    return images


def test_recall_falls_with_the_number_of_kinds(x: Tensor) -> None:
    held_out, others = x[:512], x[512:]
    all_kinds, ten, one = (
        sample_measures(Memory(images), held_out) for images in (others, others[:10], others[:1])
    )
    assert all_kinds[RECALL] == pytest.approx(all_kinds[REFERENCE], abs=0.1)
    assert all_kinds[RECALL] > 0.4 and all_kinds[PRECISION] > 0.7
    assert ten[RECALL] < 0.05 and one[RECALL] == 0
    assert few_kinds(all_kinds, "images") is None
    assert few_kinds(ten, "images") == (
        f"the generator makes few kinds of images: recall {ten[RECALL]:.2f}, where other images "
        f"have {ten[REFERENCE]:.2f}; train longer, or with another seed"
    )


def test_precision_falls_where_samples_are_other_things(x: Tensor) -> None:
    upside_down = sample_measures(Memory(x[512:].flip(2)), x[:512])
    assert upside_down[PRECISION] < 0.8 * sample_measures(Memory(x[512:]), x[:512])[PRECISION]


def test_too_few_inputs_are_not_compared(x: Tensor) -> None:
    assert sample_measures(Memory(x), x[:63]) == {}
    assert sample_measures(Memory(x), x[:64])[REFERENCE] > 0
    assert few_kinds({}, "images") is None


def test_a_manifold_reaches_to_the_third_nearest_neighbour() -> None:
    line = torch.tensor([[0.0], [1.0], [2.0], [3.0], [100.0]])
    points = torch.tensor([[-3.0], [-3.1], [50.0], [197.0], [199.5]])
    assert covered(points, line) == pytest.approx(0.6)  # 0 reaches 3 far, 100 reaches 99
    assert covered(line[:1], torch.zeros(4, 1)) == 1
    assert covered(line[1:2], torch.zeros(4, 1)) == 0
