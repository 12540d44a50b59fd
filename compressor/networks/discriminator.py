"""The discriminator D: a GAN's second player, and a scorer that any autoencoder can be given.

D(x) is a logit, above 0 where D takes x for real (Goodfellow et al. 2014). It gives two scores:
-D(x), and the distance between D's features of x and of g(f(x)) (Salimans et al. 2016; Schlegl et
al. 2017).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ..errors import ConfigError
from ..normalisation import Normalisation, example
from ..plugin import Autoencoder, Code, Pass, Phase, Player
from ..spec import DataSpec, ImageSpec

CONV_WIDTHS, DENSE_WIDTHS = (32, 64, 128), (256, 64)
SLOPE = 0.2  # of the leaky ReLU (Radford, Metz & Chintala 2016)
TRAINING_SHARE = 0.25  # of the autoencoder's training, that an added discriminator gets on top
# Factor on training's learning rate, and Adam's beta 1 (Radford, Metz & Chintala 2016: 2e-4, 0.5)
LEARNING_RATE, MOMENTUM = 0.1, 0.5


class Discriminator(nn.Module):
    """x to a logit: strided convolutions, every position judged, or dense layers.

    With conv it takes images of any size, but where it judges them whole. widths: of the layers,
    from the input on.
    """

    def __init__(
        self,
        spec: DataSpec,
        *,
        conv: bool,
        widths: Sequence[int] | None = None,
        norm: bool = False,
        whole: bool = False,
    ) -> None:
        super().__init__()
        self.conv = conv
        layers: list[nn.Module] = []
        if conv:
            assert isinstance(spec, ImageSpec)
            inputs: int = spec.channels
            halvings = len(widths or CONV_WIDTHS)
            for number, width in enumerate(widths or CONV_WIDTHS):
                # a side of n becomes one of n / 2, rounded up, so that there is always one left
                layers.append(nn.Conv2d(inputs, width, 3, stride=2, padding=1))
                if norm and number:
                    layers.append(nn.BatchNorm2d(width))
                layers.append(nn.LeakyReLU(SLOPE))
                inputs = width
            left = [-(-side // 2**halvings) for side in (spec.height, spec.width)]
            self.head: nn.Module = nn.Conv2d(inputs, 1, tuple(left) if whole else 1)
        else:
            inputs = spec.elements
            for width in widths or DENSE_WIDTHS:
                layers += [nn.Linear(inputs, width), nn.LeakyReLU(SLOPE)]
                inputs = width
            self.head = nn.Linear(inputs, 1)
        self.body = nn.Sequential(*layers)

    def features(self, x: Tensor) -> Tensor:
        """The last hidden layer: (N, features) or (N, features, h, w)."""
        features: Tensor = self.body(x if self.conv else x.flatten(1))
        return features

    def forward(self, x: Tensor) -> Tensor:
        """D(x), a logit (N,)."""
        logits: Tensor = self.head(self.features(x))
        return logits.mean(tuple(range(1, logits.ndim)))

    def distance(self, x: Tensor, other: Tensor) -> Tensor:
        """The mean squared difference between the features of two inputs, (N,)."""
        difference = (self.features(x) - self.features(other)).square()
        return difference.mean(tuple(range(1, difference.ndim)))

    def scores(self, passed: Pass) -> dict[str, Tensor]:
        """Anomaly scores (N,), higher is stranger."""
        return {
            "logit": self(passed.x) * -1.0,  # not every runtime has the operator Neg
            "feature_distance": self.distance(passed.x, passed.pixels),
        }


def cross_entropy(real: Tensor, fake: Tensor) -> Tensor:
    """J(D) = -E log sigmoid(D(x)) - E log(1 - sigmoid(D(g(z)))), from logits."""
    return F.softplus(-real).mean() + F.softplus(fake).mean()


def gradient_penalty(discriminator: Discriminator, x: Tensor) -> Tensor:
    """R1: E |dD/dx|^2 / 2 of real x, which keeps D from being certain (Mescheder et al. 2018)."""
    logits, pull = torch.func.vjp(discriminator, x)  # type: ignore[misc]  # three only with has_aux
    (gradient,) = pull(torch.ones_like(logits))
    penalty: Tensor = gradient.square().flatten(1).sum(1).mean() / 2
    return penalty


class WithDiscriminator(Autoencoder):
    """Any autoencoder and, in a last phase, a discriminator trained on x against g(f(x))."""

    def __init__(self, model: Autoencoder) -> None:
        super().__init__(model.config, model.spec)
        self.model = model
        self.likelihood, self.stride = model.likelihood, model.stride
        conv = isinstance(model.spec, ImageSpec)
        self.discriminator = Discriminator(model.spec, conv=conv)
        self.eval()
        with torch.no_grad():
            self.scores(Pass(self, Normalisation(self.spec)(example(self.spec, 1))))

    @property
    def generative(self) -> bool:  # type: ignore[override]  # a plugin's attribute may be one
        """Never with a rate, which the plugin does not know: the bottleneck is this model's."""
        return self.model.generative and self.bottleneck is None

    def encode(self, x: Tensor) -> Code:
        return self.model.encode(x)

    def decode(self, z: Tensor) -> Tensor:
        return self.model.decode(z)

    def corrupt(self, x: Tensor) -> Tensor:
        return self.model.corrupt(x)

    def penalty(self, passed: Pass) -> Mapping[str, Tensor]:
        return self.model.penalty(passed)

    def measures(self, passed: Pass) -> Mapping[str, Tensor]:
        return self.model.measures(passed)

    def warnings(self, measures: Mapping[str, float]) -> Sequence[str]:
        return self.model.warnings(measures)

    def phases(self) -> Sequence[Phase]:
        phases = list(self.model.phases())
        player = Player(
            "discriminator",
            [self.discriminator],
            self._loss,
            learning_rate=LEARNING_RATE,
            momentum=MOMENTUM,
        )
        share = TRAINING_SHARE * sum(phase.share for phase in phases)
        return [*phases, Phase("discriminator", [player], share)]

    def _loss(self, passed: Pass) -> Mapping[str, Tensor]:
        with torch.no_grad():  # as it will be used
            fake = Pass(self, passed.x, training=False).pixels
        return {
            "discriminator": cross_entropy(self.discriminator(passed.x), self.discriminator(fake))
        }

    def scores(self, passed: Pass) -> Mapping[str, Tensor]:
        of_plugin, added = self.model.scores(passed), self.discriminator.scores(passed)
        if clash := of_plugin.keys() & added.keys():
            raise ConfigError(f"discriminator=true: the plugin already has a score {min(clash)!r}")
        return {**of_plugin, **added}
