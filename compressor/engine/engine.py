"""The engine: a model's graphs in ONNX Runtime, in batches and tiles of constant size."""

from __future__ import annotations

import contextlib
import math
import threading
from collections.abc import Callable, Sequence
from typing import Any, Protocol

import numpy as np
import numpy.typing as npt

from ..data.images import Rows
from ..errors import DataError, DeviceError, ModelError
from ..runtime import ort
from ..spec import CodeSpec, DataSpec, size_of
from .providers import Device, choose_device
from .tiles import Tile, padded, tiles

Codes = npt.NDArray[np.int32]
Shape = tuple[int | None, ...]  # None: any length
PIXELS_PER_BATCH = 2**16  # 64 images of 28x28: larger batches fall out of the caches
MAX_BATCH = 256
GPU_CALLS = 2  # one computes while the next one's input is copied


TYPES = {"tensor(uint8)": "uint8", "tensor(float)": "float32", "tensor(int32)": "int32"}


def batch_size(height: int, width: int) -> int:
    """Images in a batch: depends only on their size, so that answers never depend on the job."""
    fitting = max(1, PIXELS_PER_BATCH // (height * width))
    return min(MAX_BATCH, 1 << (fitting.bit_length() - 1))


class Graphs(Protocol):
    """What an engine needs of a model; ``Model`` has it.

    code: the shape of codes, the stride and the halo; spec: what goes in; graph_scores and
    further_scores: outputs of scorer.onnx and further.onnx; read: returns the bytes of
    ``encoder.onnx`` and so on.
    """

    @property
    def code(self) -> CodeSpec: ...

    @property
    def spec(self) -> DataSpec: ...

    @property
    def graph_scores(self) -> Sequence[str]: ...

    @property
    def further_scores(self) -> Sequence[str]: ...

    def read(self, name: str) -> bytes: ...


class Engine:
    """Runs a model's encoder, decoder and scorer; sessions are made when first needed.

    All methods may be called from several threads. A shorter batch is padded with zeros to the
    constant size, so that an image's answer does not depend on its neighbours, and shapes never
    change.

    Where the model has a stride, images may have any size from 1x1 on: the graphs see the last row
    and column repeated up to a multiple of the stride, and their answer is cropped. Images of more
    than MAX_PIXELS go through in tiles if the model's halo is known.

    Arrays of no rows give answers of no rows. All methods raise DataError for arrays of another
    number of axes, another type or another size than the model takes.
    """

    def __init__(self, model: Graphs, device: str | Device = "auto") -> None:
        self._model = model
        self.device = device if isinstance(device, Device) else choose_device(device)
        self._sessions: dict[str, ort.InferenceSession] = {}
        self._lock = threading.Lock()
        self._calls = None if self.device.is_cpu else threading.BoundedSemaphore(GPU_CALLS)

    def encode(self, pixels: Rows) -> Codes:
        """uint8 images (N, H, W, C) or float32 vectors (N, D) -> codes int32 (N, *code_shape)."""
        pixels, code = self._checked("encoder", pixels), self._model.code
        size = size_of(pixels.shape[1:])
        if code.stride is None:
            return self._codes(pixels)
        pixels, parts = padded(pixels, code.stride), tiles(code, *size)
        if len(parts) == 1:
            return self._codes(pixels)
        codes = np.empty((len(pixels), *code.shape_for(*size)), np.int32)
        for tile in parts:
            codes[tile.kept.codes] = self._codes(pixels[tile.window.pixels])[tile.within.codes]
        return codes

    def decode(self, codes: Codes, height: int, width: int) -> Rows:
        """int32 codes (N, *code_shape) of images of height x width -> (N, H, W, C) uint8.

        Vectors have height 1 and width D, and come as float32 (N, D).
        """
        codes, stride = self._checked_codes(codes, height, width), self._model.code.stride
        if stride is None:
            return self._decoded(codes, height, width)
        parts = tiles(self._model.code, height, width)
        if len(parts) == 1:
            return self._decoded(codes, *parts[0].window.size)[:, :height, :width]
        pixels: Rows | None = None
        for tile in parts:
            part = self._decoded(codes[tile.window.codes], *tile.window.size)
            if pixels is None:
                pixels = np.empty((len(codes), height, width, part.shape[3]), part.dtype)
            kept = pixels[tile.kept.pixels]  # without the padding that the tile may end in
            kept[:] = part[tile.within.pixels][:, : kept.shape[1], : kept.shape[2]]
        assert pixels is not None
        return pixels

    def score(self, pixels: Rows) -> dict[str, npt.NDArray[np.float32]]:
        """Images or vectors -> each score (N,), and error_map (N, H, W) or (N, D); float32, raw.

        l2 is the mean over an image's own pixels. Other scores include its padding, and for an
        image in tiles they are the mean of the tiles' scores, weighted by the pixels kept of each.
        An input on which the network's numbers overflow scores infinity: NaN becomes infinity.
        """
        pixels = self._checked("scorer", pixels)
        if self._model.code.stride is None:
            answers = self._run("scorer", pixels, size_of(pixels.shape[1:]))
        else:
            answers = self._score_any_size(pixels, self._model.code.stride)
        for name, scores in answers.items():
            if name != "error_map" and np.isnan(scores).any():  # from infinity - infinity
                answers[name] = np.where(np.isnan(scores), np.float32(np.inf), scores)
        return answers

    def further(self, pixels: Rows) -> dict[str, npt.NDArray[np.float32]]:
        """The outputs of further.onnx: scores (N,) and hidden_differences (N, K), float32.

        Padding and tiles are as in ``score``.
        """
        pixels = self._checked("further", pixels)
        size, stride = size_of(pixels.shape[1:]), self._model.code.stride
        if stride is None:
            return self._run("further", pixels, size)
        return self._averaged("further", padded(pixels, stride), tiles(self._model.code, *size))

    def classify(self, pixels: Rows) -> npt.NDArray[np.float32]:
        """The probability of each label, (N, labels), of a classifier, which takes one size."""
        pixels = self._checked("classifier", pixels)
        answer: npt.NDArray[np.float32]
        answer = self._run("classifier", pixels, size_of(pixels.shape[1:]))["probability"]
        return answer

    def _averaged(self, graph: str, pixels: Rows, parts: Sequence[Tile]) -> dict[str, Any]:
        """A graph's answers for padded images: scores are means over tiles, error_map is whole."""
        if len(parts) == 1:
            return self._run(graph, pixels, parts[0].window.size)
        whole: dict[str, Any] = {}
        answers: dict[str, Any] = {}
        for tile in parts:
            of_tile = self._run(graph, pixels[tile.window.pixels], tile.window.size)
            if "error_map" in of_tile:
                if not whole:
                    whole["error_map"] = np.empty(pixels.shape[:3], np.float32)
                part = of_tile.pop("error_map")[tile.within.pixels]
                whole["error_map"][tile.kept.pixels] = part
            share = math.prod(tile.kept.size) / math.prod(pixels.shape[1:3])
            for name, scores in of_tile.items():
                answers[name] = answers.get(name, 0.0) + share * scores.astype(np.float64)
        answers = {name: scores.astype(np.float32) for name, scores in answers.items()}
        return answers | whole

    def _score_any_size(self, pixels: Rows, stride: int) -> dict[str, Any]:
        _, height, width, _ = pixels.shape
        given, pixels = pixels, padded(pixels, stride)
        parts = tiles(self._model.code, height, width)
        answers = self._averaged("scorer", pixels, parts)
        if len(parts) == 1 and pixels is given:
            return answers
        error_map = answers["error_map"][:, :height, :width]
        l2 = error_map.mean((1, 2), dtype=np.float64).astype(np.float32)
        return {**answers, "l2": l2, "error_map": error_map}

    def _checked(self, graph: str, pixels: Any) -> Rows:
        """The rows as an array. Raises DataError if the graph takes others."""
        rows: Rows = np.asarray(pixels)
        (entry,) = self.session(graph).get_inputs()
        wanted = np.dtype(TYPES[entry.type])
        # A graph that takes any size names its axes, and has a number for channels alone.
        sizes = zip(rows.shape[1:], entry.shape[1:], strict=False)
        fits = all(size and (size == fixed or not isinstance(fixed, int)) for size, fixed in sizes)
        if rows.dtype != wanted or rows.ndim != len(entry.shape) or not fits:
            axes = ", ".join(["N", *(str(axis or "any") for axis in entry.shape[1:])])
            raise DataError(
                f"the model takes {wanted} ({axes}), and this array is {rows.dtype} "
                f"{rows.shape}; convert it"
            )
        return rows

    def _checked_codes(self, codes: Any, height: int, width: int) -> Codes:
        rows: Codes = np.asarray(codes)
        if height < 1 or width < 1:
            raise DataError(f"there are no images of {height}x{width}; give a height and a width")
        shape = self._model.code.shape_for(height, width)
        if rows.dtype != np.int32 or rows.shape[1:] != shape or rows.ndim < 2:
            axes = ", ".join(map(str, ("N", *shape)))
            raise DataError(
                f"codes of {height}x{width} are int32 ({axes}), and this array is {rows.dtype} "
                f"{rows.shape}; convert it, or give the images' size"
            )
        return rows

    def _codes(self, pixels: Rows) -> Codes:
        codes: Codes = self._run("encoder", pixels, size_of(pixels.shape[1:]))["code"]
        return codes

    def _decoded(self, codes: Codes, height: int, width: int) -> Rows:
        decoded: Rows = self._run("decoder", codes, (height, width))[self._model.spec.kind]
        return decoded

    def session(self, graph: str) -> ort.InferenceSession:
        """The session of a graph, by its name without .onnx; raises ModelError or DeviceError."""
        with self._lock:
            if graph not in self._sessions:
                content = self._model.read(f"{graph}.onnx")
                try:
                    session = self.device.session(content)
                except DeviceError as error:
                    if not self.device.is_cpu:
                        raise
                    raise ModelError(f"{graph}.onnx cannot be run: {error}") from error
                if len(session.get_inputs()) != 1:
                    raise ModelError(f"{graph}.onnx does not have one input")
                self._sessions[graph] = session
            return self._sessions[graph]

    def _outputs(self, graph: str, size: tuple[int, int]) -> dict[str, tuple[Any, Shape]]:
        """The type and the shape, but for N, of what a graph answers to inputs of a size."""
        spec = self._model.spec
        if graph == "encoder":
            return {"code": (np.int32, self._model.code.shape_for(*size))}
        if graph == "classifier":
            return {"probability": (np.float32, self._model.code.shape)}
        shape = spec.shape_of(*size)
        if graph == "decoder":
            return {spec.kind: (np.uint8 if spec.kind == "image" else np.float32, shape)}
        scores: dict[str, tuple[Any, Shape]]
        if graph == "scorer":
            scores = dict.fromkeys(self._model.graph_scores, (np.float32, ()))
            return scores | {"error_map": (np.float32, shape[:2])}
        scores = dict.fromkeys(self._model.further_scores, (np.float32, ()))
        return scores | {"hidden_differences": (np.float32, (None,))}

    def _run(self, graph: str, array: npt.NDArray[Any], size: tuple[int, int]) -> dict[str, Any]:
        session, batch = self.session(graph), batch_size(*size)
        (name,) = (entry.name for entry in session.get_inputs())
        expected = self._outputs(graph, size)
        given = {output.name for output in session.get_outputs()}
        if graph == "further" and "hidden_differences" not in given:  # not every model has them
            del expected["hidden_differences"]
        names = list(expected)
        if missing := expected.keys() - given:
            raise ModelError(f"{graph}.onnx has no output {min(missing)!r}")
        run: Callable[..., Sequence[Any]] = session.run
        pieces: list[Sequence[Any]] = []
        for start in range(0, max(1, len(array)), batch):
            piece = array[start : start + batch]
            count = len(piece)
            if count < batch:
                piece = np.concatenate(
                    [piece, np.zeros((batch - count, *piece.shape[1:]), piece.dtype)]
                )
            try:
                with self._calls or contextlib.nullcontext():
                    outputs = run(names, {name: piece})
            except Exception as error:  # ONNX Runtime's errors have no common class below Exception
                reason = " ".join(str(error).split())[:200]
                kind = ModelError if self.device.is_cpu else DeviceError
                raise kind(f"{graph}.onnx cannot be run: {reason}") from error
            for output, answer in zip(names, outputs, strict=True):
                _check_answer(f"{graph}.onnx", output, answer, batch, *expected[output])
            pieces.append([output[:count] for output in outputs])
        if len(pieces) == 1:
            return dict(zip(names, pieces[0], strict=True))
        return {
            n: np.concatenate(column)
            for n, column in zip(names, zip(*pieces, strict=True), strict=True)
        }


def _check_answer(
    graph: str, name: str, answer: Any, batch: int, dtype: npt.DTypeLike, shape: Shape
) -> None:
    """Raises ModelError unless a graph's answer to a batch is of that type and (batch, *shape)."""
    if not isinstance(answer, np.ndarray):
        raise ModelError(f"{graph}: the output {name!r} is not an array")
    fits = answer.ndim == 1 + len(shape) and all(
        want is None or want == got for want, got in zip((batch, *shape), answer.shape, strict=True)
    )
    if answer.dtype != dtype or not fits:
        raise ModelError(
            f"{graph}: the output {name!r} is {answer.dtype} {answer.shape}, "
            f"not {np.dtype(dtype)} {(batch, *shape)}; take a good copy of the model"
        )
