"""The engine: a model's graphs in ONNX Runtime, in batches of constant size."""

from __future__ import annotations

import threading
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
import onnxruntime as ort

from ..data.images import Rows
from ..spec import size_of
from .providers import Device, choose_device

Codes = npt.NDArray[np.int32]
PIXELS_PER_BATCH = 2**16  # 64 images of 28x28: larger batches fall out of the caches
MAX_BATCH = 256
GPU_CALLS = 2  # one computes while the next one's input is copied


def batch_size(height: int, width: int) -> int:
    """Images in a batch: a function of the size alone, so that answers never depend on the job."""
    fitting = max(1, PIXELS_PER_BATCH // (height * width))
    return min(MAX_BATCH, 1 << (fitting.bit_length() - 1))


class Engine:
    """Runs a model's encoder, decoder and scorer; sessions are made when first needed.

    ``read`` gives the bytes of ``encoder.onnx`` and so on: ``Model.read``, for one.

    All calls may come from several threads. A batch shorter than the constant size is padded with
    zeros, so an image's answer does not depend on the images beside it, and shapes never change.
    """

    def __init__(self, read: Callable[[str], bytes], device: str | Device = "auto") -> None:
        self._read = read
        self.device = device if isinstance(device, Device) else choose_device(device)
        self._sessions: dict[str, ort.InferenceSession] = {}
        self._lock = threading.Lock()
        self._calls = None if self.device.is_cpu else threading.BoundedSemaphore(GPU_CALLS)

    def encode(self, pixels: Rows) -> Codes:
        """uint8 images (N, H, W, C) or float32 vectors (N, D) -> codes int32 (N, *code_shape)."""
        codes: Codes = self._run("encoder", pixels, size_of(pixels.shape[1:]))["code"]
        return codes

    def decode(self, codes: Codes, height: int, width: int) -> Rows:
        """int32 codes (N, *code_shape) of images of height x width -> (N, H, W, C) uint8.

        Vectors have height 1 and width D, and come as float32 (N, D).
        """
        decoded: list[Rows] = list(self._run("decoder", codes, (height, width)).values())
        return decoded[0]

    def score(self, pixels: Rows) -> dict[str, npt.NDArray[np.float32]]:
        """Images or vectors -> each score (N,), and error_map (N, H, W) or (N, D); float32, raw.

        A vector so far out that the network's numbers overflow has the score infinity.
        """
        answers = self._run("scorer", pixels, size_of(pixels.shape[1:]))
        for name, scores in answers.items():
            if name != "error_map" and np.isnan(scores).any():  # infinity - infinity on the way
                answers[name] = np.where(np.isnan(scores), np.float32(np.inf), scores)
        return answers

    def session(self, graph: str) -> ort.InferenceSession:
        """The session of encoder, decoder or scorer; raises ModelError or DeviceError."""
        with self._lock:
            if graph not in self._sessions:
                self._sessions[graph] = self.device.session(self._read(f"{graph}.onnx"))
            return self._sessions[graph]

    def _run(self, graph: str, array: npt.NDArray[Any], size: tuple[int, int]) -> dict[str, Any]:
        session, batch = self.session(graph), batch_size(*size)
        (name,) = (entry.name for entry in session.get_inputs())
        names = [output.name for output in session.get_outputs()]
        run: Callable[..., Sequence[Any]] = session.run
        pieces: list[Sequence[Any]] = []
        for start in range(0, len(array), batch):
            piece = array[start : start + batch]
            count = len(piece)
            if count < batch:
                piece = np.concatenate(
                    [piece, np.zeros((batch - count, *piece.shape[1:]), piece.dtype)]
                )
            if self._calls:
                with self._calls:
                    outputs = run(names, {name: piece})
            else:
                outputs = run(names, {name: piece})
            pieces.append([output[:count] for output in outputs])
        if len(pieces) == 1:
            return dict(zip(names, pieces[0], strict=True))
        return {
            n: np.concatenate(column)
            for n, column in zip(names, zip(*pieces, strict=True), strict=True)
        }
