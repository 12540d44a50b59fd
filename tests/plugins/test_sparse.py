"""The sparse autoencoder's penalties are what they are said to be, and make codes sparse."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from compressor.plugins.sparse import ALPHA, Sparse, SparseConfig
from scipy.special import rel_entr
from torch import Tensor, nn

from compressor.data.images import Pixels
from compressor.normalisation import Normalisation
from compressor.plugin import Code, Pass
from compressor.spec import ImageSpec
from compressor.training.loop import Loop

Fit = Callable[..., Loop]
SPEC = ImageSpec(height=28, width=28, channels=1)
NETWORKS: list[dict[str, Any]] = [
    {"network": "dense", "hidden": [], "latent": 24},
    {"network": "dense", "hidden": [32], "latent": 24},
    {"network": "conv", "hidden": [8], "latent": 4},
]
IDS = ["one-layer", "dense", "conv"]


def to_x(images: Pixels) -> Tensor:
    x: Tensor = Normalisation(SPEC)(torch.from_numpy(images))
    return x


def make(**config: Any) -> Sparse:
    torch.manual_seed(0)
    return Sparse(SparseConfig(**config), SPEC).eval()


def penalty(model: Sparse, h: Tensor) -> float:
    """Of activations h, whatever the encoder says."""
    passed = Pass(model, torch.zeros(len(h), 1, 28, 28))
    vars(passed)["code"] = Code(h)
    (value,) = model.penalty(passed).values()
    return value.item()


def layers(module: nn.Module) -> list[nn.Linear | nn.Conv2d]:
    return [m for m in module.modules() if isinstance(m, nn.Linear | nn.Conv2d)]


@pytest.mark.parametrize("network", NETWORKS, ids=IDS)
@torch.no_grad()
def test_l1_is_not_made_smaller_by_a_smaller_code_and_a_larger_decoder(
    clothes: Pixels, network: dict[str, Any]
) -> None:
    model, x = make(**network), to_x(clothes[:16])
    before = Pass(model, x)
    penalty_before, pixels_before = model.penalty(before)["l1"], before.pixels
    last, first = layers(model.f)[-1], layers(model.g)[0]
    assert last.bias is not None
    last.weight *= 0.1
    last.bias *= 0.1
    first.weight /= 0.1
    after = Pass(model, x)
    assert torch.allclose(after.code.mean, before.code.mean * 0.1, rtol=1e-4)
    assert torch.allclose(after.pixels, pixels_before, rtol=1e-4, atol=1e-5)
    assert model.penalty(after)["l1"].item() == pytest.approx(penalty_before.item(), rel=1e-4)


@torch.no_grad()
def test_l1_is_not_made_smaller_by_a_decoder_that_is_large_further_down(clothes: Pixels) -> None:
    model, x = make(latent=6, network="dense", hidden=[10]), to_x(clothes[:16])
    before = Pass(model, x)
    penalty_before, pixels_before = model.penalty(before)["l1"], before.pixels
    first, last = layers(model.g)
    assert first.bias is not None
    first.weight *= 0.001
    first.bias *= 0.001
    last.weight /= 0.001
    after = Pass(model, x)
    assert torch.allclose(after.pixels, pixels_before, rtol=1e-4, atol=1e-5)
    assert model.penalty(after)["l1"].item() == pytest.approx(penalty_before.item(), rel=1e-4)


@torch.no_grad()
def test_l1_weighs_each_activation_with_the_weights_that_leave_it_and_those_behind() -> None:
    model = make(latent=6, network="dense", hidden=[10], alpha=0.3)
    h = torch.rand(5, 6)
    first, last = (layer.weight.double().numpy() for layer in layers(model.g))
    lengths = np.linalg.norm(first, axis=0) * np.sqrt(np.square(last).sum() / len(last))
    wanted = 0.3 * (h.double().numpy() * lengths).sum(1).mean()
    assert penalty(model, h) == pytest.approx(wanted, rel=1e-6)


@pytest.mark.parametrize("shape", [(40, 7), (6, 7, 3, 5)], ids=["dense", "conv"])
def test_kl_and_square_equal_their_formulas_on_the_mean_over_batch_and_positions(
    shape: tuple[int, ...],
) -> None:
    random = np.random.default_rng(0)
    h = random.random(shape) ** 3
    q, p = np.moveaxis(h, 1, 0).reshape(7, -1).mean(1), 0.15
    wanted = {
        "kl": (rel_entr(p, q) + rel_entr(1 - p, 1 - q)).sum(),
        "square": np.square(q - p).sum(),
    }
    for sparsity, value in wanted.items():
        model = make(sparsity=sparsity, p=p)
        got = penalty(model, torch.from_numpy(h))
        assert got == pytest.approx(ALPHA[sparsity] * value, rel=1e-12)


@pytest.mark.parametrize("sparsity", ["kl", "square"])
def test_a_mean_activation_of_p_costs_nothing_and_every_other_more(sparsity: str) -> None:
    model = make(sparsity=sparsity, p=0.25)
    two_values = torch.tensor([0.0, 0.5], dtype=torch.float64).repeat(8)[:, None]  # mean p, exactly
    assert penalty(model, two_values) == 0
    assert penalty(model, two_values * 1.01) > 0
    assert penalty(model, two_values * 0.99) > 0


@pytest.mark.parametrize("sparsity", ["kl", "square"])
@pytest.mark.parametrize("activation", [0.0, 1.0])
def test_units_that_never_or_always_fire_have_a_finite_penalty(
    sparsity: str, activation: float
) -> None:
    assert 0 < penalty(make(sparsity=sparsity), torch.full((4, 3), activation)) < 1e4


def activations(loop: Loop, images: Pixels) -> Tensor:
    with torch.no_grad():
        h: Tensor = loop.model.encode(to_x(images)).mean
    return h


def test_l1_makes_units_silent_for_images_that_they_do_not_answer_to(
    clothes: Pixels, fit: Fit
) -> None:
    """On images not trained on; units that are silent for all of them do not count."""
    shares = []
    for alpha in (None, 0.0):
        config = {"network": "dense", "hidden": [], "latent": 128, "alpha": alpha}
        loop = fit(Sparse, clothes[:700], 200, config, warmup_steps=0, batch_size=100)
        h = activations(loop, clothes[700:])
        assert bool((h >= 0).all())
        used = h[:, (h > 0).any(0)]
        shares.append((used == 0).float().mean().item())
    assert shares[0] > 0.2
    assert shares[0] > 2 * shares[1]


@pytest.mark.parametrize("sparsity", ["kl", "square"])
def test_mean_activations_come_near_p_on_images_not_trained_on(
    clothes: Pixels, fit: Fit, sparsity: str
) -> None:
    """Within 0.02 in the mean over the units and 0.1 for each, after 100 steps."""
    furthest, mean = [], []
    for alpha in (None, 0.0):
        config = {"network": "dense", "hidden": [], "latent": 64, "sparsity": sparsity, "p": 0.2}
        config["alpha"] = alpha
        loop = fit(Sparse, clothes[:700], 100, config, warmup_steps=0, learning_rate=0.01)
        apart = (activations(loop, clothes[700:]).mean(0) - 0.2).abs()
        furthest.append(apart.max().item())
        mean.append(apart.mean().item())
    assert mean[0] < 0.02 and furthest[0] < 0.1
    assert mean[1] > 0.1  # without the penalty


@torch.no_grad()
def test_measures_say_how_sparse_the_code_is(clothes: Pixels) -> None:
    model, x = make(network="dense", latent=24), to_x(clothes[:32])
    h = model.encode(x).mean
    assert 0 < model.measures(Pass(model, x))["zeros in h"] == (h == 0).float().mean() < 1
    model = make(network="dense", latent=24, sparsity="kl", p=0.3)
    q = model.encode(x).mean.mean(0)
    told = model.measures(Pass(model, x))["mean |q - p|"].item()
    assert told == pytest.approx((q - 0.3).abs().mean().item(), rel=1e-6)
