"""An autoencoder of oriented gradients: J(phi(x), g(f(phi(x)))), phi fixed, f and g linear.

What an image shows is in its edges, more than in how light it is. phi takes them as histograms of
oriented gradients do (Dalal & Triggs 2005): how strong the gradient is in each of eight directions,
smoothed, and divided by the strength in all of them around there, so that faint edges count as much
as strong ones. f and g are one matrix and its transpose, which training turns into the principal
components (Baldi & Hornik 1989).

phi needs no training and no other images. Its constants below were chosen on notMNIST letters and
road vehicles, by how well the error separates one class from the others.
"""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from pydantic import Field
from torch import Tensor, nn

from compressor.errors import ConfigError
from compressor.plugin import Autoencoder, Code, PluginConfig
from compressor.spec import DataSpec, ImageSpec

DIRECTIONS = 8  # a multiple of 4, so that right and down are among them
# Deviations of Gaussians: the one whose derivative gives the gradient and the one that smooths
# strengths, in pixels; the one that smooths their sum over directions, in places (2 pixels)
DERIVATIVE_DEVIATION, STRENGTH_DEVIATION, SUM_DEVIATION = 1.0, 2.0, 1.5
FAINT_STRENGTH = 0.02  # added to that sum: gradients much weaker count less
PIXEL_WEIGHT = 0.4  # of the smoothed pixels, which are features, too
POOLED_SIDE = 32  # larger images are averaged down to a shorter side of 32 to 63 pixels


class GradientsConfig(PluginConfig):
    latent: int = Field(32, ge=1, le=4096, description="principal components")


class Gradients(Autoencoder):
    """Rebuilds oriented gradients of the whole image: detects, does not compress."""

    contract = 2
    Config = GradientsConfig
    rebuilds_features = True

    def __init__(self, config: GradientsConfig, spec: DataSpec) -> None:
        super().__init__(config, spec)
        if not isinstance(spec, ImageSpec):
            raise ConfigError("gradients takes images; these data are vectors")
        self.phi = OrientedGradients(spec)
        size = math.prod(self.phi.shape)
        if config.latent > size:
            raise ConfigError(f"latent={config.latent}: there are {size} features; use fewer")
        self.components = nn.Parameter(torch.empty(config.latent, size))
        nn.init.orthogonal_(self.components)
        self.mean = nn.Parameter(torch.zeros(size))

    def target(self, x: Tensor) -> Tensor:
        features: Tensor = self.phi(x)
        return features

    def encode(self, x: Tensor) -> Code:
        return Code(F.linear(x.flatten(1) - self.mean, self.components))

    def decode(self, z: Tensor) -> Tensor:
        return (z @ self.components + self.mean).reshape(-1, *self.phi.shape)


class OrientedGradients(nn.Module):
    """phi: x (N, C, H, W) in [0, 1] -> (N, 9 C, h, w): strengths in DIRECTIONS, and the pixels.

    Images are first averaged down to a shorter side below 2 POOLED_SIDE; h and w are half of what
    H and W are then, rounded up.
    """

    derivatives: Tensor

    def __init__(self, spec: ImageSpec) -> None:
        super().__init__()
        self.down = max(1, min(spec.height, spec.width) // POOLED_SIDE)
        height, width = (-(-(side // self.down) // 2) for side in (spec.height, spec.width))
        self.shape = ((DIRECTIONS + 1) * spec.channels, height, width)
        self.register_buffer("derivatives", _derivatives(), persistent=False)

    def forward(self, x: Tensor) -> Tensor:
        if self.down > 1:  # a convolution, since average pooling does not run everywhere
            weights = x.new_full((x.shape[1], 1, self.down, self.down), 1 / self.down**2)
            x = F.conv2d(x, weights, stride=self.down, groups=x.shape[1])
        channels, height, width = x.shape[1:]
        planes = extended(x.reshape(-1, 1, height, width), self.derivatives.shape[2] // 2)
        slopes = F.conv2d(planes, self.derivatives)
        strength = (slopes[:, :1].square() + slopes[:, DIRECTIONS // 4, None].square()).sqrt()
        parts = slopes.clamp_min(0).square() / strength.clamp_min(1e-6)  # |gradient| cos^2
        parts = parts.reshape(-1, DIRECTIONS * channels, height, width)
        parts = blurred(parts, STRENGTH_DEVIATION, 2)
        around = blurred(parts.sum(1, keepdim=True), SUM_DEVIATION)
        pixels = blurred(
            extended(x, math.ceil(3 * STRENGTH_DEVIATION)), STRENGTH_DEVIATION, 2, padded=False
        )
        return torch.cat([parts / (around + FAINT_STRENGTH), PIXEL_WEIGHT * pixels], 1)


def blurred(x: Tensor, deviation: float, stride: int = 1, padded: bool = True) -> Tensor:
    """x (N, C, H, W) smoothed by a Gaussian, across and down; padded: with zeros around it."""
    weights = _gaussian(deviation).to(x).expand(x.shape[1], 1, 1, -1)
    reach = weights.shape[3] // 2 if padded else 0
    x = F.conv2d(x, weights, None, (1, stride), (0, reach), groups=x.shape[1])
    return F.conv2d(x, weights.transpose(2, 3), None, (stride, 1), (reach, 0), groups=x.shape[1])


def extended(x: Tensor, reach: int) -> Tensor:
    """x with its border repeated outwards, by an operator that every runtime has."""
    for axis in (2, 3):
        first, last = x.narrow(axis, 0, 1), x.narrow(axis, x.shape[axis] - 1, 1)
        x = torch.cat([first] * reach + [x] + [last] * reach, axis)
    return x


def _gaussian(deviation: float) -> Tensor:
    places = torch.arange(-math.ceil(3 * deviation), math.ceil(3 * deviation) + 1)
    weights = torch.exp(-places.square() / (2 * deviation**2))
    return weights / weights.sum()


def _derivatives() -> Tensor:
    """(DIRECTIONS, 1, k, k): the slope in each direction of a smoothed image."""
    smooth = F.pad(_gaussian(DERIVATIVE_DEVIATION), (1, 1))
    slope = (torch.roll(smooth, -1) - torch.roll(smooth, 1)) / 2
    across, down = -smooth[:, None] * slope, -slope[:, None] * smooth
    angles = [2 * math.pi * number / DIRECTIONS for number in range(DIRECTIONS)]
    kernels = [across * math.cos(angle) + down * math.sin(angle) for angle in angles]
    return torch.stack(kernels)[:, None]
