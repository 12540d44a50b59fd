"""The one training loop, for every plugin, on Lightning Fabric.

Order and noise are functions of (seed, step), so a run that was killed and resumed ends with the
weights of one that was not, given the same steps, threads and versions.
"""

from __future__ import annotations

import hashlib
import math
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from lightning_fabric import Fabric
from lightning_fabric.strategies.ddp import DDPStrategy
from torch import Tensor

from ..data.images import Rows
from ..engine.tiles import padded
from ..errors import ConfigError
from ..normalisation import Normalisation
from ..plugin import Autoencoder, Pass, Phase
from .checkpoint import Checkpoint, State
from .dataset import BatchOrder, Dataset, Split, pieces
from .objective import phases, total, watched
from .quantiser import PROBE_INPUTS, model_code, sensitivity_of
from .rate import AIM_FROM, STEPS_BETWEEN_MOVES, Aim
from .running_phase import RunningPhase
from .settings import TrainingSettings
from .target_cache import Features, kept_features

RESULT = "result.pt"
INTEGERS_FROM = 0.5  # of a phase: from here on g sees integers in place of noise
BOTTLENECK_FROM = 0.02  # of a phase: before, f and g learn without a bottleneck
MAX_PROBE_INPUTS = 256  # that the rate is judged on, as far as memory allows
STEPS_BETWEEN_EVALUATIONS = (20, 500)  # at least, for a checkpoint is written too, and at most


@dataclass(frozen=True)
class Budget:
    """The end of a training: after so many steps or seconds, whichever comes first."""

    max_steps: int | None = None
    max_seconds: float | None = None


Report = Callable[[State, float, float], None]  # part done, 0 to 1; loss


class Loop:
    """Trains ``model`` on the training split; checkpoints go to ``folder`` and only there.

    ``report`` is called after every step with the state, the part of the training that is done
    (0 to 1) and the step's loss.
    """

    def __init__(
        self,
        model: Autoencoder,
        settings: TrainingSettings,
        data: Dataset,
        split: Split,
        budget: Budget,
        seed: int,
        folder: Path,
        report: Report | None = None,
    ) -> None:
        self.model, self.settings, self.data, self.split = model, settings, data, split
        self.normalisation = Normalisation(model.spec)
        self.budget, self.seed, self.folder = budget, seed, folder
        self.report = report or _report_nothing
        self.order = BatchOrder(split.training, settings.batch_size, seed)
        self.aim = Aim(settings) if settings.aims else None
        self.checkpoint = Checkpoint(folder)
        self.state = State()
        self.features: Features | None = None

    def run(self) -> State:
        """Trains to the end, from the last checkpoint if there is one; raises TrainingError."""
        several_players = any(len(phase.players) > 1 for phase in phases(self.model))
        unused = several_players or self.model.bottleneck is not None
        fabric = make_fabric(self.settings, several_players, unused)
        if self.settings.devices == 1:
            self._run(fabric)
        else:
            # The processes that do the work end here. What they learned comes back in a file:
            # the launcher's own queue hangs when a result is larger than a pipe holds.
            fabric.launch(_run_in_process, self)  # type: ignore[arg-type]  # its type forgets args
            content = torch.load(self.folder / RESULT, weights_only=True)
            self.model.load_state_dict(content["weights"])
            self.model.eval()
            self.state = State(**content["state"])
        return self.state

    def __getstate__(self) -> dict[str, Any]:
        """For other processes, which report nothing."""
        return vars(self) | {"report": _report_nothing}

    def _run(self, fabric: Fabric) -> None:
        self.state, optimiser_states = self.checkpoint.load(self.model)
        self.normalisation.to(fabric.device)
        if fabric.world_size == 1 and self.data.sizes is None:
            self.features = kept_features(self.model, self.data.count, self.folder)
        if self.model.bottleneck is not None:
            held_out = self.split.validation if len(self.split.validation) else self.split.training
            few = pieces(np.arange(min(MAX_PROBE_INPUTS, len(held_out))), self.model.spec)[0]
            spread = held_out[np.linspace(0, len(held_out) - 1, len(few)).astype(int)]
            self.probe = self._to_device(fabric, self.data.rows[spread])
        for number, phase in enumerate(phases(self.model)):
            if number < self.state.phase:
                continue
            self._run_phase(fabric, phase, optimiser_states)
            optimiser_states = None
            self.state.begin_phase(number + 1)
        if len(self.split.validation):
            self.model.eval()
            self.model.training = True
            self.state.validation_loss = self._mean(
                fabric, lambda x, target: total(Pass(self.model, x, target=target)).item()
            )
        self.model.to("cpu").eval()

    def _run_phase(self, fabric: Fabric, phase: Phase, optimiser_states: list[Any] | None) -> None:
        """One phase, from its start or from the states of a checkpoint."""
        running = RunningPhase(
            fabric,
            self.model,
            phase,
            self.settings,
            self.state,
            self.checkpoint,
            *self._phase_budget(phase),
        )
        if optimiser_states is not None:
            running.restore(optimiser_states)
        done = running.is_over
        while not done:
            x, target = self._batch(fabric)
            losses = running.step(x, target)
            done = running.count_step()
            if self.model.bottleneck is not None and running.through:
                self._watch_rate(fabric, running)
            if done or self.state.phase_step % self._evaluation_interval() == 0:
                done = self._evaluate(fabric, running, losses) or done
            self.report(self.state, running.progress, sum(losses))
        if self.state.best_weights is not None:
            self.model.load_state_dict(self.state.best_weights)

    def _batch(self, fabric: Fabric) -> tuple[Tensor, Tensor | None]:
        """This process's part of the step's batch, and its target where that is kept.

        Seeds torch's generator for the step.
        """
        indices = self.order.batch(self.state.step)[fabric.global_rank :: fabric.world_size]
        x = self._to_device(fabric, self.data.drawn(indices, self.seed, self.state.step))
        target = self.features.of(indices, x) if self.features else None
        torch.manual_seed(mixed(self.seed, self.state.step, fabric.global_rank))
        return x, target

    def _watch_rate(self, fabric: Fabric, running: RunningPhase) -> None:
        """Starts the bottleneck, once f and g have learned a little, lets g see integers in the
        last part, and moves lambda to the aim.

        Every process looks at the same inputs, so all take the same decision.
        """
        bottleneck, progress = self.model.bottleneck, running.progress
        assert bottleneck is not None
        starts = not bottleneck.started and fabric.broadcast(progress >= BOTTLENECK_FROM)
        if not bottleneck.decodes_integers and fabric.broadcast(progress >= INTEGERS_FROM):
            bottleneck.decodes_integers.fill_(True)
            self.state.best_loss = math.inf  # losses with noise are others
        moves = self.aim is not None and self.state.phase_step % STEPS_BETWEEN_MOVES == 0
        if starts or (moves and fabric.broadcast(progress >= AIM_FROM)):
            running.set_modes(evaluates=True)
            if starts:
                torch.manual_seed(self.seed)  # the same random signs in every process
                code = model_code(self.model, self.probe)
                bottleneck.start(code, sensitivity_of(self.model, code[:PROBE_INPUTS]))
                self.state.started_at = self.state.phase_step
                self.state.forget_best()  # losses without bits are lower
            else:
                assert self.aim is not None
                self.aim.move(self.model, self.probe)
            running.set_modes()

    def _to_device(self, fabric: Fabric, rows: Rows) -> Tensor:
        rows = padded(rows, self.model.stride)
        x: Tensor = self.normalisation(torch.from_numpy(rows).to(fabric.device))
        return x

    def _evaluate(self, fabric: Fabric, running: RunningPhase, losses: list[float]) -> bool:
        """Validates, logs and saves a checkpoint; True if there is no progress any more."""
        state, bottleneck = self.state, self.model.bottleneck
        number = watched(running.phase)
        validation = math.nan
        if number is not None and len(self.split.validation):
            running.set_modes(evaluates=True)
            validation = self._mean(
                fabric,
                lambda x, target: running.objective(x, state.phase, number, target).item(),
            )
            running.refuse_nan(validation, "validation loss")
            state.without_progress += 1
            if bottleneck is not None and running.through and not bottleneck.started:
                state.without_progress = 0  # what there is yet to learn is the rate
            if self.aim is not None and running.through:  # different lambdas: no comparison
                state.without_progress = 0
            elif validation < state.best_loss:
                state.best_loss, state.without_progress = validation, 0
                state.best_weights = {
                    name: tensor.detach().cpu().clone()
                    for name, tensor in self.model.state_dict().items()
                }
            running.set_modes()
        else:  # a loss is looked at before its step: these weights have none yet
            finite = all(bool(p.isfinite().all()) for p in self.model.parameters())
            running.refuse_nan(0.0 if finite else math.nan, "largest weight")
        rate = running.optimisers[0].param_groups[0]["lr"]
        seconds = round(state.seconds, 3)
        players = zip(running.phase.players, losses, strict=True)
        told = " ".join(f"{player.name}={loss}" for player, loss in players)
        log = [state.step, seconds, running.phase.name, sum(losses), validation, rate]
        state.log.append([*log, told if len(losses) > 1 else ""])
        if fabric.is_global_zero:
            self.checkpoint.save(self.model, state, running.optimisers)
        return bool(state.without_progress >= self.settings.patience)

    @torch.no_grad()
    def _mean(self, fabric: Fabric, loss: Callable[[Tensor, Tensor | None], float]) -> float:
        """The mean of ``loss`` over the validation split, with the same noise at every call."""
        torch.manual_seed(self.seed)
        total = 0.0
        for part in pieces(self.split.validation, self.model.spec):
            x = self._to_device(fabric, self.data.rows[part])
            target = self.features.of(part, x) if self.features else None
            total += loss(x, target) * len(part)
        return total / len(self.split.validation)

    def _evaluation_interval(self) -> int:
        least, most = STEPS_BETWEEN_EVALUATIONS
        return self.settings.evaluate_every or min(max(self.order.steps_per_epoch, least), most)

    def _phase_budget(self, phase: Phase) -> tuple[int, float | None]:
        """The phase's steps, and its seconds if time is limited."""
        shares, number = [p.share for p in phases(self.model)], self.state.phase
        parts = np.cumsum([0.0, *shares]) / sum(shares)
        steps = self.budget.max_steps or (
            self.settings.epochs * self.order.steps_per_epoch
            if self.budget.max_seconds is None
            else 10**12
        )
        first, last = round(steps * parts[number]), round(steps * parts[number + 1])
        seconds = self.budget.max_seconds
        if seconds is not None:
            seconds *= phase.share / sum(shares)
        return max(1, last - first), seconds


def make_fabric(settings: TrainingSettings, several_players: bool, unused: bool) -> Fabric:
    """Raises ConfigError if the accelerator, the devices or the precision cannot be had."""
    if settings.precision == "16-mixed" and (several_players or settings.rate_distortion):
        raise ConfigError(
            "precision=16-mixed scales one loss of one optimiser, and this training has several: "
            "use bf16-mixed"
        )
    strategy: Any = "auto"
    if settings.devices > 1:
        strategy = DDPStrategy(start_method="spawn", find_unused_parameters=unused)
    try:
        return Fabric(
            accelerator=settings.accelerator,
            devices=settings.devices,
            strategy=strategy,
            precision=settings.precision,
        )
    except (RuntimeError, ValueError) as error:
        raise ConfigError(
            f"accelerator={settings.accelerator}, devices={settings.devices}, "
            f"precision={settings.precision}: {str(error).splitlines()[0]}"
        ) from error


def _report_nothing(state: State, progress: float, loss: float) -> None:
    pass


def _run_in_process(fabric: Fabric, loop: Loop) -> None:
    loop._run(fabric)
    if fabric.is_global_zero:
        content = {"weights": loop.model.state_dict(), "state": vars(loop.state)}
        torch.save(content, loop.folder / RESULT)


def mixed(seed: int, step: int, rank: int) -> int:
    """A seed for torch's generator that differs for every step and process."""
    return int.from_bytes(
        hashlib.blake2b(f"{seed}/{step}/{rank}".encode(), digest_size=8).digest()
    ) & (2**63 - 1)
