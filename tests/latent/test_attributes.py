"""Attributes of images grow with what they are named after; correlations find what goes with it."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image, ImageDraw, ImageFilter

from compressor.data.images import Pixels
from compressor.errors import DataError
from compressor.latent.attributes import (
    BUILT_IN,
    best,
    chance_level,
    measured,
    names_of,
    read_table,
    spearman,
)

Array = np.ndarray[Any, Any]


@pytest.fixture(scope="module")
def strokes(letters: Pixels) -> Pixels:
    """Letters amid a dark ground, on which they can be sheared and grow: (N, 56, 56, 1)."""
    return np.pad(letters, ((0, 0), (14, 14), (14, 14), (0, 0)))


def column(pixels: Pixels, name: str) -> Array:
    return measured(pixels)[:, BUILT_IN.index(name)]


def changed(images: Pixels, change: Any) -> Pixels:
    """Grey images, each changed as a PIL image."""
    return np.stack([np.asarray(change(Image.fromarray(image[..., 0]))) for image in images])[
        ..., None
    ]


def sheared(image: Image.Image, by: float) -> Image.Image:
    """Upper rows go ``by`` pixels a row to the right."""
    middle = image.height / 2
    return image.transform(image.size, Image.Transform.AFFINE, (1, by, -by * middle, 0, 1, 0))


def test_slant_is_what_letters_are_sheared_by(strokes: Pixels) -> None:
    upright, right, left = (
        column(changed(strokes, lambda image, by=by: sheared(image, by)), "slant")
        for by in (0, 0.3, -0.3)
    )
    assert (right > upright).mean() > 0.95 and (left < upright).mean() > 0.95
    assert np.median(right - upright) == pytest.approx(np.degrees(np.arctan(0.3)), abs=6)


def test_letters_are_thicker_once_their_strokes_grow(strokes: Pixels) -> None:
    bolder = changed(strokes, lambda image: image.filter(ImageFilter.MaxFilter(3)))
    thicker = column(bolder, "thickness") - column(strokes, "thickness")
    assert (thicker > 0).mean() > 0.95
    assert (column(bolder, "area") > column(strokes, "area")).mean() > 0.98


@pytest.mark.parametrize("width", [3, 6])
def test_a_strokes_thickness_is_its_width_on_any_ground(width: int) -> None:
    image = Image.new("L", (64, 64), 255)
    ImageDraw.Draw(image).line((32, 4, 32, 60), fill=0, width=width)
    dark = np.asarray(image)[None, ..., None]
    for pixels in (dark, 255 - dark, np.repeat(dark, 3, 3)):
        assert column(pixels, "thickness")[0] == pytest.approx(width, rel=0.15)
        assert column(pixels, "slant")[0] == pytest.approx(0, abs=1e-6)
        assert column(pixels, "symmetry")[0] == pytest.approx(1, abs=1e-6)


def test_aspect_is_of_width_over_height(clothes: Pixels) -> None:
    narrow = clothes[:200]
    turned = narrow.transpose(0, 2, 1, 3)
    product = column(narrow, "aspect") * column(turned, "aspect")
    assert np.nanmedian(np.abs(product - 1)) < 0.02
    assert (column(narrow, "symmetry") <= 1).all() and (column(narrow, "symmetry") >= 0).all()
    assert column(narrow, "symmetry").std() > 0.05


def test_without_ink_there_is_only_grey() -> None:
    blank = np.full((2, 8, 8, 1), 9, np.uint8)
    assert (column(blank, "grey") == 9).all() and np.isnan(column(blank, "slant")).all()


def test_spearman_is_scipys() -> None:
    from scipy.stats import spearmanr

    random = np.random.default_rng(0)
    latents = random.integers(-3, 4, (200, 4)).astype(float)
    attributes = np.exp(latents[:, :2]) + random.normal(size=(200, 2))
    expected = spearmanr(latents, attributes).statistic[:4, 4:]
    np.testing.assert_allclose(spearman(latents, attributes), expected, atol=1e-12)
    assert (spearman(np.ones((9, 1)), np.arange(9.0)[:, None]) == 0).all()


def test_noise_is_above_chance_once_in_twenty_times() -> None:
    random = np.random.default_rng(0)
    values = random.normal(size=(400, 300, 16))
    largest = [
        np.abs(spearman(latents[:, 1:], latents[:, :1])).max()
        for latents in values.transpose(0, 1, 2)
    ]
    above = np.mean(np.array(largest) > chance_level(300, 15))
    assert 0.02 < above < 0.09


def test_the_table_has_what_is_above_chance_alone() -> None:
    correlations = np.array([[0.5, 0.01], [-0.8, 0.02], [0.1, 0.0]])
    numbers = np.array([7, 3, 5])
    slant, area = best(("slant", "area"), correlations, 0.2, numbers)
    assert (slant["latent"], slant["correlation"]) == (3, -0.8)
    assert (slant["next_latent"], slant["next_correlation"]) == (7, 0.5)
    assert area["latent"] is area["next_latent"] is None
    assert names_of([slant, area]) == {3: "slant -0.80"}


def test_own_attributes_are_read_by_path(tmp_path: Path) -> None:
    (tmp_path / "a.csv").write_text("path,weight,age\nx.png,1.5,20\ny.png,2,30\n")
    columns, rows = read_table(tmp_path / "a.csv")
    assert columns == ("weight", "age") and rows["y.png"].tolist() == [2, 30]
    np.save(tmp_path / "a.npy", np.zeros((3, 2)))
    with pytest.raises(DataError, match="no table of attributes"):
        read_table(tmp_path / "a.npy")
