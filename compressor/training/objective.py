"""The pass and the objective: distortion + penalties, for any plugin."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor, nn

from ..plugin import Autoencoder, Code, Pass
from .likelihood import LIKELIHOODS


def make_pass(model: Autoencoder, x: Tensor) -> Pass:
    """x -> seen -> code -> z -> out -> pixels; corruption and sampling in training only.

    x: float32 (N, C, H, W) in [0, 1].
    """
    seen = model.corrupt(x) if model.training else x
    code = model.encode(seen)
    z = channel(code, model.training)
    out = model.decode(z)
    likelihood = LIKELIHOODS[model.likelihood]
    distortion = likelihood.distortion(x, out).flatten(1).sum(1)
    return Pass(x, seen, code, z, out, likelihood.pixels(out), distortion)


def channel(code: Code, training: bool) -> Tensor:
    """What is between f and g: the reparameterised sample of a Gaussian code, or nothing.

    Kingma & Welling 2013, section 2.4: z = mean + scale * epsilon, epsilon ~ N(0, I).
    """
    if training and code.scale is not None:
        return code.mean + code.scale * torch.randn_like(code.scale)
    return code.mean


def template_loss(model: Autoencoder, passed: Pass) -> Mapping[str, Tensor]:
    """J(x, g(f(x~))) + alpha Omega: the mean distortion of an input, and the plugin's penalties."""
    return {"distortion": passed.distortion.mean(), **model.penalty(passed)}


class Objective(nn.Module):
    """One forward from a batch to a player's loss; a module, so that Fabric can distribute it."""

    def __init__(self, model: Autoencoder) -> None:
        super().__init__()
        self.model = model
        self.phases = model.phases()

    def forward(self, x: Tensor, phase: int, player: int) -> tuple[Tensor, dict[str, Tensor]]:
        """The sum that the player minimises, and its parts (detached)."""
        passed = make_pass(self.model, x)
        loss = self.phases[phase].players[player].loss
        parts = loss(passed) if loss else template_loss(self.model, passed)
        total = torch.stack([part.float() for part in parts.values()]).sum()
        return total, {name: part.detach() for name, part in parts.items()}
