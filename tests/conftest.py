"""Real images, and two models trained on them once for all tests."""

from __future__ import annotations

import os

# Before torch is imported, here and in subprocesses: on small networks threads wait for each other
# more than they work, above all on a machine that does something else besides.
os.environ["OMP_NUM_THREADS"] = "1"

from pathlib import Path

import numpy as np
import pytest

from compressor.data.images import Pixels

DATA = Path(__file__).parent.parent / "examples" / "data"


@pytest.fixture(scope="session")
def clothes() -> Pixels:
    """1,000 Fashion-MNIST images, uint8 (N, 28, 28, 1)."""
    return np.load(DATA / "fashion_mnist.npz")["test"][..., None]


@pytest.fixture(scope="session")
def letters() -> Pixels:
    """300 notMNIST images, uint8 (N, 28, 28, 1)."""
    return np.load(DATA / "notmnist.npz")["images"][..., None]


@pytest.fixture(scope="session")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A small fully convolutional model of clothes."""
    from compressor.verbs import train

    path = tmp_path_factory.mktemp("conv") / "model"
    settings = {"hidden": [8, 16], "latent": 2, "calibration": 0.2, "batch_size": 64}
    data = f"{DATA / 'fashion_mnist.npz'}::test"
    train("undercomplete", data, path, settings=settings, max_steps=120)
    return path


@pytest.fixture(scope="session")
def dense_model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A small dense model of clothes."""
    from compressor.verbs import train

    path = tmp_path_factory.mktemp("dense") / "model"
    settings = {"network": "dense", "hidden": [32], "latent": 12, "loss": "cross-entropy"}
    train(
        "undercomplete",
        f"{DATA / 'fashion_mnist.npz'}::test",
        path,
        settings=settings,
        max_steps=120,
    )
    return path
