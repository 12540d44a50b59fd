import io
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from compressor.errors import ConfigError
from compressor.report.heatmaps import GREY_BRIGHTNESS, LUMA, heatmap, overlay

DATA = Path(__file__).parents[2] / "examples" / "data" / "fashion_mnist.npz"


@pytest.fixture(scope="module")
def shirt():
    with np.load(DATA) as data:
        return data["test"][1, :, :, None]


def error_of(pixels, changed):
    return np.square((pixels.astype(np.float32) - changed).mean(axis=2) / 255)


def test_without_errors_the_image_shows_in_dimmed_grey(shirt):
    grey = overlay(shirt, np.zeros((28, 28), np.float32), 1.0)
    assert grey.dtype == np.uint8 and grey.shape == (28, 28, 3)
    assert np.array_equal(grey, np.rint(GREY_BRIGHTNESS * shirt.astype(float)).repeat(3, axis=2))

    rgb = np.stack([shirt[:, :, 0], shirt[::-1, :, 0], shirt[:, ::-1, 0]], axis=2)
    colour = overlay(rgb, np.zeros((28, 28), np.float32), 1.0)
    assert np.allclose(colour[:, :, 0], GREY_BRIGHTNESS * (rgb @ LUMA), atol=0.51)
    with_alpha = np.concatenate([rgb, np.zeros((28, 28, 1), np.uint8)], axis=2)
    assert np.array_equal(overlay(with_alpha, np.zeros((28, 28), np.float32), 1.0), colour)


def test_the_error_stands_out_where_it_is(shirt):
    damaged = shirt.copy()
    damaged[10:14, 5:9] ^= 128
    heat = overlay(shirt, error_of(shirt, damaged), 0.2).astype(int)
    coloured = np.ptp(heat, axis=2) > 40
    assert coloured[10:14, 5:9].all()
    coloured[10:14, 5:9] = False
    assert not coloured.any()


def test_brightness_rises_with_the_error_and_stops_at_the_scale():
    errors = np.linspace(0, 2, 41, dtype=np.float32)[None, :]
    heat = overlay(np.zeros((1, 41, 1), np.uint8), errors, 1.0)
    brightness = heat[0].astype(float) @ LUMA
    assert (np.diff(brightness[:21]) > 0).all()
    assert (heat[0, 20:] == heat[0, 20]).all()
    assert brightness[20] > 230
    assert np.array_equal(overlay(np.zeros((1, 41, 1), np.uint8), errors * 7, 7.0), heat)


def test_errors_that_are_not_finite_are_the_brightest(shirt):
    errors = np.zeros((28, 28), np.float32)
    errors[3, 4], errors[5, 6] = np.nan, np.inf
    heat = overlay(shirt, errors, 1.0)
    assert heat[3, 4].tolist() == heat[5, 6].tolist() == [252, 255, 164]


@pytest.mark.parametrize("scale", [0.0, -1.0, float("nan")])
def test_a_scale_that_is_not_positive_is_refused(shirt, scale):
    with pytest.raises(ConfigError, match="above 0"):
        overlay(shirt, np.zeros((28, 28), np.float32), scale)


def test_a_heatmap_is_an_enlarged_png(shirt):
    errors = error_of(shirt, np.roll(shirt, 2, axis=1))
    with Image.open(io.BytesIO(heatmap(shirt, errors, 0.1))) as image:
        assert image.format == "PNG"
        saved = np.asarray(image)
    assert saved.shape == (224, 224, 3)
    assert np.array_equal(saved[::8, ::8], overlay(shirt, errors, 0.1))
    assert np.array_equal(saved[7::8, 7::8], saved[::8, ::8])
