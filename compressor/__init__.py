"""Autoencoders that compress image datasets, score anomalies and run as plain ONNX.

The verbs of the command line are functions of the same names in ``compressor.verbs``. What stands
here loads when it is first used, so that ``import compressor`` and ``--help`` stay quick.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from . import errors, verbs
    from .archive.reader import Archive
    from .data.objects import rows
    from .model import Model

__version__ = "0.4.0"
__all__ = ["Archive", "Model", "__version__", "errors", "rows", "verbs"]

_MODULES = {
    "Archive": ".archive.reader",
    "Model": ".model",
    "errors": ".errors",
    "rows": ".data.objects",
    "verbs": ".verbs",
}


def __getattr__(name: str) -> Any:
    if name not in _MODULES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    module = importlib.import_module(_MODULES[name], __name__)
    return getattr(module, name, module)


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
