"""The objective: distortion + lambda bits + penalties, or a player's own loss, for any plugin."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace

import torch
from torch import Tensor, nn

from ..plugin import Autoencoder, Loss, Pass, Phase


def template_loss(passed: Pass) -> Mapping[str, Tensor]:
    """J(x, g(f(x~))) + alpha Omega: the mean distortion of an input, and the plugin's penalties."""
    return {"distortion": passed.distortion.mean(), **passed.model.penalty(passed)}


def phases(model: Autoencoder) -> Sequence[Phase]:
    """The plugin's phases; the player whose loss is watched trains the bottleneck as well."""
    if model.bottleneck is None:
        return model.phases()
    with_bottleneck = []
    for phase in model.phases():
        players = list(phase.players)
        if (number := watched(phase)) is not None:
            modules = [*players[number].modules, model.bottleneck]
            players[number] = replace(players[number], modules=modules)
        with_bottleneck.append(replace(phase, players=players))
    return with_bottleneck


def watched(phase: Phase) -> int | None:
    """The player whose loss stops the phase: the only one, or the first with the template's."""
    if len(phase.players) == 1:
        return 0
    return next((n for n, player in enumerate(phase.players) if player.loss is None), None)


def total(passed: Pass, loss: Loss | None = None) -> Tensor:
    """The sum of a loss, or of the template's.

    Where a rate is asked, whoever looks behind the bottleneck pays for the bits: + lambda bits.
    """
    parts = [part.float() for part in (loss or template_loss)(passed).values()]
    bottleneck = passed.model.bottleneck
    if bottleneck is not None and passed.is_through and passed.bits is not None:
        parts.append(bottleneck.rate * passed.bits.mean())
    return torch.stack(parts).sum()


class Objective(nn.Module):
    """One forward from a batch to a player's loss; a module, so that Fabric can distribute it."""

    def __init__(self, model: Autoencoder) -> None:
        super().__init__()
        self.model = model
        self.phases = phases(model)
        self.through = False  # whether a loss has looked behind the bottleneck

    def forward(self, x: Tensor, phase: int, player: int, target: Tensor | None = None) -> Tensor:
        """The sum that the player minimises; target: of x, if it is known."""
        passed = Pass(self.model, x, target=target)
        loss = total(passed, self.phases[phase].players[player].loss)
        self.through |= passed.is_through
        return loss
