"""Two views of an input: a weak one, of which a label is guessed, and a strong one, that learns it.

Images (N, C, H, W) in [0, 1]: weak ones are moved by a few pixels; strong ones are moved, turned,
scaled and sheared, lighter or darker, and have a square covered (DeVries & Taylor 2017). Vectors
(N, D), standardised: weak ones stay; of strong ones some numbers are those of another input (Bahri
et al. 2022, SCARF). Random numbers come from torch's global generator.
"""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from torch import Tensor

from .settings import ClassifierSettings

CONTRAST, DARKEST, NOISE = 0.7, 0.6, 0.05  # of strong images: log of gamma, least gain, deviation


def weak(x: Tensor, settings: ClassifierSettings) -> Tensor:
    """Like x."""
    if x.ndim == 2:
        return x
    x = _flipped(x, settings)
    n, _, height, width = x.shape
    most = [round(settings.shift * side * 0.7) for side in (height, width)]
    padded = F.pad(x, (most[1], most[1], most[0], most[0]), mode="replicate")
    top, left = (torch.randint(2 * m + 1, (n, 1), device=x.device) for m in most)
    rows = (top + torch.arange(height, device=x.device))[:, None, :, None]
    columns = (left + torch.arange(width, device=x.device))[:, None, None, :]
    image = torch.arange(n, device=x.device)[:, None, None, None]
    channel = torch.arange(x.shape[1], device=x.device)[None, :, None, None]
    return padded[image, channel, rows, columns]


def strong(x: Tensor, settings: ClassifierSettings) -> Tensor:
    """Like x."""
    if x.ndim == 2:
        others = x[torch.randperm(len(x), device=x.device)]
        return torch.where(torch.rand_like(x) < settings.hidden_part, others, x)
    x = _moved(_flipped(x, settings), settings)
    n, one = len(x), x.new_empty(len(x), 1, 1, 1)
    gamma = torch.exp(CONTRAST * _between(one, -1, 1))
    x = x.clamp(0, 1) ** gamma * _between(one, DARKEST, 1)
    side = settings.hidden_part * torch.rand(n, 1, device=x.device)
    down, across = (
        (torch.arange(length, device=x.device) / length - torch.rand(n, 1, device=x.device)).abs()
        < side / 2
        for length in x.shape[2:]
    )
    covered = (down[:, :, None] & across[:, None])[:, None]
    x = torch.where(covered, x.mean((2, 3), keepdim=True), x)
    return x + NOISE * torch.randn_like(x)


def _flipped(x: Tensor, settings: ClassifierSettings) -> Tensor:
    if not settings.flip:
        return x
    return torch.where(torch.rand(len(x), 1, 1, 1, device=x.device) < 0.5, x.flip(3), x)


def _moved(x: Tensor, settings: ClassifierSettings) -> Tensor:
    """Moved, turned, scaled and sheared; what comes in from outside is the border."""
    one = x.new_empty(len(x))
    angle = math.radians(settings.rotation) * _between(one, -1, 1)
    scale = 1 + settings.scale * _between(one, -1, 1)
    shear = settings.scale * _between(one, -1, 1)
    shifts = [2 * settings.shift * _between(one, -1, 1) for _ in range(2)]
    cos, sin = angle.cos() * scale, angle.sin() * scale
    rows = [[cos, shear - sin, shifts[0]], [sin, cos, shifts[1]]]
    matrix = torch.stack([torch.stack(row, 1) for row in rows], 1)
    grid = F.affine_grid(matrix, list(x.shape), align_corners=False)
    return F.grid_sample(x, grid, padding_mode="border", align_corners=False)


def _between(like: Tensor, least: float, most: float) -> Tensor:
    return least + (most - least) * torch.rand_like(like)
