"""The codec: f and g are fully convolutional residual networks, made to be trained with a rate.

J = distortion + lambda bits (training's rate, quality or bits). Space becomes channels at the first
layer already, so that all work is done on few positions; each level has residual bottleneck blocks
(He et al. 2016), which He et al. 2022 found to do in a codec what GDN (Ballé et al. 2016) does, at
less cost; on the way up, channels become pixels (Shi et al. 2016).
"""

from __future__ import annotations

from itertools import pairwise
from typing import Literal

from pydantic import Field
from torch import Tensor, nn

from compressor.errors import ConfigError
from compressor.plugin import Autoencoder, Code, PluginConfig
from compressor.spec import DataSpec, ImageSpec
from compressor.training.networks import Latent, Widths

SLOPE = 0.1  # of the leaky ReLU


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
    """x + body(x): the 3 x 3 convolution works on half of the channels, which is where its cost is.

    He et al. 2016, figure 5; as a codec's nonlinearity, in place of GDN: He et al. 2022.
    """

    def __init__(self, width: int) -> None:
        super().__init__()
        half = max(1, width // 2)
        self.body = nn.Sequential(
            nn.Conv2d(width, half, 1),
            nn.LeakyReLU(SLOPE),
            nn.Conv2d(half, half, 3, padding=1),
            nn.LeakyReLU(SLOPE),
            nn.Conv2d(half, width, 1),
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

    def encode(self, x: Tensor) -> Code:
        return Code(self.f(x))

    def decode(self, z: Tensor) -> Tensor:
        out: Tensor = self.g(z)
        return out
