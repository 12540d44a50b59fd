"""The codec: f and g are fully convolutional residual networks, made to be trained with a rate.

J = distortion + lambda bits (training's rate, quality or bits). The first layer already turns space
into channels, so that all work is done on few positions. Each level has residual bottleneck blocks
(He et al. 2016), which replace GDN (Ballé et al. 2016) in a codec at less cost (He et al. 2022). On
the way up, channels become pixels (Shi et al. 2016). f and g begin as a cosine transform and its
inverse, the usual linear codec, and learn from there.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from itertools import pairwise
from typing import Literal

import torch
from pydantic import Field
from torch import Tensor, nn

from compressor.errors import ConfigError
from compressor.networks.autoencoders import Latent, Widths
from compressor.networks.blocks import with_hidden
from compressor.plugin import Autoencoder, Code, PluginConfig
from compressor.spec import DataSpec, ImageSpec

SLOPE = 0.1  # of the leaky ReLU
# Grey, red against blue, green against both, orthonormal; and how much less the last two matter
# than grey, as if their frequencies were higher: by so many half waves a pixel.
COLOURS = (
    nn.functional.normalize(
        torch.tensor([[1.0, 1.0, 1.0], [1.0, 0.0, -1.0], [-1.0, 2.0, -1.0]]), dim=1
    ),
    torch.tensor([0.0, 0.5, 0.5]),
)


class CodecConfig(PluginConfig):
    widths: Widths = Field(
        [96],
        min_length=1,
        description="channels of each level, from the image inwards; each halves it",
    )
    patch: Literal[2, 4, 8] = Field(
        4, description="side of the squares that the first level sees as one"
    )
    depth: int = Field(4, ge=0, le=16, description="residual blocks of each level")
    latent: Latent = Field(16, description="channels of h")


class Residual(nn.Module):
    """x + body(x): the costly 3 x 3 convolution works on half of the channels.

    He et al. 2016, figure 5; as a codec's nonlinearity, in place of GDN: He et al. 2022. It begins
    as the identity (Goyal et al. 2017, section 5.1).
    """

    def __init__(self, width: int) -> None:
        super().__init__()
        half = max(1, width // 2)
        last = nn.Conv2d(half, width, 1)
        assert last.bias is not None
        nn.init.zeros_(last.weight)
        nn.init.zeros_(last.bias)
        self.body = nn.Sequential(
            nn.Conv2d(width, half, 1),
            nn.LeakyReLU(SLOPE),
            nn.Conv2d(half, half, 3, padding=1),
            nn.LeakyReLU(SLOPE),
            last,
        )

    def forward(self, x: Tensor) -> Tensor:
        out: Tensor = x + self.body(x)
        return out


def blocks(width: int, count: int) -> list[nn.Module]:
    return [Residual(width) for _ in range(count)]


class Codec(Autoencoder):
    """Residual networks that halve the image level by level; any height and width."""

    contract = 2
    Config = CodecConfig

    def __init__(self, config: CodecConfig, spec: DataSpec) -> None:
        super().__init__(config, spec)
        if not isinstance(spec, ImageSpec):
            raise ConfigError("codec is for images")
        widths, depth = config.widths, config.depth
        self.stride = config.patch * 2 ** (len(widths) - 1)
        patch, squares = config.patch, spec.channels * config.patch**2
        f: list[nn.Module] = [
            nn.Conv2d(spec.channels, widths[0], 2 * patch, stride=patch, padding=patch // 2)
        ]
        for width, wider in pairwise(widths):
            f += [*blocks(width, depth), nn.Conv2d(width, wider, 4, stride=2, padding=1)]
        f += [*blocks(widths[-1], depth), nn.Conv2d(widths[-1], config.latent, 3, padding=1)]
        g: list[nn.Module] = [nn.Conv2d(config.latent, widths[-1], 3, padding=1)]
        for width, narrower in pairwise(widths[::-1]):
            g += [*blocks(width, depth), nn.Conv2d(width, narrower * 4, 3, padding=1)]
            g += [nn.PixelShuffle(2)]
        g += [*blocks(widths[0], depth), nn.Conv2d(widths[0], squares, 3, padding=1)]
        g += [nn.PixelShuffle(patch)]
        self.f, self.g = nn.Sequential(*f), nn.Sequential(*g)

        start_as_cosine_transform(f, g, patch, spec.channels)

    def encode(self, x: Tensor) -> Code:
        mean, hidden = with_hidden(self.f, x)
        return Code(mean, hidden=hidden)

    def decode(self, z: Tensor) -> Tensor:
        out: Tensor = self.g(z)
        return out


def start_as_cosine_transform(
    f: Sequence[nn.Module], g: Sequence[nn.Module], patch: int, channels: int
) -> None:
    """Initialises f as a cosine transform of squares, whose lower frequencies each later level
    transforms again, and g as its inverse: they learn only what is better than that.

    The lowest frequencies come first, as many as there are channels for.
    """
    down = [layer for layer in f if isinstance(layer, nn.Conv2d)]
    up = [layer for layer in g if isinstance(layer, nn.Conv2d)]
    mixed, sums = COLOURS if channels == 3 else (torch.eye(channels), torch.zeros(channels))
    side = patch
    for analysis, synthesis in zip(down[:-1], up[:0:-1], strict=True):
        basis, basis_sums = cosines(side)
        every = torch.einsum("cd,fyx->cfdyx", mixed, basis).flatten(0, 1)
        order = (side * sums[:, None] + basis_sums).flatten()
        kept = order.argsort(stable=True)[: analysis.out_channels]
        transform, sums = every[kept], order[kept]
        begin(analysis, transform)
        # (channel, y, x) of the squares, as pixel shuffle takes them
        begin(synthesis, transform.flatten(1).T[:, :, None, None])
        mixed, side = torch.eye(len(kept)), 2
    for layer in (down[-1], up[0]):
        common = min(len(mixed), layer.in_channels, layer.out_channels)
        begin(layer, torch.eye(common)[:, :, None, None])


@torch.no_grad()
def begin(layer: nn.Conv2d, values: Tensor) -> None:
    """Puts values (outputs, inputs, k, k) into the middle of the kernels from the first inputs to
    the first outputs; the layer's other weights start small."""
    outputs, inputs, side, _ = values.shape
    margin = (layer.kernel_size[0] - side) // 2
    middle = slice(margin, margin + side)
    layer.weight *= 0.1
    layer.weight[:outputs, :inputs] = 0.0
    layer.weight[:outputs, :inputs, middle, middle] = values
    assert layer.bias is not None
    layer.bias[:outputs] = 0.0


def cosines(side: int) -> tuple[Tensor, Tensor]:
    """The orthonormal cosine transform of a square (Ahmed, Natarajan & Rao 1974).

    Basis (side^2, side, side), and of each function the sum of its two frequencies, (side^2,).
    """
    at = torch.arange(side)
    one = torch.cos(math.pi / side * (at + 0.5) * at[:, None]) * math.sqrt(2 / side)
    one[0] /= math.sqrt(2)
    basis = torch.einsum("iy,jx->ijyx", one, one).reshape(side**2, side, side)
    return basis, (at[:, None] + at).flatten().float()
