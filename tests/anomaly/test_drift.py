"""Drift: told when a batch's scores have moved, and not for chance or a few anomalies."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from scipy.stats import ks_2samp

from compressor.anomaly.calibration import Scores, p_values
from compressor.anomaly.drift import MAX_ANOMALIES, Drift, drift
from compressor.data.images import Pixels

SAMPLE = Path(__file__).parents[2] / "examples" / "data" / "fashion_mnist.npz"
SIZES = ((100, 100), (500, 1000), (2000, 300), (1000, 3000))


def errors(clothes: Pixels, pixels: Pixels) -> Scores:
    """Mean squared errors of a linear autoencoder of clothes: 20 principal components."""
    known, rows = (images.reshape(len(images), -1) / 255 for images in (clothes, pixels))
    mean = known.mean(axis=0)
    components = np.linalg.svd(known - mean, full_matrices=False)[2][:20]
    centred = rows - mean
    lost: Scores = np.square(centred - centred @ components.T @ components).mean(axis=1)
    return lost


@pytest.fixture(scope="module")
def normal(clothes: Pixels) -> Scores:
    """Scores of 5,000 clothes, none of which the components are made of; ascending."""
    return np.sort(errors(clothes, np.load(SAMPLE)["train"]))


@pytest.fixture(scope="module")
def strange(clothes: Pixels, letters: Pixels) -> Scores:
    """Scores of 300 letters."""
    return errors(clothes, letters)


def between(calibration: Scores, batch: Scores) -> Drift:
    ordered = np.sort(calibration)
    places = np.rint(p_values(ordered, batch) * (len(ordered) + 1)).astype(np.int64) - 1
    return drift(ordered, np.bincount(places, minlength=len(ordered) + 1))


def split(random: np.random.Generator, scores: Scores, n: int, m: int) -> tuple[Scores, Scores]:
    drawn = random.choice(scores, n + m, replace=False)
    return drawn[:n], drawn[n:]


@pytest.mark.parametrize(("n", "m"), SIZES)
def test_the_distance_is_the_kolmogorov_smirnov_distance(normal: Scores, n: int, m: int) -> None:
    """Up to 1 / n: it is looked at above each calibration score, and not below."""
    for factor in (1, 1.1, 0.8, 3, 0):
        calibration, batch = split(np.random.default_rng(n), normal, n, m)
        known = ks_2samp(calibration, batch * factor).statistic
        assert known - 1 / n - 1e-9 <= between(calibration, batch * factor).distance <= known + 1e-9


@pytest.mark.parametrize(("n", "m"), SIZES)
def test_a_batch_like_the_calibration_images_is_never_told(normal: Scores, n: int, m: int) -> None:
    random = np.random.default_rng(4)
    for _ in range(200):
        found = between(*split(random, normal, n, m))
        # What chance alone does, without what is allowed for anomalies, stays within it, too.
        assert found.distance <= found.limit - MAX_ANOMALIES


@pytest.mark.parametrize(("n", "m"), SIZES)
def test_a_tenth_of_letters_is_never_told_and_half_is(
    normal: Scores, strange: Scores, n: int, m: int
) -> None:
    random = np.random.default_rng(5)
    for _ in range(200):
        calibration, batch = split(random, normal, n, m)
        for share in (0.02, 0.1, 0.6):
            mixed = np.where(random.random(m) < share, random.choice(strange, m), batch)
            found = between(calibration, mixed)
            assert (found.distance > found.limit) == (share > 0.5)


@pytest.mark.parametrize("factor", [0.6, 1.5])
def test_other_light_is_always_told(clothes: Pixels, normal: Scores, factor: float) -> None:
    pixels = np.load(SAMPLE)["train"]
    lit = errors(clothes, np.minimum(pixels * factor, 255).astype(np.uint8))
    random = np.random.default_rng(6)
    for _ in range(200):
        found = between(random.choice(normal, 500), random.choice(lit, 500))
        assert found.distance > found.limit
        assert (found.batch > found.calibration) == (factor > 1)


def test_millions_of_images_are_not_told_of_a_little() -> None:
    """Of 9 p-values out of 10 a twentieth more images than there should be, in ten million."""
    n = 10_000
    counts = np.full(n + 1, 1000)
    counts[: n // 2] += 100
    found = drift(np.arange(n, dtype=np.float64), counts)
    assert 0.02 < found.distance < found.limit < 0.13


def test_one_image_is_never_told(normal: Scores) -> None:
    for one in (-1.0, 1e9, np.inf):
        found = between(normal, np.array([one]))
        assert found.distance > 0.99 and found.distance < found.limit


def test_ties_are_no_drift() -> None:
    for values, same in (([7.0], True), ([1.0, 2.0, 2.0, 9.0], True), ([8.0], False)):
        calibration = np.array([7.0] * 400) if len(values) == 1 else np.tile(values, 100)
        found = between(calibration, np.tile(values, 1000))
        assert found.distance == (0 if same else 1)
