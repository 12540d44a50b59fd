"""ONNX Runtime, or one sentence about what to install where it is missing."""

from __future__ import annotations

from .errors import MissingDependency

try:
    import onnxruntime as ort

    ort.InferenceSession  # noqa: B018  # a folder that an uninstalled package left is a module, too
except (ImportError, AttributeError, OSError) as error:
    raise MissingDependency(
        "ONNX Runtime is not installed, or only a part of it is (onnxruntime and onnxruntime-gpu "
        "take each other's files along when one is uninstalled): run pip install --force-reinstall "
        "onnxruntime, or onnxruntime-gpu for an NVIDIA GPU"
    ) from error

__all__ = ["ort"]
