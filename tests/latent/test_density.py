"""A density over codes: what is drawn from it has the moments, and the clusters, of the codes."""

from __future__ import annotations

import io
from typing import Any

import numpy as np
import pytest

from compressor.errors import ModelError
from compressor.latent.density import Density

Array = np.ndarray[Any, Any]


@pytest.fixture(scope="module")
def clustered() -> Array:
    """int32 (3000, 6): three clusters along a line, far from each other."""
    random = np.random.default_rng(0)
    centres = np.array([-40, 0, 40])[random.integers(0, 3, 3000)]
    return np.rint(centres[:, None] + random.normal(size=(3000, 6)) * 3).astype(np.int32)


def drawn(density: Density, count: int = 4000, temperature: float = 1.0) -> Array:
    return density.sample(count, np.random.default_rng(1), temperature)


def test_samples_have_the_mean_and_the_covariance_of_the_codes(clustered: Array) -> None:
    samples = drawn(Density.learn(clustered, 0))
    np.testing.assert_allclose(samples.mean(0), clustered.mean(0), atol=2)
    np.testing.assert_allclose(np.cov(samples.T), np.cov(clustered.T), rtol=0.05)


def test_samples_lie_in_the_clusters_and_nowhere_between(clustered: Array) -> None:
    density = Density.learn(clustered, 0)
    assert density.components > 1
    middles = drawn(density).mean(1)
    assert (np.abs(middles[:, None] - [-40, 0, 40]).min(1) < 8).mean() > 0.99
    between = drawn(Density.gaussian(clustered.mean(0), np.linalg.cholesky(np.cov(clustered.T))))
    assert (np.abs(between.mean(1)[:, None] - [-40, 0, 40]).min(1) < 8).mean() < 0.7


def test_one_gaussian_is_enough_for_codes_of_one() -> None:
    random = np.random.default_rng(0)
    codes = np.rint(random.normal(size=(1000, 5)) * 9).astype(np.int32)
    assert Density.learn(codes, 0).components == 1


def test_what_the_axes_leave_is_in_the_samples_too() -> None:
    """Codes (4, 8, 8) have 256 numbers, and 64 axes."""
    random = np.random.default_rng(0)
    codes = np.rint(random.normal(size=(2000, 4, 8, 8)) * 6 + 3).astype(np.int32)
    density = Density.learn(codes, 0)
    assert density.axes == 64 and density.mean.shape == (256,)
    np.testing.assert_allclose(drawn(density).var(0), 36, rtol=0.25)


def test_numbers_that_never_change_stay_as_they_are(clustered: Array) -> None:
    codes = clustered.copy()
    codes[:, 2] = 7
    assert (drawn(Density.learn(codes, 0))[:, 2] == 7).all()
    constant = np.full((10, 3), -2, np.int32)
    assert (drawn(Density.learn(constant, 0)) == -2).all()
    assert (drawn(Density.learn(constant[:1], 0)) == -2).all()


def test_a_temperature_of_zero_gives_the_means(clustered: Array) -> None:
    density = Density.learn(clustered, 0)
    assert len(np.unique(drawn(density, temperature=0), axis=0)) <= density.components
    narrow, wide = (drawn(Density.normal(np.full(3, 0.1)), temperature=t).std() for t in (0.5, 1))
    assert narrow == pytest.approx(wide / 2, rel=0.01) == pytest.approx(5, rel=0.1)


def test_density_npz_comes_back_and_is_small(clustered: Array) -> None:
    density = Density.learn(clustered, 0)
    content = density.to_bytes()
    assert len(content) < 2**16
    back = Density.from_bytes(content, 6)
    np.testing.assert_array_equal(drawn(back, 50), drawn(density, 50))


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"mean": np.zeros(7, "f4")}, "do not fit the model"),
        ({"basis": np.zeros((6, 6, 1), "f4")}, "do not fit together"),
        ({"factors": np.zeros((1, 6, 6), "f4")}, "do not fit together"),
        ({"weights": np.full(3, 0.5, "f4")}, "do not fit together"),
        ({"residual": np.full(6, np.nan, "f4")}, "not finite"),
        ({"mean": np.zeros(6, "U1")}, "not finite"),
        ({"mean": None}, "mean"),
    ],
)
def test_a_damaged_density_is_refused(change: dict[str, Any], said: str, clustered: Array) -> None:
    arrays = dict(np.load(io.BytesIO(Density.learn(clustered, 0).to_bytes()))) | change
    buffer = io.BytesIO()
    np.savez(buffer, **{name: array for name, array in arrays.items() if array is not None})
    with pytest.raises(ModelError, match=said):
        Density.from_bytes(buffer.getvalue(), 6)
    with pytest.raises(ModelError, match="damaged"):
        Density.from_bytes(b"no npz", 6)


def test_weights_that_are_no_probabilities_are_refused(clustered: Array) -> None:
    arrays = dict(np.load(io.BytesIO(Density.learn(clustered, 0).to_bytes())))
    for weights in (arrays["weights"] * 2, arrays["weights"] - 1):
        buffer = io.BytesIO()
        np.savez(buffer, **arrays | {"weights": weights})
        with pytest.raises(ModelError, match="probabilities"):
            Density.from_bytes(buffer.getvalue(), 6)
