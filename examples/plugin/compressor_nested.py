"""Nested dropout: J(x, g(f(x) masked behind b)), b drawn anew for every input (Rippel et al. 2014).

Element k is there more often than element k + 1, so it learns to be worth more: the code's first
elements alone are a good code already.
"""

import torch
from pydantic import Field

from compressor.networks.blocks import Shaped, dense
from compressor.plugin import Autoencoder, Code, PluginConfig


class NestedConfig(PluginConfig):
    hidden: int = Field(128, ge=1, le=4096, description="units of the hidden layer")
    latent: int = Field(16, ge=1, le=4096, description="elements of the code")


class Nested(Autoencoder):
    """A code whose elements come in order of importance."""

    contract = 2
    Config = NestedConfig

    def __init__(self, config, spec):
        super().__init__(config, spec)
        self.f = dense([spec.elements, config.hidden, config.latent], "relu")
        self.g = dense([config.latent, config.hidden, spec.elements], "relu").append(Shaped(spec))

    def encode(self, x):
        code = self.f(x.flatten(1))
        if self.training:
            number = torch.arange(self.config.latent, device=x.device)
            code = code * (number <= self.config.latent * torch.rand(len(x), 1, device=x.device))
        return Code(code)

    def decode(self, z):
        return self.g(z)
