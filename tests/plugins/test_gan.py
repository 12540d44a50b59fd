"""The GAN plays the game it is said to play, learns to encode, and judges images."""

from __future__ import annotations

import copy
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import onnx
import pytest
import torch
from compressor.plugins.gan import GAN, GANConfig
from torch import Tensor, nn

from compressor.data.images import Pixels
from compressor.engine.engine import Engine
from compressor.errors import ConfigError
from compressor.model import Model
from compressor.normalisation import Normalisation
from compressor.plugin import Autoencoder, Pass
from compressor.spec import ImageSpec
from compressor.training.checkpoint import State
from compressor.training.loop import Loop
from compressor.training.start import restore
from compressor.verbs import compress, decompress, score, train

Fit = Callable[..., Loop]
SPEC = ImageSpec(height=28, width=28, channels=1)
SMALL = {"hidden": [8, 16], "latent": 6}
REAL = torch.tensor([2.0, -0.5, 0.25, 3.0])
FAKE = torch.tensor([-1.5, 0.75, -0.1, 1.0])


@pytest.fixture(scope="module")
def trained(clothes: Pixels, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A small DCGAN, for some steps, on all but the last 100 images."""
    path = tmp_path_factory.mktemp("gan") / "model"
    settings = {**SMALL, "batch_size": 64, "validation": 0.05}
    train("gan", clothes[:900], path, settings=settings, max_steps=20)
    return path


def to_x(images: Pixels) -> Tensor:
    x: Tensor = Normalisation(SPEC)(torch.from_numpy(images))
    return x


def make(**config: Any) -> GAN:
    torch.manual_seed(0)
    return GAN(GANConfig(**{**SMALL, **config}), SPEC)


class Judge(nn.Module):
    """Says what it was told to: one logit for each real input, another for each other."""

    def __init__(self, real: Tensor, fake: Tensor, x: Tensor) -> None:
        super().__init__()
        self.real, self.fake, self.x = real, fake, x

    def forward(self, x: Tensor) -> Tensor:
        return self.real if x is self.x else self.fake


def losses(generator_loss: str, real: Tensor, fake: Tensor) -> tuple[float, float]:
    """J(D) and J(g) where D's logits are known."""
    model, x = make(generator_loss=generator_loss, gamma=0), torch.rand(len(real), 1, 28, 28)
    model.discriminator = Judge(real, fake, x)  # type: ignore[assignment]
    judge, maker = model.phases()[0].players
    assert judge.loss is not None and maker.loss is not None
    (of_judge,), (of_maker,) = (p.loss(Pass(model, x)).values() for p in (judge, maker))
    return of_judge.item(), of_maker.item()


@pytest.mark.parametrize(
    ("generator_loss", "of_fake"),
    [
        ("non-saturating", lambda d: -np.log(d).mean()),
        ("minimax", lambda d: np.log(1 - d).mean()),
        ("maximum-likelihood", lambda d: -(d / (1 - d)).mean()),  # exp of the logit
    ],
)
def test_both_losses_equal_their_formulas(
    generator_loss: str, of_fake: Callable[[npt.NDArray[np.float64]], float]
) -> None:
    """Goodfellow 2016, equations 8, 10, 13 and 14, without their factors of a half."""
    real, fake = (1 / (1 + np.exp(-logit.double().numpy())) for logit in (REAL, FAKE))
    of_judge, of_maker = losses(generator_loss, REAL, FAKE)
    assert of_judge == pytest.approx(-np.log(real).mean() - np.log(1 - fake).mean(), rel=1e-6)
    assert of_maker == pytest.approx(of_fake(fake), rel=1e-6)


@pytest.mark.parametrize("generator_loss", ["non-saturating", "minimax", "maximum-likelihood"])
def test_losses_are_finite_where_the_discriminator_is_certain(generator_loss: str) -> None:
    certain = torch.tensor([-200.0, 200.0])
    assert np.isfinite(losses(generator_loss, certain, certain)).all()


def test_the_encoder_minimises_pixel_and_feature_errors(clothes: Pixels) -> None:
    model, x = make(kappa=0.3).eval(), to_x(clothes[:8])
    (player,) = model.phases()[1].players
    assert player.loss is not None
    with torch.no_grad():
        parts = player.loss(Pass(model, x))
        out = model.g(model.f(x))
        body = model.discriminator.body
        features = 784 * (body(x) - body(out)).square().mean()
    assert parts["distortion"].item() == pytest.approx((x - out).square().sum().item() / 8)
    assert parts["features"].item() == pytest.approx(0.3 * features.item(), rel=1e-5)


def test_the_penalty_is_the_discriminators_squared_gradient(clothes: Pixels) -> None:
    model, x = make(gamma=0.7), to_x(clothes[:9])  # the first and the ninth
    loss = model.phases()[0].players[0].loss
    assert loss is not None
    step, some = 1e-2, x[[0, 8]]
    with torch.no_grad():
        part = loss(Pass(model, x))["R1"].item()
    slopes = []
    for image in some.double():
        judge = copy.deepcopy(model.discriminator).double()
        shifted = torch.eye(784, dtype=torch.float64).reshape(784, 1, 28, 28) * step
        with torch.no_grad():
            slopes.append((judge(image + shifted) - judge(image - shifted)) / (2 * step))
    wanted = 0.35 * np.mean([slope.square().sum().item() for slope in slopes])
    assert part == pytest.approx(wanted, rel=0.02)


def weights(model: Autoencoder, *parts: str) -> dict[str, Tensor]:
    return {n: t.clone() for n, t in model.state_dict().items() if n.startswith(parts)}


def equal(ours: Mapping[str, Tensor], theirs: Mapping[str, Tensor]) -> bool:
    return all(torch.equal(ours[name], theirs[name]) for name in ours)


class Recorded(GAN):
    """Keeps the discriminator's parameters as they are whenever a loss of the game is made."""

    def __init__(self, config: GANConfig, spec: ImageSpec) -> None:
        super().__init__(config, spec)
        self.seen: list[list[Tensor]] = []

    def parameters_of_judge(self) -> list[Tensor]:
        return [parameter.detach().clone() for parameter in self.discriminator.parameters()]

    def _judge(self, passed: Pass) -> Mapping[str, Tensor]:
        self.seen.append(self.parameters_of_judge())
        return super()._judge(passed)

    def _make(self, passed: Pass) -> Mapping[str, Tensor]:
        self.seen.append(self.parameters_of_judge())
        return super()._make(passed)


def test_simultaneous_updates_take_both_gradients_before_either_steps(
    clothes: Pixels, fit: Fit
) -> None:
    """One step of either kind from the same weights, on the same batch, with the same noise."""
    judges, makers = {}, {}
    for updates in ("alternating", "simultaneous"):
        config = {**SMALL, "updates": updates, "encoder_share": 0.5}
        model = fit(Recorded, clothes[:64], 2, config, batch_size=64, warmup_steps=0).model
        at_judge, at_maker = model.seen
        pairs = zip(at_judge, at_maker, strict=True)
        moved_between = not all(torch.equal(a, b) for a, b in pairs)
        assert moved_between == (updates == "alternating")
        judges[updates] = model.parameters_of_judge()
        makers[updates] = [parameter.detach() for parameter in model.g.parameters()]
        assert not torch.equal(judges[updates][0], at_judge[0])
    assert all(map(torch.equal, judges["alternating"], judges["simultaneous"]))
    assert not all(map(torch.equal, makers["alternating"], makers["simultaneous"]))


def test_generator_and_discriminator_are_frozen_while_the_encoder_learns(
    clothes: Pixels, fit: Fit
) -> None:
    snapshots: dict[int, list[dict[str, Tensor]]] = {}

    def note(model: Autoencoder, state: State) -> None:
        snapshots.setdefault(state.phase, []).append(weights(model, ""))

    loop = fit(GAN, clothes[:64], 10, SMALL, report=note, batch_size=16)
    assert [len(phase) for phase in snapshots.values()] == [8, 2]
    first, last = snapshots[0][0], snapshots[0][-1]
    for name, tensor in last.items():
        assert torch.equal(tensor, first[name]) == name.startswith("f."), name
    final = loop.model.state_dict()
    assert any("running_mean" in name for name in final)
    for name, tensor in final.items():
        assert torch.equal(tensor, last[name]) == (not name.startswith("f.")), name


@pytest.mark.parametrize("generator_loss", ["non-saturating", "minimax", "maximum-likelihood"])
@pytest.mark.parametrize("updates", ["alternating", "simultaneous"])
def test_every_game_is_played_without_a_number_that_is_none(
    clothes: Pixels, fit: Fit, generator_loss: str, updates: str
) -> None:
    config = {**SMALL, "generator_loss": generator_loss, "updates": updates}
    loop = fit(GAN, clothes[:48], 8, config, batch_size=16, warmup_steps=0, evaluate_every=1)
    assert len(loop.state.log) == 8
    assert all(np.isfinite(row[3]) for row in loop.state.log)
    played = [row for row in loop.state.log if row[2] == "adversarial"]
    of_players = [dict(pair.split("=") for pair in row[6].split()) for row in played]
    assert all(set(losses) == {"D", "g"} for losses in of_players)
    assert [sum(map(float, losses.values())) for losses in of_players] == [row[3] for row in played]
    assert all(bool(t.isfinite().all()) for t in loop.model.state_dict().values())


def test_scores_are_finite_and_of_each_image_alone(trained: Path, clothes: Pixels) -> None:
    model, x = restore(trained), to_x(clothes[900:])
    with torch.no_grad():
        together, again = (model.scores(Pass(model, x)) for _ in range(2))
        alone = [model.scores(Pass(model, x[n : n + 1])) for n in range(5)]
    assert list(together) == ["logit", "feature_distance"]
    for name, scores in together.items():
        assert bool(scores.isfinite().all()) and scores.std().item() > 0
        assert torch.equal(scores, again[name])
        for number, one in enumerate(alone):
            assert one[name].item() == pytest.approx(scores[number].item(), rel=1e-4, abs=1e-6)
    with torch.no_grad():
        assert torch.allclose(together["logit"], -model.discriminator(x))


def test_scores_are_outputs_of_the_exported_scorer(
    trained: Path, clothes: Pixels, tmp_path: Path
) -> None:
    stored, model = Model.open(trained), restore(trained)
    outputs = [out.name for out in onnx.load_from_string(stored.read("scorer.onnx")).graph.output]
    assert outputs == ["l2", "l1", "logit", "feature_distance", "error_map"]
    told = Engine(stored, "cpu").score(clothes[900:])
    with torch.no_grad():
        wanted = model.scores(Pass(model, to_x(clothes[900:])))
    for name, scores in wanted.items():
        assert np.allclose(told[name], scores.numpy(), rtol=1e-3, atol=1e-5), name
    summary = score(clothes[900:], trained, tmp_path / "scores.parquet", scorer="logit", fpr=0.05)
    assert summary["scorer"] == "logit"


def operators(model: Model, graph: str) -> set[str]:
    return {node.op_type for node in onnx.load_from_string(model.read(f"{graph}.onnx")).graph.node}


def test_the_convolutional_generator_has_transposed_convolutions_and_nothing_pools(
    trained: Path,
) -> None:
    model = Model.open(trained)
    assert "ConvTranspose" in operators(model, "decoder")
    assert "Conv" in operators(model, "encoder")
    for graph in ("encoder", "decoder", "scorer"):
        assert not any("Pool" in name for name in operators(model, graph))


def test_images_are_compressed_and_come_back(
    trained: Path, clothes: Pixels, tmp_path: Path
) -> None:
    compress(clothes[900:], trained, tmp_path / "archive")
    decompress(tmp_path / "archive", tmp_path / "back.npy")
    back = np.load(tmp_path / "back.npy").reshape(clothes[900:].shape)
    model, steps = restore(trained), torch.tensor(Model.open(trained).manifest.quantiser["steps"])
    with torch.no_grad():
        code = torch.floor(model.encode(to_x(clothes[900:])).mean / steps + 0.5) * steps
        wanted = Normalisation(SPEC).stored(model.decode(code)).numpy()
    assert back.dtype == np.uint8
    assert np.abs(back.astype(int) - wanted).max() <= 1


def test_vectors_are_generated_judged_and_encoded_by_dense_layers(
    clothes: Pixels, fit: Fit
) -> None:
    pooled = clothes.reshape(-1, 7, 4, 7, 4).mean((2, 4)).reshape(-1, 49).astype(np.float32)
    loop = fit(
        GAN,
        pooled[:64],
        300,
        {"hidden": [32, 16], "latent": 4, "encoder_share": 0.4},
        batch_size=64,
        evaluate_every=5,
        warmup_steps=0,
        learning_rate=0.01,
    )
    assert not any(isinstance(m, nn.Conv2d | nn.ConvTranspose2d) for m in loop.model.modules())
    of_encoder = [float(row[3]) for row in loop.state.log if row[2] == "encoder"]
    assert of_encoder[-1] < 0.95 * of_encoder[0]
    x = Normalisation(loop.model.spec)(torch.from_numpy(pooled[900:]))
    with torch.no_grad():
        passed = Pass(loop.model, x)
        assert passed.code.mean.shape == (100, 4) and passed.pixels.shape == (100, 49)
        for scores in loop.model.scores(passed).values():
            assert scores.shape == (100,) and bool(scores.isfinite().all())


def test_dense_layers_take_images_too(clothes: Pixels) -> None:
    model, x = make(network="dense", hidden=[16]), to_x(clothes[:4])
    with torch.no_grad():
        pixels = Pass(model.eval(), x).pixels
    assert pixels.shape == x.shape
    assert pixels.min().item() > 0 and pixels.max().item() < 1


@torch.no_grad()
def test_measures_say_how_often_the_discriminator_takes_images_for_real(
    trained: Path, clothes: Pixels
) -> None:
    model, x = restore(trained), to_x(clothes[900:])
    told = model.measures(Pass(model, x))
    assert told["D(x)"].item() == pytest.approx(model.discriminator(x).sigmoid().mean().item())
    assert 0 < told["D(g(z))"].item() < 1


def test_settings_that_cannot_be_trained_are_refused(clothes: Pixels, tmp_path: Path) -> None:
    for settings, reason in (
        ({"hidden": []}, "needs at least one layer"),
        ({"batch_size": 1}, "batch of one"),
    ):
        with pytest.raises(ConfigError, match=reason):
            train("gan", clothes[:60], tmp_path / "model", settings=settings, max_steps=3)


def test_the_encoder_pays_for_codes_that_are_unlikely(clothes: Pixels) -> None:
    model, x = make(), to_x(clothes[:8])
    (player,) = model.phases()[1].players
    assert player.loss is not None
    passed = Pass(model.eval(), x)
    near = player.loss(passed)["prior"].item()
    assert near == pytest.approx(0.01 * passed.z.square().sum().item() / len(x))


@torch.no_grad()
def test_dense_layers_find_every_mode_of_a_ring(fit: Fit) -> None:
    """Eight Gaussians (Metz et al. 2017), which a generator that collapses has one or two of."""
    random = np.random.default_rng(0)
    angles = 2 * np.pi * np.arange(8) / 8
    centres = 2 * np.stack([np.cos(angles), np.sin(angles)], 1)
    rows = centres[random.integers(0, 8, 2000)] + 0.1 * random.normal(size=(2000, 2))
    config = {"hidden": [64, 64], "latent": 2}
    with torch.enable_grad():
        model = fit(GAN, rows.astype(np.float32), 600, config, learning_rate=4e-3).model
    torch.manual_seed(0)
    made = Normalisation(model.spec).stored(model.decode(torch.randn(2000, 2))).numpy()
    apart = np.linalg.norm(made[:, None] - centres, axis=2)
    shares = np.bincount(apart.argmin(1)[apart.min(1) < 0.5], minlength=8) / len(made)
    assert shares.min() > 0.03 and shares.sum() > 0.5
