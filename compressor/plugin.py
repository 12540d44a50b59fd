"""The contract that an autoencoder plugin fulfils: the lecture's J = J(x, g(f(x~))) + alpha Omega.

The core makes the pass, quantises, codes, exports and reads files; a plugin says what f and g are
and, if it wants, how its input is corrupted and what its penalty is. A plugin in full:

    class Linear(Autoencoder):
        "One linear layer each way."

        contract = 2

        class Config(PluginConfig):
            latent: int = Field(32, ge=1, description="elements of the code")

        def __init__(self, config: Config, spec: DataSpec) -> None:
            super().__init__(config, spec)
            self.f = nn.Linear(spec.elements, config.latent)
            self.g = nn.Sequential(nn.Linear(config.latent, spec.elements), Shaped(spec))

        def encode(self, x):
            return Code(self.f(x.flatten(1)))

        def decode(self, z):
            return self.g(z)
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any, ClassVar

from pydantic import BaseModel, ConfigDict
from torch import Tensor, nn

from .bottleneck.bottleneck import Bottleneck, sampled
from .likelihood import LIKELIHOODS
from .spec import DataSpec

CONTRACT = 2  # the version of this contract; plugins of other versions are refused

__all__ = ["CONTRACT", "Autoencoder", "Code", "Pass", "Phase", "Player", "PluginConfig"]


class PluginConfig(BaseModel):
    """The base of every plugin's Config: frozen, JSON both ways, unknown fields refused."""

    model_config = ConfigDict(frozen=True, extra="forbid")


@dataclass(frozen=True)
class Code:
    """What an encoder returns.

    mean: float32 (N, *code_shape), the code that is exported.
    scale: like mean, positive, where the code is a Gaussian (Kingma & Welling 2013): training then
        samples mean + scale * N(0, 1), unless a rate is set; None where the code is a point.
    hidden: activations of hidden layers by name, for penalties and scores.
    """

    mean: Tensor
    scale: Tensor | None = None
    hidden: Mapping[str, Tensor] = field(default_factory=dict)


class Pass:
    """One forward pass; what penalties, losses and scores read.

    Each part is computed when it is first read, so a loss that reads no reconstruction pays for
    none. In ``training``, by default the model's own mode, the input is corrupted, and the code is
    sampled where it is Gaussian, or given noise where it is rounded in use. ``target``:
    model.target(x), where it is known already.
    """

    def __init__(
        self,
        model: Autoencoder,
        x: Tensor,
        training: bool | None = None,
        target: Tensor | None = None,
    ) -> None:
        self.model = model
        self.x = x  # the clean input
        if target is not None:
            self.target = target
        self.training = model.training if training is None else training

    @cached_property
    def seen(self) -> Tensor:
        """What the encoder sees: x~, or features~."""
        return self.model.corrupt(self.target) if self.training else self.target

    @cached_property
    def code(self) -> Code:
        """f(x~)."""
        return self.model.encode(self.seen)

    @cached_property
    def z(self) -> Tensor:
        """The code after the channel between f and g, which the decoder takes."""
        return self._channelled[0]

    @cached_property
    def bits(self) -> Tensor | None:
        """What the code costs under the learned prior, (N,); None where no rate is set."""
        return self._channelled[1]

    @property
    def is_through(self) -> bool:
        """Whether the code after the channel was read."""
        return "_channelled" in vars(self)

    @cached_property
    def _channelled(self) -> tuple[Tensor, Tensor | None]:
        if self.model.bottleneck is not None:
            z, bits = self.model.bottleneck(self.code.mean, self.training)
            return z, bits
        scale = self.code.scale if self.training else None
        return sampled(self.code.mean, scale), None

    @cached_property
    def out(self) -> Tensor:
        """What the decoder returns."""
        return self.model.decode(self.z)

    @cached_property
    def target(self) -> Tensor:
        """What is rebuilt: x, or features of it."""
        return self.model.target(self.x)

    @cached_property
    def pixels(self) -> Tensor:
        """x^, like the target, unclipped."""
        return LIKELIHOODS[self.model.likelihood].pixels(self.out)

    @cached_property
    def distortion(self) -> Tensor:
        """J(target, x^), (N,): the likelihood's loss summed over the target's elements."""
        losses = LIKELIHOODS[self.model.likelihood].distortion(self.target, self.out)
        return losses.flatten(1).sum(1)


Loss = Callable[[Pass], Mapping[str, Tensor]]


@dataclass(frozen=True)
class Player:
    """Modules that one optimiser trains, towards one loss.

    loss: a function of the pass that returns named scalars, whose sum is minimised; None for the
    template's objective: mean distortion plus the plugin's penalties. learning_rate: a factor on
    the training setting. momentum: the optimiser's (Adam's beta 1).
    """

    name: str
    modules: Sequence[nn.Module]
    loss: Loss | None = None
    learning_rate: float = 1.0
    momentum: float = 0.9


@dataclass(frozen=True)
class Phase:
    """A stretch of training: its players step in turn on every batch, or together.

    share: the part of all steps, or of all time, that it gets, relative to the other phases'.
    together: every player's gradient is computed before any of them steps. Modules of no player of
    the phase are frozen, batch statistics included.
    """

    name: str
    players: Sequence[Player]
    share: float = 1.0
    together: bool = False


class Autoencoder(nn.Module):
    """f and g. Subclasses set contract and Config and fill in encode and decode.

    x is float32: images (N, C, H, W) in [0, 1], or vectors (N, D), standardised; z is float32
    (N, *code_shape).
    """

    Config: ClassVar[type[PluginConfig]]
    contract: ClassVar[int]  # the version that the plugin was written for: a number, not CONTRACT
    likelihood: str = "square"  # how decode's output becomes pixels: likelihood.py
    stride: int | None = None  # of a fully convolutional pair; None for one fixed input size
    generative: bool = False  # whether z ~ N(0, I) decodes to samples
    rebuilds_features: bool = False  # of images, in place of pixels: a detector, not a codec
    default_score: str | None = None  # decides where no score is named; None: l2

    def __init__(self, config: Any, spec: DataSpec) -> None:
        super().__init__()
        self.config = config
        self.spec = spec
        self.bottleneck: Bottleneck | None = None  # set by the core, where there is a rate

    def encode(self, x: Tensor) -> Code:
        """f, of the target: deterministic in eval mode, each input independent of the others."""
        raise NotImplementedError

    def decode(self, z: Tensor) -> Tensor:
        """g: z to the shape of the target, before the likelihood's output function."""
        raise NotImplementedError

    def target(self, x: Tensor) -> Tensor:
        """What is encoded and rebuilt: x, or, where rebuilds_features, (N, C', h, w) of x.

        Only by modules that no player trains: training computes an image's features once.
        """
        return x

    def corrupt(self, x: Tensor) -> Tensor:
        """What the encoder sees in training; random numbers from torch's global generator."""
        return x

    def penalty(self, passed: Pass) -> Mapping[str, Tensor]:
        """alpha * Omega: named scalars that are added to the mean distortion."""
        return {}

    def phases(self) -> Sequence[Phase]:
        """How the model is trained, in order."""
        return [Phase("train", [Player("autoencoder", [self])])]

    def scores(self, passed: Pass) -> Mapping[str, Tensor]:
        """The plugin's own anomaly scores by name, (N,) each, higher is stranger; exported."""
        return {}

    def measures(self, passed: Pass) -> Mapping[str, Tensor]:
        """What else is worth knowing about the trained model: named scalars, for card and reports.

        ``passed`` is one pass of up to 256 validation inputs, in eval mode.
        """
        return {}

    def warnings(self, measures: Mapping[str, float]) -> Sequence[str]:
        """Sentences for the user, where measures say that training went wrong.

        ``measures`` are numbers by name: the plugin's own that are finite.
        """
        return ()
