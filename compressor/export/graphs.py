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
from collections.abc import Iterable, Mapping, Sequence

import onnx
import onnx.utils
import torch
from torch import Tensor, nn

from ..errors import ExportError
from ..likelihood import LIKELIHOODS
from ..normalisation import Normalisation, example
from ..plugin import Autoencoder, Pass
from ..spec import ImageSpec
from .portable import OPSET, clean, refuse_unportable
from .scores import EveryScorer, Scorer, score_names

CODE_LIMIT = 2**24  # float32 counts integers without gaps up to here


class Encoder(nn.Module):
    """data (N, *spec.shape) -> code int32 (N, *code_shape): round(f(x) / step)."""

    inverse: Tensor

    def __init__(self, model: Autoencoder, steps: Tensor) -> None:
        super().__init__()
        self.model, self.normalisation = model, Normalisation(model.spec)
        self.register_buffer("inverse", 1 / steps)

    def scaled(self, data: Tensor) -> Tensor:
        """f(x) / step, before it is rounded."""
        code = Pass(self.model, self.normalisation(data), training=False).code
        return code.mean * self.inverse

    def forward(self, data: Tensor) -> Tensor:
        # Half up, since runtimes disagree about Round at halves.
        code = torch.floor(self.scaled(data) + 0.5)
        return code.clamp(-CODE_LIMIT, CODE_LIMIT).to(torch.int32)


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


def without_batch_norm(model: Autoencoder) -> Autoencoder:
    """A copy for export, with an Affine for every batch normalisation that keeps statistics."""
    model = copy.deepcopy(model)
    for module in list(model.modules()):
        for name, child in list(module.named_children()):
            if isinstance(child, nn.modules.batchnorm._BatchNorm) and child.track_running_stats:
                setattr(module, name, Affine(child))
    return model


def export_graphs(
    model: Autoencoder, steps: Tensor, nats: float | None = None
) -> dict[str, onnx.ModelProto]:
    """The graphs encoder, decoder, scorer and further, by name.

    steps: float32, broadcastable to code_shape. nats: what a unit of distortion is in nats, for the
    -ELBO of Gaussian codes (scores.py). Models that rebuild features have no decoder and no
    further: both need pixels.

    Raises ExportError if a graph cannot be exported or would not run everywhere.
    """
    model.eval()
    scores = score_names(model, nats)
    model = without_batch_norm(model)
    spec, stride = model.spec, model.stride
    if isinstance(spec, ImageSpec) and stride is not None:
        # torch.export makes an axis of length one a constant
        size = {"height": max(spec.height, 2 * stride), "width": max(spec.width, 2 * stride)}
        spec = spec.model_copy(update=size)
    data = example(spec, 2)
    encoder = Encoder(model, steps)
    with torch.no_grad():
        code = encoder(data)
    batch = torch.export.Dim("N", min=1)
    data_dims: dict[int, object] = {0: batch}
    code_dims: dict[int, object] = {0: batch}
    code_axes = [f"code_{axis}" for axis in range(1, code.ndim)]
    if stride is not None:
        h, w = (torch.export.Dim(name, min=1) for name in ("h", "w"))
        data_dims |= {1: stride * h, 2: stride * w} if stride > 1 else {1: h, 2: w}
        code_dims |= {2: h, 3: w}
        code_axes = ["code_1", "h", "w"]
    data_axes = ["N", "H", "W", "C"] if isinstance(spec, ImageSpec) else ["N", "D"]
    taken = {str(spec.kind): data_axes}
    coded = {"code": ["N", *code_axes]}
    scored = {**{name: ["N"] for name in scores}, "error_map": data_axes[:3]}
    scorer = Scorer(model, nats)
    graphs = {"encoder": _export("encoder", encoder, data, data_dims, taken, coded)}
    if model.rebuilds_features:
        graphs["scorer"] = _export("scorer", scorer, data, data_dims, taken, scored)
        return graphs
    decoder, every = Decoder(model, steps), EveryScorer(scorer)
    further = {name: ["N"] for name in every.further.names} | {"hidden_differences": ["N", "K"]}
    both = _export("scorer", every, data, data_dims, taken, {**scored, **further})
    return {
        **graphs,
        "decoder": _export("decoder", decoder, code, code_dims, coded, taken),
        "scorer": _part(both, taken, scored),
        "further": _part(both, taken, further),
    }


def _export(
    name: str,
    module: nn.Module,
    example: Tensor,
    dims: dict[int, object],
    inputs: Mapping[str, Sequence[str]],
    outputs: Mapping[str, Sequence[str]],
) -> onnx.ModelProto:
    noise = io.StringIO()
    logging.getLogger("torch.onnx").setLevel(logging.ERROR)
    try:
        with warnings.catch_warnings(), contextlib.redirect_stdout(noise), torch.no_grad():
            warnings.simplefilter("ignore")
            program = torch.onnx.export(
                module.eval(),
                (example,),
                dynamo=True,
                opset_version=OPSET,
                external_data=False,
                input_names=list(inputs),
                output_names=list(outputs),
                dynamic_shapes=(dims,),
                verbose=False,
            )
    except Exception as error:
        reason = str(error).strip().splitlines()
        raise ExportError(
            f"{name}: torch cannot export it: {type(error).__name__}: {reason[0] if reason else ''}"
        ) from error
    assert program is not None
    graph_model = program.model_proto
    clean(graph_model)
    _name_dimensions(graph_model, {**inputs, **outputs})
    refuse_unportable(graph_model, name)
    return graph_model


def _part(
    graph_model: onnx.ModelProto, inputs: Iterable[str], outputs: Iterable[str]
) -> onnx.ModelProto:
    """The part of the graph that computes ``outputs``."""
    part = onnx.utils.Extractor(graph_model).extract_model(list(inputs), list(outputs))
    clean(part)
    return part


def _name_dimensions(graph_model: onnx.ModelProto, names: Mapping[str, Sequence[str]]) -> None:
    """Gives symbolic dimensions the names of the contract; fixed ones stay numbers."""
    for value in (*graph_model.graph.input, *graph_model.graph.output):
        for dimension, name in zip(
            value.type.tensor_type.shape.dim, names[value.name], strict=True
        ):
            if not dimension.HasField("dim_value"):
                dimension.dim_param = name
