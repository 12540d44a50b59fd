"""Training with a rate: what the loss says a code costs is what the archive takes."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from compressor.plugins.codec import Codec
from compressor.plugins.vae import VAE

from compressor import verbs
from compressor.bottleneck.bottleneck import PRIOR_SPEED, Bottleneck
from compressor.data.images import Pixels
from compressor.model import Model
from compressor.plugin import Pass
from compressor.training.objective import total
from compressor.training.rate import add_bottleneck
from compressor.training.running_phase import RunningPhase
from compressor.training.settings import TrainingSettings
from compressor.training.start import restore

SMALL = {"widths": [24], "patch": 4, "depth": 1, "latent": 8, "batch_size": 32, "patience": 1000}


@pytest.fixture(scope="module", params=["factorised", "hyperprior"])
def with_rate(request, trained, clothes: Pixels, tmp_path_factory) -> tuple[Path, dict[str, Any]]:
    folder = tmp_path_factory.mktemp(request.param)
    return folder, trained(clothes, folder, rate=0.02, prior=request.param)


def test_codes_take_no_more_than_the_loss_says(with_rate) -> None:
    _, told = with_rate
    assert told["rate"] == pytest.approx(0.02)
    # A hundred held-out images: their codes are 2% off the loss by chance, either way.
    assert 20 < told["bits_per_image"] <= 1.04 * told["loss_bits_per_image"]
    assert 8 * told["payload_bytes"] <= 1.01 * 8 * told["ideal_bytes"] + 64
    assert told["payload"] == pytest.approx(told["bits_per_place"], rel=0.1)
    assert told["psnr"] > 14


def test_the_model_comes_back_with_its_bottleneck(with_rate, clothes: Pixels) -> None:
    folder, told = with_rate
    model = restore(folder / "model")
    assert model.bottleneck is not None
    assert model.bottleneck.steps.flatten().tolist() == pytest.approx(told["steps"])
    x = torch.from_numpy(clothes[900:1000]).permute(0, 3, 1, 2).float() / 255
    with torch.no_grad():
        passed = Pass(model, x)
        codes = torch.floor(passed.code.mean / model.bottleneck.steps + 0.5)
        assert torch.equal(passed.z, codes * model.bottleneck.steps)
        assert passed.bits.mean().item() == pytest.approx(told["loss_bits_per_image"], rel=0.15)


@pytest.fixture(scope="module")
def finer(trained, clothes: Pixels, tmp_path_factory) -> dict[str, Any]:
    folder = tmp_path_factory.mktemp("finer")
    return trained(clothes, folder, rate=0.002, prior="factorised")


def test_a_lower_rate_gives_more_quality_for_more_bits(with_rate, finer) -> None:
    _, told = with_rate
    assert finer["payload"] > 1.3 * told["payload"]
    assert finer["psnr"] > told["psnr"]


def test_bits_take_the_place_of_a_vaes_divergence() -> None:
    from compressor.spec import ImageSpec

    torch.manual_seed(0)
    model = VAE(VAE.Config(hidden=[8]), ImageSpec(height=8, width=8, channels=1))
    x = torch.rand(4, 1, 8, 8)
    assert "kl" in model.penalty(Pass(model, x, training=True))
    add_bottleneck(model, TrainingSettings(rate=0.5))
    code = model.encode(x).mean.detach()
    assert torch.equal(Pass(model, x, training=True).z, model.encode(x).mean)
    model.bottleneck.start(code, torch.ones(code.shape[1]))
    passed = Pass(model, x, training=False)
    assert not model.penalty(passed)
    assert passed.bits.min() > 0
    loss = passed.distortion.mean() + 0.5 * passed.bits.mean()
    assert total(passed).item() == pytest.approx(loss.item())


@pytest.mark.parametrize(
    "settings",
    [{}, {"rate": 0.01}, {"rate": 0.01, "discriminator": True}],
    ids=["without", "with", "discriminator"],
)
def test_a_vae_with_a_rate_is_no_generator_and_tells_no_divergence(
    settings: dict[str, Any], clothes: Pixels, tmp_path: Path
) -> None:
    small = {"hidden": [8], "latent": 2, "prior": "factorised"}
    verbs.train("vae", clothes[:200], tmp_path / "a", settings=small | settings, max_steps=20)
    model = Model.open(tmp_path / "a")
    generative = "rate" not in settings
    assert model.manifest.generative is restore(tmp_path / "a").generative is generative
    assert bool(model.manifest.training["measures"]) is generative
    assert ("samples" in model.golden()) is generative


def test_g_sees_integers_in_the_end_and_the_encoder_still_learns() -> None:
    torch.manual_seed(0)
    bottleneck = Bottleneck((32,), "hyperprior", 0.1)
    code = (3 * torch.randn(16, 32)).requires_grad_()
    bottleneck.start(code.detach(), torch.ones(32))
    noisy, _ = bottleneck(code, training=True)
    bottleneck.decodes_integers.fill_(True)
    z, bits = bottleneck(code, training=True)
    used, _ = bottleneck(code, training=False)
    assert torch.equal(z, used) and not torch.equal(noisy, used)
    (gradient,) = torch.autograd.grad(z.sum(), code, retain_graph=True)
    assert torch.allclose(gradient, torch.ones_like(code))
    (gradient,) = torch.autograd.grad(bits.sum(), code)
    assert gradient.abs().sum() > 0


def test_a_rate_without_effect_is_told(clothes: Pixels, tmp_path: Path, caplog) -> None:
    settings = {"training": "greedy", "fine_tune": False, "hidden": [16], "latent": 8, "rate": 0.1}
    verbs.train("stacked", clothes[:100], tmp_path / "model", settings=settings, max_steps=4)
    assert "the rate had no effect" in caplog.text
    manifest = json.loads((tmp_path / "model" / "manifest.json").read_text())
    assert "rate" not in manifest["quantiser"]
    restore(tmp_path / "model")


def test_one_step_is_enough_to_start(clothes: Pixels, tmp_path: Path) -> None:
    verbs.train(
        "codec", clothes[:100], tmp_path / "model", settings=SMALL | {"rate": 0.1}, max_steps=1
    )
    assert verbs.compress(clothes[:50], tmp_path / "model", tmp_path / "archive")["images"] == 50


@pytest.mark.parametrize("kind", ["vae", "sparse", "gan"])
def test_every_kind_of_plugin_compresses_vectors_with_a_rate(kind, tmp_path: Path) -> None:
    random = np.random.default_rng(0)
    rows = (random.normal(size=(200, 3)) @ random.normal(size=(3, 90))).astype(np.float32)
    settings = {"rate": 0.05, "batch_size": 32, "latent": 40}
    verbs.train(kind, rows, tmp_path / "model", settings=settings, max_steps=20)
    told = verbs.compress(rows, tmp_path / "model", tmp_path / "archive", measure=True)
    assert told["payload_bytes"] > 0 and told["mse"] < 20
    assert "hyper_decoder.onnx" in Model.open(tmp_path / "model").manifest.files
    assert verbs.verify(tmp_path / "archive")["ok"]


def test_the_priors_learning_rate_rises_from_where_it_starts(fit, clothes, monkeypatch) -> None:
    moves: list[list[float]] = []
    move = RunningPhase._move

    def recorded(self, optimiser, factor) -> None:
        if len(moves) <= self._state.step:
            moves.append([])
        moves[-1].append(factor)
        move(self, optimiser, factor)

    monkeypatch.setattr(RunningPhase, "_move", recorded)

    class WithRate(Codec):
        def __init__(self, config, spec) -> None:
            super().__init__(config, spec)
            add_bottleneck(self, TrainingSettings(rate=0.02))

    starts: list[int] = []
    fit(
        WithRate,
        clothes[:64],
        100,
        {"widths": [8], "patch": 4, "depth": 0, "latent": 4},
        report=lambda model, state: starts.append(state.started_at),
        schedule="constant",
        warmup_steps=9,
    )
    start = max(starts)
    assert 1 <= start < 5
    others, prior = np.array(moves).T
    np.testing.assert_allclose(others, np.minimum(1, np.arange(1, 101) / 10))
    rising = np.minimum(1, np.arange(1, 101 - start) / 10)
    np.testing.assert_allclose(prior[start:], PRIOR_SPEED * others[start:] * rising)
