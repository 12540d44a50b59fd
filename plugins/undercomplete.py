"""The undercomplete autoencoder: h = f(x), x^ = g(h), J = J(x, g(f(x))), dim h < dim x.

With no hidden layers, linear units and square loss, f spans the principal components (Bourlard &
Kamp 1988; Baldi & Hornik 1989).
"""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field
from torch import Tensor

from compressor.errors import ConfigError
from compressor.plugin import Autoencoder, Code, PluginConfig
from compressor.spec import DataSpec
from compressor.training.blocks import (
    ActivationName,
    AsImage,
    conv_down,
    conv_up,
    dense,
)


class UndercompleteConfig(PluginConfig):
    network: Literal["dense", "conv"] = Field(
        "conv", description="conv halves the image once for each hidden layer and takes any size"
    )
    hidden: list[Annotated[int, Field(ge=1, le=65536)]] = Field(
        [32, 64], max_length=8, description="widths of the hidden layers, from the image inwards"
    )
    latent: int = Field(8, ge=1, le=65536, description="elements (dense) or channels (conv) of h")
    activation: ActivationName = Field("relu", description="of the hidden layers")
    code_activation: ActivationName = Field("linear", description="of h")
    output_activation: ActivationName = Field("linear", description="of g's last layer")
    loss: Literal["square", "absolute", "cross-entropy"] = Field(
        "square", description="J; cross-entropy puts a sigmoid behind the last layer"
    )


class Undercomplete(Autoencoder):
    """Dense or convolutional encoder and decoder around a code smaller than the input."""

    Config = UndercompleteConfig

    def __init__(self, config: UndercompleteConfig, spec: DataSpec) -> None:
        super().__init__(config, spec)
        self.dense = config.network == "dense"
        self.likelihood = config.loss
        hidden, between, last = config.hidden, config.activation, config.output_activation
        if self.dense:
            self.f = dense([spec.elements, *hidden, config.latent], between, config.code_activation)
            self.g = dense([config.latent, *hidden[::-1], spec.elements], between, last)
            self.g.append(AsImage(spec))
        else:
            self.stride = 2 ** len(hidden)
            if spec.height % self.stride or spec.width % self.stride:
                raise ConfigError(
                    f"hidden={hidden}: each layer halves the image, and {spec.height}x{spec.width} "
                    f"is not divisible by {self.stride}; use fewer layers or network=dense"
                )
            self.f = conv_down(
                spec.channels, hidden, config.latent, between, config.code_activation
            )
            self.g = conv_up(config.latent, hidden[::-1], spec.channels, between, last)

    def encode(self, x: Tensor) -> Code:
        return Code(self.f(x.flatten(1) if self.dense else x))

    def decode(self, z: Tensor) -> Tensor:
        out: Tensor = self.g(z)
        return out
