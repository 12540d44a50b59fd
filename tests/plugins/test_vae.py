"""The variational autoencoder's loss is -ELBO, it samples in training alone, and exports mu."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from compressor.plugins.vae import VAE, VAEConfig, divergence
from torch import Tensor
from torch.distributions import Bernoulli, Normal, kl_divergence

from compressor.data.images import Pixels
from compressor.model import Model
from compressor.normalisation import Normalisation
from compressor.plugin import Autoencoder, Code, Pass
from compressor.spec import ImageSpec
from compressor.training.bundle import GENERATIVE_STEP
from compressor.training.objective import template_loss
from compressor.training.start import restore
from compressor.verbs import encode, train

SPEC = ImageSpec(height=28, width=28, channels=1)


@pytest.fixture(scope="module")
def trained(clothes: Pixels, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A small one with the loss of a likelihood, on all but the last 100 images."""
    path = tmp_path_factory.mktemp("vae") / "model"
    settings = {
        "network": "dense",
        "hidden": [64],
        "latent": 8,
        "loss": "cross-entropy",
        "learning_rate": 0.01,
        "batch_size": 100,
        "calibration": 0,
    }
    train("vae", clothes[:900], path, settings=settings, max_steps=150)
    return path


def make(**config: Any) -> VAE:
    torch.manual_seed(0)
    return VAE(VAEConfig(**config), SPEC)


def to_x(images: Pixels) -> Tensor:
    x: Tensor = Normalisation(SPEC)(torch.from_numpy(images))
    return x


@torch.no_grad()
def test_codes_are_sampled_in_training_and_the_mean_is_used_else(clothes: Pixels) -> None:
    model, x = make(), to_x(clothes[:64])
    model.f[-2].bias[8:] -= 4  # log sigma^2: far from those of N(0, 1)
    model.train()
    passed = Pass(model, x)
    assert passed.code.scale is not None and passed.code.scale.max().item() < 0.2
    noise = (passed.z - passed.code.mean) / passed.code.scale
    assert noise.mean().item() == pytest.approx(0, abs=0.02)
    assert noise.std().item() == pytest.approx(1, abs=0.02)
    assert not torch.equal(passed.z, Pass(model, x).z)
    model.eval()
    passed = Pass(model, x)
    assert torch.equal(passed.z, passed.code.mean)


def test_the_exported_encoder_gives_mu(trained: Path, clothes: Pixels, tmp_path: Path) -> None:
    for name in ("first", "second"):
        encode(clothes[900:], trained, tmp_path / f"{name}.npy")
    codes = np.load(tmp_path / "first.npy")
    assert np.array_equal(codes, np.load(tmp_path / "second.npy"))
    model, steps = restore(trained), Model.open(trained).manifest.quantiser["steps"]
    assert max(steps) <= GENERATIVE_STEP
    with np.load(trained / "density.npz") as density:
        np.testing.assert_allclose(density["residual"], 1 / np.array(steps), rtol=1e-6)
    with torch.no_grad():
        mu = model.encode(to_x(clothes[900:])).mean
    apart = (torch.from_numpy(codes) - mu / torch.tensor(steps)).abs()
    assert codes.shape == (100, 8) and len(np.unique(codes)) > 4
    assert apart.max().item() < 0.5 + 1e-3


@pytest.mark.parametrize("shape", [(5, 7), (5, 3, 4, 2)], ids=["dense", "conv"])
def test_kl_equals_torchs_for_gaussians(shape: tuple[int, ...]) -> None:
    torch.manual_seed(0)
    mean, scale = 2 * torch.randn(shape), torch.exp(1.5 * torch.randn(shape))
    wanted = kl_divergence(Normal(mean.double(), scale.double()), Normal(0.0, 1.0))
    got = divergence(Code(mean, scale)).double()
    assert torch.allclose(got, wanted.flatten(1).sum(1), rtol=1e-5, atol=0)
    assert divergence(Code(torch.zeros(shape), torch.ones(shape))).tolist() == [0.0] * 5


@pytest.mark.parametrize("network", ["dense", "conv"])
@torch.no_grad()
def test_the_encoder_gives_mu_and_the_logarithm_of_the_variance(
    clothes: Pixels, network: str
) -> None:
    model, x = make(network=network), to_x(clothes[:4])
    code = model.encode(x)
    mean, log_variance = model.f(x.flatten(1) if network == "dense" else x).chunk(2, 1)
    assert code.scale is not None
    assert torch.equal(code.mean, mean)
    assert torch.allclose(code.scale.square().log(), log_variance, atol=1e-5)


@torch.no_grad()
def test_deviations_stay_finite_whatever_the_encoder_gives() -> None:
    model = make(network="dense", hidden=[], latent=3)
    for log_variance in (-1000.0, 1000.0):
        model.f[0].bias.fill_(log_variance)
        code = model.encode(torch.rand(2, 1, 28, 28))
        assert code.scale is not None
        assert bool(code.scale.isfinite().all()) and bool((code.scale > 0).all())


@pytest.mark.parametrize(
    ("loss", "beta", "wanted"),
    [
        ("cross-entropy", None, 1),
        ("discretised-logistic", None, 1),
        ("square", None, 0.02),
        ("absolute", None, 0.02),
        ("square", 0.0, 0),
        ("cross-entropy", 4.0, 4),
    ],
)
@torch.no_grad()
def test_beta_is_one_where_the_loss_is_in_nats(
    clothes: Pixels, loss: str, beta: float | None, wanted: float
) -> None:
    model, x = make(loss=loss, beta=beta), to_x(clothes[:8])
    passed = Pass(model.train(), x)
    kl = divergence(passed.code).mean().item()
    assert kl > 0
    assert model.penalty(passed)["kl"].item() == pytest.approx(wanted * kl, rel=1e-6)
    assert model.measures(passed)["KL in nats"].item() == pytest.approx(kl, rel=1e-6)


@torch.no_grad()
def test_elements_that_say_nothing_of_the_input_are_counted_and_told(clothes: Pixels) -> None:
    model, x = make(network="dense", latent=8), to_x(clothes[:64])
    assert "active units" in model.measures(Pass(model.eval(), x))
    for collapsed, told in ((3, 0), (5, 1)):
        model.f[-2].weight[:collapsed] = 0
        model.f[-2].weight[collapsed:8] *= 10
        measures = {name: value.item() for name, value in model.measures(Pass(model, x)).items()}
        assert measures["active units"] == 8 - collapsed and measures["units of the code"] == 8
        assert len(model.warnings(measures)) == told
    assert "5 of 8 elements" in model.warnings(measures)[0]
    assert not model.warnings({})


@torch.no_grad()
def test_beta_of_the_square_error_makes_it_the_elbo_of_a_gaussian_with_deviation_a_tenth(
    clothes: Pixels,
) -> None:
    model = make(loss="square").train()
    constants = []
    for images in (clothes[:8], clothes[8:16]):
        passed = Pass(model, to_x(images))
        likelihood = Normal(passed.pixels.double(), 0.1).log_prob(passed.x.double())
        minus_elbo = divergence(passed.code) - likelihood.flatten(1).sum(1)
        loss = sum(part.item() for part in template_loss(passed).values())
        constants.append(minus_elbo.mean().item() - loss / (2 * 0.1**2))
    assert constants[0] == pytest.approx(constants[1], rel=1e-5)


def log_weights(model: Autoencoder, x: Tensor, samples: int) -> Tensor:
    """log p(x | z) + log p(z) - log q(z | x) of z ~ q(z | x): float64, (samples, N)."""
    code = model.encode(x)
    assert code.scale is not None
    posterior = Normal(code.mean.double(), code.scale.double())
    z = posterior.sample(torch.Size([samples]))
    out = model.decode(z.flatten(0, 1).float()).double().unflatten(0, (samples, len(x)))
    likelihood = Bernoulli(logits=out, validate_args=False).log_prob(x.double())
    prior = Normal(0.0, 1.0).log_prob(z)
    return likelihood.flatten(2).sum(2) + (prior - posterior.log_prob(z)).sum(2)


@torch.no_grad()
def test_the_loss_is_minus_the_elbo_and_bounds_the_importance_sampled_likelihood(
    trained: Path, clothes: Pixels
) -> None:
    """Burda, Grosse & Salakhutdinov 2016: E log mean_K w is the ELBO at K = 1, and rises with K."""
    model, x, samples = restore(trained), to_x(clothes[900:]), 200
    torch.manual_seed(0)
    weights = log_weights(model, x, samples)
    model.training = True  # the pass samples
    losses = torch.tensor(
        [
            sum(part.item() for part in template_loss(Pass(model, x)).values())
            for _ in range(samples)
        ],
        dtype=torch.float64,
    )
    error = math.hypot(losses.std().item(), weights.mean(1).std().item()) / math.sqrt(samples)
    assert error < 0.2  # nats of a few hundred
    assert losses.mean().item() == pytest.approx(-weights.mean().item(), abs=4 * error)
    nll = -(torch.logsumexp(weights, 0) - math.log(samples)).mean().item()
    assert losses.mean().item() - 4 * error > nll


@torch.no_grad()
def test_codes_of_the_prior_decode_to_images_that_differ(trained: Path) -> None:
    model = restore(trained)
    assert model.generative
    torch.manual_seed(0)
    images = torch.sigmoid(model.decode(torch.randn(16, 8)))
    assert images.shape == (16, 1, 28, 28)
    assert images.std(0).max().item() > 0.1
