"""The objective: distortion + penalties, or a player's own loss, for any plugin."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor, nn

from ..plugin import Autoencoder, Pass


def template_loss(passed: Pass) -> Mapping[str, Tensor]:
    """J(x, g(f(x~))) + alpha Omega: the mean distortion of an input, and the plugin's penalties."""
    return {"distortion": passed.distortion.mean(), **passed.model.penalty(passed)}


class Objective(nn.Module):
    """One forward from a batch to a player's loss; a module, so that Fabric can distribute it."""

    def __init__(self, model: Autoencoder) -> None:
        super().__init__()
        self.model = model
        self.phases = model.phases()

    def forward(self, x: Tensor, phase: int, player: int) -> Tensor:
        """The sum that the player minimises."""
        passed = Pass(self.model, x)
        parts = (self.phases[phase].players[player].loss or template_loss)(passed)
        return torch.stack([part.float() for part in parts.values()]).sum()
