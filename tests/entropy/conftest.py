from pathlib import Path

import numpy as np
import numpy.typing as npt
import pytest

from compressor.entropy.prior import Prior

Codes = npt.NDArray[np.int32]
SAMPLE = Path(__file__).parents[2] / "examples" / "data" / "fashion_mnist.npz"


def cosine_codes(images: npt.NDArray[np.uint8], step: float) -> Codes:
    """The 8 lowest coefficients of the DCT of each 4x4 cell: codes (N, 8, h / 4, w / 4)."""
    n, height, width = images.shape
    at = np.arange(4)
    basis = (
        np.cos(np.pi * np.outer(at, at + 0.5) / 4) * np.where(at == 0, 0.5, np.sqrt(0.5))[:, None]
    )
    cells = images.reshape(n, height // 4, 4, width // 4, 4).astype(np.float64)
    waves = np.einsum("niajb,ua,vb->nuvij", cells, basis, basis).reshape(n, 16, height // 4, -1)
    return np.rint(waves[:, [0, 1, 2, 4, 5, 6, 8, 9]] / step).astype(np.int32)


@pytest.fixture(scope="session")
def train_codes() -> Codes:
    """Codes (5000, 8, 7, 7) of real images."""
    with np.load(SAMPLE) as sample:
        return cosine_codes(sample["train"], 60)


@pytest.fixture(scope="session")
def test_codes() -> Codes:
    """Codes (1000, 8, 7, 7) of other real images."""
    with np.load(SAMPLE) as sample:
        return cosine_codes(sample["test"], 60)


@pytest.fixture(scope="session")
def prior(train_codes: Codes) -> Prior:
    """What was learned from all of train_codes: tables per element, and per channel."""
    return Prior.learn(train_codes)
