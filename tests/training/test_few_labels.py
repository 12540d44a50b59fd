"""The training of classifiers: what is copied, frozen, guessed and resumed; foreign networks."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime
import pytest
import torch
from onnx import numpy_helper

from compressor.data.images import Pixels
from compressor.errors import ConfigError, ModelError, TrainingError
from compressor.spec import ImageSpec, VectorSpec
from compressor.training.checkpoint import State
from compressor.training.few_labels import loop as loop_module
from compressor.training.few_labels.foreign import Foreign
from compressor.training.few_labels.loop import FewLabelLoop, fitted_temperature, logits_of
from compressor.training.few_labels.network import Network, Trunk, layers_of
from compressor.training.few_labels.settings import ClassifierSettings
from compressor.training.few_labels.views import strong, weak
from compressor.training.loop import Budget
from compressor.training.start import restore

LABELLED = np.arange(40)


@pytest.fixture
def data(clothes: Pixels, letters: Pixels) -> tuple[torch.Tensor, np.ndarray]:
    """200 letters and clothes in turn, and their labels."""
    x = np.stack([letters[:100], clothes[:100]], 1).reshape(200, 28, 28, 1)
    return torch.from_numpy(x), np.tile([1, 0], 100)


@pytest.fixture
def run(model: Path, data: Any, tmp_path: Path) -> Callable[..., tuple[Network, State]]:
    """Trains on LABELLED of ``data``."""
    x, of = data

    def trained(
        steps: int = 6, freeze: int = 0, folder: Path = tmp_path, stop: int = 0, **settings: Any
    ) -> tuple[Network, State]:
        torch.manual_seed(0)
        network = Network(
            Trunk(restore(model), "auto"), ImageSpec(height=28, width=28, channels=1), 2, 16
        )

        def report(state: State, done: float, loss: float) -> None:
            if state.step == stop:
                raise KeyboardInterrupt

        loop = FewLabelLoop(
            network,
            ClassifierSettings(batch_size=8, unlabelled=8, **settings),
            lambda numbers: x[numbers],
            of,
            LABELLED,
            np.arange(150, 200),
            np.arange(150),
            freeze,
            Budget(steps),
            0,
            folder,
            report,
        )
        return network, loop.run()

    return trained


def weights(network: Network) -> dict[str, torch.Tensor]:
    return {name: value.clone() for name, value in network.state_dict().items()}


def test_layers_are_what_the_activations_depend_on_in_order(model: Path) -> None:
    trunk = Trunk(restore(model), "auto")
    layers = layers_of(trunk, torch.rand(2, 1, 28, 28))
    assert [len(layer) for layer in layers] == [2, 2, 2]  # weight and bias of f's, none of g's
    assert [layer[0].shape[0] for layer in layers] == [8, 16, 2]


def test_frozen_layers_stay_and_others_move(run: Callable[..., Any], model: Path) -> None:
    before = {f"trunk.model.{n}": v for n, v in restore(model).state_dict().items()}
    network, _ = run(freeze=1)
    after = weights(network)
    moved = {name for name, value in before.items() if not torch.equal(value, after[name])}
    assert moved == {"trunk.model.f.2.weight", "trunk.model.f.2.bias", "trunk.model.f.4.weight",
                     "trunk.model.f.4.bias"}  # fmt: skip


def test_more_layers_than_there_are_cannot_stay(run: Callable[..., Any]) -> None:
    with pytest.raises(ConfigError, match="freeze=99: this network has 3 layers"):
        run(freeze=99)


def test_guessed_labels_change_what_is_learned(run: Callable[..., Any], tmp_path: Path) -> None:
    def head(folder: str, **settings: Any) -> torch.Tensor:
        (tmp_path / folder).mkdir()
        network, _ = run(steps=4, folder=tmp_path / folder, **settings)
        return weights(network)["head.0.weight"]

    guessed = head("a", confidence=0.4)
    assert not torch.equal(guessed, head("b", confidence=0.4, consistency=0))
    assert torch.equal(guessed, head("c", confidence=0.4))


def test_a_resumed_training_ends_where_another_ends(
    run: Callable[..., Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(loop_module, "STEPS_BETWEEN_CHECKPOINTS", 3)
    (tmp_path / "whole").mkdir()
    whole, _ = run(steps=8, folder=tmp_path / "whole")
    with pytest.raises(KeyboardInterrupt):
        run(steps=8, stop=5)
    resumed, state = run(steps=8)
    assert state.step == 8
    for name, value in weights(whole).items():
        assert torch.equal(value, weights(resumed)[name]), name


def test_what_it_learns_is_told_by_held_out_labels(run: Callable[..., Any], data: Any) -> None:
    x, of = data
    network, state = run(steps=60)
    logits = logits_of(network, lambda numbers: x[numbers], np.arange(150, 200))
    assert (logits.argmax(1).numpy() == of[150:]).mean() > 0.85
    assert state.log[-1][0] == 60 and state.log[-1][4] < 0.6


def test_a_loss_that_is_no_number_ends_with_a_sentence(run: Callable[..., Any]) -> None:
    with pytest.raises(TrainingError, match=r"the loss became (nan|inf) at step \d"):
        run(steps=50, learning_rate=10.0, weight_decay=1e30)


def test_a_temperature_makes_probabilities_true() -> None:
    draw = torch.Generator().manual_seed(0)
    logits = torch.randn(4000, 3, generator=draw) * 2
    labels = torch.multinomial(logits.softmax(1), 1, generator=draw)[:, 0]
    assert fitted_temperature(logits * 3, labels) == pytest.approx(3, rel=0.1)
    assert fitted_temperature(logits[:1] * 3, labels[:1]) == pytest.approx(1, rel=0.7)


@pytest.mark.parametrize("shape", [(4, 1, 28, 28), (4, 3, 9, 14), (4, 7)])
def test_views_are_like_what_they_are_of(shape: tuple[int, ...]) -> None:
    x = torch.rand(shape, generator=torch.Generator().manual_seed(0))
    settings = ClassifierSettings(flip=True)
    torch.manual_seed(0)
    for view in (weak(x, settings), strong(x, settings)):
        assert view.shape == x.shape and view.isfinite().all()
    assert not torch.equal(strong(x, settings), x)
    still = ClassifierSettings(shift=0)
    assert torch.equal(weak(x, still), x)


SPEC = ImageSpec(height=28, width=28, channels=1)


@pytest.mark.parametrize(("tensor", "size"), [("", 5), ("relu", 5), ("logits", 2)])
def test_a_foreign_network_is_cut_where_one_says(
    tensor: str,
    size: int,
    clothes: Pixels,
    foreign_network: Callable[..., Path],
    tmp_path: Path,
) -> None:
    path = foreign_network(tmp_path / "f.onnx", 28)
    found = Foreign(path, tensor, SPEC, [0.5], [0.25]).activations(clothes[:9]).numpy()
    assert found.shape == (9, size)
    x = (clothes[:9].transpose(0, 3, 1, 2).astype(np.float32) / 255 - 0.5) / 0.25
    (logits,) = onnxruntime.InferenceSession(str(path)).run(None, {"input": x})
    if tensor == "logits":
        np.testing.assert_allclose(found, logits, atol=1e-4)
    weight = next(
        numpy_helper.to_array(t) for t in onnx.load(path).graph.initializer if t.name == "v"
    )
    if size == 5:
        np.testing.assert_allclose(found @ weight.T, logits, atol=1e-4)


def test_a_foreign_network_of_another_size_gets_images_of_its_size_and_a_head(
    clothes: Pixels, foreign_network: Callable[..., Path], tmp_path: Path
) -> None:
    network = Foreign(foreign_network(tmp_path / "f.onnx", 16), "", SPEC, [0.0], [1.0])
    activations = network.activations(clothes[:5])
    weight, bias = torch.randn(3, 5), torch.randn(3)
    session = onnxruntime.InferenceSession(network.classifier(weight, bias))
    (answer,) = session.run(None, {"image": clothes[:5]})
    expected = (activations @ weight.T + bias).softmax(1)
    np.testing.assert_allclose(answer, expected.numpy(), atol=1e-5)


def test_foreign_networks_that_cannot_be_used_are_refused(
    model: Path, foreign_network: Callable[..., Path], tmp_path: Path
) -> None:
    path = foreign_network(tmp_path / "f.onnx", 28, 3)
    with pytest.raises(ConfigError, match=r"not images .* of 1 channels; channels=grey or"):
        Foreign(path, "", SPEC, [0.0], [1.0])
    with pytest.raises(ConfigError, match="computes no tensor 'none'"):
        Foreign(foreign_network(path, 28), "none", SPEC, [0.0], [1.0])
    with pytest.raises(ModelError, match="cannot read"):
        Foreign(tmp_path / "none.onnx", "", SPEC, [0.0], [1.0])
    (tmp_path / "bad.onnx").write_bytes(b"none")
    with pytest.raises(ModelError, match="is not an ONNX graph"):
        Foreign(tmp_path / "bad.onnx", "", SPEC, [0.0], [1.0])
    vectors = VectorSpec(length=3, mean=(0,) * 3, scale=(1,) * 3)
    with pytest.raises(ConfigError, match=r"takes .* and these data are 3"):
        Foreign(path, "", vectors, [0.0], [1.0])
    with pytest.raises(ConfigError, match="has no dense layer to cut at: name a tensor"):
        Foreign(model / "encoder.onnx", "", SPEC, [0.0], [1.0])


def test_our_own_graphs_take_data_as_they_are(model: Path, clothes: Pixels) -> None:
    made = [node.output[0] for node in onnx.load(model / "encoder.onnx").graph.node
            if node.op_type == "Relu"]  # fmt: skip
    found = Foreign(model / "encoder.onnx", made[-1], SPEC, [0.0], [1.0]).activations(clothes[:3])
    assert found.shape == (3, 16)
