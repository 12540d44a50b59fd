import numpy as np
import pytest

from compressor.codecs import quality
from compressor.codecs.quality import psnr, ssim


@pytest.fixture
def pair(clothes):
    """Ten images (10, 28, 28, 1), and what is left of them without their lowest four bits."""
    original = clothes[:10]
    return original, original & 0xF0


def test_the_psnr_is_that_of_the_mean_squared_error_of_each_image(pair):
    original, decoded = pair
    errors = np.square(original.astype(float) - decoded).mean((1, 2, 3))
    np.testing.assert_allclose(psnr(original, decoded), 10 * np.log10(255**2 / errors))
    assert np.isposinf(psnr(original, original)).all()


@pytest.mark.parametrize("elements", [1, 5 * 10 * 28])
def test_the_psnr_of_images_that_are_measured_in_pieces_is_the_same(pair, elements, monkeypatch):
    whole = psnr(*pair)
    monkeypatch.setattr("compressor.codecs.quality.ELEMENTS_AT_ONCE", elements)
    assert np.array_equal(psnr(*pair), whole)


def test_the_ssim_is_that_of_wang_et_al(pair):
    """Their definition, written out for one window in the middle of an image's 11x11 pixels."""
    original, decoded = pair
    distance = np.square(np.arange(-5, 6))
    window = np.exp(-(distance[:, None] + distance) / (2 * 1.5**2))
    window /= window.sum()
    for one, other in zip(original[:, 8:19, 8:19, 0], decoded[:, 8:19, 8:19, 0], strict=True):
        x, y = one.astype(float), other.astype(float)
        mean_x, mean_y = (window * x).sum(), (window * y).sum()
        var_x, var_y = (window * x**2).sum() - mean_x**2, (window * y**2).sum() - mean_y**2
        covariance = (window * x * y).sum() - mean_x * mean_y
        c1, c2 = (0.01 * 255) ** 2, (0.03 * 255) ** 2
        expected = (2 * mean_x * mean_y + c1) * (2 * covariance + c2)
        expected /= (mean_x**2 + mean_y**2 + c1) * (var_x + var_y + c2)
        found = ssim(one[None, :, :, None], other[None, :, :, None])
        assert found[0] == pytest.approx(expected, rel=1e-9)


def test_the_ssim_of_colour_images_is_the_mean_over_channels(pair):
    original, decoded = (np.concatenate([one, one[::-1], one // 2], axis=3) for one in pair)
    grey = [ssim(original[..., [c]], decoded[..., [c]]) for c in range(3)]
    np.testing.assert_allclose(ssim(original, decoded), np.mean(grey, axis=0))


@pytest.mark.parametrize(("height", "width"), [(11, 60), (40, 50), (60, 11), (60, 8)])
def test_a_large_image_is_compared_strip_by_strip_to_the_same_ssim(
    pair, monkeypatch, height, width
):
    original, decoded = (np.resize(image, (2, height, width, 3)) for image in pair)
    whole = ssim(original, decoded)
    monkeypatch.setattr(quality, "SSIM_ELEMENTS", 7 * width * 3)
    np.testing.assert_allclose(ssim(original, decoded), whole, rtol=1e-12)


@pytest.mark.parametrize(("height", "width"), [(3, 3), (3, 28), (10, 28), (11, 11), (4, 7)])
def test_images_smaller_than_the_window_have_an_ssim_too(pair, height, width):
    original, decoded = (one[:, 8 : 8 + height, :width] for one in pair)
    found = ssim(original, decoded)
    assert np.all((found > 0) & (found <= 1))
    np.testing.assert_allclose(ssim(original, original), 1)


def test_images_below_three_pixels_a_side_have_none(pair):
    original, decoded = (one[:, 8:10] for one in pair)
    assert np.isnan(ssim(original, decoded)).all()
