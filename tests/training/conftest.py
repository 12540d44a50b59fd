"""A small codec with a rate, trained and measured."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from compressor import verbs
from compressor.data.images import Pixels

SMALL = {"widths": [24], "patch": 4, "depth": 1, "latent": 8, "batch_size": 32, "patience": 1000}
STEPS = 300


@pytest.fixture(scope="session")
def trained() -> Callable[..., dict[str, Any]]:
    return train_and_compress


def train_and_compress(clothes: Pixels, folder: Path, **settings: Any) -> dict[str, Any]:
    """A small codec's manifest, and what its archive of other images takes."""
    train, test = clothes[:900], clothes[900:1000]
    verbs.train("codec", train, folder / "model", settings=SMALL | settings, max_steps=STEPS)
    told = verbs.compress(test, folder / "model", folder / "archive", measure=True)
    manifest = json.loads((folder / "model" / "manifest.json").read_text())
    verbs.decompress(folder / "archive", folder / "out.npy")
    error = np.square(np.load(folder / "out.npy").astype(float) - test[..., 0]).mean()
    assert told["psnr"] == pytest.approx(10 * np.log10(255**2 / error), abs=1e-3)
    places = test.shape[0] * test.shape[1] * test.shape[2]
    return {**manifest["quantiser"], **told, "payload": 8 * told["payload_bytes"] / places}
