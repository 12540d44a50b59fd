"""Distances to normal codes: against scikit-learn and brute force; damage is told."""

from __future__ import annotations

import io

import numpy as np
import pytest
from sklearn.covariance import LedoitWolf
from sklearn.neighbors import NearestNeighbors

from compressor.anomaly.normals import Features, Gaussian, Normals
from compressor.errors import ModelError


@pytest.fixture(scope="module")
def codes() -> np.ndarray:
    """int32 (600, 12) with correlated elements, one of which never changes."""
    random = np.random.default_rng(0)
    mixed = random.normal(size=(600, 4)) @ random.normal(size=(4, 12)) * 5
    codes = np.rint(mixed + random.normal(size=mixed.shape)).astype(np.int32)
    codes[:, 3] = 7
    return codes


def test_the_covariance_is_ledoit_and_wolfs(codes: np.ndarray) -> None:
    values = np.delete(codes, 3, axis=1).astype(float)
    scaled = (values - values.mean(0)) / values.std(0)
    expected = LedoitWolf(assume_centered=True).fit(scaled[:40]).mahalanobis(scaled)
    learned = Gaussian.learn(scaled[:40] * values.std(0) + 3)
    mean, deviation = scaled[:40].mean(0), scaled[:40].std(0)
    again = (scaled[:40] - mean) / deviation
    expected = LedoitWolf(assume_centered=True).fit(again).mahalanobis((scaled - mean) / deviation)
    np.testing.assert_allclose(learned.distances(scaled * values.std(0) + 3), expected, rtol=1e-6)


def test_a_change_where_there_never_was_one_is_strange(codes: np.ndarray) -> None:
    learned = Gaussian.learn(codes[:500])
    normal, changed = codes[500:], codes[500:].copy()
    changed[:, 3] += 1
    assert learned.distances(changed).min() > np.median(learned.distances(normal))
    assert np.isfinite(Gaussian.learn(codes[:1]).distances(codes)).all()


def test_knn_is_the_mean_distance_to_five(codes: np.ndarray) -> None:
    normals = Normals.learn(codes[:500], codes[:500].astype(np.float32), seed=0)
    near, _ = NearestNeighbors(n_neighbors=5).fit(codes[:500]).kneighbors(codes[500:])
    np.testing.assert_allclose(normals.knn(codes[500:]), near.mean(1), rtol=1e-5, atol=1e-5)
    assert normals.knn(codes[:1] + 1000) > 1000


@pytest.mark.parametrize(
    ("shape", "kept"), [((3, 7, 7), 3 * 49), ((16, 2, 5), 64), ((300, 4, 4), 256), ((900,), 256)]
)
def test_features_are_bounded_and_the_same_for_an_image_of_any_size(
    shape: tuple[int, ...], kept: int
) -> None:
    codes = np.random.default_rng(1).integers(-9, 9, (20, *shape)).astype(np.int32)
    features = Features.learn(codes)
    assert features.of(codes).shape == (20, kept)
    if len(shape) == 3:
        for wide in (codes.repeat(3, axis=2).repeat(3, axis=3), codes[:, :, :1, :1]):
            assert features.of(wide).shape == (20, kept)
        wide = codes.repeat(3, axis=2).repeat(3, axis=3)
        if shape[1] % 4 == 0:  # then averages are of the same codes
            np.testing.assert_allclose(features.of(wide), features.of(codes), atol=1e-9)


def test_a_model_that_rebuilds_features_has_no_differences(codes: np.ndarray) -> None:
    normals = Normals.learn(codes, None, seed=0)
    again = Normals.from_bytes(normals.to_bytes())
    assert again.hidden is None
    np.testing.assert_allclose(again.mahalanobis(codes), normals.mahalanobis(codes), rtol=1e-3)


def test_scores_npz_comes_back_and_damage_is_told(codes: np.ndarray) -> None:
    normals = Normals.learn(codes, codes.astype(np.float32), seed=0)
    content = normals.to_bytes()
    again = Normals.from_bytes(content)
    np.testing.assert_allclose(again.mahalanobis(codes), normals.mahalanobis(codes), rtol=1e-3)
    np.testing.assert_array_equal(again.knn(codes), normals.knn(codes))
    with np.load(io.BytesIO(content)) as stored:
        arrays = dict(stored)
    without, odd = io.BytesIO(), io.BytesIO()
    np.savez(without, **{k: v for k, v in arrays.items() if k != "nap_mean"})
    np.savez(odd, **(arrays | {"code_factor": arrays["code_factor"][1:]}))
    for damaged in (b"", content[:100], content[:-200], without.getvalue(), odd.getvalue()):
        with pytest.raises(ModelError, match=r"scores.npz is damaged"):
            Normals.from_bytes(damaged)
