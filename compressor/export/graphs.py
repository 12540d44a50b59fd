"""A trained autoencoder as three ONNX graphs with everything between uint8 and uint8 inside."""

from __future__ import annotations

import contextlib
import io
import logging
import warnings
from collections.abc import Sequence

import onnx
import torch
from torch import Tensor, nn

from ..errors import ExportError
from ..plugin import Autoencoder
from ..training.likelihood import LIKELIHOODS
from ..training.objective import make_pass
from .portable import OPSET, clean, refuse_unportable

CODE_LIMIT = 2**24  # float32 counts integers without gaps up to here
SCORES = ("l2",)  # of every model; a plugin's own come behind


class Encoder(nn.Module):
    """image uint8 (N, H, W, C) -> code int32 (N, *code_shape): round(f(x) / step)."""

    inverse: Tensor

    def __init__(self, model: Autoencoder, steps: Tensor) -> None:
        super().__init__()
        self.model = model
        self.register_buffer("inverse", 1 / steps)

    def forward(self, image: Tensor) -> Tensor:
        scaled = self.model.encode(_to_x(image)).mean * self.inverse
        return _round(scaled).clamp(-CODE_LIMIT, CODE_LIMIT).to(torch.int32)


class Decoder(nn.Module):
    """code int32 (N, *code_shape) -> image uint8 (N, H, W, C)."""

    steps: Tensor

    def __init__(self, model: Autoencoder, steps: Tensor) -> None:
        super().__init__()
        self.model = model
        self.register_buffer("steps", steps)

    def forward(self, code: Tensor) -> Tensor:
        out = self.model.decode(code.float() * self.steps)
        pixels = LIKELIHOODS[self.model.likelihood].pixels(out)
        return _round(pixels * 255).clamp(0, 255).to(torch.uint8).permute(0, 2, 3, 1)


class Scorer(nn.Module):
    """image uint8 (N, H, W, C) -> each score (N,), then error_map (N, H, W); raw, unclamped.

    l2 is the mean squared error over the elements of an image in [0, 1], from the code before
    rounding and the output before clipping; error_map is the same, a mean over channels alone.
    """

    def __init__(self, model: Autoencoder) -> None:
        super().__init__()
        self.model = model

    def forward(self, image: Tensor) -> tuple[Tensor, ...]:
        passed = make_pass(self.model, _to_x(image))
        error = (passed.x - passed.pixels).square()
        further = self.model.scores(passed).values()
        return error.mean((1, 2, 3)), *further, error.mean(1)


def score_names(model: Autoencoder) -> tuple[str, ...]:
    """The names of the scorer's outputs, error_map apart."""
    x = torch.rand(2, model.spec.channels, model.spec.height, model.spec.width)
    with torch.no_grad():
        further = model.scores(make_pass(model, x))
    if clash := {*SCORES, "error_map"} & further.keys():
        raise ExportError(f"the plugin calls a score {clash.pop()!r}, a name of the core")
    return (*SCORES, *further)


def export_graphs(model: Autoencoder, steps: Tensor) -> dict[str, onnx.ModelProto]:
    """encoder, decoder and scorer by name. steps: float32, broadcastable to code_shape.

    Raises ExportError if a graph cannot be exported or would not run everywhere.
    """
    model.eval()
    spec, stride = model.spec, model.stride
    height, width = spec.height, spec.width
    if stride is not None:  # torch.export takes an axis of length one for a constant
        height, width = max(height, 2 * stride), max(width, 2 * stride)
    image = torch.randint(0, 256, (2, height, width, spec.channels), dtype=torch.uint8)
    encoder = Encoder(model, steps)
    with torch.no_grad():
        code = encoder(image)
    batch = torch.export.Dim("N", min=1)
    image_dims: dict[int, object] = {0: batch}
    code_dims: dict[int, object] = {0: batch}
    code_axes = [f"code_{axis}" for axis in range(1, code.ndim)]
    if stride is not None:
        h, w = (torch.export.Dim(name, min=1) for name in ("h", "w"))
        image_dims |= {1: stride * h, 2: stride * w} if stride > 1 else {1: h, 2: w}
        code_dims |= {2: h, 3: w}
        code_axes = ["code_1", "h", "w"]
    size = ["N", "H", "W", "C"]
    scores = score_names(model)
    return {
        "encoder": _export(
            "encoder", encoder, image, image_dims, {"image": size}, {"code": ["N", *code_axes]}
        ),
        "decoder": _export(
            "decoder",
            Decoder(model, steps),
            code,
            code_dims,
            {"code": ["N", *code_axes]},
            {"image": size},
        ),
        "scorer": _export(
            "scorer",
            Scorer(model),
            image,
            image_dims,
            {"image": size},
            {**{name: ["N"] for name in scores}, "error_map": size[:3]},
        ),
    }


def _to_x(image: Tensor) -> Tensor:
    return image.permute(0, 3, 1, 2).float() / 255


def _round(value: Tensor) -> Tensor:
    """Half up, since runtimes disagree about Round at halves."""
    return torch.floor(value + 0.5)


def _export(
    name: str,
    module: nn.Module,
    example: Tensor,
    dims: dict[int, object],
    inputs: dict[str, Sequence[str]],
    outputs: dict[str, Sequence[str]],
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
    _name_dimensions(graph_model, inputs | outputs)
    refuse_unportable(graph_model, name)
    return graph_model


def _name_dimensions(graph_model: onnx.ModelProto, names: dict[str, Sequence[str]]) -> None:
    """Gives symbolic dimensions the names of the contract; fixed ones stay numbers."""
    for value in (*graph_model.graph.input, *graph_model.graph.output):
        for dimension, name in zip(
            value.type.tensor_type.shape.dim, names[value.name], strict=True
        ):
            if not dimension.HasField("dim_value"):
                dimension.dim_param = name
