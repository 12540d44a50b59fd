"""Old name of compressor.networks.autoencoders, for plugins written for 0.4 and before."""

from ..networks.autoencoders import (
    FeedForward,
    Latent,
    NetworkConfig,
    NetworkName,
    Stack,
    Widths,
    is_conv,
    refuse_odd_size,
)

__all__ = [
    "FeedForward",
    "Latent",
    "NetworkConfig",
    "NetworkName",
    "Stack",
    "Widths",
    "is_conv",
    "refuse_odd_size",
]
