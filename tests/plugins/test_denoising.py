"""The denoising autoencoder's noises are what they are called, and it takes them away."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from compressor.plugins.denoising import Denoising, DenoisingConfig
from torch import Tensor

from compressor.data.images import Pixels
from compressor.errors import ConfigError
from compressor.normalisation import Normalisation
from compressor.plugin import Pass
from compressor.spec import DataSpec, ImageSpec, VectorSpec
from compressor.training.loop import Loop
from compressor.training.objective import template_loss

Fit = Callable[..., Loop]
IMAGES = ImageSpec(height=28, width=28, channels=1)
VECTORS = VectorSpec(length=50, mean=(0.0,) * 50, scale=(1.0,) * 50)
SMALL = {"network": "dense", "hidden": [64], "latent": 24}
IMAGE_NOISES = ("coarse", "patches", "defects")
NOISES = ("gaussian", "masking", "salt-and-pepper", "dropout", *IMAGE_NOISES)


def make(spec: DataSpec = IMAGES, **config: Any) -> Denoising:
    torch.manual_seed(0)
    return Denoising(DenoisingConfig(**SMALL, **config), spec)


@pytest.fixture
def x(clothes: Pixels) -> Tensor:
    """300 images without black or white, so that what noise sets to 0 or 1 is seen."""
    x: Tensor = Normalisation(IMAGES)(torch.from_numpy(clothes[:300]))
    return 0.1 + 0.8 * x


def test_gaussian_noise_has_the_deviation_sigma_and_no_mean(x: Tensor) -> None:
    noise = make(noise="gaussian", sigma=0.4).corrupt(x) - x
    assert noise.std().item() == pytest.approx(0.4, rel=0.01)
    assert abs(noise.mean().item()) < 0.005
    within_one_sigma = (noise.abs() < 0.4).float().mean().item()
    assert within_one_sigma == pytest.approx(0.6827, abs=0.005)


@pytest.mark.parametrize("nu", [0.1, 0.25, 0.9])
def test_masking_sets_the_same_number_of_elements_of_every_input_to_zero(
    x: Tensor, nu: float
) -> None:
    seen = make(noise="masking", nu=nu).corrupt(x)
    hit = seen == 0
    assert hit.flatten(1).sum(1).tolist() == [round(nu * 784)] * len(x)
    assert torch.equal(seen[~hit], x[~hit])


def test_masked_elements_are_drawn_anew_for_every_input_and_evenly(x: Tensor) -> None:
    model = make(noise="masking", nu=0.25)
    hit = model.corrupt(x).flatten(1) == 0
    assert len(set(map(bytes, hit.numpy()))) == len(x)
    assert not torch.equal(hit, model.corrupt(x).flatten(1) == 0)
    share = hit.float().mean(0)  # of the inputs in which each pixel is hit
    assert share.min().item() > 0.1 and share.max().item() < 0.4  # 0.25 within 6 deviations


@pytest.mark.parametrize("noise", ["masking", "salt-and-pepper"])
def test_equal_random_numbers_hit_no_further_elements(
    x: Tensor, noise: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """float32 has 2^24 of them: with a million elements one input in 17 has a tie at the limit."""
    draw = torch.rand_like
    monkeypatch.setattr(torch, "rand_like", lambda like: (draw(like) * 16).floor() / 16)
    seen = make(noise=noise, nu=0.25).corrupt(x)
    assert (seen != x).flatten(1).sum(1).tolist() == [196] * len(x)


def test_salt_and_pepper_sets_a_fraction_to_black_or_white_about_equally_often(x: Tensor) -> None:
    seen = make(noise="salt-and-pepper", nu=0.3).corrupt(x)
    hit = seen != x
    assert hit.flatten(1).sum(1).tolist() == [round(0.3 * 784)] * len(x)
    assert set(seen[hit].tolist()) == {0.0, 1.0}
    assert seen[hit].mean().item() == pytest.approx(0.5, abs=0.01)


def test_salt_and_pepper_of_vectors_is_three_deviations_off() -> None:
    x = torch.randn(2000, 50)
    seen = make(VECTORS, noise="salt-and-pepper", nu=0.2).corrupt(x)
    hit = seen != x
    assert hit.sum(1).tolist() == [10] * len(x)
    assert set(seen[hit].tolist()) == {-3.0, 3.0}
    assert (seen[hit] > 0).float().mean().item() == pytest.approx(0.5, abs=0.02)


def test_dropout_keeps_the_mean_and_scales_what_it_leaves(x: Tensor) -> None:
    nu = 0.4
    seen = make(noise="dropout", nu=nu).corrupt(x)
    left = seen != 0
    assert torch.allclose(seen[left], x[left] / (1 - nu))
    assert left.float().mean().item() == pytest.approx(1 - nu, abs=0.005)
    assert left.flatten(1).sum(1).unique().numel() > 1  # each element is drawn by itself
    assert seen.mean().item() == pytest.approx(x.mean().item(), rel=0.01)


def test_coarse_noise_has_the_deviation_sigma_everywhere_and_is_smooth() -> None:
    x = torch.full((4000, 1, 12, 40), 0.5)
    noise = make(noise="coarse", sigma=0.05, size=8).corrupt(x) - x
    assert noise.std(0).sub(0.05).abs().max().item() < 0.004  # 5 deviations of the estimate
    assert abs(noise.mean().item()) < 0.001
    near, far = (
        (noise[..., distance:] * noise[..., : 40 - distance]).mean().item() / 0.05**2
        for distance in (1, 16)  # pixels; those 16 apart share no point
    )
    assert near > 0.9
    assert abs(far) < 0.02


def test_coarse_noise_of_each_channel_is_its_own() -> None:
    x = torch.full((200, 3, 16, 16), 0.5)
    red, green, _ = (make(noise="coarse", sigma=0.1).corrupt(x) - x).unbind(1)
    assert abs((red * green).mean().item()) < 0.001  # 0.01 if they were one


@pytest.mark.parametrize("nu", [0.1, 0.25, 0.6])
def test_patches_cover_a_fraction_of_every_image_with_its_mean(x: Tensor, nu: float) -> None:
    seen = make(noise="patches", nu=nu, size=4).corrupt(x)
    hit = seen != x
    mean = x.mean((2, 3), keepdim=True).expand_as(x)
    assert torch.equal(seen[hit], mean[hit])
    share = hit.float().mean((1, 2, 3))
    assert share.mean().item() == pytest.approx(nu, abs=0.02)  # what has the mean seems uncovered
    assert share.std().item() < 0.04  # only what the border cuts off differs


def test_patches_are_squares_that_lie_elsewhere_in_every_image_and_cover_all_channels() -> None:
    torch.manual_seed(0)
    x = torch.rand(300, 3, 28, 28)
    hit = make(noise="patches", nu=0.01, size=5).corrupt(x) != x  # one of 49 squares
    assert torch.equal(hit[:, 0], hit[:, 1]) and torch.equal(hit[:, 0], hit[:, 2])
    places = set()
    for one in hit[:, 0]:
        rows, columns = one.any(1).nonzero().flatten(), one.any(0).nonzero().flatten()
        assert one.sum().item() == len(rows) * len(columns)
        assert len(rows) <= 5 and len(columns) <= 5
        if len(rows) == len(columns) == 5:
            places.add((rows[0].item(), columns[0].item()))
    assert len(places) > 100


def test_defects_are_blots_of_one_shade_on_half_of_grey_images() -> None:
    """Images of one grey each, so that all that is pasted is seen."""
    torch.manual_seed(0)
    x = torch.linspace(0.3, 0.7, 1000).reshape(-1, 1, 1, 1).expand(1000, 1, 40, 24)
    seen = make(noise="defects", nu=0.2).corrupt(x)
    hit = seen != x
    defective = hit.flatten(1).any(1)
    assert defective.float().mean().item() == pytest.approx(0.5, abs=0.06)
    share = hit[defective].float().mean((1, 2, 3))
    assert share.mean().item() == pytest.approx(0.1, abs=0.02)  # uniform up to nu, in the mean
    for image, blot in zip(seen[defective], hit[defective], strict=True):
        assert image[blot].unique().numel() == 1
    turned = hit[defective][:, :, 1:] != hit[defective][:, :, :-1]
    assert turned.float().mean().item() < 0.05  # 0.2 of pixels that are drawn one by one


def test_defects_are_pieces_of_the_batch_as_often_of_the_same_image() -> None:
    """Images of one colour each, so that it is seen what was pasted: a shade keeps differences."""
    torch.manual_seed(0)
    hues = torch.rand(400, 3) * 0.02 + 0.49
    x = hues[:, :, None, None].expand(400, 3, 16, 16)
    seen = make(noise="defects", nu=0.5).corrupt(x)
    sources = []
    for number, hit in enumerate((seen != x).all(1)):
        if not hit.any():
            continue
        colour = seen[number, :, hit][:, 0]
        if colour.min() > 0 and colour.max() < 1:  # not clipped
            shade = colour - hues
            distance = (shade - shade.mean(1, keepdim=True)).abs().amax(1)
            assert distance.min().item() < 1e-6
            sources.append(distance.argmin().item() == number)
    assert len(sources) > 150
    assert np.mean(sources) == pytest.approx(0.5, abs=0.12)


@pytest.mark.parametrize("noise", IMAGE_NOISES)
@pytest.mark.parametrize("channels", [1, 3])
@pytest.mark.parametrize("number", [1, 5])
@pytest.mark.parametrize("size", [(1, 1), (1, 9), (30, 2), (13, 17)])
def test_images_of_any_size_are_corrupted_within_0_and_1(
    noise: str, channels: int, number: int, size: tuple[int, int]
) -> None:
    model = make(noise=noise, sigma=1.0, nu=0.9)
    for grain in (1, 3, 4096):
        model.config = model.config.model_copy(update={"size": grain})
        x = torch.rand(number, channels, *size)
        kept = x.clone()
        several = torch.stack([model.corrupt(x) for _ in range(20)])
        assert torch.equal(x, kept)
        assert several.shape == (20, *x.shape) and several.dtype == x.dtype
        assert several.min().item() >= 0 and several.max().item() <= 1
        if size != (1, 1) or noise != "patches":  # a pixel is its own mean
            assert not torch.equal(several, x.expand_as(several))


@pytest.mark.parametrize("noise", IMAGE_NOISES)
def test_noises_of_images_are_refused_for_vectors(noise: str) -> None:
    with pytest.raises(ConfigError, match=f"noise={noise} is for images.*use gaussian"):
        make(VECTORS, noise=noise)


@pytest.mark.parametrize("noise", NOISES)
@torch.no_grad()
def test_the_encoder_sees_noise_in_training_and_the_input_itself_in_use(
    x: Tensor, noise: str
) -> None:
    model = make(noise=noise)
    model.train()
    passed = Pass(model, x)
    assert not torch.equal(passed.seen, x)
    assert torch.equal(passed.code.mean, model.encode(passed.seen).mean)
    model.eval()
    passed = Pass(model, x)
    assert torch.equal(passed.seen, x)
    assert torch.equal(passed.code.mean, model.encode(x).mean)


@pytest.mark.parametrize("noise", NOISES)
@torch.no_grad()
def test_the_loss_compares_with_the_clean_input(x: Tensor, noise: str) -> None:
    model = make(noise=noise)
    model.train()
    passed = Pass(model, x)
    loss = sum(part.item() for part in template_loss(passed).values())
    out = model.decode(model.encode(passed.seen).mean)
    assert loss == pytest.approx((x - out).square().flatten(1).sum(1).mean().item(), rel=1e-5)
    assert loss != pytest.approx((passed.seen - out).square().flatten(1).sum(1).mean().item())


@pytest.mark.parametrize("noise", NOISES)
@torch.no_grad()
def test_noise_comes_from_torchs_seed_alone(x: Tensor, noise: str) -> None:
    model = make(noise=noise)
    torch.manual_seed(5)
    first = model.corrupt(x)
    assert not torch.equal(first, model.corrupt(x))
    torch.manual_seed(5)
    assert torch.equal(first, model.corrupt(x))


def test_a_step_of_a_training_always_has_the_same_noise(clothes: Pixels, fit: Fit) -> None:
    """Whatever else has drawn random numbers."""

    def inputs_of_encoder(numbers_drawn: int) -> list[Tensor]:
        seen: list[Tensor] = []

        class Watched(Denoising):
            """Keeps what its encoder is given."""

            def corrupt(self, x: Tensor) -> Tensor:
                seen.append(super().corrupt(x))
                torch.rand(numbers_drawn)
                return seen[-1]

        fit(Watched, clothes[:64], 3, {**SMALL, "noise": "masking"}, batch_size=64)
        return seen

    first, again = inputs_of_encoder(0), inputs_of_encoder(5)
    assert len(first) == 3
    assert all(torch.equal(ours, theirs) for ours, theirs in zip(first, again, strict=True))
    hits = [(seen == 0).sum(0) for seen in first]  # batches are in different orders
    assert not torch.equal(hits[0], hits[1])


@pytest.mark.parametrize("noise", [noise for noise in NOISES if noise not in IMAGE_NOISES])
def test_outputs_are_nearer_to_the_clean_images_than_the_noisy_inputs(
    clothes: Pixels, fit: Fit, noise: str
) -> None:
    config = {**SMALL, "noise": noise}
    model = fit(Denoising, clothes[:900], 100, config, batch_size=100, learning_rate=0.01).model
    x = Normalisation(IMAGES)(torch.from_numpy(clothes[900:]))
    torch.manual_seed(0)
    with torch.no_grad():
        seen = model.corrupt(x)
        out = Pass(model, seen).pixels
        before, after = ((x - one).square().mean().item() for one in (seen, out))
        torch.manual_seed(0)
        told = model.measures(Pass(model, x))["dB nearer to x than x~"].item()
    gain = 10 * np.log10(before / after)
    assert gain > 1.5
    assert told == pytest.approx(gain, abs=1e-3)
