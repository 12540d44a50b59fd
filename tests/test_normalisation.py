"""Data as they are stored to x and back; means and deviations of columns."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from sklearn.datasets import load_breast_cancer, load_digits

from compressor import normalisation
from compressor.normalisation import Normalisation, example, mean_and_scale
from compressor.spec import ImageSpec, VectorSpec


@pytest.fixture(scope="module")
def tumours():
    """(569, 30) float32, columns from thousandths to thousands."""
    return load_breast_cancer().data.astype(np.float32)


def spec_of(rows):
    mean, scale = mean_and_scale(rows, np.arange(len(rows)))
    return VectorSpec(length=rows.shape[1], mean=mean, scale=scale)


@pytest.mark.parametrize("at_once", [7, 65536])
def test_mean_and_scale_are_those_of_the_rows_asked_for(tumours, monkeypatch, at_once):
    monkeypatch.setattr(normalisation, "ROWS_AT_ONCE", at_once)
    indices = np.arange(100, 500)
    mean, scale = mean_and_scale(tumours, indices)
    exact = tumours[indices].astype(np.float64)
    np.testing.assert_allclose(mean, exact.mean(0), rtol=1e-7)
    np.testing.assert_allclose(scale, exact.std(0), rtol=1e-7)


def test_a_large_mean_does_not_drown_the_deviation():
    rows = np.float32(2**20) + np.float32([[-1], [0], [1], [2]] * 50)
    assert mean_and_scale(rows, np.arange(200)) == ((2**20 + 0.5,), (np.float32(np.sqrt(1.25)),))


@pytest.mark.parametrize("value", [0, 5, -1e30, 1e-40])
def test_a_constant_column_keeps_its_units(value):
    rows = np.full((50, 1), value, np.float32)
    assert mean_and_scale(rows, np.arange(50)) == ((rows[0, 0],), (1,))


def test_the_noise_of_float32_is_no_deviation():
    rows = np.float32([[0.1], [np.nextafter(np.float32(0.1), np.float32(1))]] * 20)
    assert mean_and_scale(rows, np.arange(40))[1] == (1,)


def test_times_within_an_hour_are_no_constant():
    times = np.float32(1.7e9 + np.random.default_rng(0).uniform(0, 3600, (500, 1)))
    (scale,) = mean_and_scale(times, np.arange(500))[1]
    assert scale == pytest.approx(times.astype(np.float64).std(), rel=1e-6)


def test_a_deviation_that_float32_can_hardly_hold_is_none():
    rows = np.float32([[1e-40], [-1e-40]] * 20)
    assert mean_and_scale(rows, np.arange(40)) == ((0,), (1,))


def test_pixels_that_are_always_black_are_columns_like_others():
    digits = load_digits().data.astype(np.float32)
    mean, scale = mean_and_scale(digits, np.arange(len(digits)))
    always = digits.std(0) == 0
    assert always.any() and np.all(np.array(scale)[always] == 1)
    assert np.all(np.array(scale)[~always] != 1) and np.all(np.array(mean)[always] == 0)


def test_vectors_are_standardised_and_given_back_in_their_units(tumours):
    normalise = Normalisation(spec_of(tumours))
    x = normalise(torch.from_numpy(tumours))
    assert x.dtype == torch.float32
    np.testing.assert_allclose(x.mean(0), 0, atol=1e-4)
    np.testing.assert_allclose(x.std(0, correction=0), 1, atol=1e-4)
    np.testing.assert_allclose(normalise.stored(x), tumours, rtol=1e-4, atol=1e-6)


def test_units_and_origin_do_not_change_x(tumours):
    x = Normalisation(spec_of(tumours))(torch.from_numpy(tumours))
    other = (1000 * tumours.astype(np.float64) + 300).astype(np.float32)
    np.testing.assert_allclose(Normalisation(spec_of(other))(torch.from_numpy(other)), x, atol=2e-3)


def test_vectors_are_not_clipped_and_images_are():
    x = torch.tensor([[-5.0, 5.0]])
    spec = VectorSpec(length=2, mean=(1, 1), scale=(2, 2))
    assert Normalisation(spec).clipped(x).tolist() == [[-5, 5]]
    assert Normalisation(spec).stored(x).tolist() == [[-9, 11]]
    image = Normalisation(ImageSpec(height=1, width=2, channels=1))
    assert image.clipped(x).tolist() == [[0, 1]]
    assert image.stored(x.reshape(1, 1, 1, 2)).flatten().tolist() == [0, 255]


def test_every_grey_level_comes_back():
    levels = torch.arange(256, dtype=torch.uint8).reshape(1, 16, 16, 1)
    normalise = Normalisation(ImageSpec(height=16, width=16, channels=1))
    x = normalise(levels)
    assert x.shape == (1, 1, 16, 16) and (x.min(), x.max()) == (0, 1)
    for apart in (-0.4, 0, 0.4):
        assert torch.equal(normalise.stored(x + apart / 255), levels)


def test_examples_are_of_the_kind_and_in_its_units(tumours):
    made = example(spec_of(tumours), 2000).numpy()
    assert made.shape == (2000, 30) and made.dtype == np.float32
    np.testing.assert_allclose(made.std(0), tumours.std(0), rtol=0.2)
    images = example(ImageSpec(height=4, width=6, channels=3), 2)
    assert images.shape == (2, 4, 6, 3) and images.dtype == torch.uint8
