"""Old name of compressor.networks.blocks, for plugins written for 0.4 and before."""

from ..networks.blocks import (
    ActivationName,
    Pair,
    Shaped,
    activation,
    conv_down,
    conv_to_vector,
    conv_up,
    dcgan_generator,
    dense,
    with_hidden,
)

__all__ = [
    "ActivationName",
    "Pair",
    "Shaped",
    "activation",
    "conv_down",
    "conv_to_vector",
    "conv_up",
    "dcgan_generator",
    "dense",
    "with_hidden",
]
