"""The one training loop, for every plugin, on Lightning Fabric.

Order and noise are functions of (seed, step), so a run that was killed and resumed ends with the
weights of one that was not, given the same steps, threads and versions.
"""

from __future__ import annotations

import hashlib
import io
import math
import time
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
from lightning_fabric import Fabric
from lightning_fabric.strategies.ddp import DDPStrategy
from torch import Tensor, nn

from ..bottleneck.bottleneck import PRIOR_SPEED
from ..data.images import Rows
from ..engine.tiles import padded
from ..errors import ConfigError, TrainingError
from ..files import write_atomically
from ..normalisation import Normalisation
from ..plugin import Autoencoder, Pass, Phase
from .dataset import BatchOrder, Dataset, Split, pieces
from .objective import Objective, phases, total, watched
from .quantiser import PROBE_INPUTS, model_code, sensitivity_of
from .rate import INTERVAL, WAITED, Aim
from .settings import TrainingSettings
from .target_cache import Features, kept_features

CHECKPOINT = "checkpoint.pt"
RESULT = "result.pt"
LOG = "training.csv"
LOG_COLUMNS = ("step", "seconds", "phase", "loss", "validation_loss", "learning_rate")
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
MOMENTUM = 0.9  # of the bottleneck's optimiser
NOISY = 0.5  # of a phase's training, before g sees integers in place of noise
PLAIN = 0.02  # of a phase's training, without a bottleneck, before it starts
AIMED = 256  # inputs that the rate is judged on, as far as memory allows
STEPS_BETWEEN_EVALUATIONS = (20, 500)  # at least, for a checkpoint is written too, and at most


@dataclass(frozen=True)
class Budget:
    """The end of a training: after so many steps or seconds, whichever comes first."""

    max_steps: int | None = None
    max_seconds: float | None = None


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


class Loop:
    """Trains ``model`` on the training split; checkpoints go to ``folder`` and only there.

    ``report`` is called after every step with the state, the part of
    the training done (0 to 1) and the running loss.
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
        report: Callable[[State, float, float], None],
    ) -> None:
        self.model, self.settings, self.data, self.split = model, settings, data, split
        self.normalisation = Normalisation(model.spec)
        self.budget, self.seed, self.folder, self.report = budget, seed, folder, report
        self.order = BatchOrder(split.training, settings.batch_size, seed)
        self.aim = Aim(settings) if settings.aims else None
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
        saved = self._load_checkpoint()
        self.normalisation.to(fabric.device)
        if fabric.world_size == 1 and self.data.sizes is None:
            self.features = kept_features(self.model, self.data.count, self.folder)
        if self.model.bottleneck is not None:
            held_out = self.split.validation if len(self.split.validation) else self.split.training
            few = pieces(np.arange(min(AIMED, len(held_out))), self.model.spec)[0]
            spread = held_out[np.linspace(0, len(held_out) - 1, len(few)).astype(int)]
            self.probe = self._to_device(fabric, self.data.rows[spread])
        for number, phase in enumerate(phases(self.model)):
            if number < self.state.phase:
                continue
            self._run_phase(fabric, phase, saved)
            saved = None
            self.state.phase, self.state.phase_step, self.state.phase_seconds = number + 1, 0, 0.0
            self.state.started_at = 0
            self.state.best_loss, self.state.best_weights = math.inf, None
            self.state.without_progress = 0
        if len(self.split.validation):
            self.model.eval()
            self.model.training = True
            self.state.validation_loss = self._mean(
                fabric, lambda x, target: total(Pass(self.model, x, target=target)).item()
            )
        self.model.to("cpu").eval()

    def _run_phase(self, fabric: Fabric, phase: Phase, saved: list[Any] | None) -> None:
        """One phase: from its start, or from the optimisers' states ``saved``."""
        trained = _parameters(module for p in phase.players for module in p.modules)
        for parameter in self.model.parameters():
            parameter.requires_grad_(parameter in trained)
        own = Objective(self.model)
        objective = fabric.setup_module(own)
        optimisers = self._optimisers(fabric, phase)
        for optimiser, optimiser_state in zip(optimisers, saved or [], strict=bool(saved)):
            optimiser.load_state_dict(optimiser_state)
        steps, seconds = self._phase_budget(phase)
        started = time.monotonic() - self.state.phase_seconds
        self._set_modes(phase)
        # A checkpoint may have been the last of its phase.
        done = (
            self.state.phase_step >= steps
            or self.state.without_progress >= self.settings.patience
            or (seconds is not None and self.state.phase_seconds >= seconds)
        )
        while not done:
            loss = self._step(fabric, objective, phase, optimisers, steps, seconds)
            self.state.step += 1
            self.state.phase_step += 1
            spent = time.monotonic() - started
            self.state.seconds += spent - self.state.phase_seconds
            self.state.phase_seconds = spent
            if self.model.bottleneck is not None and own.through:
                self._watch_rate(fabric, phase, self._progress(steps, seconds))
            out_of_time = fabric.broadcast(seconds is not None and spent >= seconds)
            done = self.state.phase_step >= steps or out_of_time
            if done or self.state.phase_step % self._evaluation_interval() == 0:
                done = (
                    self._evaluate(fabric, objective, phase, optimisers, loss, own.through) or done
                )
            self.report(self.state, self._progress(steps, seconds), loss)
        if self.state.best_weights is not None:
            self.model.load_state_dict(self.state.best_weights)

    def _optimisers(self, fabric: Fabric, phase: Phase) -> list[Any]:
        """One a player, and one for the bottleneck where the phase trains it."""
        bottleneck = _parameters([self.model.bottleneck] if self.model.bottleneck else [])
        kinds = [(list(_parameters(player.modules)), player.momentum) for player in phase.players]
        kinds = [([p for p in own if p not in bottleneck], momentum) for own, momentum in kinds]
        if bottleneck and watched(phase) is not None:
            kinds.append((list(bottleneck), MOMENTUM))
        return [
            fabric.setup_optimizers(
                OPTIMISERS[self.settings.optimiser](
                    parameters,
                    lr=self.settings.learning_rate,
                    momentum=momentum,
                    weight_decay=self.settings.weight_decay,
                )
            )
            for parameters, momentum in kinds
        ]

    def _step(
        self,
        fabric: Fabric,
        objective: Any,
        phase: Phase,
        optimisers: Sequence[Any],
        steps: int,
        seconds: float | None,
    ) -> float:
        indices = self.order.batch(self.state.step)[fabric.global_rank :: fabric.world_size]
        x = self._to_device(fabric, self.data.drawn(indices, self.seed, self.state.step))
        target = self.features.of(indices, x) if self.features else None
        torch.manual_seed(_mix(self.seed, self.state.step, fabric.global_rank))
        factor = self._schedule(self._progress(steps, seconds))
        total, pairs = 0.0, list(zip(phase.players, optimisers, strict=False))
        for optimiser in optimisers[len(pairs) :]:
            optimiser.zero_grad()
        for number, (player, optimiser) in enumerate(pairs):
            if len(pairs) > 1:
                own = _parameters(player.modules)
                for parameter in _parameters(m for p in phase.players for m in p.modules):
                    parameter.requires_grad_(parameter in own)
            optimiser.zero_grad()
            loss = objective(x, self.state.phase, number, target)
            total += loss.item()
            self._refuse_nan(loss.item(), phase, "loss")
            fabric.backward(loss)
            if not phase.together:
                self._move(fabric, objective, optimiser, player.learning_rate * factor)
        if phase.together:
            for player, optimiser in pairs:
                self._move(fabric, objective, optimiser, player.learning_rate * factor)
        # Adam's first steps are as long as any, and an untaught prior's would go astray.
        factor *= PRIOR_SPEED * self._warmth(self.state.started_at)
        for optimiser in optimisers[len(pairs) :]:
            self._move(fabric, objective, optimiser, factor)
        return total

    def _move(self, fabric: Fabric, objective: Any, optimiser: Any, factor: float) -> None:
        for group in optimiser.param_groups:
            group["lr"] = self.settings.learning_rate * factor
        if self.settings.clip_norm:
            fabric.clip_gradients(
                objective, optimiser, max_norm=self.settings.clip_norm, error_if_nonfinite=False
            )
        optimiser.step()

    def _watch_rate(self, fabric: Fabric, phase: Phase, progress: float) -> None:
        """Starts the bottleneck, once f and g have learned a little, lets g see integers in the
        last part, and moves lambda to the aim.

        Every process looks at the same inputs, and so does the same.
        """
        bottleneck = self.model.bottleneck
        assert bottleneck is not None
        starts = not bottleneck.started and fabric.broadcast(progress >= PLAIN)
        if not bottleneck.decodes_integers and fabric.broadcast(progress >= NOISY):
            bottleneck.decodes_integers.fill_(True)
            self.state.best_loss = math.inf  # losses with noise are others
        moves = self.aim is not None and self.state.phase_step % INTERVAL == 0
        if starts or (moves and fabric.broadcast(progress >= WAITED)):
            self._set_modes(phase, evaluates=True)
            if starts:
                torch.manual_seed(self.seed)  # the same random signs in every process
                code = model_code(self.model, self.probe)
                bottleneck.start(code, sensitivity_of(self.model, code[:PROBE_INPUTS]))
                self.state.started_at = self.state.phase_step
                # losses without bits are lower, and no measure of what comes
                self.state.best_loss, self.state.best_weights = math.inf, None
            else:
                assert self.aim is not None
                self.aim.move(self.model, self.probe)
            self._set_modes(phase)

    def _to_device(self, fabric: Fabric, rows: Rows) -> Tensor:
        rows = padded(rows, self.model.stride)
        x: Tensor = self.normalisation(torch.from_numpy(rows).to(fabric.device))
        return x

    def _evaluate(
        self,
        fabric: Fabric,
        objective: Any,
        phase: Phase,
        optimisers: Sequence[Any],
        loss: float,
        through: bool,
    ) -> bool:
        """Validates, logs and saves a checkpoint; True if there is no progress any more."""
        state = self.state
        number = watched(phase)
        validation = math.nan
        if number is not None and len(self.split.validation):
            self._set_modes(phase, evaluates=True)
            validation = self._mean(
                fabric,
                lambda x, target: objective(x, self.state.phase, number, target).item(),
            )
            self._refuse_nan(validation, phase, "validation loss")
            state.without_progress += 1
            if self.model.bottleneck is not None and through and not self.model.bottleneck.started:
                state.without_progress = 0  # what there is yet to learn is the rate
            if self.aim is not None and through:  # losses of different lambdas cannot be compared
                state.without_progress = 0
            elif validation < state.best_loss:
                state.best_loss, state.without_progress = validation, 0
                state.best_weights = {
                    name: tensor.detach().cpu().clone()
                    for name, tensor in self.model.state_dict().items()
                }
            self._set_modes(phase)
        else:  # a loss is looked at before its step: these weights have none yet
            finite = all(bool(p.isfinite().all()) for p in self.model.parameters())
            self._refuse_nan(0.0 if finite else math.nan, phase, "largest weight")
        rate = optimisers[0].param_groups[0]["lr"]
        state.log.append([state.step, round(state.seconds, 3), phase.name, loss, validation, rate])
        if fabric.is_global_zero:
            self._save_checkpoint(optimisers)
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

    def _set_modes(self, phase: Phase, evaluates: bool = False) -> None:
        """Only the modules that the phase trains are in training mode: frozen ones stay as is.

        The pass corrupts and samples, whatever is frozen, and where the objective is evaluated too.
        """
        self.model.eval()
        for player in phase.players:
            for module in player.modules:
                module.train(not evaluates)
                for part in module.modules():
                    if isinstance(part, Autoencoder):  # inside another one, say
                        part.training = True
        self.model.training = True

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

    def _progress(self, steps: int, seconds: float | None) -> float:
        by_steps = self.state.phase_step / steps
        by_time = self.state.phase_seconds / seconds if seconds else 0.0
        return min(1.0, max(by_steps, by_time))

    def _schedule(self, progress: float) -> float:
        """The learning rate as a part of the highest: linear warm-up, then half a cosine."""
        warm = self._warmth(0)
        if self.settings.schedule == "constant":
            return warm
        return warm * 0.5 * (1 + math.cos(math.pi * progress))

    def _warmth(self, since: int) -> float:
        """Rises to 1 in the steps of the warm-up, from the phase's step ``since`` on."""
        return min(1.0, (self.state.phase_step - since + 1) / (self.settings.warmup_steps + 1))

    def _refuse_nan(self, value: float, phase: Phase, what: str) -> None:
        if math.isfinite(value):
            return
        checkpoint = self.folder / CHECKPOINT
        kept = (
            f"the last good checkpoint is kept in {checkpoint}"
            if checkpoint.exists()
            else "no checkpoint was written before"
        )
        raise TrainingError(
            f"the {what} became {value} at step {self.state.step} of phase {phase.name!r}; {kept}; "
            "start anew with --force and a lower learning_rate "
            f"(it was {self.settings.learning_rate})"
        )

    def _save_checkpoint(self, optimisers: Sequence[Any]) -> None:
        buffer = io.BytesIO()
        content = {
            "state": vars(self.state),
            "weights": self.model.state_dict(),
            "optimisers": [optimiser.state_dict() for optimiser in optimisers],
        }
        torch.save(content, buffer)
        write_atomically(self.folder / CHECKPOINT, buffer.getvalue())
        write_atomically(self.folder / LOG, log_bytes(self.state))

    def _load_checkpoint(self) -> list[Any] | None:
        path = self.folder / CHECKPOINT
        if not path.exists():
            return None
        content = torch.load(path, map_location="cpu", weights_only=True)
        self.state = State(**content["state"])
        self.model.load_state_dict(content["weights"])
        return list(content["optimisers"])


def log_bytes(state: State) -> bytes:
    """The log of a training as CSV."""
    rows: list[list[float | str]] = [list(LOG_COLUMNS), *state.log]
    return "".join(",".join(map(str, row)) + "\n" for row in rows).encode()


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


def _parameters(modules: Iterable[nn.Module]) -> dict[nn.Parameter, None]:
    """The modules' parameters, each once, in order."""
    return {parameter: None for module in modules for parameter in module.parameters()}


def _mix(seed: int, step: int, rank: int) -> int:
    """A seed for torch's generator that differs for every step and process."""
    return int.from_bytes(
        hashlib.blake2b(f"{seed}/{step}/{rank}".encode(), digest_size=8).digest()
    ) & (2**63 - 1)
