"""What autoencoders with different objectives share: a network each way, or tied pairs."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import Field
from torch import Tensor, nn

from ..errors import ConfigError
from ..likelihood import LIKELIHOODS, LikelihoodName
from ..plugin import Autoencoder, Code, PluginConfig
from ..spec import DataSpec, ImageSpec
from .blocks import ActivationName, Pair, Shaped, conv_down, conv_up, dense, with_hidden

NetworkName = Literal["auto", "dense", "conv"]
Widths = Annotated[list[Annotated[int, Field(ge=1, le=65536)]], Field(max_length=8)]
Latent = Annotated[int, Field(ge=1, le=65536)]
CONV_WIDTHS, DENSE_WIDTHS = [32, 64], [256, 64]
CONV_LATENT, DENSE_LATENT = 8, 32


class NetworkConfig(PluginConfig):
    """The settings of every feed-forward autoencoder."""

    network: NetworkName = Field(
        "auto",
        description="conv halves the image once for each hidden layer and takes any size; "
        "auto: conv for images, dense for vectors",
    )
    hidden: Widths | None = Field(
        None,
        description="widths of the hidden layers, from the input inwards; null: "
        f"{CONV_WIDTHS} (conv), {DENSE_WIDTHS} (dense)",
    )
    latent: Latent | None = Field(
        None,
        description=f"elements (dense) or channels (conv) of h; null: {CONV_LATENT} (conv), "
        f"half of the input's elements, {DENSE_LATENT} at most (dense)",
    )
    activation: ActivationName = Field("relu", description="of the hidden layers")
    output_activation: ActivationName = Field("linear", description="of g's last layer")
    loss: LikelihoodName = Field(
        "square",
        description="J; cross-entropy puts a sigmoid behind the last layer and takes values in "
        "[0, 1], discretised-logistic takes images",
    )


def is_conv(network: NetworkName, spec: DataSpec) -> bool:
    """Whether a network is convolutional; raises ConfigError where the data forbid it."""
    if network == "conv" and not isinstance(spec, ImageSpec):
        raise ConfigError("network=conv is for images; these data are vectors: use network=dense")
    return isinstance(spec, ImageSpec) if network == "auto" else network == "conv"


def refuse_odd_size(spec: DataSpec, halvings: int, setting: str) -> None:
    """Raises ConfigError unless the image can be halved so often."""
    assert isinstance(spec, ImageSpec)
    if spec.height % 2**halvings or spec.width % 2**halvings:
        raise ConfigError(
            f"{setting}: each layer halves the image, and {spec.height}x{spec.width} is not "
            f"divisible by {2**halvings}; use fewer layers or network=dense"
        )


class FeedForward(Autoencoder):
    """f and g: two networks, each the other's mirror in shape.

    code_activation: of the code; numbers: how many f returns for each element of the code.
    """

    def __init__(
        self,
        config: NetworkConfig,
        spec: DataSpec,
        code_activation: ActivationName = "linear",
        numbers: int = 1,
    ) -> None:
        super().__init__(config, spec)
        self.likelihood = config.loss
        outputs = LIKELIHOODS[config.loss].outputs
        self.dense = not is_conv(config.network, spec)
        hidden = DENSE_WIDTHS if self.dense else CONV_WIDTHS
        hidden = hidden if config.hidden is None else config.hidden
        between, last = config.activation, config.output_activation
        if last != "linear" and config.loss in ("cross-entropy", "discretised-logistic"):
            raise ConfigError(
                f"output_activation={last}: loss={config.loss} has an output function of its own; "
                "leave it linear"
            )
        if self.dense:
            latent = config.latent or max(1, min(DENSE_LATENT, spec.elements // 2))
            self.f = dense([spec.elements, *hidden, latent * numbers], between, code_activation)
            self.g = dense([latent, *hidden[::-1], spec.elements * outputs], between, last)
            self.g.append(Shaped(spec, outputs))
        else:
            assert isinstance(spec, ImageSpec)
            latent = config.latent or CONV_LATENT
            self.stride = 2 ** len(hidden)
            self.f = conv_down(spec.channels, hidden, latent * numbers, between, code_activation)
            self.g = conv_up(latent, hidden[::-1], spec.channels * outputs, between, last)

    def encode(self, x: Tensor) -> Code:
        mean, hidden = with_hidden(self.f, x.flatten(1) if self.dense else x)
        return Code(mean, hidden=hidden)

    def decode(self, z: Tensor) -> Tensor:
        out: Tensor = self.g(z)
        return out


class Stack(Autoencoder):
    """f and g: pairs of layers, from the input inwards, tied or not.

    config has network, activation, loss; widths: of the layers, the last being the code's.
    """

    def __init__(
        self,
        config: Any,
        spec: DataSpec,
        widths: list[int],
        code_activation: ActivationName,
        *,
        tied: bool,
    ) -> None:
        super().__init__(config, spec)
        self.likelihood = config.loss
        if LIKELIHOODS[config.loss].outputs != 1:
            raise ConfigError(
                f"loss={config.loss}: mirrored layers return one number a pixel; choose another"
            )
        self.dense = not is_conv(config.network, spec)
        if not self.dense:
            self.stride = 2 ** len(widths)
        inputs = spec.channels if isinstance(spec, ImageSpec) and not self.dense else spec.elements
        pairs: list[Pair] = []
        below: ActivationName = "linear"
        for number, outputs in enumerate(widths, start=1):
            above = code_activation if number == len(widths) else config.activation
            pairs.append(Pair(inputs, outputs, above, below, tied=tied, conv=not self.dense))
            inputs, below = outputs, above
        self._pairs = nn.ModuleList(pairs)
        self.shaped = Shaped(spec)

    @property
    def pairs(self) -> list[Pair]:
        """From the input inwards."""
        return [pair for pair in self._pairs if isinstance(pair, Pair)]

    def up(self, x: Tensor, count: int | None = None) -> Tensor:
        """x through the first ``count`` layers of f, or all of them."""
        h = x.flatten(1) if self.dense else x
        for pair in self.pairs[:count]:
            h = pair.f(h)
        return h

    def encode(self, x: Tensor) -> Code:
        h, hidden = x.flatten(1) if self.dense else x, {}
        for number, pair in enumerate(self.pairs[:-1], start=1):
            hidden[f"layer {number}"] = h = pair.f(h)
        return Code(self.pairs[-1].f(h), hidden=hidden)

    def decode(self, z: Tensor) -> Tensor:
        for pair in self.pairs[::-1]:
            z = pair.g(z)
        return self.shaped(z) if self.dense else z
