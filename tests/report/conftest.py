from pathlib import Path

import numpy as np
import pytest

from compressor.report.page import ScoredImage, ScoringReport

DATA = Path(__file__).parents[2] / "examples" / "data"


@pytest.fixture(scope="session")
def images():
    with np.load(DATA / "fashion_mnist.npz") as clothes, np.load(DATA / "notmnist.npz") as letters:
        return np.concatenate([clothes["test"][:40], letters["images"][:10]])[..., None]


@pytest.fixture(scope="session")
def report(images):
    """Each image is "rebuilt" as the mean garment, so that letters score high."""
    mean = np.rint(images[:40].mean(axis=0)).astype(np.uint8)
    errors = np.square((images.astype(np.float32) - mean) / 255)[..., 0]
    scores = errors.mean(axis=(1, 2))
    threshold = float(np.quantile(scores[:40], 0.9))
    worst = [
        ScoredImage(
            f"{'letters' if n >= 40 else 'clothes'}/{n:05d}.png",
            float(scores[n]),
            (1 + np.sum(scores[:40] >= scores[n])) / 41,
            bool(scores[n] > threshold),
            images[n],
            errors[n],
            mean,
        )
        for n in range(30, 50)
    ]
    return ScoringReport(
        title="Letters among clothes",
        data="fashion_mnist.npz::test",
        model="clothes.model",
        scorer="l2",
        threshold=threshold,
        images=50,
        anomalies=int((scores > threshold).sum()),
        scores=scores,
        calibration_scores=scores[:40],
        worst=worst,
        unreadable=[("broken.png", "is truncated")],
        facts=[("false-alarm rate", "10%")],
    )
