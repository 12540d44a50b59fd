"""Runs prior.onnx: networks of integers, which no device and no order of summation changes."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt
import onnxruntime as ort

from ..errors import ModelError
from .passes import Pass


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
        names = {entry.name: entry.shape[1] for entry in self._session.get_inputs()}
        if names != {name: array.shape[1] for name, array in self._nothing.items()}:
            raise ModelError("prior.onnx does not belong to prior.bin; take a good copy")

    def __call__(self, number: int, known: npt.NDArray[np.float32]) -> npt.NDArray[np.float32]:
        expected: npt.NDArray[np.float32] = self._session.run(
            [f"expected_{number}"], self._nothing | {f"known_{number}": known}
        )[0]
        return expected
