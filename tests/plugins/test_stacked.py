"""The stacked autoencoder shares weights between its halves and can be trained pair by pair."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import onnx
import pytest
import torch
from compressor.plugins.stacked import Stacked, StackedConfig
from onnx import numpy_helper
from torch import Tensor

from compressor.data.images import Pixels
from compressor.model import Model
from compressor.normalisation import Normalisation
from compressor.plugin import Autoencoder
from compressor.spec import ImageSpec
from compressor.training.checkpoint import State
from compressor.training.loop import Loop
from compressor.training.start import restore
from compressor.verbs import train

Fit = Callable[..., Loop]
Weights = dict[str, Tensor]
SPEC = ImageSpec(height=28, width=28, channels=1)
GREEDY = {"hidden": [32], "latent": 8, "training": "greedy"}


@pytest.fixture(scope="module")
def tied(clothes: Pixels, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The default sizes, for a few steps."""
    path = tmp_path_factory.mktemp("stacked") / "model"
    settings = {"batch_size": 64, "calibration": 0}
    train("stacked", clothes[:400], path, settings=settings, max_steps=20)
    return path


def parameters(**config: Any) -> int:
    model = Stacked(StackedConfig(**config), SPEC)
    return sum(parameter.numel() for parameter in model.parameters())


def test_the_default_is_784_300_150_300_784_with_one_weight_for_each_pair() -> None:
    biases = 300 + 150 + 300 + 784
    assert parameters() == 784 * 300 + 300 * 150 + biases
    assert parameters(tied=False) == 2 * (784 * 300 + 300 * 150) + biases


def weights_of(model: Model, graph: str) -> list[npt.NDArray[np.float32]]:
    """The weights of a graph's layers, from the input inwards, each (outputs, inputs) of f."""
    loaded = onnx.load_from_string(model.read(f"{graph}.onnx"))
    found = [numpy_helper.to_array(tensor) for tensor in loaded.graph.initializer]
    matrices = sorted((one for one in found if one.ndim == 2), key=lambda one: -one.size)
    return [one if one.shape[0] < one.shape[1] else one.T for one in matrices]


def test_tied_weights_are_equal_bit_for_bit_in_the_exported_graphs(tied: Path) -> None:
    stored, model = Model.open(tied), restore(tied)
    assert isinstance(model, Stacked)
    ours = [pair.weight.detach().numpy() for pair in model.pairs]
    up, down = weights_of(stored, "encoder"), weights_of(stored, "decoder")
    assert [one.shape for one in up] == [(300, 784), (150, 300)]
    for weight, above, below in zip(ours, up, down, strict=True):
        assert above.tobytes() == below.tobytes() == weight.tobytes()


def test_untied_weights_part_in_training(clothes: Pixels, fit: Fit) -> None:
    model = fit(Stacked, clothes[:64], 3, {"hidden": [], "latent": 8, "tied": False}).model
    (pair,) = model.pairs
    assert not torch.equal(pair.weight, pair.mirror_weight)


class Snapshots:
    """The weights after every step, by phase."""

    def __init__(self) -> None:
        self.phases: dict[int, list[Weights]] = {}

    def __call__(self, model: Autoencoder, state: State) -> None:
        weights = {name: tensor.clone() for name, tensor in model.state_dict().items()}
        self.phases.setdefault(state.phase, []).append(weights)

    def moved(self, phase: int) -> set[str]:
        """What differs between the end of the phase before and the end of this."""
        before = self.phases[phase - 1][-1]
        return {n for n, t in self.phases[phase][-1].items() if not torch.equal(t, before[n])}


def phase_names(loop: Loop) -> list[str]:
    """The phases that were logged, in order, each once."""
    return [str(name) for name in dict.fromkeys(row[2] for row in loop.state.log)]


OUTER = {f"_pairs.0.{name}" for name in ("weight", "bias", "mirror_bias")}
INNER = {f"_pairs.1.{name}" for name in ("weight", "bias", "mirror_bias")}


def test_greedy_training_fixes_the_outer_pair_while_the_inner_one_learns(
    clothes: Pixels, fit: Fit
) -> None:
    seen = Snapshots()
    loop = fit(Stacked, clothes[:256], 40, GREEDY, report=seen, batch_size=64)
    assert phase_names(loop) == ["pair 1", "pair 2", "fine-tune"]
    assert [len(snapshots) for snapshots in seen.phases.values()] == [10, 10, 20]
    first, last = seen.phases[0][0], seen.phases[0][-1]
    assert {name for name in first if not torch.equal(first[name], last[name])} == OUTER
    assert seen.moved(1) == INNER
    assert seen.moved(2) == OUTER | INNER


@pytest.mark.parametrize("loss", ["square", "cross-entropy"])
def test_each_greedy_phase_makes_its_own_loss_smaller(clothes: Pixels, fit: Fit, loss: str) -> None:
    """Phase 1: J(x, g1(f1(x))); phase 2: the square error of the first layer's output."""
    x = Normalisation(SPEC)(torch.from_numpy(clothes[:256])).flatten(1)
    outer: list[float] = []
    inner: list[float] = []

    def note(model: Autoencoder, state: State) -> None:
        assert isinstance(model, Stacked)
        first, second = model.pairs
        with torch.no_grad():
            h = first.f(x)
            out = first.g(h)
            if loss == "square":
                outer.append((x - out).square().sum(1).mean().item())
            else:
                likelihood = torch.distributions.Bernoulli(logits=out, validate_args=False)
                outer.append(-likelihood.log_prob(x).sum(1).mean().item())
            inner.append((h - second.g(second.f(h))).square().sum(1).mean().item())

    loop = fit(
        Stacked,
        clothes[:256],
        40,
        {**GREEDY, "fine_tune": False, "loss": loss},
        report=note,
        batch_size=256,
        evaluate_every=1,
        warmup_steps=0,
        learning_rate=0.01,
    )
    told = [float(row[3]) for row in loop.state.log]  # before each step, as these are after it
    assert told[1:20] == pytest.approx(outer[:19], rel=1e-4)
    assert told[21:] == pytest.approx(inner[20:39], rel=1e-4)
    assert outer[19] < 0.9 * outer[0]
    assert inner[39] < 0.9 * inner[19]


def test_without_fine_tuning_nothing_moves_after_the_last_pair(clothes: Pixels, fit: Fit) -> None:
    seen = Snapshots()
    loop = fit(Stacked, clothes[:256], 20, {**GREEDY, "fine_tune": False}, report=seen)
    assert phase_names(loop) == ["pair 1", "pair 2"]
    assert loop.state.step == 20
    last = seen.phases[1][-1]
    assert all(torch.equal(t, last[name]) for name, t in loop.model.state_dict().items())
    assert seen.moved(1) == INNER


@pytest.mark.parametrize(
    "config",
    [
        {"hidden": [], "latent": 1000},
        {"hidden": [900], "latent": 850, "training": "greedy"},
        {"network": "conv", "hidden": [8], "latent": 4},
        {"network": "conv", "hidden": [8], "latent": 4, "training": "greedy"},
    ],
    ids=["overcomplete", "overcomplete-greedy", "conv", "conv-greedy"],
)
def test_overcomplete_and_convolutional_stacks_learn(
    letters: Pixels, fit: Fit, config: dict[str, Any]
) -> None:
    loop = fit(Stacked, letters[:64], 15, config, batch_size=64, evaluate_every=1, warmup_steps=0)
    losses = [float(row[3]) for row in loop.state.log if row[2] == loop.state.log[-1][2]]
    assert losses[-1] < 0.9 * losses[0]
    for pair in loop.model.pairs:
        assert pair.mirror_weight is None
