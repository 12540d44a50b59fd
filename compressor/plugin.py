"""The contract that an autoencoder plugin fulfils: the lecture's J = J(x, g(f(x~))) + alpha Omega.

The core makes the pass, quantises, codes, exports and reads files; a plugin says what f and g are
and, if it wants, how its input is corrupted and what its penalty is. A plugin in full:

    class Linear(Autoencoder):
        "One linear layer each way."

        class Config(PluginConfig):
            latent: int = Field(32, ge=1, description="elements of the code")

        def __init__(self, config: Config, spec: DataSpec) -> None:
            super().__init__(config, spec)
            size = spec.height * spec.width * spec.channels
            self.f = nn.Linear(size, config.latent)
            self.g = nn.Sequential(nn.Linear(config.latent, size), AsImage(spec))

        def encode(self, x):
            return Code(self.f(x.flatten(1)))

        def decode(self, z):
            return self.g(z)
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, ClassVar

from pydantic import BaseModel, ConfigDict
from torch import Tensor, nn

from .spec import DataSpec

CONTRACT = 1  # the version of what stands here; a plugin of another version is refused

__all__ = ["CONTRACT", "Autoencoder", "Code", "Pass", "Phase", "Player", "PluginConfig"]


class PluginConfig(BaseModel):
    """The base of every plugin's Config: frozen, JSON both ways, unknown fields refused."""

    model_config = ConfigDict(frozen=True, extra="forbid")


@dataclass(frozen=True)
class Code:
    """What an encoder gives.

    mean: float32 (N, *code_shape), the code that is exported.
    scale: like mean, positive, where the code is a Gaussian (Kingma & Welling 2013): training then
        samples mean + scale * N(0, 1); None where it is a point.
    hidden: activations of hidden layers by name, for penalties and scores.
    """

    mean: Tensor
    scale: Tensor | None = None
    hidden: Mapping[str, Tensor] = field(default_factory=dict)


@dataclass(frozen=True)
class Pass:
    """One forward pass as the core made it; what penalties, losses and scores read.

    x: the clean input; seen: what the encoder saw (corrupted in training); z: the code after the
    channel between f and g; out: what the decoder gave; pixels: out as pixels, unclipped;
    distortion: (N,), the likelihood's loss summed over an input's elements.
    """

    x: Tensor
    seen: Tensor
    code: Code
    z: Tensor
    out: Tensor
    pixels: Tensor
    distortion: Tensor


Loss = Callable[[Pass], Mapping[str, Tensor]]


@dataclass(frozen=True)
class Player:
    """Modules that one optimiser trains, towards one loss.

    loss: a function of the pass that gives named scalars, whose sum is minimised; None for the
    template's objective: mean distortion plus the plugin's penalties. learning_rate: a factor on
    the training setting.
    """

    name: str
    modules: Sequence[nn.Module]
    loss: Loss | None = None
    learning_rate: float = 1.0


@dataclass(frozen=True)
class Phase:
    """A stretch of training: its players step in turn on every batch.

    share: the part of all steps, or of all time, that it gets, relative to the other phases'.
    Modules that no player of the phase has are frozen, batch statistics included.
    """

    name: str
    players: Sequence[Player]
    share: float = 1.0


class Autoencoder(nn.Module):
    """f and g. Subclasses set Config and fill in encode and decode.

    x is float32 (N, C, H, W) in [0, 1]; z is float32 (N, *code_shape).
    """

    Config: ClassVar[type[PluginConfig]]
    contract: ClassVar[int] = CONTRACT
    likelihood: str = "square"  # how decode's output becomes pixels: training/likelihood.py
    stride: int | None = None  # of a fully convolutional pair; None for one fixed input size

    def __init__(self, config: Any, spec: DataSpec) -> None:
        super().__init__()
        self.config = config
        self.spec = spec

    def encode(self, x: Tensor) -> Code:
        """f: deterministic in eval mode, and of each input alone."""
        raise NotImplementedError

    def decode(self, z: Tensor) -> Tensor:
        """g: (N, *code_shape) to (N, C, H, W), before the likelihood's output function."""
        raise NotImplementedError

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
        """Further anomaly scores by name, (N,) each, higher is stranger; exported."""
        return {}
