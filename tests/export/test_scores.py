"""What scorer.onnx and further.onnx compute: the formulas, from other code than the graphs'."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import safetensors.torch
import scipy.ndimage
import torch
import torch.nn.functional as F
from compressor.plugins.undercomplete import Undercomplete, UndercompleteConfig
from compressor.plugins.vae import VAE
from torch import Tensor

from compressor.data.images import Pixels
from compressor.errors import ExportError
from compressor.export.graphs import export_graphs
from compressor.export.parity import check_parity
from compressor.export.scores import FurtherScorer, Scales, Scorer, nats_of, score_names
from compressor.model import Model
from compressor.normalisation import Normalisation
from compressor.plugin import Autoencoder, Code, Pass, PluginConfig
from compressor.spec import ImageSpec, VectorSpec

SPEC = ImageSpec(height=28, width=28, channels=1)
STEPS = torch.full((12,), 0.1)


@pytest.fixture(scope="module")
def dense(dense_model: Any) -> tuple[Undercomplete, dict[str, Any], Tensor]:
    """The small dense model in torch, its golden arrays, and x."""
    opened = Model.open(dense_model)
    plugin = Undercomplete(UndercompleteConfig(**opened.manifest.config), SPEC).eval()
    plugin.load_state_dict(safetensors.torch.load(opened.read("weights.safetensors")))
    golden = opened.golden()
    return plugin, golden, torch.from_numpy(golden["image"]).permute(0, 3, 1, 2) / 255


@torch.no_grad()
def test_hidden_is_the_distance_in_fs_layers(
    dense: tuple[Undercomplete, dict[str, Any], Tensor],
) -> None:
    """Kim et al. 2020: h_i(x) - h_i(x^) of every layer, here one of 32 units and the code of 12."""
    plugin, golden, x = dense
    rebuilt = torch.sigmoid(plugin.decode(plugin.f(x.flatten(1))))
    first, second = (plugin.f[:2](i.flatten(1)) for i in (x, rebuilt))
    layers = [first - second, plugin.f(x.flatten(1)) - plugin.f(rebuilt.flatten(1))]
    differences = torch.cat(layers, 1).numpy()
    assert differences.shape == (5, 44)
    np.testing.assert_allclose(golden["hidden_differences"], differences, rtol=1e-3, atol=1e-4)
    np.testing.assert_allclose(golden["hidden"], np.square(differences).sum(1), rtol=1e-3)


@torch.no_grad()
def test_l1_and_gradient_are_what_their_formulas_say(
    dense: tuple[Undercomplete, dict[str, Any], Tensor],
) -> None:
    plugin, golden, x = dense
    images = [x[:, 0].numpy(), torch.sigmoid(plugin.decode(plugin.f(x.flatten(1))))[:, 0].numpy()]
    np.testing.assert_allclose(golden["l1"], np.abs(images[0] - images[1]).mean((1, 2)), rtol=1e-4)

    def magnitude(image: Any) -> Any:
        edges = [scipy.ndimage.prewitt(image, axis, mode="constant") / 3 for axis in (0, 1)]
        return np.hypot(*edges)

    def half(image: Any) -> Any:
        line = np.array([0.25, 0.5, 0.25])
        return scipy.ndimage.convolve(image, np.outer(line, line), mode="constant")[::2, ::2]

    for number, pair in enumerate(zip(*images, strict=True)):
        errors = []
        for _ in range(3):
            a, b = map(magnitude, pair)
            errors.append(np.mean(1 - (2 * a * b + 0.0026) / (a**2 + b**2 + 0.0026)))
            pair = tuple(map(half, pair))
        np.testing.assert_allclose(golden["gradient"][number], np.mean(errors), rtol=1e-3)


def test_gaussian_codes_have_kl_and_the_negative_elbo(
    fit: Callable[..., Any], clothes: Pixels
) -> None:
    model = fit(VAE, clothes[:500], 30, {"network": "dense", "hidden": [32], "latent": 12}).model
    model.eval()
    x = Normalisation(model.spec)(torch.from_numpy(clothes[500:700]))
    nats = nats_of(model, x)
    scales = Scales(nats)
    assert score_names(model, scales) == ("l2", "l1", "kl", "elbo")
    assert score_names(model) == ("l2", "l1")  # where a rate was asked
    passed = Pass(model, x, training=False)
    with torch.no_grad():
        posterior = torch.distributions.Normal(passed.code.mean, passed.code.scale)
        kl = torch.distributions.kl_divergence(posterior, torch.distributions.Normal(0, 1)).sum(1)
        deviation = (x - passed.pixels).square().mean().sqrt()
        seen = torch.distributions.Normal(passed.pixels, deviation).log_prob(x).flatten(1).sum(1)
    graphs = {n: g.SerializeToString() for n, g in export_graphs(model, STEPS, scales).items()}
    check_parity(model, STEPS, graphs, clothes[:8], scales)
    import onnxruntime as ort

    session = ort.InferenceSession(graphs["scorer"], providers=["CPUExecutionProvider"])
    found = session.run(["kl", "elbo"], {"image": clothes[500:700]})
    np.testing.assert_allclose(found[0], kl, rtol=1e-3)
    constant = 784 * np.log(float(deviation) * np.sqrt(2 * np.pi))
    np.testing.assert_allclose(found[1] + constant, kl - seen, rtol=1e-3)


def test_with_a_cross_entropy_the_negative_elbo_is_the_loss_without_noise(
    fit: Callable[..., Any], clothes: Pixels
) -> None:
    settings = {"network": "dense", "hidden": [32], "latent": 12, "loss": "cross-entropy"}
    model = fit(VAE, clothes[:500], 30, settings).model.eval()
    x = Normalisation(model.spec)(torch.from_numpy(clothes[500:700]))
    with torch.no_grad():
        logits = model.decode(model.encode(x).mean)
        distortion = F.binary_cross_entropy_with_logits(logits, x, reduction="none")
        kl = model.penalty(Pass(model, x, training=True))["kl"]
    graphs = {n: g.SerializeToString() for n, g in export_graphs(model, STEPS, Scales(1.0)).items()}
    assert nats_of(model, x) == 1.0
    check_parity(model, STEPS, graphs, clothes[:8], Scales(1.0))
    import onnxruntime as ort

    session = ort.InferenceSession(graphs["scorer"], providers=["CPUExecutionProvider"])
    found = session.run(["kl", "elbo"], {"image": clothes[500:700]})
    np.testing.assert_allclose(found[0].mean(), kl.mean(), rtol=1e-3)
    np.testing.assert_allclose(found[1] - found[0], distortion.flatten(1).sum(1), rtol=1e-3)


class Padded(Autoencoder):
    """Rebuilds noise as nothing, with larger errors near the border, the most in one corner."""

    contract = 2
    Config = PluginConfig
    rebuilds_features = True

    def target(self, x: Tensor) -> Tensor:
        louder = torch.ones(9, 11)
        louder[0], louder[:, -2:] = 2.0, 1.5
        louder[0, -1] = 4.0
        return (x[:, :, ::2, ::2] - 0.5) * louder

    def encode(self, x: Tensor) -> Code:
        return Code(x * 1.0)

    def decode(self, z: Tensor) -> Tensor:
        return z * 0.0


@torch.no_grad()
def test_errors_of_features_near_the_border_are_relative_to_normal_ones_there() -> None:
    model = Padded(PluginConfig(), ImageSpec(height=18, width=22, channels=1)).eval()
    torch.manual_seed(0)
    normal, unseen = torch.rand(300, 1, 18, 22), torch.rand(600, 1, 18, 22)
    passed = Pass(model, unseen, training=False)

    def in_corner(scorer: Scorer) -> float:
        """The share of error maps with their maximum in 4x4 of the 396 pixels."""
        places = scorer.error_map(passed).flatten(1).argmax(1)
        return ((places // 22 < 4) & (places % 22 >= 18)).double().mean().item()

    scales = Scales.learn(model, normal, [normal[:200], normal[200:]], rate_asked=False)
    assert in_corner(Scorer(model)) > 0.5
    assert in_corner(Scorer(model, scales)) < 0.1
    middle = (slice(None), slice(6, 12), slice(6, 14))
    maps = [Scorer(model, s).error_map(passed)[middle] for s in (Scales(), scales)]
    torch.testing.assert_close(*maps)


def test_vectors_have_no_gradients() -> None:
    spec = VectorSpec(length=6, mean=(0.0,) * 6, scale=(1.0,) * 6)
    model = Undercomplete(UndercompleteConfig(hidden=[4], latent=2), spec).eval()
    assert FurtherScorer(model).names == ("hidden",)


@pytest.mark.parametrize("name", ["l1", "knn", "ensemble", "error_map"])
def test_a_plugin_cannot_take_a_name_of_the_core(name: str) -> None:
    class Taken(Undercomplete):
        def scores(self, passed: Pass) -> dict[str, Tensor]:
            return {name: passed.x.flatten(1).sum(1)}

    with pytest.raises(ExportError, match=f"calls a score '{name}'"):
        export_graphs(Taken(UndercompleteConfig(network="dense", latent=12), SPEC).eval(), STEPS)
