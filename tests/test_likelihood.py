"""The losses are the likelihoods that they are said to be."""

from __future__ import annotations

import math
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor
from torch.distributions import Bernoulli, Laplace, Normal

from compressor.data.images import Pixels
from compressor.errors import ConfigError
from compressor.likelihood import LIKELIHOODS, LikelihoodName
from compressor.verbs import train

LEVELS = torch.arange(256) / 255  # as images are normalised


def logistic_out(location: Tensor, log_scale: Tensor) -> Tensor:
    """What a decoder gives for pixels (N, 1, 1, W): location and log scale along axis 1."""
    return torch.stack([location, log_scale], 1)[:, :, None, :]


@pytest.mark.parametrize("location", [-0.3, 0.0, 0.2, 0.5019, 0.998, 1.0, 1.7])
@pytest.mark.parametrize("log_scale", [-50.0, -7.0, -5.0, -3.0, -1.0, 2.0, 50.0])
def test_the_discretised_logistic_is_a_distribution_over_the_grey_levels(
    location: float, log_scale: float
) -> None:
    out = logistic_out(torch.full((1, 256), location), torch.full((1, 256), log_scale))
    x = LEVELS[None, None, None, :]
    losses = LIKELIHOODS["discretised-logistic"].distortion(x, out)
    assert losses.shape == x.shape
    assert bool((losses > -1e-6).all())
    assert torch.exp(-losses.double()).sum().item() == pytest.approx(1, abs=1e-4)


def test_the_discretised_logistic_is_the_logistics_mass_on_a_level(clothes: Pixels) -> None:
    """Salimans et al. 2017, equation 2: the edges have the tails."""
    x = torch.from_numpy(clothes[0, :, :, 0]).reshape(1, 1, 1, -1) / 255
    assert {0.0, 1.0} & set(x.unique().tolist())
    torch.manual_seed(0)
    location = (x.flatten() + 0.1 * torch.randn(784))[None]
    log_scale = torch.empty(1, 784).uniform_(-4, 0)
    level, mean, scale = (t.flatten().double() for t in (x, location, log_scale.exp()))
    upper = torch.where(level == 1, 1.0, torch.sigmoid((level + 0.5 / 255 - mean) / scale))
    lower = torch.where(level == 0, 0.0, torch.sigmoid((level - 0.5 / 255 - mean) / scale))
    out = logistic_out(location, log_scale)
    losses = LIKELIHOODS["discretised-logistic"].distortion(x, out).flatten().double()
    assert torch.allclose(losses, -torch.log(upper - lower), rtol=1e-4, atol=1e-5)
    assert torch.equal(LIKELIHOODS["discretised-logistic"].pixels(out).flatten(), location[0])


def test_the_discretised_logistic_has_finite_gradients_wherever_the_decoder_is() -> None:
    location = torch.tensor([-1e4, -1.0, 0.5, 2.0, 1e4]).repeat(256, 1)
    for log_scale in (-100.0, -7.0, 0.0, 100.0):
        out = logistic_out(location, torch.full_like(location, log_scale)).requires_grad_()
        x = LEVELS[:, None, None, None].expand(256, 1, 1, 5)
        losses = LIKELIHOODS["discretised-logistic"].distortion(x, out)
        losses.sum().backward()
        assert out.grad is not None
        assert bool(losses.isfinite().all()) and bool(out.grad.isfinite().all())


@pytest.mark.parametrize("name", ["square", "absolute", "cross-entropy"])
def test_the_other_losses_are_minus_log_likelihoods_up_to_a_constant(
    clothes: Pixels, name: LikelihoodName
) -> None:
    x = torch.from_numpy(clothes[:4]).permute(0, 3, 1, 2).double() / 255
    torch.manual_seed(0)
    out = torch.randn_like(x)
    likelihood = LIKELIHOODS[name]
    pixels = likelihood.pixels(out)
    if name == "square":
        wanted = -Normal(pixels, math.sqrt(0.5)).log_prob(x) - math.log(math.pi) / 2
    elif name == "absolute":
        wanted = -Laplace(pixels, torch.ones_like(x)).log_prob(x) - math.log(2)
    else:
        wanted = -Bernoulli(pixels, validate_args=False).log_prob(x)
    assert torch.equal(pixels, torch.sigmoid(out) if name == "cross-entropy" else out)
    assert torch.allclose(likelihood.distortion(x, out), wanted, rtol=1e-6, atol=1e-9)


def test_losses_are_refused_for_data_that_they_are_no_likelihood_of(
    clothes: Pixels, tmp_path: Path
) -> None:
    vectors = clothes[:100].reshape(100, -1)[:, 300:320].astype(np.float32)
    for loss, standardise, message in (
        ("discretised-logistic", True, "is for images"),
        ("cross-entropy", True, r"takes values in \[0, 1\], and x goes from -"),
        ("cross-entropy", False, r"takes values in \[0, 1\], and x goes from 0 to 2"),
    ):
        settings = {"loss": loss, "standardise": standardise}
        with pytest.raises(ConfigError, match=message):
            train("undercomplete", vectors, tmp_path / "model", settings=settings, max_steps=1)
