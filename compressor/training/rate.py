"""The search for lambda, the rate at which a training ends with the PSNR or the bits asked for."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from ..bottleneck.bottleneck import Bottleneck
from ..normalisation import Normalisation, example
from ..plugin import Autoencoder, Pass
from ..spec import DataSpec, ImageSpec
from .settings import TrainingSettings

STEPS_BETWEEN_MOVES = 25
GAIN = 0.1  # of ln lambda, for a decibel or for a tenth of the bits
MAX_MOVE = 0.3  # of ln lambda
MAX_DISTANCE = math.log(100)  # of ln lambda from where it began: no network reaches every aim
AIM_FROM = 0.3  # of a phase: before, the network has not learned enough to tell


def first_rate(settings: TrainingSettings) -> float:
    """Where the search begins.

    Where an element's distortion D falls as 2^(-2 R), its slope is 2 ln 2 D a bit; images spend
    bits on few of their elements, which makes it steeper.
    """
    return 4 * 10 ** (-settings.quality / 10) if settings.quality is not None else 0.01


@torch.no_grad()
def add_bottleneck(model: Autoencoder, settings: TrainingSettings) -> None:
    """Gives the model the bottleneck that the settings ask for."""
    code = Pass(model.eval(), Normalisation(model.spec)(example(model.spec, 2))).code.mean
    rate = settings.rate or first_rate(settings)
    model.bottleneck = Bottleneck(tuple(code.shape[1:]), settings.prior, rate)


def places(spec: DataSpec) -> int:
    """Pixels of an image, or numbers of a vector."""
    return spec.elements // (spec.channels if isinstance(spec, ImageSpec) else 1)


class Aim:
    """What a training is to end with; ``miss`` says how far it is from there."""

    def __init__(self, settings: TrainingSettings) -> None:
        self.settings = settings

    @torch.no_grad()
    def move(self, model: Autoencoder, x: Tensor) -> None:
        """Moves lambda by what held-out inputs ``x`` take; ``model`` is in eval mode."""
        bottleneck = model.bottleneck
        assert bottleneck is not None
        passed = Pass(model, x, training=False)
        assert passed.bits is not None
        error = (passed.pixels - passed.target).square().mean().item()
        change = GAIN * self.miss(model.spec, error, passed.bits.mean().item())
        start = math.log(first_rate(self.settings))
        moved = bottleneck.log_rate.item() + max(-MAX_MOVE, min(MAX_MOVE, change))
        bottleneck.log_rate.fill_(max(start - MAX_DISTANCE, min(start + MAX_DISTANCE, moved)))

    def miss(self, spec: DataSpec, error: float, bits: float) -> float:
        """Above 0 where the quality, or the rate, is higher than asked.

        error: the mean square; bits: of an input. In decibels, or in tenths of the bits.
        """
        if self.settings.quality is not None:
            return -10 * math.log10(max(error, 1e-12)) - self.settings.quality
        assert self.settings.bits is not None
        return 10 * math.log(max(bits, 1e-3) / places(spec) / self.settings.bits)
