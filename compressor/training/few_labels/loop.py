"""Training a classifier with few labels: on its labels, and on those that it can guess.

J = -log p(y | weak(x)) on labelled inputs
  + w [max p_t(weak(u)) >= c] * -log p(argmax p_t(weak(u)) | strong(u)) on all
(FixMatch: Sohn et al. 2020); p_t is the teacher, a moving average of the network's weights (Mean
Teacher: Tarvainen & Valpola 2017), which is what training ends with. What is drawn is a function of
(seed, step), as in the loop of autoencoders, so a resumed run ends where another would have ended.
"""

from __future__ import annotations

import copy
import math
import time
from collections.abc import Callable
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ...errors import ConfigError, TrainingError
from ..checkpoint import Checkpoint, State
from ..dataset import Indices, seeded
from ..loop import Budget, Report, make_fabric, mixed
from ..settings import TrainingSettings
from .network import Network, layers_of
from .settings import ClassifierSettings
from .views import strong, weak

WARMUP, RAMP = 30, 100  # steps until the full learning rate, and the full weight of guesses
STEPS_BETWEEN_CHECKPOINTS = 100
PATIENCE = 5  # checkpoints without a better loss of at least so many held-out labels
JUDGES = 100
CLIP_NORM = 1.0
PENALTIES = (1e-4, 1e-3, 1e-2, 1e-1, 1.0)  # of a linear head's squared weights

Rows = Callable[[Indices], Tensor]  # rows of all data, as they are stored


class FewLabelLoop:
    """Trains ``network`` in place; checkpoints go to ``folder``.

    rows: gives data by number; of: their labels, int64 (n,), NONE without; labelled: the numbers of
    those that are trained on, held_out: of those that judge; guessed: of those whose labels are
    guessed. freeze: how many layers of the trunk stay as they are. Raises TrainingError where the
    loss is no number.
    """

    def __init__(
        self,
        network: Network,
        settings: ClassifierSettings,
        rows: Rows,
        of: Indices,
        labelled: Indices,
        held_out: Indices,
        guessed: Indices,
        freeze: int,
        budget: Budget,
        seed: int,
        folder: Path,
        report: Report,
    ) -> None:
        self._settings, self._rows, self._of = settings, rows, torch.from_numpy(of)
        self._labelled, self._held_out, self._guessed = labelled, held_out, guessed
        self._freeze, self._budget, self._seed = freeze, budget, seed
        self._report = report
        self._checkpoint = Checkpoint(folder)
        self._student, self._teacher = network, copy.deepcopy(network)

    def run(self) -> State:
        """Trains to the end, from the last checkpoint if there is one."""
        settings = self._settings
        fabric = make_fabric(TrainingSettings(accelerator=settings.accelerator), False, False)
        both = nn.ModuleList([self._student, self._teacher])
        state, optimiser_states = self._checkpoint.load(both)
        self._device = fabric.device
        both.to(fabric.device)
        self._frozen = self._set_frozen()
        trained = [p for p in self._student.parameters() if p.requires_grad]
        optimiser = torch.optim.AdamW(
            trained, lr=settings.learning_rate, weight_decay=settings.weight_decay
        )
        if optimiser_states is not None:
            optimiser.load_state_dict(optimiser_states[0])
        begun = time.monotonic() - state.seconds
        done = self._progress(state)
        while done < 1:
            loss = self._step(state.step, done, optimiser)
            state.step += 1
            state.seconds = time.monotonic() - begun
            done = self._progress(state)
            if done >= 1 or state.step % STEPS_BETWEEN_CHECKPOINTS == 0:
                stops = self._judge(state, loss, optimiser.param_groups[0]["lr"])
                self._checkpoint.save(both, state, [optimiser])
                done = 1.0 if stops else done
            self._report(state, done, loss)
        best = self._teacher.state_dict() if state.best_weights is None else state.best_weights
        self._student.load_state_dict(best)
        self._student.to("cpu").eval()
        return state

    def _set_frozen(self) -> list[nn.Module]:
        """Freezes layers, and gives the modules that stay in eval mode with them."""
        trunk = self._student.trunk
        x = self._student.normalisation(self._on_device(self._labelled[:2]))
        layers = layers_of(trunk, x)
        if self._freeze > len(layers):
            raise ConfigError(f"freeze={self._freeze}: this network has {len(layers)} layers")
        frozen = {p for layer in layers[: self._freeze] for p in layer}
        for parameter in frozen:
            parameter.requires_grad_(False)
        return [m for m in trunk.modules() if any(p in frozen for p in m.parameters(False))]

    def _on_device(self, numbers: Indices) -> Tensor:
        return self._rows(numbers).to(self._device)

    def _step(self, step: int, done: float, optimiser: torch.optim.Optimizer) -> float:
        settings, network, teacher = self._settings, self._student, self._teacher
        draw = seeded(self._seed, step)
        some = draw.choice(self._labelled, settings.batch_size)
        torch.manual_seed(mixed(self._seed, step, 0))
        x = network.normalisation(self._on_device(some))
        y = self._of[some].to(self._device)
        inputs = [weak(x, settings)]
        weight = settings.consistency * min(1.0, step / RAMP)
        if weight and len(self._guessed) and settings.unlabelled:
            others = draw.choice(self._guessed, settings.unlabelled)
            u = network.normalisation(self._on_device(others))
            with torch.no_grad():
                guess = teacher.eval().logits(weak(u, settings)).softmax(1)
            inputs.append(strong(u, settings))
        network.train()
        for module in self._frozen:
            module.eval()
        logits = network.logits(torch.cat(inputs))
        loss = F.cross_entropy(logits[: len(some)], y)
        if len(inputs) == 2:
            sure, label = guess.max(1)
            losses = F.cross_entropy(logits[len(some) :], label, reduction="none")
            loss = loss + weight * (losses * (sure >= settings.confidence)).mean()
        if not math.isfinite(loss.item()):
            raise TrainingError(
                f"the loss became {loss.item()} at step {step}; start anew with force=True and a "
                f"lower learning_rate (it was {settings.learning_rate})"
            )
        rate = min(1.0, (step + 1) / WARMUP) * 0.5 * (1 + math.cos(math.pi * done))
        for group in optimiser.param_groups:
            group["lr"] = settings.learning_rate * rate
        optimiser.zero_grad()
        loss.backward()  # type: ignore[no-untyped-call]  # torch's stub
        nn.utils.clip_grad_norm_(network.parameters(), CLIP_NORM)
        optimiser.step()
        self._move_teacher(min(settings.average, (step + 1) / (step + 10)))
        return float(loss.item())

    @torch.no_grad()
    def _move_teacher(self, decay: float) -> None:
        pairs = zip(
            self._teacher.state_dict().values(), self._student.state_dict().values(), strict=True
        )
        for average, value in pairs:
            if average.dtype.is_floating_point:
                average.lerp_(value, 1 - decay)
            else:
                average.copy_(value)

    def _judge(self, state: State, loss: float, rate: float) -> bool:
        """Logs; True if held-out labels, where they are many, say that it gets no better."""
        held_out = math.nan
        if len(self._held_out):
            # At the temperature that they will get: networks grow too sure, and still better.
            logits = logits_of(self._teacher, self._rows, self._held_out, self._device)
            labels = self._of[self._held_out]
            held_out = F.cross_entropy(logits / fitted_temperature(logits, labels), labels).item()
        seconds = round(state.seconds, 3)
        state.log.append([state.step, seconds, "classifier", loss, held_out, rate, ""])
        if len(self._held_out) < JUDGES:
            return False
        state.without_progress += 1
        if held_out < state.best_loss:
            state.best_loss, state.without_progress = held_out, 0
            weights = self._teacher.state_dict().items()
            state.best_weights = {name: value.detach().cpu().clone() for name, value in weights}
        return state.without_progress >= PATIENCE

    def _progress(self, state: State) -> float:
        """From 0 to 1."""
        steps, seconds = self._budget.max_steps, self._budget.max_seconds
        if steps is None and seconds is None:
            steps = self._settings.steps
        by_steps = state.step / steps if steps else 0.0
        by_time = state.seconds / seconds if seconds else 0.0
        return min(1.0, max(by_steps, by_time))


@torch.no_grad()
def logits_of(
    network: Network, rows: Rows, numbers: Indices, device: torch.device | str = "cpu"
) -> Tensor:
    """(n, labels), in eval mode."""
    network.eval()
    parts = [numbers[start : start + 256] for start in range(0, len(numbers), 256)]
    return torch.cat(
        [network.logits(network.normalisation(rows(part).to(device))).cpu() for part in parts]
    )


def fit_head(
    head: nn.Linear,
    activations: Tensor,
    labels: Tensor,
    judges: tuple[Tensor, Tensor] | None,
) -> float:
    """Fits a linear head on activations (n, K) that stay as they are: logistic regression.

    They are standardised, which the head then contains. Of PENALTIES of the squared weights that
    with the least loss on ``judges`` (activations, labels) is taken, and given back; without them
    the middle one.
    """
    mean, deviation = activations.mean(0), activations.std(0, correction=0)
    deviation = torch.where(deviation > 1e-6 * deviation.max().clamp(min=1e-6), deviation, 1.0)
    fits = {}
    for penalty in PENALTIES if judges else PENALTIES[len(PENALTIES) // 2 :][:1]:
        weight, bias = _logistic((activations - mean) / deviation, labels, head, penalty)
        weight = weight / deviation
        bias = bias - weight @ mean
        loss = F.cross_entropy(F.linear(judges[0], weight, bias), judges[1]) if judges else 0
        fits[float(loss)] = penalty, weight, bias
    penalty, weight, bias = fits[min(fits)]
    with torch.no_grad():
        head.weight.copy_(weight)
        head.bias.copy_(bias)
    return penalty


def _logistic(x: Tensor, labels: Tensor, head: nn.Linear, penalty: float) -> tuple[Tensor, Tensor]:
    weight = torch.zeros_like(head.weight, requires_grad=True)
    bias = torch.zeros_like(head.bias, requires_grad=True)
    optimiser = torch.optim.LBFGS([weight, bias], max_iter=200, line_search_fn="strong_wolfe")

    def loss() -> Tensor:
        optimiser.zero_grad()
        value = F.cross_entropy(F.linear(x, weight, bias), labels)
        value = value + penalty * weight.square().sum()
        value.backward()  # type: ignore[no-untyped-call]  # torch's stub
        return value

    optimiser.step(loss)  # type: ignore[no-untyped-call]  # torch's stub
    return weight.detach(), bias.detach()


def fitted_temperature(logits: Tensor, labels: Tensor) -> float:
    """What divides logits so that held-out labels are likeliest (Guo et al. 2017).

    Its logarithm is taken to be N(0, 1) before any label is seen: a few of them prove little.
    """
    candidates = torch.linspace(-3, 3, 241)
    losses = torch.stack(
        [
            F.cross_entropy(logits / log.exp(), labels, reduction="sum") + log.square() / 2
            for log in candidates
        ]
    )
    return float(candidates[losses.argmin()].exp())
