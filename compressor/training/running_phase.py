"""A phase of a training while it runs: its players' optimisers, its budget, its learning rate."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterable
from typing import Any

import torch
from lightning_fabric import Fabric
from torch import Tensor, nn

from ..bottleneck.bottleneck import PRIOR_SPEED
from ..errors import TrainingError
from ..plugin import Autoencoder, Phase
from .checkpoint import Checkpoint, State
from .objective import Objective, watched
from .settings import TrainingSettings

Optimiser = Callable[..., torch.optim.Optimizer]
OPTIMISERS: dict[str, Optimiser] = {
    "adam": lambda parameters, momentum, **settings: torch.optim.Adam(
        parameters, betas=(momentum, 0.999), **settings
    ),
    "adamw": lambda parameters, momentum, **settings: torch.optim.AdamW(
        parameters, betas=(momentum, 0.999), **settings
    ),
    "sgd": torch.optim.SGD,
}
BOTTLENECK_MOMENTUM = 0.9


class RunningPhase:
    """One phase from its start on, or from the optimisers' states of a checkpoint.

    steps, seconds: its budget. Reads and moves ``state``.
    """

    def __init__(
        self,
        fabric: Fabric,
        model: Autoencoder,
        phase: Phase,
        settings: TrainingSettings,
        state: State,
        checkpoint: Checkpoint,
        steps: int,
        seconds: float | None,
    ) -> None:
        self._fabric, self._model, self.phase, self._settings = fabric, model, phase, settings
        self._state, self._checkpoint = state, checkpoint
        self._steps, self._seconds = steps, seconds
        trained = _parameters(module for p in phase.players for module in p.modules)
        for parameter in model.parameters():
            parameter.requires_grad_(parameter in trained)
        self._plain_objective = Objective(model)
        self.objective: Any = fabric.setup_module(self._plain_objective)
        self.optimisers = self._make_optimisers()
        self._started = time.monotonic() - state.phase_seconds
        self.set_modes()

    def restore(self, optimiser_states: list[Any]) -> None:
        """The optimisers go on from a checkpoint."""
        for optimiser, optimiser_state in zip(self.optimisers, optimiser_states, strict=True):
            optimiser.load_state_dict(optimiser_state)

    @property
    def through(self) -> bool:
        """Whether a loss of this phase has looked behind the bottleneck."""
        return self._plain_objective.through

    @property
    def is_over(self) -> bool:
        """By steps, by time, or for lack of progress: a checkpoint may have been the last."""
        state = self._state
        return (
            state.phase_step >= self._steps
            or state.without_progress >= self._settings.patience
            or (self._seconds is not None and state.phase_seconds >= self._seconds)
        )

    @property
    def progress(self) -> float:
        """The part of the phase that is done, 0 to 1."""
        by_steps = self._state.phase_step / self._steps
        by_time = self._state.phase_seconds / self._seconds if self._seconds else 0.0
        return min(1.0, max(by_steps, by_time))

    def count_step(self) -> bool:
        """Counts a step and its time; True if the budget is used up."""
        state = self._state
        state.step += 1
        state.phase_step += 1
        spent = time.monotonic() - self._started
        state.seconds += spent - state.phase_seconds
        state.phase_seconds = spent
        late = self._seconds is not None and spent >= self._seconds
        out_of_time: bool = self._fabric.broadcast(late)
        return state.phase_step >= self._steps or out_of_time

    def step(self, x: Tensor, target: Tensor | None) -> list[float]:
        """One step of every player on a batch; their losses.

        target: what ``model.target`` gives for x, where it is known. Raises TrainingError.
        """
        factor = self._schedule()
        losses = []
        pairs = list(zip(self.phase.players, self.optimisers, strict=False))
        of_bottleneck = self.optimisers[len(pairs) :]
        for optimiser in of_bottleneck:
            optimiser.zero_grad()
        for number, (player, optimiser) in enumerate(pairs):
            if len(pairs) > 1:
                of_player = _parameters(player.modules)
                for parameter in _parameters(m for p in self.phase.players for m in p.modules):
                    parameter.requires_grad_(parameter in of_player)
            optimiser.zero_grad()
            loss = self.objective(x, self._state.phase, number, target)
            losses.append(loss.item())
            self.refuse_nan(losses[-1], "loss")
            self._fabric.backward(loss)
            if not self.phase.together:
                self._move(optimiser, player.learning_rate * factor)
        if self.phase.together:
            for player, optimiser in pairs:
                self._move(optimiser, player.learning_rate * factor)
        # Adam's first steps are as long as any, and an untaught prior's would go astray.
        factor *= PRIOR_SPEED * self._warmth(self._state.started_at)
        for optimiser in of_bottleneck:
            self._move(optimiser, factor)
        return losses

    def set_modes(self, evaluates: bool = False) -> None:
        """Only the modules that the phase trains are in training mode: frozen ones stay as is.

        The pass corrupts and samples, whatever is frozen, and where the objective is evaluated too.
        """
        self._model.eval()
        for player in self.phase.players:
            for module in player.modules:
                module.train(not evaluates)
                for part in module.modules():
                    if isinstance(part, Autoencoder):  # inside another one, say
                        part.training = True
        self._model.training = True

    def refuse_nan(self, value: float, what: str) -> None:
        """Raises TrainingError, which says what is left, unless ``value`` is finite."""
        if math.isfinite(value):
            return
        path = self._checkpoint.path
        kept = (
            f"the last good checkpoint is kept in {path}"
            if path.exists()
            else "no checkpoint was written before"
        )
        raise TrainingError(
            f"the {what} became {value} at step {self._state.step} of phase {self.phase.name!r}; "
            f"{kept}; start anew with force=True and a lower learning_rate "
            f"(it was {self._settings.learning_rate})"
        )

    def _make_optimisers(self) -> list[Any]:
        """One a player, and one for the bottleneck where the phase trains it."""
        bottleneck = _parameters([self._model.bottleneck] if self._model.bottleneck else [])
        groups = [
            ([p for p in _parameters(player.modules) if p not in bottleneck], player.momentum)
            for player in self.phase.players
        ]
        if bottleneck and watched(self.phase) is not None:
            groups.append((list(bottleneck), BOTTLENECK_MOMENTUM))
        return [
            self._fabric.setup_optimizers(
                OPTIMISERS[self._settings.optimiser](
                    parameters,
                    lr=self._settings.learning_rate,
                    momentum=momentum,
                    weight_decay=self._settings.weight_decay,
                )
            )
            for parameters, momentum in groups
        ]

    def _move(self, optimiser: Any, factor: float) -> None:
        for group in optimiser.param_groups:
            group["lr"] = self._settings.learning_rate * factor
        if self._settings.clip_norm:
            self._fabric.clip_gradients(
                self.objective,
                optimiser,
                max_norm=self._settings.clip_norm,
                error_if_nonfinite=False,
            )
        optimiser.step()

    def _schedule(self) -> float:
        """The learning rate as a part of the highest: linear warm-up, then half a cosine."""
        warm = self._warmth(0)
        if self._settings.schedule == "constant":
            return warm
        return warm * 0.5 * (1 + math.cos(math.pi * self.progress))

    def _warmth(self, since: int) -> float:
        """Rises to 1 in the steps of the warm-up, from the phase's step ``since`` on."""
        return min(1.0, (self._state.phase_step - since + 1) / (self._settings.warmup_steps + 1))


def _parameters(modules: Iterable[nn.Module]) -> dict[nn.Parameter, None]:
    """The modules' parameters, each once, in order."""
    return {parameter: None for module in modules for parameter in module.parameters()}
