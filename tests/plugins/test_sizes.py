"""Every built-in plugin on images of several sizes, grey and RGB, from training to its use."""

from __future__ import annotations

import os
from pathlib import Path

import numpy as np
import pytest

from compressor.data.images import Pixels
from compressor.model import Model
from compressor.registry import discover
from compressor.verbs import compress, decompress, export, score, train

PLUGINS = [name for name, (found, *_) in discover().items() if found.distribution == "compressor"]
# 28x28 in grey is what most other tests use. Each case takes seconds: all of them on request.
SIZES = [(64, 64, 3)]
if os.environ.get("EVERY_SIZE"):
    SIZES = [(*side, channels) for side in ((28, 28), (64, 64), (100, 130)) for channels in (1, 3)]


@pytest.mark.parametrize("size", SIZES, ids=lambda size: "x".join(map(str, size)))
@pytest.mark.parametrize("plugin", PLUGINS)
def test_a_plugin_trains_exports_and_is_used(
    plugin: str, size: tuple[int, int, int], clothes: Pixels, tmp_path: Path
) -> None:
    height, width, channels = size
    # Real images, each one laid out over a larger one: (60, height, width, channels)
    repeated = np.tile(clothes[:60], (1, -(-height // 28), -(-width // 28), channels))
    images = np.ascontiguousarray(repeated[:, :height, :width])
    model = tmp_path / "model"
    settings: dict[str, object] = {"batch_size": 8}
    if plugin == "gan" and width % 8:  # each layer of a DCGAN halves the image
        settings["network"] = "dense"
    train(plugin, images, model, settings=settings, max_steps=2)
    assert export(model, tmp_path / "graphs")["files"]
    scored = score(images, model, tmp_path / "results.parquet", fpr=0.3)
    assert scored["images"] == 60
    if Model.open(model).decodes:
        compress(images[:8], model, tmp_path / "archive")
        decompress(tmp_path / "archive", tmp_path / "decoded.npy")
        decoded = np.load(tmp_path / "decoded.npy")
        assert decoded.reshape(8, height, width, channels).dtype == np.uint8
