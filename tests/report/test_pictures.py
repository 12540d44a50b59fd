import io
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from compressor.report.pictures import comparison_sheet, enlarged, png, sheet, shrunk

DATA = Path(__file__).parents[2] / "examples" / "data" / "fashion_mnist.npz"


@pytest.fixture(scope="module")
def clothes():
    with np.load(DATA) as data:
        return data["test"][:12, :, :, None]


def test_enlarging_repeats_pixels_by_an_integer_and_leaves_large_images(clothes):
    large = enlarged(clothes[0])
    assert large.shape == (224, 224, 1)
    assert np.array_equal(large.reshape(28, 8, 28, 8, 1)[:, 3, :, 5], clothes[0])
    assert enlarged(np.zeros((100, 60, 3), np.uint8)).shape == (200, 120, 3)
    assert enlarged(large, 200) is not None and enlarged(large, 200).shape == large.shape


@pytest.mark.parametrize("channels", [1, 3, 4])
def test_shrinking_keeps_proportions_and_means(clothes, channels):
    large = enlarged(clothes[0])[:, :112].repeat(channels, axis=2)
    large[:, :, 3:] = 255
    small = shrunk(large, 28)
    assert small.shape == (28, 14, channels)
    assert np.array_equal(small[:, :, 0], clothes[0, :, :14, 0])
    assert shrunk(small, 28) is small


@pytest.mark.parametrize("channels", [1, 3, 4])
def test_a_png_decodes_to_the_same_pixels(clothes, channels):
    pixels = clothes[0].repeat(channels, axis=2)
    with Image.open(io.BytesIO(png(pixels))) as image:
        assert image.format == "PNG"
        assert np.array_equal(np.asarray(image).reshape(pixels.shape), pixels)


@pytest.mark.parametrize("channels", [1, 3])
def test_a_sheet_has_originals_above_reconstructions(clothes, channels):
    originals = clothes.repeat(channels, axis=3)
    reconstructions = originals // 2
    sheet = comparison_sheet(originals, reconstructions, columns=5, side=56)
    gap, side = 2, 56
    assert sheet.shape == (3 * (2 * side + gap) + 2 * 2 * gap, 5 * (side + gap) - gap, 4)
    for number in range(12):
        row, column = divmod(number, 5)
        top, left = row * (2 * side + 3 * gap), column * (side + gap)
        above = sheet[top : top + side : 2, left : left + side : 2]
        below = sheet[top + side + gap :][:side:2, left : left + side : 2]
        assert np.array_equal(above[:, :, 0], originals[number, :, :, 0])
        assert np.array_equal(below[:, :, 0], reconstructions[number, :, :, 0])
        assert (above[:, :, 3] == 255).all()
    assert (sheet[:, side : side + gap, 3] == 0).all()
    assert (sheet[-1, 3 * (side + gap) :, 3] == 0).all()


def test_a_short_sheet_is_as_wide_as_its_pictures(clothes):
    assert comparison_sheet(clothes[:3], clothes[:3], side=28).shape == (58, 3 * 30 - 2, 4)


def test_every_original_needs_a_reconstruction(clothes):
    with pytest.raises(ValueError, match="3 originals, 2"):
        comparison_sheet(clothes[:3], clothes[:2])


def test_a_sheet_has_room_for_names_and_for_rows_that_differ_in_length():
    image = np.full((28, 28, 1), 255, np.uint8)
    plain = sheet([[image] * 3, [image]], side=28)
    assert plain.shape == (28 + 2 + 28, 3 * 28 + 2 * 2, 4)
    assert (plain[:28, :28, 3] == 255).all() and not plain[30:, 30:, 3].any()

    named = sheet([[image] * 3, [image]], row_names=["query"], column_names=["1", "2"], side=28)
    added = named.shape[0] - plain.shape[0], named.shape[1] - plain.shape[1]
    assert min(added) > 0
    np.testing.assert_array_equal(named[-28:, added[1] : added[1] + 28], plain[-28:, :28])
    assert named[: added[0], added[1] :, 3].any() and named[added[0] :, : added[1], 3].any()
