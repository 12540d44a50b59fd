import numpy as np
import pytest
from detection.metrics import Figures, auroc, region_overlap, with_pixels
from detection.pictures import enlarged, resized
from detection.tasks import Sample
from sklearn.metrics import roc_auc_score


def overlap_by_definition(masks, maps, limit=0.3):
    """Threshold by threshold and region by region; masks of rectangles that do not touch."""
    regions = [masks[0, :4, :4], masks[0, 6:, 6:], masks[1]]
    parts = [maps[0, :4, :4], maps[0, 6:, 6:], maps[1]]
    points = [(0.0, 0.0)]
    for threshold in np.unique(maps)[::-1]:
        rate = (maps[~masks] >= threshold).mean()
        shares = [(p[r] >= threshold).mean() for p, r in zip(parts, regions, strict=True)]
        points.append((rate, np.mean(shares)))
    x, y = np.array(points).T
    grid = np.linspace(0, limit, 100_001)
    return np.trapezoid(np.interp(grid, x, y), grid) / limit


@pytest.fixture
def defects():
    masks = np.zeros((3, 10, 10), bool)
    masks[0, :3, :2] = masks[0, 8:, 7:] = masks[1, 5, 5] = True
    return masks


def test_region_overlap_is_that_of_the_definition(defects):
    random = np.random.default_rng(0)
    maps = random.normal(size=defects.shape) + defects
    assert region_overlap(defects, maps) == pytest.approx(
        overlap_by_definition(defects, maps), abs=1e-3
    )


def test_each_region_weighs_the_same_whatever_its_size(defects):
    """The region of one pixel of three is missed, so a third of the overlap is."""
    maps = defects.astype(float)
    maps[1, 5, 5] = -1
    random = np.random.default_rng(0).uniform(0, 0.5, defects.shape)
    found = region_overlap(defects, np.where(maps == 0, random, maps))
    assert found == pytest.approx(2 / 3, abs=1e-6)


def test_corners_that_touch_are_one_region():
    masks = np.zeros((1, 8, 8), bool)
    masks[0, 0, 0] = masks[0, 1, 1] = masks[0, 6, 6] = True
    maps = np.where(masks, 1.0, np.random.default_rng(0).uniform(0, 0.5, masks.shape))
    maps[0, 6, 6] = -1
    assert region_overlap(masks, maps) == pytest.approx(1 / 2, abs=1e-6)


def test_perfect_maps_have_an_overlap_of_one_and_random_ones_half_the_limit(defects):
    assert region_overlap(defects, defects.astype(float)) == pytest.approx(1)
    many = np.tile(defects, (200, 1, 1))
    noise = np.random.default_rng(0).uniform(size=many.shape)
    assert region_overlap(many, noise) == pytest.approx(0.15, abs=0.02)


def test_auroc_is_of_raw_scores_where_infinity_is_the_strangest():
    strange = np.array([False, True, False, True])
    scores = np.array([1e-30, 2e-30, 3e30, np.inf], np.float64)
    assert auroc(strange, scores) == 0.75
    assert auroc(strange, scores) == roc_auc_score(strange, [1, 2, 3, 4])


def test_maps_that_follow_the_mask_find_its_pixels(clothes):
    masks = np.zeros((20, 28, 28), bool)
    masks[:10, 4:12, 4:12] = True
    sample = Sample(clothes[:20], clothes[:20], masks.any((1, 2)), masks)
    figures = Figures({"l2": 0.5}, "l2", 20, 1, 1)
    good, bad = (with_pixels(figures, sample, maps) for maps in (masks * 1.0, masks * -1.0))
    assert good.pixel_auroc > 0.97 and good.pro > 0.9
    assert bad.pixel_auroc < 0.1 and bad.pro < 0.01


def test_images_shrink_to_means_and_maps_grow(clothes):
    small = resized(clothes[:3], 14)
    blocks = clothes[:3, :, :, 0].reshape(3, 14, 2, 14, 2).astype(float).mean((2, 4))
    assert small.shape == (3, 14, 14, 1) and np.abs(small[..., 0] - blocks).max() <= 1
    colour = resized(np.repeat(clothes[:2], 3, axis=3), 14)
    assert np.array_equal(colour, np.repeat(small[:2], 3, axis=3))
    assert resized(clothes, None) is clothes
    large = enlarged(blocks, 28)
    assert large.shape == (3, 28, 28)
    assert np.abs(large - np.repeat(np.repeat(blocks, 2, 1), 2, 2)).mean() < blocks.std() / 4
