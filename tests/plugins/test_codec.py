"""What the codec's networks are before they have learned anything."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from compressor.plugins.codec import COLOURS, Codec, CodecConfig, cosines

from compressor.spec import ImageSpec


@pytest.mark.parametrize("side", [2, 4, 8])
def test_cosines_are_an_orthonormal_basis_from_the_mean_on(side: int) -> None:
    basis, sums = cosines(side)
    flat = basis.flatten(1)
    assert torch.allclose(flat @ flat.T, torch.eye(side**2), atol=1e-5)
    assert torch.allclose(basis[0], torch.full((side, side), 1 / side))
    assert sums[0] == 0 and sums[-1] == 2 * (side - 1)
    assert torch.allclose(COLOURS[0] @ COLOURS[0].T, torch.eye(3), atol=1e-6)


@pytest.mark.parametrize(
    ("config", "least"),
    [
        ({"latent": 16}, 40.0),  # as many numbers as pixels
        ({"latent": 4}, 16.0),  # a quarter
        ({"latent": 64, "widths": [64, 64]}, 36.0),
        ({"latent": 64, "patch": 8, "widths": [64]}, 40.0),
    ],
)
def test_untrained_it_is_a_transform_and_its_inverse(config, least, clothes) -> None:
    torch.manual_seed(0)
    model = Codec(CodecConfig(**config), ImageSpec(height=24, width=24, channels=1))
    x = torch.from_numpy(clothes[:32, 2:26, 2:26]).permute(0, 3, 1, 2).float() / 255
    with torch.no_grad():
        error = (model.decode(model.encode(x).mean) - x).square().mean().item()
    assert -10 * np.log10(error) > least


@pytest.mark.parametrize(("patch", "least"), [(4, 25), (8, 15)])
def test_of_few_channels_some_are_for_colours(patch, least) -> None:
    torch.manual_seed(0)
    config = CodecConfig(latent=24, patch=patch, widths=[192])
    model = Codec(config, ImageSpec(height=16, width=16, channels=3))
    ramp = torch.stack([torch.linspace(at, 1 - at, 16).expand(16, 16) for at in (0, 1, 0.3)])[None]
    with torch.no_grad():
        error = (model.decode(model.encode(ramp).mean) - ramp).square().mean().item()
    assert -10 * np.log10(error) > least
