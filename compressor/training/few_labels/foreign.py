"""A classifier of another maker, in ONNX: cut at a tensor, and what it gives there is learned from.

Its input is float32 (N, C, H, W), values / 255 less ``mean`` and divided by ``deviation``, of each
channel; or data as they are stored, as our own graphs take them. Its layers stay as they are.
"""

from __future__ import annotations

import hashlib
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import onnx
import onnx.compose
import onnx.utils
import onnx.version_converter
import torch
from onnx import TensorProto, helper, numpy_helper
from torch import Tensor

from ...engine.providers import choose_device
from ...errors import ConfigError, ModelError
from ...export.portable import OPSET, clean, refuse_unportable
from ...onnx_bytes import CLASSIFYING, refuse_foreign
from ...spec import DataSpec, ImageSpec
from ...untrusted import read_regular

MAX_BYTES = 1 << 30
ACTIVATIONS = "activations"
ROWS_AT_ONCE = 64


class Foreign:
    """``path`` up to ``tensor``, by default what its last dense layer takes, for data of a spec.

    Raises ConfigError or ModelError if it cannot be used so.
    """

    def __init__(
        self, path: Path, tensor: str, spec: DataSpec, mean: list[float], deviation: list[float]
    ) -> None:
        try:
            content = read_regular(path, MAX_BYTES)
        except OSError as error:
            raise ModelError(f"cannot read {path}: {error.strerror or error}") from error
        refuse_foreign(content, str(path), CLASSIFYING)
        self.path, self.sha256 = path, hashlib.sha256(content).hexdigest()
        self._spec, self._numbers = spec, (mean, deviation)
        try:
            whole = onnx.load_from_string(content)
            whole = onnx.version_converter.convert_version(whole, OPSET)
            self.tensor = tensor or _before_last_layer(whole, path)
            self._graph = self._cut(whole)
        except (ConfigError, ModelError):
            raise
        except Exception as error:  # onnx raises many kinds, bare RuntimeErrors among them
            reason = " ".join(str(error).split())[:200]
            raise ModelError(f"{path} cannot be cut at a tensor: {reason}") from error
        self._session = choose_device("cpu").session(self._graph.SerializeToString())
        self._refuse_fixed_batch()

    def activations(self, rows: npt.NDArray[Any]) -> Tensor:
        """Of data as they are stored, (N, *spec.shape): float32 (N, K)."""
        parts = []
        for start in range(0, len(rows), ROWS_AT_ONCE):
            piece = np.ascontiguousarray(rows[start : start + ROWS_AT_ONCE])
            (answer,) = self._session.run([ACTIVATIONS], {self._spec.kind: piece})
            parts.append(torch.from_numpy(answer))
        return torch.cat(parts)

    def classifier(self, weight: Tensor, bias: Tensor) -> bytes:
        """The whole, with a head and a softmax behind it. weight: (labels, K); bias: (labels,)."""
        nodes = [
            helper.make_node(
                "Gemm", [ACTIVATIONS, "head.weight", "head.bias"], ["logits"], transB=1
            ),
            helper.make_node("Softmax", ["logits"], ["probability"], axis=1),
        ]
        graph = onnx.ModelProto()
        graph.CopyFrom(self._graph)
        graph.graph.node.extend(nodes)
        for name, value in (("head.weight", weight), ("head.bias", bias)):
            graph.graph.initializer.append(numpy_helper.from_array(value.numpy(), name))
        del graph.graph.output[:]
        shape: list[str | int | None] = ["N", len(bias)]
        graph.graph.output.append(
            helper.make_tensor_value_info("probability", TensorProto.FLOAT, shape)
        )
        clean(graph)
        refuse_unportable(graph, "classifier", CLASSIFYING)
        content: bytes = graph.SerializeToString(deterministic=True)
        return content

    def _cut(self, whole: onnx.ModelProto) -> onnx.ModelProto:
        """data as they are stored -> activations (N, K)."""
        initial = {tensor.name for tensor in whole.graph.initializer}
        inputs = [value for value in whole.graph.input if value.name not in initial]
        if len(inputs) != 1:
            raise ConfigError(f"{self.path} has {len(inputs)} inputs; networks of one are used")
        made = {output for node in whole.graph.node for output in node.output}
        if self.tensor not in made:
            raise ConfigError(f"{self.path} computes no tensor {self.tensor!r}")
        del whole.graph.value_info[:]  # which may say that a batch is of one
        dims = inputs[0].type.tensor_type.shape.dim
        if dims:
            dims[0].dim_param = "N"
        cut = onnx.utils.Extractor(_with_output(whole, self.tensor)).extract_model(
            [inputs[0].name], [self.tensor]
        )
        rank = len(
            onnx.shape_inference.infer_shapes(cut).graph.output[0].type.tensor_type.shape.dim
        )
        before = self._before(inputs[0])
        if before is not None:
            before.ir_version = cut.ir_version
            cut = onnx.compose.merge_models(before, cut, io_map=[("prepared", inputs[0].name)])
        else:
            _rename(cut, inputs[0].name, self._spec.kind)
        if rank == 4:  # a map: its means
            axes = numpy_helper.from_array(np.array([2, 3], np.int64), "activations.axes")
            cut.graph.initializer.append(axes)
            node = helper.make_node(
                "ReduceMean", [self.tensor, axes.name], [ACTIVATIONS], keepdims=0
            )
        else:
            node = helper.make_node("Flatten", [self.tensor], [ACTIVATIONS], axis=1)
        cut.graph.node.append(node)
        del cut.graph.output[:]
        cut.graph.output.append(
            helper.make_tensor_value_info(ACTIVATIONS, TensorProto.FLOAT, ["N", "K"])
        )
        clean(cut)
        return cut

    def _before(self, given: onnx.ValueInfoProto) -> onnx.ModelProto | None:
        """From data as they are stored to what the network takes; None where that is the same."""
        kind, spec = given.type.tensor_type.elem_type, self._spec
        sizes = [dim.dim_value or None for dim in given.type.tensor_type.shape.dim]
        if isinstance(spec, ImageSpec) and kind == TensorProto.UINT8:
            self._refuse_size(sizes[1:], spec.shape)
            return None
        if kind != TensorProto.FLOAT:
            raise ConfigError(f"{self.path} takes neither float32 nor uint8")
        if not isinstance(spec, ImageSpec):
            self._refuse_size(sizes[1:], spec.shape)
            return None
        if len(sizes) != 4 or sizes[1] not in (None, spec.channels):
            raise ConfigError(
                f"{self.path} takes {sizes}, not images (N, C, H, W) of {spec.channels} channels; "
                "channels=grey or channels=rgb converts the data"
            )
        return _preparing(spec, (sizes[2], sizes[3]), *self._numbers)

    def _refuse_size(self, sizes: list[int | None], shape: tuple[int, ...]) -> None:
        same = len(sizes) == len(shape)
        if not same or any(a not in (None, b) for a, b in zip(sizes, shape, strict=False)):
            raise ConfigError(
                f"{self.path} takes {sizes}, and these data are {'x'.join(map(str, shape))}"
            )

    def _refuse_fixed_batch(self) -> None:
        spec = self._spec
        shape = 3, *spec.shape
        rows = np.arange(int(np.prod(shape))).reshape(shape) % 251
        rows = rows.astype(np.uint8 if spec.kind == "image" else np.float32)
        try:
            whole, parts = self.activations(rows), [self.activations(row[None]) for row in rows]
            same = torch.allclose(whole, torch.cat(parts), rtol=1e-3, atol=1e-3)
        except Exception as error:  # ONNX Runtime's errors have no common class
            reason = " ".join(str(error).split())[:200]
            raise ModelError(f"{self.path} does not run on these data: {reason}") from error
        if not same:
            raise ModelError(f"{self.path} answers to an input by what else is in the batch")


def _before_last_layer(whole: onnx.ModelProto, path: Path) -> str:
    made = {output for node in whole.graph.node for output in node.output}
    for node in reversed(whole.graph.node):
        if node.op_type in ("Gemm", "MatMul") and node.input[0] in made:
            return str(node.input[0])
    raise ConfigError(f"{path} has no dense layer to cut at: name a tensor, {path}::TENSOR")


def _with_output(whole: onnx.ModelProto, tensor: str) -> onnx.ModelProto:
    """With a tensor among the values that are known, which extraction asks for."""
    if all(value.name != tensor for value in whole.graph.output):
        whole.graph.output.append(helper.make_empty_tensor_value_info(tensor))
    return onnx.shape_inference.infer_shapes(whole)


def _rename(model: onnx.ModelProto, old: str, new: str) -> None:
    for node in model.graph.node:
        for at, name in enumerate(node.input):
            if name == old:
                node.input[at] = new
    model.graph.input[0].name = new


def _preparing(
    spec: ImageSpec, size: tuple[int | None, int | None], mean: list[float], deviation: list[float]
) -> onnx.ModelProto:
    """uint8 (N, H, W, C) -> float32 (N, C, H', W'), bilinear where the network takes one size."""
    constants = {
        "data.levels": np.array(255, np.float32),
        "data.mean": np.array(mean, np.float32).reshape(1, -1, 1, 1),
        "data.deviation": np.array(deviation, np.float32).reshape(1, -1, 1, 1),
    }
    nodes = [
        helper.make_node("Cast", [spec.kind], ["data.float"], to=TensorProto.FLOAT),
        helper.make_node("Transpose", ["data.float"], ["data.nchw"], perm=[0, 3, 1, 2]),
        helper.make_node("Div", ["data.nchw", "data.levels"], ["data.x"]),
        helper.make_node("Sub", ["data.x", "data.mean"], ["data.centred"]),
        helper.make_node("Div", ["data.centred", "data.deviation"], ["data.scaled"]),
    ]
    wanted = [to or side for to, side in zip(size, spec.shape[:2], strict=True)]
    last = "data.scaled"
    if wanted != list(spec.shape[:2]):
        scales = [(to + 1e-3) / side for to, side in zip(wanted, spec.shape[:2], strict=True)]
        constants["data.scales"] = np.array([1, 1, *scales], np.float32)
        nodes.append(
            helper.make_node("Resize", [last, "", "data.scales"], ["data.resized"], mode="linear")
        )
        last = "data.resized"
    nodes.append(helper.make_node("Identity", [last], ["prepared"]))
    graph = helper.make_graph(
        nodes,
        "data",
        [helper.make_tensor_value_info(spec.kind, TensorProto.UINT8, ["N", *spec.shape])],
        [
            helper.make_tensor_value_info(
                "prepared", TensorProto.FLOAT, ["N", spec.channels, *wanted]
            )
        ],
        [numpy_helper.from_array(value, name) for name, value in constants.items()],
    )
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", OPSET)])
