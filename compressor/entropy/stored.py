"""A prior as it is stored: prior.bin, and prior.onnx where it has context."""

from __future__ import annotations

from collections.abc import Callable

from . import context
from .prior import Prior
from .tables import Tables


def read_prior(content: bytes, graph: Callable[[], bytes]) -> Tables:
    """The prior of prior.bin; ``graph`` gives prior.onnx. Raises ModelError for a damaged one."""
    if content[4:5] != bytes([context.VERSION]):
        return Prior.from_bytes(content)
    from .network import OnnxNetwork  # ONNX Runtime takes 150 ms to import

    return context.ContextPrior.from_bytes(content, lambda passes: OnnxNetwork(graph(), passes))
