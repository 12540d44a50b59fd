"""Old name of compressor.networks.discriminator, for plugins written for 0.4 and before."""

from ..networks.discriminator import (
    Discriminator,
    WithDiscriminator,
    cross_entropy,
    gradient_penalty,
)

__all__ = ["Discriminator", "WithDiscriminator", "cross_entropy", "gradient_penalty"]
