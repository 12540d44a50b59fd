"""Runs hyper_encoder.onnx and hyper_decoder.onnx, which choose a hyperprior's tables."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from functools import cached_property

import numpy as np
import numpy.typing as npt

from ..errors import ModelError
from ..runtime import ort

MAX_POSITIONS = 2**17  # of a code that go through a network at once
MAX_POSITIONS_IN_CACHE = 2**12  # of several small codes: their answer is read again soon
MAX_EXACT_INTEGER = 2**24  # float32 counts integers without gaps up to here
ENCODER, DECODER = "hyper_encoder.onnx", "hyper_decoder.onnx"
Floats = npt.NDArray[np.float32]


class OnnxNetworks:
    """hyperprior.Networks: for codes of ``channels`` and side information of ``side_channels``,
    one position of which stands for ``reach`` x ``reach`` positions of the codes.

    ``read`` returns a file by its name; hyper_encoder.onnx is read only for compression. Always on
    the CPU: GPU kernels (TF32, Winograd) may not keep float32's integers exact.
    """

    def __init__(
        self, channels: int, side_channels: int, reach: int, read: Callable[[str], bytes]
    ) -> None:
        self._channels, self._side_channels, self._reach = channels, side_channels, reach
        self._read = read
        self._decoder = self._session(DECODER, side_channels + 1)

    @cached_property
    def _encoder(self) -> ort.InferenceSession:
        return self._session(ENCODER, self._channels)

    def _session(self, name: str, channels: int) -> ort.InferenceSession:
        options = ort.SessionOptions()
        options.log_severity_level = 4
        options.intra_op_num_threads = options.inter_op_num_threads = 1
        content = self._read(name)
        try:
            session = ort.InferenceSession(content, options, providers=["CPUExecutionProvider"])
        except Exception as error:  # ONNX Runtime's errors have no common class below Exception
            raise ModelError(f"{name} cannot be used: {str(error).strip()[:200]}") from error
        ends = [*session.get_inputs(), *session.get_outputs()]
        types = [end.type for end in ends]
        if types != ["tensor(float)"] * 2 or ends[0].shape[1:2] != [channels]:
            raise ModelError(f"{name} does not belong to prior.bin; take a good copy of the model")
        return session

    def side(self, codes: Floats) -> Floats:
        """v of codes (N, C, h, w)."""
        height, width = (-(-size // self._reach) for size in codes.shape[2:])
        out = np.empty((len(codes), self._side_channels, height, width), np.float32)
        for images, top, bottom in self._pieces(len(codes), height, width):
            first = max(0, top - 1)
            rows = slice(self._reach * first, self._reach * (bottom + 1))
            answer = self._answer(ENCODER, self._encoder, codes[images, :, rows])
            _put(ENCODER, out[images, :, top:bottom], answer[:, :, top - first :])
        return out

    def expected(self, side: Floats, height: int, width: int) -> Floats:
        """Locations, then levels, (N, 2 C, height, width), from v and a plane of ones."""
        reach = self._reach
        out = np.empty((len(side), 2 * self._channels, height, width), np.float32)
        for images, top, bottom in self._pieces(len(side), *side.shape[2:]):
            first = max(0, top - 1)
            answer = self._answer(DECODER, self._decoder, side[images, :, first : bottom + 1])
            here = out[images, :, reach * top : reach * bottom]
            _put(DECODER, here, answer[:, :, reach * (top - first) :])
        return out

    def _pieces(self, count: int, height: int, width: int) -> Iterator[tuple[slice, int, int]]:
        """Slices of images, and first and last row of v: few enough at a time to bound memory.

        The caller adds one row of v above and below, which is as far as the networks see.
        """
        rows = max(1, MAX_POSITIONS // (self._reach**2 * max(1, width)))
        images = max(1, MAX_POSITIONS_IN_CACHE // (self._reach**2 * max(1, height * width)))
        for start in range(0, count, images):
            for top in range(0, height, rows):
                yield slice(start, start + images), top, min(height, top + rows)

    def _answer(self, name: str, session: ort.InferenceSession, values: Floats) -> Floats:
        """Integers, in float32; raises ModelError for a damaged graph."""
        (given,) = session.get_inputs()
        try:
            (answer,) = session.run(None, {given.name: values})
        except Exception as error:  # see above
            raise ModelError(f"{name} cannot be run: {str(error).strip()[:200]}") from error
        whole = np.array_equal(answer, np.floor(answer))
        if not whole or np.abs(answer).max(initial=0) > MAX_EXACT_INTEGER:
            raise ModelError(f"{name} returned non-integers; take a good copy of the model")
        return np.asarray(answer, np.float32)


def _put(name: str, place: Floats, answer: Floats) -> None:
    """Copies ``answer`` to ``place``, less what extends below ``place`` or to its right."""
    if answer.ndim == 4:
        answer = answer[:, :, : place.shape[2], : place.shape[3]]
    if answer.shape != place.shape:
        raise ModelError(f"{name} does not belong to prior.bin; take a good copy of the model")
    place[...] = answer
