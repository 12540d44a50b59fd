"""Which ONNX Runtime execution provider runs a graph; an unavailable one is an error."""

from __future__ import annotations

import contextlib
import ctypes
import importlib.metadata
import io
import sys
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

from ..errors import DeviceError, install
from ..log import log
from ..runtime import ort

PROVIDERS = {
    "cpu": "CPUExecutionProvider",
    "cuda": "CUDAExecutionProvider",
    "tensorrt": "TensorrtExecutionProvider",
    "directml": "DmlExecutionProvider",
    "coreml": "CoreMLExecutionProvider",
    "migraphx": "MIGraphXExecutionProvider",
    "openvino": "OpenVINOExecutionProvider",
}
DEVICES = ("auto", *PROVIDERS)
_AUTO_ORDER = ("cuda", "cpu")  # the others are used only by name
_OPTIONS: dict[str, dict[str, Any]] = {
    # HEURISTIC: no tuning run for each new shape. TF32 would change scores in the third digit.
    "cuda": {
        "cudnn_conv_algo_search": "HEURISTIC",
        "arena_extend_strategy": "kSameAsRequested",
        "use_tf32": "0",
    },
}
TWO_RUNTIMES = (
    "onnxruntime and onnxruntime-gpu are both installed and overwrite each other; run: pip "
    "uninstall -y onnxruntime onnxruntime-gpu, then pip install onnxruntime-gpu (or onnxruntime, "
    "which is enough for the CPU)"
)
# A graph of one operator: making a session of it shows whether a provider works at all.
_PROBE = (
    b'\x08\x08\x12\x00:?\n\x0c\n\x01x\x12\x01y"\x04Relu\x12\x05probeZ\x13\n\x01x\x12\x0e\n\x0c\x08\x01\x12\x08\n\x02\x08\x01\n\x02\x08\x01b\x13\n\x01y\x12\x0e\n\x0c\x08\x01\x12'
    b"\x08\n\x02\x08\x01\n\x02\x08\x01B\x04\n\x00\x10\x12"
)


@dataclass(frozen=True)
class Device:
    """An execution provider that was seen to work: its short name, and why it was chosen."""

    name: str
    reason: str

    def __str__(self) -> str:
        return f"{self.name} ({self.reason})"

    @property
    def is_cpu(self) -> bool:
        return self.name == "cpu"

    def session(self, graph: bytes) -> ort.InferenceSession:
        """A session that runs on this device and no other; raises DeviceError."""
        return _session(self.name, graph)


def choose_device(name: str = "auto") -> Device:
    """Raises DeviceError if the named device cannot be used; ``auto`` always finds one."""
    if name in PROVIDERS and name != "cpu" and _two_runtimes():
        raise DeviceError(f"{name} cannot be used: {TWO_RUNTIMES}")
    if _two_runtimes():
        _warn_once(TWO_RUNTIMES)
    if name == "auto":
        why = []
        for candidate in _AUTO_ORDER:
            try:
                device = _seen_to_work(candidate)
            except DeviceError as error:
                why.append(str(error))
            else:
                return Device(device.name, f"auto ({'; '.join(why)})" if why else "auto")
    return _seen_to_work(name)


def _seen_to_work(name: str) -> Device:
    if name not in PROVIDERS:
        raise DeviceError(f"there is no device {name!r}; known are: {', '.join(DEVICES)}")
    if PROVIDERS[name] not in ort.get_available_providers():
        raise DeviceError(f"{name} is not in the installed ONNX Runtime {ort.__version__}")
    _session(name, _PROBE)
    return Device(name, "as asked")


def _session(name: str, graph: bytes) -> ort.InferenceSession:
    options = ort.SessionOptions()
    options.log_severity_level = 4
    # Batches run in parallel, not operators: results do not depend on the number of threads, and
    # no core waits for another inside an operator.
    options.intra_op_num_threads = 1
    options.inter_op_num_threads = 1
    providers: list[Any] = [(PROVIDERS[name], _OPTIONS.get(name, {}))]
    if name == "tensorrt":  # operators that TensorRT lacks may run in CUDA, never on the CPU
        providers.append((PROVIDERS["cuda"], _OPTIONS["cuda"]))
    if name != "cpu":
        options.add_session_config_entry("session.disable_cpu_ep_fallback", "1")
        if name in ("cuda", "tensorrt"):
            _load_nvidia(name)
    try:
        session = ort.InferenceSession(graph, options, providers=providers, enable_fallback=0)
    except Exception as error:  # ONNX Runtime's errors have no common class below Exception
        raise DeviceError(
            f"{name} cannot be used: {str(error).strip().splitlines()[0][:200]}"
        ) from error
    if session.get_providers()[0] != PROVIDERS[name]:
        raise DeviceError(
            f"{name} cannot be used: ONNX Runtime turned to {session.get_providers()[0]}; "
            f"the driver or its libraries are missing (CUDA's: {install('gpu')})"
        )
    return session


def _load_nvidia(name: str) -> None:
    """Loads CUDA's libraries from wherever pip put them; DeviceError if there is no driver."""
    driver = "nvcuda.dll" if sys.platform == "win32" else "libcuda.so.1"
    try:
        ctypes.CDLL(driver)
    except OSError as error:
        raise DeviceError(
            f"{name} cannot be used: there is no NVIDIA driver ({driver} cannot be loaded)"
        ) from error
    if hasattr(ort, "preload_dlls"):
        with contextlib.redirect_stdout(
            io.StringIO()
        ):  # it prints the libraries that it does not find
            ort.preload_dlls()


def _two_runtimes() -> bool:
    return all(
        any(True for _ in importlib.metadata.distributions(name=name))
        for name in ("onnxruntime", "onnxruntime-gpu")
    )


@lru_cache
def _warn_once(message: str) -> None:
    log.warning("%s", message)
