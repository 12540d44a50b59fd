"""A trained autoencoder as ONNX graphs that contain everything between data and codes.

Inputs are data as they are stored: uint8 images (N, H, W, C) or float32 vectors (N, D). The input
is named by the ``kind`` of the model's DataSpec.
"""

from __future__ import annotations

import contextlib
import copy
import io
import logging
import warnings
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import TypeVar

import onnx
import onnx.numpy_helper
import onnx.utils
import onnxscript.optimizer
import torch
from torch import Tensor, nn

from ..errors import ExportError
from ..likelihood import LIKELIHOODS
from ..normalisation import Normalisation, example
from ..onnx_bytes import CLASSIFYING, OPERATORS
from ..plugin import Autoencoder, Pass
from ..spec import DataSpec, ImageSpec
from .operators import TRANSLATIONS
from .portable import OPSET, clean, refuse_unportable
from .scores import UNSCALED, FurtherScorer, Scales, Scorer, score_names

CODE_LIMIT = 2**24  # float32 counts integers without gaps up to here


class Encoder(nn.Module):
    """data (N, *spec.shape) -> code int32 (N, *code_shape): round(f(x) / step)."""

    inverse: Tensor

    def __init__(self, model: Autoencoder, steps: Tensor) -> None:
        super().__init__()
        self.model, self.normalisation = model, Normalisation(model.spec)
        self.register_buffer("inverse", 1 / steps)

    def forward(self, data: Tensor) -> Tensor:
        return self.rounded(self.scaled(data))

    def scaled(self, data: Tensor) -> Tensor:
        """f(x) / step, before it is rounded."""
        return self.scaled_code(Pass(self.model, self.normalisation(data), training=False))

    def scaled_code(self, passed: Pass) -> Tensor:
        """The same, of a pass."""
        return passed.code.mean * self.inverse

    def rounded(self, scaled: Tensor) -> Tensor:
        """Half up, since runtimes disagree about Round at halves."""
        return torch.floor(scaled + 0.5).clamp(-CODE_LIMIT, CODE_LIMIT).to(torch.int32)


class Decoder(nn.Module):
    """code int32 (N, *code_shape) -> data (N, *spec.shape)."""

    steps: Tensor

    def __init__(self, model: Autoencoder, steps: Tensor) -> None:
        super().__init__()
        self.model, self.normalisation = model, Normalisation(model.spec)
        self.register_buffer("steps", steps)

    def forward(self, code: Tensor) -> Tensor:
        out = self.model.decode(code.float() * self.steps)
        return self.normalisation.stored(LIKELIHOODS[self.model.likelihood].pixels(out))


class Affine(nn.Module):
    """A batch normalisation in eval mode, in operators that run everywhere."""

    factor: Tensor
    offset: Tensor

    def __init__(self, norm: nn.modules.batchnorm._BatchNorm) -> None:
        super().__init__()
        assert norm.running_mean is not None and norm.running_var is not None
        factor = (norm.running_var + norm.eps).rsqrt()
        offset = -norm.running_mean * factor
        if norm.affine:
            factor, offset = factor * norm.weight, offset * norm.weight + norm.bias
        self.register_buffer("factor", factor.detach())
        self.register_buffer("offset", offset.detach())

    def forward(self, x: Tensor) -> Tensor:
        shape = (-1, *[1] * (x.ndim - 2))
        return x * self.factor.reshape(shape) + self.offset.reshape(shape)


AnyModule = TypeVar("AnyModule", bound=nn.Module)


def without_batch_norm(model: AnyModule) -> AnyModule:
    """A copy for export, with an Affine for every batch normalisation that keeps statistics."""
    model = copy.deepcopy(model)
    for module in list(model.modules()):
        for name, child in list(module.named_children()):
            if isinstance(child, nn.modules.batchnorm._BatchNorm) and child.track_running_stats:
                setattr(module, name, Affine(child))
    return model


class Everything(nn.Module):
    """data and code -> what encoder, decoder and the scorers answer, from one pass of f and g.

    Exporting takes seconds whatever the network, so all graphs are exported as one and taken apart.
    """

    def __init__(
        self,
        encoder: Encoder,
        decoder: Decoder | None,
        scorer: Scorer,
        further: FurtherScorer | None,
    ) -> None:
        super().__init__()
        self.encoder, self.decoder, self.scorer, self.further = encoder, decoder, scorer, further

    def forward(self, data: Tensor, code: Tensor | None = None) -> tuple[Tensor, ...]:
        passed = Pass(self.scorer.model, self.scorer.normalisation(data), training=False)
        code_of_data = self.encoder.rounded(self.encoder.scaled_code(passed))
        answers = (code_of_data, *self.scorer.of(passed))
        if self.further is not None:
            answers += self.further.of(passed)
        if self.decoder is not None:
            assert code is not None
            answers += (self.decoder(code),)
        return answers


def export_graph(
    module: nn.Module, spec: DataSpec, outputs: Mapping[str, Sequence[str]], name: str
) -> bytes:
    """One graph of a module that takes data of one size as they are stored, (N, *spec.shape).

    outputs: their axes, by name. Raises ExportError.
    """
    axes = ["N", "H", "W", "C"] if isinstance(spec, ImageSpec) else ["N", "D"]
    inside = {f"{name}/{output}": output for output in outputs}
    whole = _export(module, (example(spec, 2),), [spec.kind], list(inside), None)
    whole = onnxscript.optimizer.optimize(whole)
    part = _part(whole, name, Part({spec.kind: axes}, outputs), CLASSIFYING)
    content: bytes = part.SerializeToString(deterministic=True)
    return content


def export_graphs(
    model: Autoencoder, steps: Tensor, scales: Scales = UNSCALED
) -> dict[str, onnx.ModelProto]:
    """encoder, decoder, scorer and further by name. steps: float32, broadcastable to code_shape.

    scales: what scores are relative to (scores.py).

    Neither decoder nor further is there where features are rebuilt: both make pixels again.

    Raises ExportError if a graph cannot be exported or would not run everywhere.
    """
    return Traced(model, steps, scales).graphs(model, steps, scales)


class Traced:
    """What a model computes, as the exporter wrote it down: with any weights it gives graphs.

    Writing it down takes most of an export's time and needs no trained weights, so a training does
    it before its first step: what cannot be exported shows then, and at the end weights are put in.
    Arguments are those of ``export_graphs``, and so are the errors.
    """

    def __init__(self, model: Autoencoder, steps: Tensor, scales: Scales) -> None:
        module, spec, stride = _everything(model, steps, scales), model.spec, model.stride
        kind = str(spec.kind)
        if isinstance(spec, ImageSpec) and stride is not None:
            # torch.export makes an axis of length one a constant
            size = {"height": max(spec.height, 2 * stride), "width": max(spec.width, 2 * stride)}
            spec = spec.model_copy(update=size)
        data = example(spec, 2)
        with torch.no_grad():
            code = module.encoder(data)
        data_axes = ["N", "H", "W", "C"] if isinstance(spec, ImageSpec) else ["N", "D"]
        code_axes = ["N", *(f"code_{axis}" for axis in range(1, code.ndim))]
        if stride is not None:
            code_axes = ["N", "code_1", "h", "w"]
        scores = {name: ["N"] for name in score_names(model, scales)}
        self._parts = {
            "encoder": Part({kind: data_axes}, {"code": code_axes}),
            "scorer": Part({kind: data_axes}, {**scores, "error_map": data_axes[:3]}),
        }
        inputs: tuple[Tensor, ...] = (data,)
        if module.further is not None:
            further = {name: ["N"] for name in module.further.names}
            further["hidden_differences"] = ["N", "K"]
            self._parts["further"] = Part({kind: data_axes}, further)
            self._parts["decoder"] = Part({"code": code_axes}, {kind: data_axes})
            inputs = (data, code)
        outputs = [
            f"{name}/{output}" for name, part in self._parts.items() for output in part.outputs
        ]
        self._proto = _export(module, inputs, [kind, "code"][: len(inputs)], outputs, stride)

    def graphs(
        self, model: Autoencoder, steps: Tensor, scales: Scales
    ) -> dict[str, onnx.ModelProto]:
        """The graphs with the weights of ``model``, which has the architecture that was traced."""
        weights = _everything(model, steps, scales).state_dict()
        proto = onnx.ModelProto()
        proto.CopyFrom(self._proto)
        for tensor in proto.graph.initializer:
            if tensor.name in weights:  # others are constants
                value = weights[tensor.name].detach().cpu().contiguous().numpy()
                if list(value.shape) != list(tensor.dims):
                    raise ExportError(f"{tensor.name} has another shape than when it was traced")
                tensor.CopyFrom(onnx.numpy_helper.from_array(value, tensor.name))
        whole = onnxscript.optimizer.optimize(proto)
        return {name: _part(whole, name, part) for name, part in self._parts.items()}


def _everything(model: Autoencoder, steps: Tensor, scales: Scales) -> Everything:
    """A copy of the model, ready to be exported."""
    model = without_batch_norm(model.eval()).eval()
    decoder = further = None
    if not model.rebuilds_features:
        decoder, further = Decoder(model, steps), FurtherScorer(model)
    return Everything(Encoder(model, steps), decoder, Scorer(model, scales), further).eval()


@dataclass(frozen=True)
class Part:
    """A graph's inputs and outputs by name, with the names of their axes."""

    inputs: Mapping[str, Sequence[str]]
    outputs: Mapping[str, Sequence[str]]


def _export(
    module: nn.Module,
    inputs: tuple[Tensor, ...],
    input_names: Sequence[str],
    output_names: Sequence[str],
    stride: int | None,
) -> onnx.ModelProto:
    """One graph of it all; only N, and H and W of what has a stride, are symbolic."""

    def dimensions(axes: Sequence[int], factor: int, owner: str) -> dict[int, object]:
        """Of one input alone: a part may not ask the other input for its size."""
        symbols = [torch.export.Dim(f"{name}_{owner}", min=1) for name in ("n", "h", "w")]
        sizes = [symbols[0], *(factor * s if factor > 1 else s for s in symbols[1:])]
        return dict(zip(axes, sizes, strict=False))

    data_dims = dimensions((0,) if stride is None else (0, 1, 2), stride or 1, "data")
    code_dims = dimensions((0,) if stride is None else (0, 2, 3), 1, "code")
    noise = io.StringIO()
    logging.getLogger("torch.onnx").setLevel(logging.ERROR)
    try:
        with warnings.catch_warnings(), contextlib.redirect_stdout(noise), torch.no_grad():
            warnings.simplefilter("ignore")
            program = torch.onnx.export(
                module.eval(),
                inputs,
                dynamo=True,
                opset_version=OPSET,
                custom_translation_table=TRANSLATIONS,
                external_data=False,
                optimize=False,  # which folds small weights away
                input_names=list(input_names),
                output_names=list(output_names),
                dynamic_shapes=(data_dims, code_dims)[: len(inputs)],
                verbose=False,
            )
    except Exception as error:
        reason = str(error).strip().splitlines()
        raise ExportError(
            f"torch cannot export the network: {type(error).__name__}: "
            f"{reason[0] if reason else ''}"
        ) from error
    assert program is not None
    exported: onnx.ModelProto = program.model_proto
    return exported


def _part(
    everything: onnx.ModelProto, name: str, part: Part, operators: Collection[str] = OPERATORS
) -> onnx.ModelProto:
    """The graph of that name, with its own names of inputs and outputs."""
    outputs = [f"{name}/{output}" for output in part.outputs]
    graph_model = onnx.utils.Extractor(everything).extract_model(list(part.inputs), outputs)
    clean(graph_model)
    names = dict(zip(outputs, part.outputs, strict=True))
    for node in graph_model.graph.node:
        for at, output in enumerate(node.output):
            node.output[at] = names.get(output, output)
        for at, value in enumerate(node.input):
            node.input[at] = names.get(value, value)
    for value in graph_model.graph.output:
        value.name = names[value.name]
    _name_dimensions(graph_model, {**part.inputs, **part.outputs})
    refuse_unportable(graph_model, name, operators)
    return graph_model


def without_outputs(graph: bytes, names: Collection[str]) -> bytes | None:
    """The graph of all other outputs; None if there are none."""
    whole = onnx.load_from_string(graph)
    inputs = [value.name for value in whole.graph.input]
    outputs = [value.name for value in whole.graph.output if value.name not in names]
    if not outputs:
        return None
    part = onnx.utils.Extractor(whole).extract_model(inputs, outputs)
    clean(part)
    content: bytes = part.SerializeToString(deterministic=True)
    return content


def _name_dimensions(graph_model: onnx.ModelProto, names: Mapping[str, Sequence[str]]) -> None:
    """Gives symbolic dimensions the names of the contract; fixed ones stay numbers."""
    for value in (*graph_model.graph.input, *graph_model.graph.output):
        for dimension, name in zip(
            value.type.tensor_type.shape.dim, names[value.name], strict=True
        ):
            if not dimension.HasField("dim_value"):
                dimension.dim_param = name
