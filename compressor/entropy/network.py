"""Runs prior.onnx: networks of integers, which no device and no order of summation changes."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt
import onnxruntime as ort

from ..errors import ModelError
from .passes import Pass

POSITIONS = 2**17  # at once
LARGEST = 2**24  # float32 counts integers without gaps up to here


class OnnxNetwork:
    """A context.Network: the graph has inputs known_1, known_2... and outputs expected_1, ...

    Always on the CPU: what runs on GPUs may leave float32's exact integers (TF32, Winograd).
    """

    def __init__(self, graph: bytes, passes: Sequence[Pass]) -> None:
        options = ort.SessionOptions()
        options.log_severity_level = 4
        options.intra_op_num_threads = options.inter_op_num_threads = 1
        try:
            self._session = ort.InferenceSession(graph, options, providers=["CPUExecutionProvider"])
        except Exception as error:  # ONNX Runtime's errors have no common class below Exception
            raise ModelError(
                f"prior.onnx cannot be used: {str(error).strip().splitlines()[0][:200]}"
            ) from error
        # The graph's networks share nothing: the others are given no images.
        self._nothing = {
            f"known_{number}": np.zeros((0, which.inputs, 2, 2), np.float32)
            for number, which in enumerate(passes)
            if number
        }
        self._channels = [2 * (which.stop - which.start) for which in passes]
        given = {entry.name: entry.shape for entry in self._session.get_inputs()}
        if given.keys() != self._nothing.keys() or any(
            len(shape) != 4 or shape[1] != self._nothing[name].shape[1]
            for name, shape in given.items()
        ):
            raise ModelError("prior.onnx does not belong to prior.bin; take a good copy")

    def __call__(self, number: int, known: npt.NDArray[np.float32]) -> npt.NDArray[np.float32]:
        """In slices, which bounds memory; raises ModelError for a damaged graph."""
        images = max(1, POSITIONS // max(1, known.shape[2] * known.shape[3]))
        parts = [
            self._expected(number, known[start : start + images])
            for start in range(0, len(known), images)
        ]
        return np.concatenate(parts)

    def _expected(self, number: int, known: npt.NDArray[np.float32]) -> npt.NDArray[np.float32]:
        try:
            (expected,) = self._session.run(
                [f"expected_{number}"], self._nothing | {f"known_{number}": known}
            )
        except Exception as error:  # see above
            raise ModelError(
                f"prior.onnx cannot be run: {str(error).strip().splitlines()[0][:200]}"
            ) from error
        if expected.ndim != 4 or expected.shape[:2] != (len(known), self._channels[number]):
            raise ModelError("prior.onnx does not belong to prior.bin; take a good copy")
        if not (np.abs(expected) <= LARGEST).all():
            raise ModelError("prior.onnx gives what are no integers; take a good copy")
        return np.asarray(expected, np.float32)
