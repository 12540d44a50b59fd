"""The denoising autoencoder: J(x, g(f(x~))), x~ a corrupted x (Vincent et al. 2008, 2010).

gaussian         x~ = x + N(0, sigma^2)
masking          a fraction nu of the elements, drawn anew for every input, is 0
salt-and-pepper  such a fraction is the least or the largest value, equally likely: 0 or 1 of
                 images, -3 or 3 of vectors, whose own extremes no batch knows
dropout          elements are 0 with probability nu, the others are divided by 1 - nu
                 (Srivastava et al. 2014)
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Literal

import torch
import torch.nn.functional as F
from pydantic import Field
from torch import Tensor

from compressor.plugin import Pass
from compressor.spec import DataSpec, ImageSpec
from compressor.training.networks import FeedForward, NetworkConfig

VECTOR_RANGE = (-3.0, 3.0)  # of standardised values, whose least and largest are not known


class DenoisingConfig(NetworkConfig):
    noise: Literal["gaussian", "masking", "salt-and-pepper", "dropout"] = Field(
        "gaussian", description="what makes x~ of x"
    )
    sigma: float = Field(
        0.3, gt=0, le=10, description="of gaussian; x is in [0, 1], or standardised"
    )
    nu: float = Field(0.25, gt=0, lt=1, description="fraction of elements, of the other three")


class Denoising(FeedForward):
    """Learns to rebuild the clean input from a corrupted one."""

    contract = 2
    Config = DenoisingConfig

    def __init__(self, config: DenoisingConfig, spec: DataSpec) -> None:
        super().__init__(config, spec)
        self.range = (0.0, 1.0) if isinstance(spec, ImageSpec) else VECTOR_RANGE

    def corrupt(self, x: Tensor) -> Tensor:
        nu = self.config.nu
        if self.config.noise == "gaussian":
            noisy: Tensor = x + self.config.sigma * torch.randn_like(x)
            return noisy
        if self.config.noise == "dropout":
            return F.dropout(x, nu)
        hit = drawn(x, nu)
        if self.config.noise == "masking":
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
