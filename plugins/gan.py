"""The generative adversarial network, with an encoder: g makes samples of z ~ N(0, I), D judges.

J(D) = -E log D(x) - E log(1 - D(g(z)))                      (Goodfellow et al. 2014)
       + gamma/2 E |d logit D(x) / dx|^2                     (R1: Mescheder et al. 2018)
J(g) = -E log D(g(z))            non-saturating
     = -J(D), its part with g    minimax
     = -E exp(logit D(g(z)))     maximum-likelihood          (Goodfellow 2016, section 3.2.5)
Then, with g and D fixed, f minimises
J(f) = |x - g(f(x))|^2 + kappa |phi(x) - phi(g(f(x)))|^2 + s^2 |f(x)|^2
phi are D's features, their distance a mean times the elements of x (izi_f: Schlegl et al. 2019, who
take means); the last term keeps codes where z is likely. conv is a DCGAN (Radford, Metz & Chintala
2016).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Literal

import torch
import torch.nn.functional as F
from pydantic import Field
from torch import Tensor, nn

from compressor.errors import ConfigError
from compressor.networks.autoencoders import Latent, NetworkName, Widths, is_conv, refuse_odd_size
from compressor.networks.blocks import (
    ActivationName,
    Shaped,
    conv_to_vector,
    dcgan_generator,
    dense,
    with_hidden,
)
from compressor.networks.discriminator import (
    MOMENTUM,
    Discriminator,
    cross_entropy,
    gradient_penalty,
)
from compressor.plugin import Autoencoder, Code, Pass, Phase, Player, PluginConfig
from compressor.spec import DataSpec, ImageSpec

LEARNING_RATE = 0.5  # of both, a factor on training's
PENALISED = 8  # every so many of a batch, whose gradients are as good an estimate as all of them
WIDEST, SMALLEST = 64, 8  # of conv: channels of the smallest image, and its side
LARGEST_LOGIT = 10.0  # in exp(logit), which is unbounded
DEVIATION = 0.1  # s of a Gaussian p(x | z): with it f(x) is the likeliest z, p(z) = N(0, I)


class GANConfig(PluginConfig):
    network: NetworkName = Field(
        "auto", description="conv is a DCGAN; auto: conv for images, dense for vectors"
    )
    hidden: Widths | None = Field(
        None,
        description="widths from the input inwards; null: 64 and half of it outwards, until "
        f"{SMALLEST} pixels a side are left, two at least (conv), [256, 256] (dense)",
    )
    latent: Latent = Field(32, description="elements of z")
    generator_loss: Literal["non-saturating", "minimax", "maximum-likelihood"] = Field(
        "non-saturating", description="J(g)"
    )
    updates: Literal["alternating", "simultaneous"] = Field(
        "alternating", description="D steps before g on every batch, or both at once"
    )
    gamma: float = Field(1.0, ge=0, description="weight of R1; 0: batch normalisation in D instead")
    kappa: float = Field(1.0, ge=0, description="weight of the features' distance in f's loss")
    encoder_share: float = Field(0.2, gt=0, lt=1, description="of the training, for f")


class GAN(Autoencoder):
    """Generator against discriminator, then an encoder; the discriminator scores anomalies."""

    contract = 2
    Config = GANConfig
    generative = True

    def __init__(self, config: GANConfig, spec: DataSpec) -> None:
        super().__init__(config, spec)
        conv = is_conv(config.network, spec)
        hidden = config.hidden
        if hidden is None:
            hidden = conv_widths(spec) if conv else [256, 256]
        if conv and not hidden:
            raise ConfigError(
                "hidden=[]: a DCGAN needs at least one layer; give more, or network=dense"
            )
        if isinstance(spec, ImageSpec) and conv:
            refuse_odd_size(spec, len(hidden), f"hidden={hidden}")
            self.f = conv_to_vector(spec, hidden, config.latent)
            self.g: nn.Module = dcgan_generator(config.latent, hidden[::-1], spec)
        else:
            last: ActivationName = "sigmoid" if isinstance(spec, ImageSpec) else "linear"
            sizes = [spec.elements, *hidden, config.latent]
            self.f = nn.Sequential(nn.Flatten(), *dense(sizes, "leaky_relu"))
            self.g = nn.Sequential(*dense(sizes[::-1], "relu", last), Shaped(spec))
        widths = [*hidden, 2 * hidden[-1]] if conv else hidden
        # Batch normalisation would make D's gradient at one input depend on the others.
        norm = not config.gamma
        self.discriminator = Discriminator(spec, conv=conv, widths=widths, norm=norm, whole=True)

    def encode(self, x: Tensor) -> Code:
        mean, hidden = with_hidden(self.f, x)
        return Code(mean, hidden=hidden)

    def decode(self, z: Tensor) -> Tensor:
        out: Tensor = self.g(z)
        return out

    def phases(self) -> Sequence[Phase]:
        judge = Player("D", [self.discriminator], self._judge, LEARNING_RATE, MOMENTUM)
        maker = Player("g", [self.g], self._make, LEARNING_RATE, MOMENTUM)
        share = self.config.encoder_share
        together = self.config.updates == "simultaneous"
        return [
            Phase("adversarial", [judge, maker], 1 - share, together),
            Phase("encoder", [Player("f", [self.f], self._encode)], share),
        ]

    def _sample(self, x: Tensor) -> Tensor:
        return self.decode(torch.randn(len(x), self.config.latent, device=x.device))

    def _judge(self, passed: Pass) -> Mapping[str, Tensor]:
        x, gamma = passed.x, self.config.gamma
        with torch.no_grad():
            fake = self._sample(x)
        losses = {"D": cross_entropy(self.discriminator(x), self.discriminator(fake))}
        if gamma:
            losses["R1"] = gamma * gradient_penalty(self.discriminator, x[::PENALISED])
        return losses

    def _make(self, passed: Pass) -> Mapping[str, Tensor]:
        logit = self.discriminator(self._sample(passed.x))
        if self.config.generator_loss == "non-saturating":
            return {"g": F.softplus(-logit).mean()}
        if self.config.generator_loss == "minimax":
            return {"g": -F.softplus(logit).mean()}
        return {"g": -torch.exp(logit.clamp(max=LARGEST_LOGIT)).mean()}

    def _encode(self, passed: Pass) -> Mapping[str, Tensor]:
        inputs, elements = len(passed.x), passed.x[0].numel()
        distance = self.discriminator.distance(passed.x, passed.pixels)
        return {
            "distortion": (passed.x - passed.pixels).square().sum() / inputs,
            "prior": DEVIATION**2 * passed.z.square().sum() / inputs,
            "features": self.config.kappa * elements * distance.mean(),
        }

    def scores(self, passed: Pass) -> Mapping[str, Tensor]:
        return self.discriminator.scores(passed)

    def measures(self, passed: Pass) -> Mapping[str, Tensor]:
        real, fake = self.discriminator(passed.x), self.discriminator(self._sample(passed.x))
        return {"D(x)": real.sigmoid().mean(), "D(g(z))": fake.sigmoid().mean()}


def conv_widths(spec: DataSpec) -> list[int]:
    """[32, 64] for 28x28, [16, 32, 64] for 64x64: from the input inwards."""
    assert isinstance(spec, ImageSpec)
    side, halvings = min(spec.height, spec.width), 2
    while side >> halvings > SMALLEST and halvings < 4 and _divisible(spec, halvings + 1):
        halvings += 1
    return [WIDEST >> number for number in reversed(range(halvings))]


def _divisible(spec: ImageSpec, halvings: int) -> bool:
    return not (spec.height % 2**halvings or spec.width % 2**halvings)
