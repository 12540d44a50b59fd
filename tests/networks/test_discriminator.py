"""An added discriminator judges any autoencoder, and does not change it."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
import torch
from compressor.plugins.denoising import Denoising, DenoisingConfig
from compressor.plugins.sparse import Sparse, SparseConfig
from compressor.plugins.stacked import Stacked, StackedConfig
from compressor.plugins.undercomplete import Undercomplete, UndercompleteConfig
from compressor.plugins.vae import VAE, VAEConfig
from torch import Tensor

from compressor.data.images import Pixels
from compressor.engine.engine import Engine
from compressor.errors import ConfigError
from compressor.model import Model
from compressor.networks.discriminator import Discriminator, WithDiscriminator
from compressor.normalisation import Normalisation
from compressor.plugin import Autoencoder, Pass
from compressor.spec import ImageSpec
from compressor.training.checkpoint import State
from compressor.training.loop import Loop
from compressor.training.objective import template_loss
from compressor.training.start import restore
from compressor.verbs import compress, decompress, score, train

Fit = Callable[..., Loop]
SPEC = ImageSpec(height=28, width=28, channels=1)
SMALL: dict[str, Any] = {"network": "dense", "hidden": [16], "latent": 4}
STEPS = 60  # of the autoencoder; the discriminator gets a quarter of that on top
COMMON = {
    **SMALL,
    "batch_size": 64,
    "patience": 1000,
    "learning_rate": 0.01,
    "warmup_steps": 0,
}


def to_x(images: Pixels) -> Tensor:
    x: Tensor = Normalisation(SPEC)(torch.from_numpy(images))
    return x


@pytest.fixture(scope="module")
def models(clothes: Pixels, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """The same training with a discriminator and without, on all but the last 100 images."""
    folder = tmp_path_factory.mktemp("discriminator")
    judged, plain = folder / "judged", folder / "plain"
    train(
        "undercomplete",
        clothes[:900],
        judged,
        settings={**COMMON, "discriminator": True},
        max_steps=STEPS * 5 // 4,
    )
    train("undercomplete", clothes[:900], plain, settings=COMMON, max_steps=STEPS)
    return judged, plain


def judged_undercomplete(config: UndercompleteConfig, spec: ImageSpec) -> Autoencoder:
    return WithDiscriminator(Undercomplete(config, spec))


judged_undercomplete.Config = UndercompleteConfig  # type: ignore[attr-defined]


def test_its_phase_comes_last_and_moves_nothing_of_the_autoencoder(
    clothes: Pixels, fit: Fit
) -> None:
    last: dict[int, dict[str, Tensor]] = {}

    def note(model: Autoencoder, state: State) -> None:
        last[state.phase] = {name: tensor.clone() for name, tensor in model.state_dict().items()}

    loop = fit(judged_undercomplete, clothes[:256], 20, SMALL, report=note, batch_size=64)
    assert list(dict.fromkeys(row[2] for row in loop.state.log)) == ["train", "discriminator"]
    for name, tensor in last[1].items():
        assert torch.equal(tensor, last[0][name]) == name.startswith("model."), name
    alone = fit(Undercomplete, clothes[:256], 16, SMALL, batch_size=64).model
    for name, tensor in alone.state_dict().items():
        assert torch.equal(tensor, last[1][f"model.{name}"]), name


def graph_bytes(model: Model, graph: str) -> bytes:
    """A graph with its values numbered in the order of its nodes, whatever they are called."""
    loaded = onnx.load_from_string(model.read(f"{graph}.onnx"))
    numbers: dict[str, str] = {}

    def numbered(names: list[str]) -> list[str]:
        return [numbers.setdefault(name, f"value {len(numbers)}") for name in names]

    for node in loaded.graph.node:
        inputs, outputs = numbered(list(node.input)), numbered(list(node.output))
        del node.input[:], node.output[:]
        node.input.extend(inputs)
        node.output.extend(outputs)
        node.name = ""
    tensors = {numbered([tensor.name])[0]: tensor for tensor in loaded.graph.initializer}
    for name, tensor in tensors.items():
        tensor.name = name
    ordered = [tensors[name].SerializeToString() for name in sorted(tensors)]
    del loaded.graph.initializer[:]
    return loaded.SerializeToString(deterministic=True) + b"".join(ordered)


def test_stored_weights_steps_and_graphs_are_those_of_a_model_without_it(
    models: tuple[Path, Path],
) -> None:
    judged, plain = map(Model.open, models)
    assert judged.manifest.training["steps"] - plain.manifest.training["steps"] == STEPS // 4
    ours, theirs = (restore(path).state_dict() for path in models)
    own = {name for name in ours if not name.startswith("discriminator.")}
    assert own == {f"model.{name}" for name in theirs}
    assert all(torch.equal(ours[f"model.{name}"], tensor) for name, tensor in theirs.items())
    assert judged.manifest.quantiser == plain.manifest.quantiser
    for graph in ("encoder", "decoder"):
        assert graph_bytes(judged, graph) == graph_bytes(plain, graph)


def test_archives_of_both_models_give_the_same_images(
    models: tuple[Path, Path], clothes: Pixels, tmp_path: Path
) -> None:
    backs = []
    for name, path in zip(("judged", "plain"), models, strict=True):
        compress(clothes[900:], path, tmp_path / name)
        decompress(tmp_path / name, tmp_path / f"{name}.npy")
        backs.append(np.load(tmp_path / f"{name}.npy"))
    assert np.array_equal(*backs)


def test_its_scores_are_exported_and_chosen_by_name(
    models: tuple[Path, Path], clothes: Pixels, tmp_path: Path
) -> None:
    judged, plain = map(Model.open, models)
    assert judged.manifest.scores == ("l2", "l1", "logit", "feature_distance")
    assert plain.manifest.scores == ("l2", "l1")
    told, model = Engine(judged, "cpu").score(clothes[900:]), restore(models[0])
    with torch.no_grad():
        wanted = model.scores(Pass(model, to_x(clothes[900:])))
    for name in ("logit", "feature_distance"):
        assert np.allclose(told[name], wanted[name].numpy(), rtol=1e-3, atol=1e-5)
        assert np.std(told[name]) > 0
        target = tmp_path / f"{name}.parquet"
        assert score(clothes[900:], models[0], target, scorer=name, fpr=0.05)["scorer"] == name


def test_it_takes_images_for_real_rather_than_what_comes_back_of_them(
    clothes: Pixels, fit: Fit
) -> None:
    loop = fit(
        judged_undercomplete,
        clothes[:256],
        100,
        SMALL,
        batch_size=64,
        learning_rate=0.02,
        warmup_steps=0,
    )
    x = to_x(clothes[900:])
    assert isinstance(loop.model, WithDiscriminator)
    with torch.no_grad():
        real, back = map(loop.model.discriminator, (x, Pass(loop.model, x).pixels))
    assert (real > back).float().mean().item() > 0.9


def test_it_is_trained_on_clean_inputs_and_on_outputs_as_they_are_in_use(clothes: Pixels) -> None:
    x = to_x(clothes[:8])
    for plugin in (
        Denoising(DenoisingConfig(**SMALL, noise="masking"), SPEC),
        VAE(VAEConfig(**SMALL, loss="cross-entropy"), SPEC),
    ):
        judged = WithDiscriminator(plugin)
        with torch.no_grad():
            judged.discriminator.head.weight *= 100  # so that it sees every difference
        judged.training = True  # as in the loop: the pass corrupts and samples
        (player,) = judged.phases()[-1].players
        assert player.modules == [judged.discriminator]
        assert player.loss is not None
        (loss,) = player.loss(Pass(judged, x)).values()
        with torch.no_grad():
            out = plugin.decode(plugin.encode(x).mean)
            fake = torch.sigmoid(out) if isinstance(plugin, VAE) else out
            of_real, of_fake = (judged.discriminator(one).double().sigmoid() for one in (x, fake))
        wanted = -of_real.log().mean() - (1 - of_fake).log().mean()
        assert loss.item() == pytest.approx(wanted.item(), rel=1e-5)
        loss.backward()
        assert all(parameter.grad is None for parameter in plugin.parameters())
        assert all(parameter.grad is not None for parameter in judged.discriminator.parameters())


def test_vectors_are_judged_too(clothes: Pixels, tmp_path: Path) -> None:
    pooled = clothes.reshape(-1, 7, 4, 7, 4).mean((2, 4)).reshape(-1, 49).astype(np.float32)
    settings = {"hidden": [16], "latent": 4, "discriminator": True}
    train("undercomplete", pooled[:900], tmp_path / "model", settings=settings, max_steps=20)
    model = Model.open(tmp_path / "model")
    assert model.manifest.scores == ("l2", "l1", "logit", "feature_distance")
    restored = restore(tmp_path / "model")
    assert isinstance(restored, WithDiscriminator) and not restored.discriminator.conv
    told = Engine(model, "cpu").score(pooled[900:])
    with torch.no_grad():
        x = Normalisation(restored.spec)(torch.from_numpy(pooled[900:]))
        wanted = restored.scores(Pass(restored, x))
    for name, scores in wanted.items():
        assert np.allclose(told[name], scores.numpy(), rtol=1e-3, atol=1e-5)


def test_a_plugin_with_a_discriminator_of_its_own_is_refused(
    clothes: Pixels, tmp_path: Path
) -> None:
    with pytest.raises(ConfigError, match=r"already has a score .feature_distance.$"):
        train("gan", clothes[:100], tmp_path / "model", settings={"discriminator": True})
    assert list(tmp_path.iterdir()) == []


def losses_and_pixels(model: Autoencoder, x: Tensor, training: bool) -> list[Tensor]:
    model.eval()
    model.training = training
    torch.manual_seed(0)
    passed = Pass(model, x)
    measures = {} if training else model.measures(passed)
    return [*template_loss(passed).values(), *measures.values(), passed.pixels]


@pytest.mark.parametrize(
    "model",
    [
        Stacked(StackedConfig(hidden=[16], latent=4, training="greedy"), SPEC),
        Sparse(SparseConfig(hidden=[4], latent=2), SPEC),
        Denoising(DenoisingConfig(hidden=[4], latent=2), SPEC),
        VAE(VAEConfig(hidden=[4], latent=2, loss="discretised-logistic"), SPEC),
    ],
    ids=["stacked", "sparse", "denoising", "vae"],
)
def test_what_the_plugin_does_goes_through_it(model: Autoencoder, clothes: Pixels) -> None:
    judged, x = WithDiscriminator(model), to_x(clothes[:8])
    assert [p.name for p in judged.phases()] == [*(p.name for p in model.phases()), "discriminator"]
    assert judged.phases()[-1].share == sum(phase.share for phase in model.phases()) / 4
    assert (judged.likelihood, judged.stride, judged.generative) == (
        model.likelihood,
        model.stride,
        model.generative,
    )
    for training in (True, False):
        ours, theirs = (losses_and_pixels(one, x, training) for one in (judged, model))
        assert all(map(torch.equal, ours, theirs))


@pytest.mark.parametrize("size", [(1, 1), (2, 3), (7, 7), (28, 28), (64, 40)])
@torch.no_grad()
def test_images_of_any_size_are_judged(size: tuple[int, int]) -> None:
    torch.manual_seed(0)
    discriminator = Discriminator(SPEC, conv=True).eval()
    x = torch.rand(3, 1, *size)
    logits, distances = discriminator(x), discriminator.distance(x, x.roll(1, 0))
    assert logits.shape == distances.shape == (3,)
    assert bool(logits.isfinite().all()) and bool((distances > 0).all())
    assert not discriminator.distance(x, x).any()
