"""Runs hyper_encoder.onnx and hyper_decoder.onnx, what a hyperprior's tables are chosen with."""

from __future__ import annotations

from collections.abc import Callable
from functools import cached_property

import numpy as np
import numpy.typing as npt
import onnxruntime as ort

from ..errors import ModelError

POSITIONS = 2**17  # of codes, at once
LARGEST = 2**24  # float32 counts integers without gaps up to here
Floats = npt.NDArray[np.float32]


class OnnxNetworks:
    """hyperprior.Networks: for codes of ``channels`` and side information of ``side_channels``.

    ``read`` gives a file by its name; hyper_encoder.onnx is asked for by who compresses alone.
    Always on the CPU: what runs on GPUs may leave float32's exact integers (TF32, Winograd).
    """

    def __init__(self, channels: int, side_channels: int, read: Callable[[str], bytes]) -> None:
        self._channels, self._side_channels, self._read = channels, side_channels, read
        self._decoder = self._session("hyper_decoder.onnx", side_channels + 1)

    @cached_property
    def _encoder(self) -> ort.InferenceSession:
        return self._session("hyper_encoder.onnx", self._channels)

    def _session(self, name: str, channels: int) -> ort.InferenceSession:
        options = ort.SessionOptions()
        options.log_severity_level = 4
        options.intra_op_num_threads = options.inter_op_num_threads = 1
        try:
            session = ort.InferenceSession(
                self._read(name), options, providers=["CPUExecutionProvider"]
            )
        except ModelError:
            raise
        except Exception as error:  # ONNX Runtime's errors have no common class below Exception
            raise ModelError(f"{name} cannot be used: {_first_line(error)}") from error
        inputs, outputs = session.get_inputs(), session.get_outputs()
        if len(inputs) != 1 or len(outputs) != 1 or inputs[0].shape[1:2] != [channels]:
            raise ModelError(f"{name} does not belong to prior.bin; take a good copy of the model")
        return session

    def side(self, codes: Floats) -> Floats:
        """v of codes (N, C, h, w)."""
        return self._run("hyper_encoder.onnx", self._encoder, codes, self._side_channels)

    def expected(self, side: Floats) -> Floats:
        """Locations, then levels, of v and a plane of ones."""
        return self._run("hyper_decoder.onnx", self._decoder, side, 2 * self._channels)

    def _run(
        self, name: str, session: ort.InferenceSession, values: Floats, channels: int
    ) -> Floats:
        """In slices, which bounds memory; raises ModelError for a damaged graph."""
        images = max(1, POSITIONS // max(1, values.shape[2] * values.shape[3]))
        (given,) = session.get_inputs()
        parts = []
        for start in range(0, max(1, len(values)), images):
            try:
                (answer,) = session.run(None, {given.name: values[start : start + images]})
            except Exception as error:  # see above
                raise ModelError(f"{name} cannot be run: {_first_line(error)}") from error
            if answer.ndim != 4 or answer.shape[1] != channels:
                raise ModelError(f"{name} does not belong to prior.bin; take a good copy")
            if not (np.abs(answer) <= LARGEST).all():
                raise ModelError(f"{name} gives what are no integers; take a good copy")
            parts.append(np.asarray(answer, np.float32))
        return np.concatenate(parts)


def _first_line(error: Exception) -> str:
    return str(error).strip().splitlines()[0][:200]
