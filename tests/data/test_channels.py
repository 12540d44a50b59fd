"""Grey, RGB and RGBA into each other."""

from __future__ import annotations

import numpy as np
import pytest
from PIL import Image

from compressor.data.channels import in_channels
from compressor.data.images import Pixels


@pytest.fixture
def colours(photo: Pixels) -> Pixels:
    """(6, 42, 42, 3): parts of a photo, and one of every colour's neighbours in a line."""
    parts = [photo[y : y + 42, x : x + 42] for y in (0, 42) for x in (0, 42, 84)]
    return np.stack(parts)


def test_luma_is_that_of_pillow(colours: Pixels) -> None:
    random = np.random.default_rng(0).integers(0, 256, colours.shape, np.uint8)
    for images in (colours, random, colours[..., :1].repeat(3, axis=3)):
        grey, fits = in_channels(images, 1, luma=True)
        assert fits.all()
        for found, image in zip(grey, images, strict=True):
            assert np.array_equal(found[..., 0], np.asarray(Image.fromarray(image).convert("L")))


def test_what_would_be_lost_is_not_converted(colours: Pixels) -> None:
    images = colours[..., :1].repeat(3, axis=3)
    images[2, 5, 7, 1] ^= 1
    grey, fits = in_channels(images, 1)
    assert fits.tolist() == [True, True, False, True, True, True]
    assert np.array_equal(grey, images[fits][..., :1])
    alpha = np.full((*images.shape[:3], 1), 255, np.uint8)
    alpha[4, 0, 0] = 254
    four = np.concatenate([images, alpha], axis=3)
    assert in_channels(four, 1)[1].tolist() == [True, True, False, True, False, True]
    rgb, fits = in_channels(four, 3)
    assert fits.tolist() == [True] * 4 + [False, True]
    assert np.array_equal(rgb, images[fits])


def test_grey_and_colours_go_into_more_channels_and_back(colours: Pixels) -> None:
    for channels, images in ((1, colours[..., :1]), (3, colours)):
        for more in (3, 4):
            wider, fits = in_channels(images, more)
            assert fits.all() and wider.shape[3] == more
            back, fits = in_channels(wider, channels)
            assert fits.all() and np.array_equal(back, images)
