"""What lies between f and g: nothing, Gaussian noise, or, where a rate is asked, a quantiser.

J = distortion + lambda * bits (Ballé, Laparra & Simoncelli 2017): the code is divided by a step,
given uniform noise in training and rounded in use, and costs -log2 P under a prior that is learned
together with f and g.
"""

from __future__ import annotations

import math
from typing import Literal

import torch
from torch import Tensor, nn

from ..entropy.hyperprior import side_channels
from .density import Density
from .hyperprior import Hyperprior, rounded

PriorName = Literal["factorised", "hyperprior"]
PRIOR_SPEED = 6.0  # the prior's learning rate over f's and g's: it has to follow the codes
SETTLING_STEPS, SETTLING_BATCH, SETTLING_RATE, SETTLING_CLIP = 300, 64, 5e-3, 100.0
SETTLING_POSITIONS = 2**13  # of a batch's codes together, at most
MAX_FIRST_STEP = 4.0  # in deviations of its channel: with a larger one nothing would come through


def sampled(mean: Tensor, scale: Tensor | None) -> Tensor:
    """z: the reparameterised sample of a Gaussian code, or, without a scale, the code itself.

    Kingma & Welling 2013, section 2.4: z = mean + scale * epsilon, epsilon ~ N(0, I).
    """
    return mean if scale is None else mean + scale * torch.randn_like(scale)


class Bottleneck(nn.Module):
    """Steps, noise or rounding, and the prior of codes (N, K) or (N, C, h, w)."""

    log_rate: Tensor
    started: Tensor
    decodes_integers: Tensor
    prior: Hyperprior | Density

    def __init__(self, shape: tuple[int, ...], prior: PriorName, rate: float) -> None:
        super().__init__()
        self.register_buffer("log_rate", torch.tensor(math.log(rate)))
        self.register_buffer("started", torch.tensor(False))
        self.register_buffer("decodes_integers", torch.tensor(False))  # in training, too
        self.log_steps = nn.Parameter(torch.zeros(shape[0], *[1] * (len(shape) - 1)))
        hyper = prior == "hyperprior" and side_channels(shape) > 0
        self.prior = Hyperprior(shape) if hyper else Density(shape[0])

    @property
    def rate(self) -> Tensor:
        """lambda: the distortion that one bit is worth."""
        return self.log_rate.exp()

    @property
    def steps(self) -> Tensor:
        """One for each channel or element, shaped to multiply a code."""
        return self.log_steps.exp()

    @torch.no_grad()
    def start(self, code: Tensor, sensitivity: Tensor) -> None:
        """Sets the steps and the prior's locations by an encoder that has learned a little.

        sensitivity: for each channel, the distortion that a unit of squared error of one element
        causes. Rounding to multiples of d adds d^2/12 times that; where distortion falls as
        2^(-2 R), a bit saves 2 ln 2 of it, and costs lambda.
        """
        deviation, mean = torch.std_mean(code.transpose(0, 1).flatten(1), 1, correction=0)
        steps = (6 * self.rate / math.log(2) / sensitivity).sqrt()
        steps = steps.clamp(1e-4, 1e4).minimum(MAX_FIRST_STEP * deviation.clamp_min(1e-4))
        self.log_steps.copy_(steps.log().reshape(self.log_steps.shape))
        self.prior.start(mean / steps, deviation / steps)
        self.started.fill_(True)

    def forward(self, code: Tensor, training: bool) -> tuple[Tensor, Tensor]:
        """(z like code, bits (N,)); noise from torch's global generator in training.

        With ``decodes_integers`` z is rounded in training as well, and the gradient passes as if it
        were not; bits are still those of the code with noise (Minnen & Singh 2020). Until
        ``start`` the code passes unchanged and costs nothing.
        """
        if not self.started:
            return code, code.new_zeros(len(code))
        with torch.autocast(code.device.type, enabled=False):  # integers need all of float32
            return self._through(code.float(), training)

    def _through(self, code: Tensor, training: bool) -> tuple[Tensor, Tensor]:
        scaled = code / self.steps
        if not training:
            integers = torch.floor(scaled + 0.5)
            return integers * self.steps, self.bits(integers)
        noisy = scaled + torch.rand_like(scaled) - 0.5
        decoded = rounded(scaled) if self.decodes_integers else noisy
        return decoded * self.steps, self.bits(noisy, training=True)

    def bits(self, integers: Tensor, training: bool = False) -> Tensor:
        """-log2 P(integers), (N,); in training they are integers with noise."""
        if isinstance(self.prior, Hyperprior):
            return self.prior.bits(integers, training)
        return self.prior.bits(integers).flatten(1).sum(1)

    @torch.enable_grad()
    def settle(self, codes: Tensor) -> None:
        """Fits the prior to integers (N, *shape) as they are in use; f, g and steps stay.

        From noisy codes it has learned a smoother density than that of the integers.
        """
        self.requires_grad_(True)  # a last phase may have frozen it
        count = max(1, min(SETTLING_BATCH, SETTLING_POSITIONS // codes[0, 0].numel()))
        optimiser = torch.optim.Adam(self.prior.parameters(), SETTLING_RATE)
        schedule = torch.optim.lr_scheduler.OneCycleLR(
            optimiser, SETTLING_RATE, SETTLING_STEPS, pct_start=0.1
        )
        for _ in range(SETTLING_STEPS):
            batch = codes[torch.randint(len(codes), (count,))].float()
            optimiser.zero_grad()
            self.bits(batch).mean().backward()  # type: ignore[no-untyped-call]  # torch has no types for it
            torch.nn.utils.clip_grad_norm_(self.prior.parameters(), SETTLING_CLIP)
            optimiser.step()
            schedule.step()
