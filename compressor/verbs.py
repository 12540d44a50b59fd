"""The verbs of the command line as functions; each one's module loads when it is first used."""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

from .errors import MissingDependency, install

if TYPE_CHECKING:
    from .anomaly.calibrate import calibrate
    from .anomaly.score import score
    from .archive.compress import compress
    from .archive.decompress import decompress
    from .engine.encode import encode
    from .export.verb import export
    from .inspection import inspect, verify
    from .latent.arithmetic import arithmetic
    from .latent.interpolate import interpolate
    from .latent.sample import sample
    from .latent.traverse import traverse
    from .registry import plugins
    from .report.model_page import report
    from .retrieval.duplicates import duplicates
    from .retrieval.index import index
    from .retrieval.search import search
    from .training.train import train

__all__ = [
    "arithmetic",
    "calibrate",
    "compress",
    "decompress",
    "duplicates",
    "encode",
    "export",
    "index",
    "inspect",
    "interpolate",
    "plugins",
    "report",
    "sample",
    "score",
    "search",
    "train",
    "traverse",
    "verify",
]

_MODULES = {
    "arithmetic": ".latent.arithmetic",
    "calibrate": ".anomaly.calibrate",
    "compress": ".archive.compress",
    "decompress": ".archive.decompress",
    "duplicates": ".retrieval.duplicates",
    "encode": ".engine.encode",
    "export": ".export.verb",
    "index": ".retrieval.index",
    "inspect": ".inspection",
    "interpolate": ".latent.interpolate",
    "plugins": ".registry",
    "report": ".report.model_page",
    "sample": ".latent.sample",
    "score": ".anomaly.score",
    "search": ".retrieval.search",
    "train": ".training.train",
    "traverse": ".latent.traverse",
    "verify": ".inspection",
}
_MAKING = ("torch", "onnx", "onnxscript", "lightning_fabric", "yaml")


def __getattr__(name: str) -> Any:
    if name not in _MODULES:
        raise AttributeError(f"module 'compressor.verbs' has no attribute {name!r}")
    try:
        return getattr(importlib.import_module(_MODULES[name], __package__), name)
    except ImportError as error:
        if name in ("train", "export") and (error.name or "").partition(".")[0] in _MAKING:
            raise MissingDependency(
                f"{name} needs compressor[train]: run {install('train')}"
            ) from error
        raise


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
