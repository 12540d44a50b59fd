"""Networks have the sizes that were asked for, and say which data they are for."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from compressor.plugins.gan import GAN, GANConfig
from compressor.plugins.stacked import Stacked, StackedConfig
from compressor.plugins.undercomplete import Undercomplete, UndercompleteConfig
from compressor.plugins.vae import VAE, VAEConfig
from torch import nn

from compressor.errors import ConfigError
from compressor.networks.blocks import Pair
from compressor.plugin import Pass
from compressor.spec import ImageSpec, VectorSpec

GREY, COLOUR = (ImageSpec(height=28, width=20, channels=channels) for channels in (1, 3))


def vectors(length: int) -> VectorSpec:
    return VectorSpec(length=length, mean=(0.0,) * length, scale=(1.0,) * length)


@pytest.mark.parametrize(
    ("config", "shape", "stride"),
    [
        ({}, (8, 7, 5), 4),
        ({"hidden": []}, (8, 28, 20), 1),
        ({"hidden": [4], "latent": 3}, (3, 14, 10), 2),
        ({"network": "dense"}, (32,), None),
        ({"network": "dense", "hidden": [], "latent": 900}, (900,), None),
    ],
)
@pytest.mark.parametrize("loss", ["square", "discretised-logistic"])
@torch.no_grad()
def test_each_hidden_layer_halves_the_image_of_a_convolutional_network(
    config: dict[str, Any], shape: tuple[int, ...], stride: int | None, loss: str
) -> None:
    for spec in (GREY, COLOUR):
        x = torch.rand(2, spec.channels, 28, 20)
        for model in (
            Undercomplete(UndercompleteConfig(**config, loss=loss), spec),
            VAE(VAEConfig(**config, loss=loss), spec),
        ):
            passed = Pass(model.eval(), x)
            assert passed.code.mean.shape == (2, *shape)
            assert model.stride == stride
            assert passed.pixels.shape == x.shape
            assert passed.out.shape[1] == spec.channels * (1 if loss == "square" else 2)


@pytest.mark.parametrize(("length", "latent"), [(1, 1), (2, 1), (9, 4), (64, 32), (500, 32)])
@torch.no_grad()
def test_vectors_get_a_code_of_half_their_length_and_32_elements_at_most(
    length: int, latent: int
) -> None:
    model = Undercomplete(UndercompleteConfig(), vectors(length))
    assert model.encode(torch.rand(3, length)).mean.shape == (3, latent)


@pytest.mark.parametrize("plugin", [Undercomplete, Stacked])
def test_convolutions_are_refused_for_vectors(
    plugin: type[Undercomplete] | type[Stacked],
) -> None:
    with pytest.raises(ConfigError, match="network=conv is for images"):
        plugin(plugin.Config(network="conv"), vectors(16))


def test_a_network_that_makes_one_size_refuses_sizes_it_cannot_halve() -> None:
    with pytest.raises(ConfigError, match=r"^hidden=\[4, 4, 4\].* 28x20 is not divisible by"):
        GAN(GANConfig(network="conv", hidden=[4, 4, 4]), GREY)


def test_mirrored_layers_refuse_a_loss_of_two_numbers_a_pixel() -> None:
    with pytest.raises(ConfigError, match=r"loss=discretised-logistic: .* one number a pixel"):
        Stacked(StackedConfig(loss="discretised-logistic"), GREY)


@pytest.mark.parametrize("conv", [False, True], ids=["dense", "conv"])
@torch.no_grad()
def test_a_tied_layers_mirror_is_its_transpose(conv: bool) -> None:
    """<f(x), h> = <x, g(h)> where both are linear and without biases."""
    pair = Pair(3, 5, "linear", "linear", tied=True, conv=conv).double()
    pair.bias.zero_()
    x = torch.randn(2, 3, 8, 6) if conv else torch.randn(2, 3)
    h = torch.randn(2, 5, 4, 3) if conv else torch.randn(2, 5)
    x, h = x.double(), h.double()
    assert torch.allclose((pair.f(x) * h).sum(), (x * pair.g(h)).sum())
    names = [name for name, _ in pair.named_parameters()]
    assert names == ["weight", "bias", "mirror_bias"]


def test_an_untied_layers_mirror_begins_as_its_transpose_and_is_its_own() -> None:
    pair = Pair(3, 5, "relu", "linear", tied=False, conv=False)
    assert isinstance(pair.mirror_weight, nn.Parameter)
    assert torch.equal(pair.mirror_weight, pair.weight)
    assert pair.mirror_weight.data_ptr() != pair.weight.data_ptr()


@pytest.mark.parametrize("loss", ["cross-entropy", "discretised-logistic"])
def test_a_loss_with_an_output_function_allows_no_second_one(loss: Any) -> None:
    config = UndercompleteConfig(loss=loss, output_activation="sigmoid")
    with pytest.raises(ConfigError, match="leave it linear"):
        Undercomplete(config, ImageSpec(height=8, width=8, channels=1))
