"""Rounded weights: how coarse, and that nothing but the stated loss comes of it."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from compressor.plugins.stacked import Stacked
from compressor.plugins.undercomplete import Undercomplete
from torch import Tensor

from compressor.data.images import Pixels
from compressor.normalisation import Normalisation
from compressor.plugin import Autoencoder
from compressor.training.quantiser import model_code, squared_error
from compressor.training.weights import round_weights

LOSS_DB = 0.05


def psnr(model: Autoencoder, x: Tensor) -> float:
    return -10 * math.log10(squared_error(model, x, model_code(model, x)))


def exponents(weight: Tensor) -> np.ndarray:
    """Of the largest power of two that all numbers of a column are multiples of, (columns,)."""
    columns = weight.detach().double().transpose(0, 1).flatten(1).numpy()
    integers = np.rint(np.ldexp(columns, 40)).astype(np.int64)
    lowest = np.where(integers, integers & -integers, 2**62).min(1)
    return np.log2(lowest) - 40


@pytest.fixture
def trained(fit, clothes: Pixels) -> tuple[Autoencoder, Tensor]:
    settings = {"hidden": [16, 16], "latent": 4}
    model = fit(Undercomplete, clothes[:512], 100, settings).model
    x = Normalisation(model.spec)(torch.from_numpy(clothes[512:768]))
    return model, x


def test_the_quality_falls_by_no_more_than_is_allowed_and_bits_are_few(trained) -> None:
    model, x = trained
    before = psnr(model, x)
    bits = round_weights(model, x, LOSS_DB)
    assert before - LOSS_DB <= psnr(model, x) + 1e-6
    assert bits is not None and 2 < bits < 8


def test_the_more_may_be_lost_the_fewer_bits_there_are(fit, clothes: Pixels) -> None:
    model = fit(Undercomplete, clothes[:512], 60, {"hidden": [16], "latent": 4}).model
    x = Normalisation(model.spec)(torch.from_numpy(clothes[512:640]))
    exact = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    found = []
    for loss in (0.005, 0.05, 0.5):
        model.load_state_dict(exact)
        found.append(round_weights(model, x, loss))
    assert found == sorted(found, reverse=True) and found[0] > found[2] + 1


def test_each_column_has_a_step_of_its_own(trained) -> None:
    model, x = trained
    weights = dict(model.named_parameters())
    widest = max((n for n in weights if n.startswith("g.") and weights[n].ndim == 4), key=len)
    with torch.no_grad():  # a channel that the network hardly listens to
        weights[widest][:, 0] *= 1e-3
    round_weights(model, x, LOSS_DB)
    found = {name: exponents(weight) for name, weight in weights.items() if weight.ndim == 4}
    assert all(len(set(steps.tolist())) > 1 or len(steps) == 1 for steps in found.values())


def test_the_encoder_is_kept_finer_since_no_archive_has_it(trained) -> None:
    model, x = trained
    round_weights(model, x, LOSS_DB)
    bits = {"f": [], "g": []}
    for name, weight in model.named_parameters():
        if weight.ndim == 4:
            steps = 2.0 ** torch.from_numpy(exponents(weight)).float()
            spread = weight.detach().transpose(0, 1).flatten(1).abs().mean(1)
            bits[name[0]].append((spread / steps).clamp_min(1).log2().mean())
    assert np.mean(bits["f"]) > np.mean(bits["g"]) + 0.5


def test_no_weight_is_a_negative_zero(trained) -> None:
    """Which would not be an integer times a power of two."""
    model, x = trained
    round_weights(model, x, 0.5)
    zeros = [weight[weight == 0] for weight in model.parameters()]
    assert not torch.cat(zeros).signbit().any() and len(torch.cat(zeros))


def test_where_nothing_may_be_lost_weights_stay(trained) -> None:
    model, x = trained
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    assert round_weights(model, x, -0.01) is None
    assert all(torch.equal(before[name], tensor) for name, tensor in model.state_dict().items())


def test_weights_that_modules_share_stay_shared(fit, clothes: Pixels) -> None:
    settings = {"hidden": [32], "latent": 8, "tied": True}
    model = fit(Stacked, clothes[:256], 40, settings).model
    x = Normalisation(model.spec)(torch.from_numpy(clothes[256:384]))
    assert round_weights(model, x, LOSS_DB) is not None
    names: dict[int, list[str]] = {}
    for name, weight in model.named_parameters(remove_duplicate=False):
        names.setdefault(id(weight), []).append(name)
    state = model.state_dict()
    for shared in names.values():
        assert all(torch.equal(state[shared[0]], state[name]) for name in shared if name in state)
