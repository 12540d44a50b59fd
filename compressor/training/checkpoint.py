"""What a training that was cut short needs to end with the weights of one that was not."""

from __future__ import annotations

import io
import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from ..files import write_atomically

FILE = "checkpoint.pt"
LOG = "training.csv"
LOG_COLUMNS = ("step", "seconds", "phase", "loss", "validation_loss", "learning_rate", "players")


@dataclass
class State:
    """What a checkpoint holds beside weights and optimisers: plain numbers and tensors alone."""

    phase: int = 0
    step: int = 0  # over all phases
    phase_step: int = 0
    phase_seconds: float = 0.0
    started_at: int = 0  # the phase's step at which the bottleneck started
    seconds: float = 0.0
    best_loss: float = math.inf
    best_weights: dict[str, Tensor] | None = None
    without_progress: int = 0
    log: list[list[float | str]] = field(default_factory=list)
    validation_loss: float | None = None  # the template's, of the weights at the end

    def begin_phase(self, number: int) -> None:
        """Forgets what belongs to the phase before."""
        self.phase, self.phase_step, self.phase_seconds, self.started_at = number, 0, 0.0, 0
        self.without_progress = 0
        self.forget_best()

    def forget_best(self) -> None:
        """Losses so far cannot be compared with those to come."""
        self.best_loss, self.best_weights = math.inf, None


class Checkpoint:
    """The checkpoint and the log of a training, in its folder."""

    def __init__(self, folder: Path) -> None:
        self._folder, self.path = folder, folder / FILE

    def save(self, model: nn.Module, state: State, optimisers: Sequence[Any]) -> None:
        buffer = io.BytesIO()
        content = {
            "state": vars(state),
            "weights": model.state_dict(),
            "optimisers": [optimiser.state_dict() for optimiser in optimisers],
        }
        torch.save(content, buffer)
        write_atomically(self.path, buffer.getvalue())
        write_atomically(self._folder / LOG, log_bytes(state))

    def load(self, model: nn.Module) -> tuple[State, list[Any] | None]:
        """The state, and those of the optimisers; a new one, and None, if there is no checkpoint.

        Puts the weights into ``model``.
        """
        if not self.path.exists():
            return State(), None
        content = torch.load(self.path, map_location="cpu", weights_only=True)
        model.load_state_dict(content["weights"])
        return State(**content["state"]), list(content["optimisers"])


def log_bytes(state: State) -> bytes:
    """The log of a training as CSV."""
    rows: list[list[float | str]] = [list(LOG_COLUMNS), *state.log]
    return "".join(",".join(map(str, row)) + "\n" for row in rows).encode()
