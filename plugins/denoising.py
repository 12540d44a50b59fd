"""The denoising autoencoder: J(x, g(f(x~))), x~ a corrupted x (Vincent et al. 2008, 2010).

gaussian         x~ = x + N(0, sigma^2)
masking          a fraction nu of the elements, drawn anew for every input, is 0
salt-and-pepper  such a fraction is the least or the largest value, equally likely: 0 or 1 in
                 images, -3 or 3 in vectors, whose true extremes a batch does not show
dropout          elements are 0 with probability nu, the others are divided by 1 - nu
                 (Srivastava et al. 2014)

Noise that is drawn element by element can be guessed from its neighbours. Three noises for images
hide more, and stay in [0, 1]:

coarse           x~ = x + N(0, sigma^2) drawn every ``size`` pixels and bilinear between, clipped
                 (Kascenas, Pugeault & O'Neil 2022)
patches          a fraction nu of the squares of ``size`` pixels has the image's mean colour
                 (Pathak et al. 2016; RIAD: Zavrtanik, Kristan & Skocaj 2021)
defects          half of the images have blots, on up to a fraction nu, where coarse noise is above
                 a threshold (DRAEM: Zavrtanik et al. 2021). They show another image of the batch,
                 or another place of the same, lighter or darker (CutPaste: Li et al. 2021)
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Literal

import torch
import torch.nn.functional as F
from pydantic import Field
from torch import Tensor

from compressor.errors import ConfigError
from compressor.networks.autoencoders import FeedForward, NetworkConfig
from compressor.plugin import Pass
from compressor.spec import DataSpec, ImageSpec

VECTOR_RANGE = (-3.0, 3.0)  # of standardised values, whose true extremes are not known
IMAGE_NOISES = ("coarse", "patches", "defects")
DEFECTIVE_SHARE = 0.5  # of the images: the others teach to leave what is normal (DRAEM)


class DenoisingConfig(NetworkConfig):
    noise: Literal[
        "gaussian", "masking", "salt-and-pepper", "dropout", "coarse", "patches", "defects"
    ] = Field("gaussian", description="what makes x~ of x; the last three are for images")
    sigma: float = Field(
        0.3,
        gt=0,
        le=10,
        description="deviation of gaussian and coarse; x is in [0, 1], or standardised",
    )
    nu: float = Field(
        0.25,
        gt=0,
        lt=1,
        description="fraction of elements, for the others; for defects the largest",
    )
    size: int = Field(
        8,
        ge=1,
        le=4096,
        description="in pixels: the side of patches; how far apart the points of coarse are, and "
        "about how far those that give defects their shapes",
    )


class Denoising(FeedForward):
    """Learns to rebuild the clean input from a corrupted one."""

    contract = 2
    Config = DenoisingConfig

    def __init__(self, config: DenoisingConfig, spec: DataSpec) -> None:
        super().__init__(config, spec)
        is_image = isinstance(spec, ImageSpec)
        if config.noise in IMAGE_NOISES and not is_image:
            raise ConfigError(
                f"noise={config.noise} is for images; these data are vectors: use gaussian, "
                "masking, salt-and-pepper or dropout"
            )
        self.range = (0.0, 1.0) if is_image else VECTOR_RANGE

    def corrupt(self, x: Tensor) -> Tensor:
        noise, nu, size = self.config.noise, self.config.nu, self.config.size
        if noise == "gaussian":
            noisy: Tensor = x + self.config.sigma * torch.randn_like(x)
            return noisy
        if noise == "dropout":
            return F.dropout(x, nu)
        if noise == "coarse":
            spacing = x.new_full((len(x),), size)
            return torch.clamp(x + self.config.sigma * coarse_noise(x, spacing), 0, 1)
        if noise == "patches":
            return with_patches(x, nu, size)
        if noise == "defects":
            return with_defects(x, nu, size)
        hit = drawn(x, nu)
        if noise == "masking":
            return x.masked_fill(hit, 0)
        least, largest = self.range
        extreme = torch.where(torch.rand_like(x) < 0.5, least, largest)
        return torch.where(hit, extreme, x)

    def measures(self, passed: Pass) -> Mapping[str, Tensor]:
        seen = self.corrupt(passed.x)
        cleaned = Pass(self, seen).pixels
        before, after = ((passed.x - other).square().mean() for other in (seen, cleaned))
        return {"dB nearer to x than x~": 10 * torch.log10(before / after)}


def drawn(x: Tensor, fraction: float) -> Tensor:
    """A fixed fraction of each input's elements, drawn at random: bool, like x (Vincent 2008)."""
    order = torch.rand_like(x).flatten(1)
    hit = order.topk(round(fraction * order.shape[1]), largest=False, sorted=False).indices
    return torch.zeros_like(order, dtype=torch.bool).scatter(1, hit, True).reshape(x.shape)


def coarse_noise(x: Tensor, spacing: Tensor) -> Tensor:
    """N(0, 1) at points ``spacing`` pixels apart, (N,), and bilinear between them: like x.

    The points' offset is drawn for each image, and every pixel has the deviation 1.
    """
    down, across = (_between_points(side, spacing) for side in x.shape[2:])
    points = torch.randn(*x.shape[:2], down.shape[2], across.shape[2], device=x.device)
    return down[:, None] @ points @ across[:, None].mT


def _between_points(side: int, spacing: Tensor) -> Tensor:
    """The weights of points for each of a side's pixels: (N, side, points)."""
    first = torch.rand(len(spacing), 1, device=spacing.device)
    place = torch.arange(side, device=spacing.device) / spacing[:, None] + first
    points = torch.arange(int((side - 1) / spacing.min()) + 3, device=spacing.device)
    weights = (1 - (place[..., None] - points).abs()).clamp(min=0)
    return F.normalize(weights, dim=2)  # squares that sum to 1: a mean of points varies less


def with_patches(x: Tensor, nu: float, side: int) -> Tensor:
    """Covers a fraction nu, one at least, of a grid of squares; each image's grid is shifted.

    The cover is the mean colour, as in Pathak et al.: 0 would hide nothing in images with a black
    background, and noise would first have to be told from the image.
    """
    rows, columns = (
        (torch.arange(length, device=x.device) + _drawn_below(side, x)) // side
        for length in x.shape[2:]
    )
    cells = x.new_empty(len(x), *((length - 1) // side + 2 for length in x.shape[2:]))
    covered = drawn(cells, max(nu, 1 / cells[0].numel()))
    image = torch.arange(len(x), device=x.device)[:, None, None]
    hit = covered[image, rows[:, :, None], columns[:, None]]
    return torch.where(hit[:, None], x.mean((2, 3), keepdim=True), x)


def with_defects(x: Tensor, nu: float, size: int) -> Tensor:
    """Pastes blots into about half of the images; the others stay as they are."""
    n, channels, height, width = x.shape
    one = x.new_empty(n, 1, 1, 1)
    field = coarse_noise(x[:, :1], size * 4 ** (torch.rand(n, device=x.device) - 0.5))
    # N(0, 1) exceeds it with a probability drawn from [0, nu); at one pixel it always does
    threshold = torch.special.ndtri(1 - nu * torch.rand_like(one))
    blots = field >= torch.minimum(threshold, field.amax((2, 3), keepdim=True))
    blots &= torch.rand_like(one) < DEFECTIVE_SHARE
    same = torch.arange(n, device=x.device)
    source = torch.where(torch.rand(n, device=x.device) < 0.5, same, torch.randint_like(same, n))
    rows, columns = (
        (torch.arange(length, device=x.device) + _drawn_below(length, x)) % length
        for length in (height, width)
    )
    pasted = x[
        source[:, None, None, None],
        torch.arange(channels, device=x.device)[:, None, None],
        rows[:, None, :, None],
        columns[:, None, None],
    ]
    lighter = torch.rand_like(one) - 0.5
    return torch.where(blots, (pasted + lighter).clamp(0, 1), x)


def _drawn_below(end: int, x: Tensor) -> Tensor:
    """An integer from 0 to end - 1 for each input: (N, 1)."""
    return torch.randint(end, (len(x), 1), device=x.device)
