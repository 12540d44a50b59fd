"""The training loop: seeds, resumption, phases and players, and errors."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from compressor.plugins.undercomplete import Undercomplete, UndercompleteConfig
from pydantic import Field
from torch import Tensor, nn

from compressor.errors import ConfigError, DataError, TrainingError
from compressor.plugin import Autoencoder, Code, Pass, Phase, Player, PluginConfig
from compressor.spec import DataSpec, ImageSpec
from compressor.training.checkpoint import FILE, State
from compressor.training.dataset import BatchOrder, Dataset, Split, split_rows
from compressor.training.loop import Budget, Loop
from compressor.training.rate import add_bottleneck
from compressor.training.settings import TrainingSettings, split_settings

SPEC = ImageSpec(height=28, width=28, channels=1)
SETTINGS = TrainingSettings(batch_size=32, evaluate_every=5, learning_rate=0.01)
SMALL = UndercompleteConfig(network="dense", hidden=[16], latent=4)


@pytest.fixture
def images(clothes: Any, tmp_path: Path) -> Dataset:
    file = tmp_path / "rows.bin"
    file.write_bytes(clothes[:300].tobytes())
    return Dataset(file, 300, SPEC.shape, None, [])


def make_loop(
    images: Dataset,
    folder: Path,
    plugin: type[Autoencoder] = Undercomplete,
    steps: int = 20,
    settings: TrainingSettings = SETTINGS,
    report: Any = lambda *_: None,
) -> Loop:
    torch.manual_seed(3)
    folder.mkdir(exist_ok=True)
    model = plugin(SMALL, SPEC)
    if settings.rate_distortion:
        add_bottleneck(model, settings)
    split = split_rows(images.count, 0.1, 0.1, seed=3)
    return Loop(model, settings, images, split, Budget(steps), 3, folder, report)


def weights(loop: Loop) -> dict[str, Tensor]:
    return {name: tensor.clone() for name, tensor in loop.model.state_dict().items()}


def assert_equal(ours: dict[str, Tensor], theirs: dict[str, Tensor]) -> None:
    assert all(torch.equal(ours[name], theirs[name]) for name in ours)


def test_the_loss_falls_and_the_best_weights_are_kept(images: Dataset, tmp_path: Path) -> None:
    loop = make_loop(images, tmp_path / "run", steps=60)
    state = loop.run()
    losses = [row[4] for row in state.log]
    assert losses[-1] < 0.7 * losses[0]
    x = torch.from_numpy(images.rows[loop.split.validation]).permute(0, 3, 1, 2) / 255
    with torch.no_grad():
        loss = Pass(loop.model, x).distortion.mean().item()
    assert loss == pytest.approx(min(losses), rel=1e-5)
    assert state.validation_loss == pytest.approx(loss, rel=1e-5)


def test_the_same_seed_gives_the_same_weights(images: Dataset, tmp_path: Path) -> None:
    first, second = (make_loop(images, tmp_path / name) for name in "ab")
    first.run(), second.run()
    assert_equal(weights(first), weights(second))


class Noisy(Undercomplete):
    """Draws random numbers in every step."""

    def corrupt(self, x: Tensor) -> Tensor:
        return x + 0.3 * torch.randn_like(x)


class Interrupted(Exception):
    pass


@pytest.mark.parametrize("rate", [None, 0.05])
@pytest.mark.parametrize("stop", [3, 7, 13])
def test_a_resumed_run_ends_with_the_weights_of_an_uninterrupted_one(
    images: Dataset, tmp_path: Path, stop: int, rate: float | None
) -> None:
    settings = SETTINGS.model_copy(update={"rate": rate})
    whole = make_loop(images, tmp_path / "whole", Noisy, settings=settings)
    whole.run()

    def interrupt(state: State, done: float, loss: float) -> None:
        if state.step == stop:
            raise Interrupted

    with pytest.raises(Interrupted):
        make_loop(images, tmp_path / "cut", Noisy, settings=settings, report=interrupt).run()
    resumed = make_loop(images, tmp_path / "cut", Noisy, settings=settings)
    torch.manual_seed(99)  # whatever state the new process is in
    resumed.run()
    assert_equal(weights(whole), weights(resumed))


def test_checkpoints_load_with_weights_only(images: Dataset, tmp_path: Path) -> None:
    loop = make_loop(images, tmp_path / "run")
    loop.run()
    content = torch.load(tmp_path / "run" / FILE, weights_only=True)
    assert content["state"]["step"] == 20 and len(content["optimisers"]) == 1


def test_early_stopping_ends_a_phase(images: Dataset, tmp_path: Path) -> None:
    settings = TrainingSettings(
        batch_size=32,
        evaluate_every=1,
        patience=2,
        learning_rate=10,
        optimiser="sgd",
        schedule="constant",
        warmup_steps=0,
    )
    state = make_loop(images, tmp_path / "run", steps=500, settings=settings).run()
    assert state.step < 500


def test_a_loss_that_is_no_number_stops_and_keeps_the_checkpoint(
    images: Dataset, tmp_path: Path
) -> None:
    class Breaks(Undercomplete):
        steps = 0

        def penalty(self, passed: Pass) -> Mapping[str, Tensor]:
            self.steps += torch.is_grad_enabled()
            return {"broken": torch.tensor(math.nan if self.steps > 7 else 0.0)}

    loop = make_loop(images, tmp_path / "run", Breaks)
    with pytest.raises(TrainingError, match=r"loss became nan at step 7 .* checkpoint is kept"):
        loop.run()
    content = torch.load(tmp_path / "run" / FILE, weights_only=True)
    assert content["state"]["step"] == 5


class Greedy(Autoencoder):
    """Two phases: first the autoencoder, then a scaling behind it with the rest frozen."""

    Config = UndercompleteConfig

    def __init__(self, config: UndercompleteConfig, spec: DataSpec) -> None:
        super().__init__(config, spec)
        self.f = nn.Sequential(nn.Flatten(), nn.Linear(784, 4), nn.BatchNorm1d(4))
        self.g = nn.Sequential(nn.Linear(4, 784), nn.Unflatten(1, (1, 28, 28)))
        self.gain = nn.Linear(4, 4, bias=False)

    def encode(self, x: Tensor) -> Code:
        return Code(self.f(x))

    def decode(self, z: Tensor) -> Tensor:
        return self.g(self.gain(z))

    def phases(self) -> Sequence[Phase]:
        return [
            Phase("outer", [Player("fg", [self.f, self.g])], share=3),
            Phase("inner", [Player("gain", [self.gain])], share=1),
        ]


def test_modules_that_a_phase_leaves_out_do_not_move_nor_do_their_statistics(
    images: Dataset, tmp_path: Path
) -> None:
    snapshots: dict[int, dict[str, Tensor]] = {}

    def snapshot(state: State, done: float, loss: float) -> None:
        snapshots[state.step] = weights(loop)

    loop = make_loop(images, tmp_path / "run", Greedy, steps=40, report=snapshot)
    loop.run()
    first, last = snapshots[1], snapshots[30]
    assert torch.equal(first["gain.weight"], last["gain.weight"])
    assert not torch.equal(first["f.1.weight"], last["f.1.weight"])
    inner_first, inner_last = snapshots[31], snapshots[40]
    for name in inner_first:
        moved = not torch.equal(inner_first[name], inner_last[name])
        assert moved == (name == "gain.weight"), name


@pytest.mark.parametrize("steps", [3, 4, 10])
def test_the_steps_of_all_phases_are_those_asked_for(
    images: Dataset, tmp_path: Path, steps: int
) -> None:
    loop = make_loop(images, tmp_path / "a", Greedy, steps)
    assert loop.run().step == steps


def test_several_losses_cannot_be_scaled_as_one(images: Dataset, tmp_path: Path) -> None:
    settings = SETTINGS.model_copy(update={"precision": "16-mixed"})
    with pytest.raises(ConfigError, match="use bf16-mixed"):
        make_loop(images, tmp_path / "a", Adversarial, settings=settings).run()


class Adversarial(Undercomplete):
    """Two players in one phase, each with its own loss."""

    def __init__(self, config: UndercompleteConfig, spec: DataSpec) -> None:
        super().__init__(config, spec)
        self.judge = nn.Sequential(nn.Flatten(), nn.Linear(784, 1, bias=False))

    def phases(self) -> Sequence[Phase]:
        def fool(passed: Pass) -> Mapping[str, Tensor]:
            return {"fool": self.judge(passed.pixels).mean() + passed.distortion.mean()}

        def judge(passed: Pass) -> Mapping[str, Tensor]:
            return {
                "judge": -self.judge(passed.pixels.detach()).mean() + self.judge(passed.x).mean()
            }

        return [
            Phase(
                "game",
                [
                    Player("g", [self.f, self.g], fool),
                    Player("d", [self.judge], judge, learning_rate=0.5),
                ],
            )
        ]

    def scores(self, passed: Pass) -> Mapping[str, Tensor]:
        return {"logit": self.judge(passed.x).flatten()}


def test_players_of_a_phase_move_their_own_modules(images: Dataset, tmp_path: Path) -> None:
    loop = make_loop(images, tmp_path / "run", Adversarial, steps=10)
    before = weights(loop)
    loop.run()
    assert all(not torch.equal(before[name], after) for name, after in weights(loop).items())


class Variational(Undercomplete):
    """A Gaussian code with a penalty."""

    def encode(self, x: Tensor) -> Code:
        mean = super().encode(x).mean
        return Code(mean, scale=torch.full_like(mean, 0.5))


def test_a_gaussian_code_is_sampled_in_training_only() -> None:
    model, x = Variational(SMALL, SPEC), torch.rand(3, 1, 28, 28)
    model.train()
    passed = Pass(model, x)
    assert not torch.equal(passed.z, passed.code.mean)
    model.eval()
    passed = Pass(model, x)
    assert torch.equal(passed.z, passed.code.mean)


def test_the_order_of_batches_is_a_function_of_seed_and_step() -> None:
    indices = np.arange(100)
    order, again = BatchOrder(indices, 32, 5), BatchOrder(indices, 32, 5)
    later = again.batch(7)
    assert [order.batch(step).tolist() for step in range(8)][7] == later.tolist()
    epoch = np.concatenate([order.batch(step) for step in range(3)])
    assert len(set(epoch.tolist())) == 96
    assert BatchOrder(indices, 32, 6).batch(0).tolist() != order.batch(0).tolist()


def test_splits_are_disjoint_and_may_be_empty() -> None:
    split = split_rows(1000, 0.1, 0.2, seed=1)
    parts = [split.training, split.validation, split.calibration]
    assert [len(part) for part in parts] == [700, 100, 200]
    assert len(set(np.concatenate(parts).tolist())) == 1000
    assert isinstance(split_rows(8, 0, 0, seed=1), Split)
    with pytest.raises(DataError, match="2 are too few"):
        split_rows(2, 0.1, 0.1, seed=1)


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"latent": 0}, r"latent=0: .*greater than or equal to 1.*at least 1"),
        ({"hidden": [0]}, r"hidden\.0=0: .*minimum 1"),
        ({"activation": "sine"}, r"activation='sine': .*'relu'"),
        ({"batch_size": "many"}, r"batch_size='many': .*allowed: integer, at least 1"),
        ({"latnet": 3}, r"no setting 'latnet'; plugin 'undercomplete' has .*latent.*batch_size"),
        ({"devices": 0}, r"devices=0"),
    ],
)
def test_config_errors_name_the_field_the_value_and_what_is_allowed(
    values: dict[str, Any], message: str
) -> None:
    with pytest.raises(ConfigError, match=message):
        split_settings(values, UndercompleteConfig, "undercomplete")


def test_a_plugin_may_not_declare_a_setting_of_training() -> None:
    class Clash(PluginConfig):
        batch_size: int = Field(1)

    with pytest.raises(ConfigError, match="declares batch_size"):
        split_settings({}, Clash, "clash")


def test_no_hidden_layers_and_linear_units_make_a_linear_map() -> None:
    config = UndercompleteConfig(network="dense", hidden=[], activation="linear", latent=5)
    model = Undercomplete(config, SPEC)
    a, b = torch.rand(2, 1, 28, 28), torch.rand(2, 1, 28, 28)
    middle = model.encode((a + b) / 2).mean
    assert torch.allclose(middle, (model.encode(a).mean + model.encode(b).mean) / 2, atol=1e-5)
    assert sum(p.numel() for p in model.parameters()) == 784 * 5 * 2 + 5 + 784


def test_several_devices_train_one_model(images: Dataset, tmp_path: Path) -> None:
    settings = TrainingSettings(batch_size=32, evaluate_every=5, accelerator="cpu", devices=2)
    loop = make_loop(images, tmp_path / "run", settings=settings, steps=10)
    before = weights(loop)
    state = loop.run()
    assert state.step == 10
    assert not torch.equal(before["f.0.weight"], weights(loop)["f.0.weight"])


def test_mixed_precision_goes_through_fabric(images: Dataset, tmp_path: Path) -> None:
    settings = TrainingSettings(batch_size=32, precision="bf16-mixed", accelerator="cpu")
    state = make_loop(images, tmp_path / "run", settings=settings, steps=10).run()
    assert math.isfinite(state.log[-1][4])  # type: ignore[arg-type]
