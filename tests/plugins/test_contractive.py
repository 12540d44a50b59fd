"""The contractive autoencoder's Jacobian norms are exact, can be learned from, and shrink."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import pytest
import torch
from compressor.plugins.contractive import (
    Contractive,
    ContractiveConfig,
    hutchinson_norm,
    jacobian_norm,
    one_sigmoid_layer,
)
from torch import Tensor

from compressor.data.images import Pixels
from compressor.normalisation import Normalisation
from compressor.plugin import Pass
from compressor.spec import ImageSpec
from compressor.training.loop import Loop

Fit = Callable[..., Loop]
SPEC = ImageSpec(height=28, width=28, channels=1)
ONE_LAYER = {"latent": 20}
DEEP = {"hidden": [24, 12], "latent": 6, "activation": "elu"}
CONV = {"network": "conv", "hidden": [3], "latent": 2}  # 98 elements: more than are done at once


def make(**config: Any) -> Contractive:
    torch.manual_seed(0)
    return Contractive(ContractiveConfig(**config), SPEC).eval()


@pytest.fixture
def x(clothes: Pixels) -> Tensor:
    """Four images, float64."""
    x: Tensor = Normalisation(SPEC)(torch.from_numpy(clothes[:4])).double()
    return x


def reference(model: Contractive, x: Tensor, create_graph: bool = False) -> Tensor:
    """|df/dx|^2, (N,), from autograd's whole Jacobian of one input after the other."""
    jacobians = [
        torch.autograd.functional.jacobian(model.up, one[None], create_graph=create_graph)
        for one in x
    ]
    return torch.stack([jacobian.square().sum() for jacobian in jacobians])


@torch.no_grad()
def test_the_closed_form_of_one_sigmoid_layer_is_the_jacobians_norm(x: Tensor) -> None:
    model = make(**ONE_LAYER).double()
    norm = one_sigmoid_layer(model.pairs[0], model.up(x))
    assert torch.allclose(norm, reference(model, x), rtol=1e-6, atol=0)


@pytest.mark.parametrize("config", [ONE_LAYER, DEEP, CONV], ids=["one-layer", "deep", "conv"])
@torch.no_grad()
def test_the_norm_of_any_encoder_is_the_jacobians_in_double_and_in_single_precision(
    x: Tensor, config: dict[str, Any]
) -> None:
    model = make(**config)
    single = jacobian_norm(model.up, x.float())
    model.double()
    wanted = reference(model, x)
    assert torch.allclose(jacobian_norm(model.up, x), wanted, rtol=1e-6, atol=0)
    assert single.dtype == torch.float32
    assert torch.allclose(single.double(), wanted, rtol=1e-4, atol=0)


@pytest.mark.parametrize("config", [DEEP, CONV], ids=["deep", "conv"])
@torch.no_grad()
def test_hutchinsons_estimate_is_unbiased(x: Tensor, config: dict[str, Any]) -> None:
    model = make(**config).double()
    torch.manual_seed(0)
    draws = hutchinson_norm(model.up, x[:1].repeat(3000, 1, 1, 1))
    (wanted,) = reference(model, x[:1])
    error = draws.std().item() / math.sqrt(len(draws))
    assert error < 0.02 * wanted  # or it would not say much that the next line holds
    assert draws.mean().item() == pytest.approx(wanted.item(), abs=4 * error)


@pytest.mark.parametrize(
    "config",
    [ONE_LAYER, DEEP, {**CONV, "jacobian": "exact"}],
    ids=["one-layer", "deep", "conv"],
)
def test_the_penaltys_gradient_reaches_every_weight_as_the_references_does(
    x: Tensor, config: dict[str, Any]
) -> None:
    model = make(**config, alpha=0.7).double()
    (penalty,) = model.penalty(Pass(model, x)).values()
    wanted = 0.7 * reference(model, x, create_graph=True).mean()
    assert penalty.item() == pytest.approx(wanted.item(), rel=1e-6)
    weights = [tensor for pair in model.pairs for tensor in (pair.weight, pair.bias)]
    ours = torch.autograd.grad(penalty, weights)
    theirs = torch.autograd.grad(wanted, weights)
    for got, want in zip(ours, theirs, strict=True):
        assert want.abs().max() > 0
        assert torch.allclose(got, want, rtol=1e-6, atol=1e-12)


def test_the_gradient_of_hutchinsons_estimate_is_that_of_the_norm_in_the_mean(x: Tensor) -> None:
    model = make(**DEEP).double()
    weight = model.pairs[1].weight
    torch.manual_seed(0)
    estimate = hutchinson_norm(model.up, x[:1].repeat(3000, 1, 1, 1)).mean()
    (ours,) = torch.autograd.grad(estimate, weight)
    (wanted,) = torch.autograd.grad(reference(model, x[:1], create_graph=True).sum(), weight)
    assert (ours - wanted).norm() < 0.05 * wanted.norm()


def test_wide_codes_are_estimated_and_others_computed_unless_told_otherwise(x: Tensor) -> None:
    def is_random(**config: Any) -> bool:
        model = make(**config).double()
        torch.manual_seed(0)
        first, second = (model.penalty(Pass(model, x))["jacobian"] for _ in range(2))
        return not torch.equal(first, second)

    assert not is_random(latent=100)  # one sigmoid layer has a closed form
    assert not is_random(latent=32, code_activation="tanh")
    assert is_random(latent=33, code_activation="tanh")
    assert not is_random(latent=33, code_activation="tanh", jacobian="exact")
    assert is_random(latent=4, hidden=[8], jacobian="hutchinson")
    assert is_random(**CONV)


@pytest.mark.parametrize(
    "config",
    [
        {"latent": 32, "alpha": 50},
        {"hidden": [32], "latent": 8, "activation": "relu", "alpha": 100},
        {**CONV, "activation": "relu", "jacobian": "hutchinson", "alpha": 50},
    ],
    ids=["closed", "exact", "hutchinson"],
)
def test_the_penalty_makes_the_jacobian_smaller_on_images_not_trained_on(
    clothes: Pixels, fit: Fit, config: dict[str, Any]
) -> None:
    held_out = Normalisation(SPEC)(torch.from_numpy(clothes[900:932]))
    norms = []
    for alpha in (config["alpha"], 0):
        loop = fit(
            Contractive,
            clothes[:128],
            40,
            {**config, "alpha": alpha},
            batch_size=32,
            learning_rate=0.01,
            warmup_steps=0,
        )
        with torch.no_grad():
            norms.append(jacobian_norm(loop.model.up, held_out).mean().item())
    assert norms[0] < 0.6 * norms[1]


@torch.no_grad()
def test_the_decoders_weights_are_the_encoders(x: Tensor) -> None:
    """So that the decoder cannot undo what the encoder scales down."""
    model = make(**DEEP).double()
    assert [name for name, _ in model.named_parameters() if "mirror_weight" in name] == []
    h = torch.rand(3, 6, dtype=torch.float64)
    out = h
    for pair, activation in zip(model.pairs[::-1], ("elu", "elu", None), strict=True):
        out = out @ pair.weight + pair.mirror_bias
        out = torch.nn.functional.elu(out) if activation else out
    assert torch.allclose(model.decode(h).flatten(1), out, rtol=1e-12)


@torch.no_grad()
def test_the_measure_is_the_mean_norm_without_its_square(x: Tensor) -> None:
    model = make(**CONV).double()
    told = model.measures(Pass(model, x))["Jacobian norm"].item()
    assert told == pytest.approx(reference(model, x).sqrt().mean().item(), rel=1e-6)
