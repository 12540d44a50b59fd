"""A prior as it is stored: prior.bin, and the hyperprior's two graphs where it has one."""

from __future__ import annotations

from collections.abc import Callable

from . import hyperprior
from .prior import Prior
from .tables import Tables


def read_prior(content: bytes, read: Callable[[str], bytes]) -> Tables:
    """The prior of prior.bin; ``read`` returns other files by name. ModelError if damaged."""
    if content[4:5] != bytes([hyperprior.VERSION]):
        return Prior.from_bytes(content)
    from .networks import OnnxNetworks  # ONNX Runtime takes 150 ms to import

    return hyperprior.HyperTables.from_bytes(
        content, lambda channels, side, reach: OnnxNetworks(channels, side, reach, read)
    )
