"""The halo: how far a fully convolutional model sees, found with NaN."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from compressor.plugins.stacked import Stacked
from compressor.plugins.undercomplete import Undercomplete
from torch import Tensor, nn

from compressor.export.halo import FIELDS_TRIED, measure_halo
from compressor.plugin import Autoencoder, Code, PluginConfig
from compressor.spec import DataSpec, ImageSpec

GREY = ImageSpec(height=28, width=28, channels=1)


class Layer(Autoencoder):
    """One convolution each way, with something between."""

    contract = 2
    Config = PluginConfig
    stride = 1

    def __init__(self, width: int, between: nn.Module) -> None:
        super().__init__(PluginConfig(), GREY)
        self.f = nn.Sequential(nn.Conv2d(1, 2, width, padding=width // 2), between)
        self.g = nn.Conv2d(2, 1, 1)

    def encode(self, x: Tensor) -> Code:
        return Code(self.f(x))

    def decode(self, z: Tensor) -> Tensor:
        out: Tensor = self.g(z)
        return out


class Excitation(nn.Module):
    """Channels weighted by their means (Hu et al. 2018)."""

    def forward(self, x: Tensor) -> Tensor:
        return x * x.mean((2, 3), keepdim=True).sigmoid()


# Two convolutions of 4 with stride 2 and one of 3 see 7 pixels to a side: 2 elements of 4 pixels.
# Back come three of 3, the last at half an element: 2.5 elements, so 3. The error sees 2 + 3.
@pytest.mark.parametrize(("hidden", "halo"), [([], 2), ([4], 4), ([4, 4], 5), ([4, 4, 4], 5)])
def test_the_halo_of_convolutions_follows_from_their_kernels(hidden: list[int], halo: int) -> None:
    model = Undercomplete(Undercomplete.Config(network="conv", hidden=hidden), GREY).eval()
    assert measure_halo(model) == halo


@pytest.mark.parametrize("width", [1, 3, 5, 2 * FIELDS_TRIED[0] + 1])
def test_a_kernel_sees_half_its_width(width: int) -> None:
    assert measure_halo(Layer(width, nn.ReLU()).eval()) == width // 2


@torch.no_grad()
def test_units_that_are_always_off_hide_nothing() -> None:
    config = Undercomplete.Config(network="conv", hidden=[4, 4])
    model = Undercomplete(config, GREY).eval()
    for name, parameter in model.named_parameters():
        parameter.fill_(-100.0 if name.endswith("bias") else 0.0)
    assert measure_halo(model) == 5


@pytest.mark.parametrize("between", [Excitation(), nn.InstanceNorm2d(2)])
def test_what_sees_the_whole_image_has_no_halo(between: nn.Module) -> None:
    assert measure_halo(Layer(3, between).eval()) is None


def test_kernels_as_wide_as_the_largest_field_count_as_the_whole_image() -> None:
    assert measure_halo(Layer(2 * FIELDS_TRIED[1] - 1, nn.ReLU()).eval()) == FIELDS_TRIED[1] - 1
    assert measure_halo(Layer(2 * FIELDS_TRIED[1] + 1, nn.ReLU()).eval()) is None


@pytest.mark.parametrize("plugin", [Undercomplete, Stacked])
def test_a_model_of_one_size_has_no_halo(plugin: type[Autoencoder]) -> None:
    config: Any = plugin.Config.model_validate({"network": "dense"})
    spec: DataSpec = GREY
    assert measure_halo(plugin(config, spec).eval()) is None
