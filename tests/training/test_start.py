"""Models that begin where another one ended."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from compressor import verbs
from compressor.data.images import Pixels
from compressor.errors import ConfigError
from compressor.training.start import restore

SMALL: dict[str, Any] = {"widths": [16], "depth": 1, "latent": 6, "batch_size": 32}
RATE: dict[str, Any] = {"rate": 0.02, "patience": 1000}


@pytest.fixture(scope="module")
def first(clothes: Pixels, tmp_path_factory) -> Path:
    path: Path = tmp_path_factory.mktemp("start") / "first"
    verbs.train("codec", clothes[:800], path, settings=SMALL | RATE, max_steps=150)
    return path


def further(clothes: Pixels, path: Path, start: Path | None, **options: Any) -> dict[str, Any]:
    settings = {"batch_size": 32, **RATE, **options.pop("settings", {})}
    return verbs.train(
        "codec", clothes[:800], path, start=start, settings=settings, max_steps=1, **options
    )


def mean_square(images: Pixels) -> float:
    """What is lost where all images are rebuilt as their mean: of one, over its elements."""
    x = images / 255.0
    return float(np.square(x - x.mean(0)).sum() / len(x))


def test_a_model_goes_on_from_weights_steps_and_prior_at_a_rate_of_its_own(
    first: Path, clothes: Pixels, tmp_path: Path
) -> None:
    further(clothes, tmp_path / "on", first, settings={"rate": 0.01})
    earlier, later = restore(first), restore(tmp_path / "on")
    assert later.config == earlier.config  # without a word of it in the settings
    assert later.bottleneck is not None and earlier.bottleneck is not None
    assert later.bottleneck.rate.item() == pytest.approx(0.01)
    torch.testing.assert_close(later.bottleneck.steps, earlier.bottleneck.steps, rtol=0.1, atol=0)
    start = verbs.inspect(tmp_path / "on")["training"]["start"]
    assert start == verbs.inspect(first)["files"]["weights.safetensors"]["sha256"]


def test_weights_start_a_model_without_a_rate_for_images_of_another_size(
    first: Path, clothes: Pixels, tmp_path: Path
) -> None:
    settings = {"rate": None, "discriminator": True}
    told = further(clothes[:, 4:24, 4:28], tmp_path / "on", first, settings=settings)
    assert restore(tmp_path / "on").bottleneck is None
    assert told["validation_loss"] < 0.5 * mean_square(clothes[:800, 4:24, 4:28])


def test_a_start_that_does_not_fit_is_refused(first: Path, clothes: Pixels, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="first has weights of other shapes"):
        further(clothes, tmp_path / "on", first, settings={"widths": [8]})
    with pytest.raises(ConfigError, match="a model of the plugin codec, not of vae"):
        verbs.train("vae", clothes, tmp_path / "on", start=first, max_steps=1)
    assert not list(tmp_path.iterdir())


def test_a_training_is_resumed_with_its_own_start_alone(
    first: Path, clothes: Pixels, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def stop(*_: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr("compressor.training.train.bundle", stop)
    with pytest.raises(KeyboardInterrupt):
        further(clothes, tmp_path / "on", first)
    with pytest.raises(ConfigError, match="with other start"):
        further(clothes, tmp_path / "on", None, settings=SMALL, resume=True)
    with pytest.raises(KeyboardInterrupt):  # it goes on, to the same place
        further(clothes, tmp_path / "on", first, resume=True)
