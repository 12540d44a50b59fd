"""The undercomplete autoencoder: h = f(x), x^ = g(h), J = J(x, g(f(x))), dim h < dim x.

With no hidden layers, linear units and square loss, f spans the principal components (Bourlard &
Kamp 1988; Baldi & Hornik 1989).
"""

from __future__ import annotations

from pydantic import Field

from compressor.networks.autoencoders import FeedForward, NetworkConfig
from compressor.networks.blocks import ActivationName
from compressor.spec import DataSpec


class UndercompleteConfig(NetworkConfig):
    code_activation: ActivationName = Field("linear", description="of h")


class Undercomplete(FeedForward):
    """Dense or convolutional encoder and decoder around a code smaller than the input."""

    contract = 2
    Config = UndercompleteConfig

    def __init__(self, config: UndercompleteConfig, spec: DataSpec) -> None:
        super().__init__(config, spec, config.code_activation)
