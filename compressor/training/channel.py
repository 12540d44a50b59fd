"""What lies between f and g."""

from __future__ import annotations

import torch
from torch import Tensor


def through(mean: Tensor, scale: Tensor | None) -> Tensor:
    """z: the reparameterised sample of a Gaussian code, or, without a scale, the code itself.

    Kingma & Welling 2013, section 2.4: z = mean + scale * epsilon, epsilon ~ N(0, I).
    """
    return mean if scale is None else mean + scale * torch.randn_like(scale)
