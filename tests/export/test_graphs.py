"""The exported graphs: the contract, parity with torch, and three other runtimes."""

from __future__ import annotations

import typing
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import numpy.typing as npt
import onnx
import openvino
import pytest
import torch
from compressor.plugins.undercomplete import Undercomplete, UndercompleteConfig
from onnx.reference import ReferenceEvaluator
from torch import Tensor, nn

from compressor.data.images import Pixels
from compressor.errors import ExportError
from compressor.export.graphs import export_graphs, without_outputs
from compressor.export.parity import check_parity
from compressor.export.portable import OPERATORS, OPSET
from compressor.model import Model
from compressor.networks.blocks import ActivationName, activation
from compressor.plugin import Autoencoder, Code, Pass
from compressor.spec import DataSpec, ImageSpec, VectorSpec
from compressor.verbs import export

SPEC = ImageSpec(height=28, width=28, channels=1)
GRAPHS = ("encoder", "decoder", "scorer", "further")
Arrays = dict[str, npt.NDArray[Any]]


@pytest.fixture(params=["model", "dense_model"])
def trained(request: pytest.FixtureRequest) -> Model:
    return Model.open(request.getfixturevalue(request.param))


@pytest.mark.parametrize("graph", GRAPHS)
def test_a_graph_keeps_the_contract(trained: Model, graph: str) -> None:
    loaded = onnx.load_from_string(trained.read(f"{graph}.onnx"))
    assert [(o.domain, o.version) for o in loaded.opset_import] == [("", OPSET)]
    assert {node.op_type for node in loaded.graph.node} <= OPERATORS
    assert not loaded.graph.value_info
    assert not any(node.metadata_props or node.doc_string for node in loaded.graph.node)
    content = trained.read(f"{graph}.onnx")
    for leak in (b".py", str(Path.home()).encode() + b"/", b"stack_trace", b"site-packages"):
        assert leak not in content

    shapes = {
        value.name: [d.dim_param or d.dim_value for d in value.type.tensor_type.shape.dim]
        for value in (*loaded.graph.input, *loaded.graph.output)
    }
    h, w = ("H", "W") if trained.spec.stride else (28, 28)
    code = ["N", 2, "h", "w"] if trained.spec.stride else ["N", 12]
    image = ["N", h, w, 1]
    wanted = {
        "encoder": {"image": image, "code": code},
        "decoder": {"code": code, "image": image},
        "scorer": {
            "image": image,
            "l2": ["N"],
            "l1": ["N"],
            "error_map": ["N", h, w],
        },
        "further": {
            "image": image,
            "gradient": ["N"],
            "hidden": ["N"],
            "hidden_differences": ["N", 26 if trained.spec.stride else 44],
        },
    }
    assert shapes == wanted[graph]
    types = {
        v.name: v.type.tensor_type.elem_type for v in (*loaded.graph.input, *loaded.graph.output)
    }
    for name, kind in types.items():
        assert kind == {"image": onnx.TensorProto.UINT8, "code": onnx.TensorProto.INT32}.get(
            name, onnx.TensorProto.FLOAT
        )


def reference(content: bytes, inputs: Arrays, names: list[str]) -> list[npt.NDArray[Any]]:
    return list(ReferenceEvaluator(onnx.load_from_string(content)).run(names, inputs))


def openvino_f32(content: bytes, inputs: Arrays, names: list[str]) -> list[npt.NDArray[Any]]:
    core = openvino.Core()
    compiled = core.compile_model(
        core.read_model(content, b""), "CPU", {"INFERENCE_PRECISION_HINT": "f32"}
    )
    found = compiled(inputs)
    return [np.array(found[name]) for name in names]


def opencv(content: bytes, inputs: Arrays, names: list[str]) -> list[npt.NDArray[Any]]:
    net = cv2.dnn.readNetFromONNX(np.frombuffer(content, np.uint8))
    for name, array in inputs.items():
        net.setInput(array, name)
    return list(net.forward(names))


@pytest.mark.parametrize("runtime", [reference, openvino_f32, opencv])
def test_other_runtimes_answer_as_golden_npz_says(trained: Model, runtime: Any) -> None:
    golden = trained.golden()
    (code,) = runtime(trained.read("encoder.onnx"), {"image": golden["image"]}, ["code"])
    assert np.mean(code != golden["code"]) < 0.01  # ties at rounding
    assert np.abs(code.astype(int) - golden["code"]).max() <= 1
    (image,) = runtime(trained.read("decoder.onnx"), {"code": golden["code"]}, ["image"])
    assert image.shape == golden["image"].shape
    assert np.abs(image.astype(int) - golden["reconstruction"]).max() <= 1
    graphs = {
        "scorer.onnx": ["l2", "l1", "error_map"],
        "further.onnx": ["gradient", "hidden", "hidden_differences"],
    }
    for graph, names in graphs.items():
        scores = runtime(trained.read(graph), {"image": golden["image"]}, names)
        for name, found in zip(names, scores, strict=True):
            near = 1e-4 * np.abs(golden[name]).max()
            np.testing.assert_allclose(found, golden[name], rtol=1e-4, atol=max(1e-6, near))


def test_l2_is_the_mean_squared_error_before_rounding_and_clipping(
    trained: Model, clothes: Pixels
) -> None:
    plugin = Undercomplete(UndercompleteConfig(**trained.manifest.config), SPEC)
    import safetensors.torch

    plugin.load_state_dict(safetensors.torch.load(trained.read("weights.safetensors")))
    golden = trained.golden()
    x = torch.from_numpy(golden["image"]).permute(0, 3, 1, 2).float() / 255
    with torch.no_grad():
        out = plugin.eval().decode(plugin.encode(x).mean)
        pixels = torch.sigmoid(out) if plugin.likelihood == "cross-entropy" else out
        error = (x - pixels).square()
    np.testing.assert_allclose(golden["l2"], error.mean((1, 2, 3)), rtol=1e-4)
    np.testing.assert_allclose(golden["error_map"], error.mean(1), rtol=1e-3, atol=1e-6)


def test_parity_is_recorded(trained: Model) -> None:
    parity = trained.manifest.parity
    assert parity["batches"] == [1, 2, 5] or parity["batches"] == (1, 2, 5)
    assert parity["pixel_levels"] <= 1 and parity["l2_of_allowed"] <= 1


def graphs_of(plugin: Autoencoder) -> dict[str, bytes]:
    steps = torch.full((4,), 0.1)
    return {n: g.SerializeToString() for n, g in export_graphs(plugin, steps).items()}


SMALL = UndercompleteConfig(network="dense", hidden=[], latent=4)


def test_export_fails_loudly_without_parity(clothes: Pixels) -> None:
    plugin = Undercomplete(SMALL, SPEC).eval()
    graphs = graphs_of(plugin)
    steps = torch.full((4,), 0.1)
    check_parity(plugin, steps, graphs, clothes[:8])
    plugin.g[0].weight.data *= 1.2  # type: ignore[operator,union-attr]
    with pytest.raises(ExportError, match="decoder: pixels differ from torch's by"):
        check_parity(plugin, steps, graphs, clothes[:8])
    plugin.f[0].weight.data *= 1.2  # type: ignore[operator,union-attr]
    with pytest.raises(ExportError, match=r"encoder: .* codes differ"):
        check_parity(plugin, steps, graphs, clothes[:8])


def test_what_is_rebuilt_almost_exactly_is_no_disagreement() -> None:
    """An error of 1e-5 moves by as much between two runtimes: half of l1, and much of l2."""
    spec = VectorSpec(length=6, mean=(0.0,) * 6, scale=(1.0,) * 6)
    plugin = Undercomplete(UndercompleteConfig(network="dense", hidden=[], latent=6), spec).eval()
    weight = torch.linalg.qr(torch.randn(6, 6)).Q
    for layer, value in ((plugin.f[0], weight), (plugin.g[0], weight.T)):
        layer.weight.data, layer.bias.data = value.clone(), torch.zeros(6)  # type: ignore[union-attr,assignment]
    steps = torch.full((6,), 1e-3)
    graphs = {n: g.SerializeToString() for n, g in export_graphs(plugin, steps).items()}
    rows = np.random.default_rng(0).normal(size=(8, 6)).astype(np.float32)
    parity = check_parity(plugin, steps, graphs, rows)
    assert not parity.disagreeing and parity.l2_of_allowed <= 1


class OwnScore(Undercomplete):
    factor = 1.0

    def scores(self, passed: Pass) -> dict[str, Tensor]:
        return {"own": passed.pixels.flatten(1).sum(1) * self.factor}


def test_a_score_that_disagrees_is_named_and_taken_out_of_its_graph(clothes: Pixels) -> None:
    plugin = OwnScore(SMALL, SPEC).eval()
    steps, graphs = torch.full((4,), 0.1), graphs_of(plugin)
    plugin.factor = 1.2
    assert set(check_parity(plugin, steps, graphs, clothes[:8]).disagreeing) == {"own"}
    left = without_outputs(graphs["scorer"], ["own"])
    assert left is not None
    names = [output.name for output in onnx.load_from_string(left).graph.output]
    assert names == ["l2", "l1", "error_map"]
    assert without_outputs(left, names) is None


class Unportable(Undercomplete):
    def decode(self, z: Tensor) -> Tensor:
        return nn.functional.gelu(super().decode(z))


class Noisy(Undercomplete):
    def encode(self, x: Tensor) -> Code:
        mean = super().encode(x).mean
        return Code(mean + torch.randn_like(mean))


@pytest.mark.parametrize(("plugin", "operator"), [(Unportable, "Erf"), (Noisy, "RandomNormalLike")])
def test_operators_that_do_not_run_everywhere_are_refused(
    plugin: type[Undercomplete], operator: str
) -> None:
    with pytest.raises(ExportError, match=f"{operator}.* do not run everywhere"):
        graphs_of(plugin(SMALL, SPEC).eval())


class EveryActivation(Undercomplete):
    def __init__(self, config: UndercompleteConfig, spec: DataSpec) -> None:
        super().__init__(config, spec)
        names = typing.get_args(ActivationName)
        self.f = nn.Sequential(nn.Linear(784, 4), *[activation(name) for name in names])


def test_every_activation_runs_everywhere(clothes: Pixels) -> None:
    plugin = EveryActivation(SMALL, SPEC).eval()
    check_parity(plugin, torch.full((4,), 0.1), graphs_of(plugin), clothes[:8])


def test_a_model_that_has_diverged_is_not_exported(clothes: Pixels) -> None:
    plugin = Undercomplete(SMALL, SPEC).eval()
    plugin.f[0].weight.data.fill_(float("nan"))  # type: ignore[operator,union-attr]
    with pytest.raises(ExportError, match="not finite"):
        check_parity(plugin, torch.full((4,), 0.1), graphs_of(plugin), clothes[:8])


def test_the_graphs_alone_can_be_had_in_half_the_bytes(
    dense_model: Path, tmp_path: Path, clothes: Pixels
) -> None:
    wide = export(dense_model, tmp_path / "wide")["files"]
    narrow = export(dense_model, tmp_path / "narrow", precision="float16")["files"]
    assert narrow["decoder.onnx"] < 0.6 * wide["decoder.onnx"]
    golden = Model.open(dense_model).golden()
    content = (tmp_path / "narrow" / "decoder.onnx").read_bytes()
    (image,) = reference(content, {"code": golden["code"]}, ["image"])
    assert np.abs(image.astype(int) - golden["reconstruction"]).max() <= 1
