"""Conformal p-values, thresholds and Benjamini-Hochberg, on scores of real images and of chance."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import numpy.typing as npt
import pytest
from hypothesis import given
from hypothesis import strategies as st

from compressor.anomaly.calibration import (
    Scores,
    benjamini_hochberg,
    calibration_scores,
    p_values,
    threshold_for,
)
from compressor.data.images import Pixels
from compressor.engine.engine import Engine
from compressor.errors import ConfigError
from compressor.model import Model

LEVELS = (0.01, 0.05, 0.1, 0.2, 0.5)


@pytest.fixture(scope="module")
def normal(model: Path) -> Scores:
    """Scores of 5,000 clothes that the model has not seen."""
    pixels = np.load(Path(__file__).parents[2] / "examples" / "data" / "fashion_mnist.npz")["train"]
    return Engine(Model.open(model)).score(pixels[..., None])["l2"].astype(np.float64)


def test_calibration_scores_are_the_scorers_answers(model: Path, clothes: Pixels) -> None:
    engine, indices = Engine(Model.open(model)), np.arange(0, 1000, 3)
    scores = calibration_scores(engine, clothes, indices)
    assert list(scores) == list(Model.open(model).manifest.scores)
    assert scores["l2"].dtype == np.float64
    np.testing.assert_array_equal(scores["l2"], engine.score(clothes[indices])["l2"])


def test_a_p_value_is_the_share_of_calibration_images_at_least_as_strange() -> None:
    calibration = np.array([1.0, 2.0, 2.0, 3.0])
    scores = np.array([0.0, 1.0, 1.5, 2.0, 2.5, 3.0, 4.0])
    expected = [5, 5, 4, 4, 2, 2, 1]  # and 1 for the image itself, out of 5
    np.testing.assert_array_equal(p_values(calibration, scores), np.array(expected) / 5)


def test_p_values_of_exchangeable_images_are_uniform(normal: Scores) -> None:
    random = np.random.default_rng(0)
    n, draws = 19, 4000
    counts = np.zeros(n + 1)
    for _ in range(draws):
        drawn = random.choice(normal, n + 1, replace=False)
        p = p_values(np.sort(drawn[:n]), drawn[n:])
        counts[round(p[0] * (n + 1)) - 1] += 1
    # Without ties each of the n + 1 values is as likely: chi-square with 19 degrees of freedom
    # is above 43.8 once in a thousand times.
    assert np.square(counts - draws / (n + 1)).sum() / (draws / (n + 1)) < 43.8


@pytest.mark.parametrize("n", [99, 200])
def test_the_share_of_false_alarms_holds_over_many_draws(normal: Scores, n: int) -> None:
    random = np.random.default_rng(1)
    draws, fresh = 400, 500
    rates = np.zeros((draws, len(LEVELS)))
    for draw in range(draws):
        drawn = random.choice(normal, n + fresh, replace=False)
        calibration, scores = np.sort(drawn[:n]), drawn[n:]
        rates[draw] = [(scores > threshold_for(calibration, level)).mean() for level in LEVELS]
    error = rates.std(axis=0) / np.sqrt(draws)
    assert (rates.mean(axis=0) <= np.array(LEVELS) + 4 * error).all()
    # Nor is the bound wasteful: without ties the rate is floor(level (n + 1)) / (n + 1).
    exact = np.floor(np.array(LEVELS) * (n + 1) + 1e-9) / (n + 1)
    assert (np.abs(rates.mean(axis=0) - exact) <= 4 * error).all()


@given(
    calibration=st.lists(st.integers(0, 8), min_size=1, max_size=60),
    level=st.one_of(
        st.floats(0.001, 0.999),
        st.tuples(st.integers(1, 60), st.integers(2, 61)).map(lambda pair: pair[0] / pair[1]),
    ).filter(lambda level: 0 < level < 1),
)
def test_above_the_threshold_is_the_same_as_a_p_value_within_the_level(
    calibration: list[int], level: float
) -> None:
    known = np.sort(np.array(calibration, np.float64))
    scores = np.arange(-1, 10, 0.5)  # every tie, and what lies between
    p = p_values(known, scores)
    try:
        threshold = threshold_for(known, level)
    except ConfigError:
        assert (p > level).all()
    else:
        np.testing.assert_array_equal(scores > threshold, p <= level)


def test_ties_raise_no_alarm() -> None:
    assert threshold_for(np.full(100, 7.0), 0.05) == 7.0
    assert (p_values(np.full(100, 7.0), np.array([7.0, 7.1])) == [1, 1 / 101]).all()


@pytest.mark.parametrize(
    ("level", "needed"), [(0.01, 99), (0.001, 999), (0.05, 19), (0.3, 3), (1 / 3, 2), (0.5, 1)]
)
def test_too_few_calibration_images_are_told_how_many_it_takes(level: float, needed: int) -> None:
    enough = np.arange(needed, dtype=np.float64)
    assert threshold_for(enough, level) == needed - 1
    with pytest.raises(ConfigError, match=f"needs at least {needed} calibration scores") as error:
        threshold_for(enough[:-1], level)
    assert f"the model has {needed - 1}" in str(error.value)
    assert "compressor calibrate" in str(error.value)


@pytest.mark.parametrize("level", [0.0, 1.0, -0.1, 2.0, float("nan")])
def test_a_level_lies_between_0_and_1(level: float) -> None:
    with pytest.raises(ConfigError, match="between 0 and 1"):
        threshold_for(np.arange(100.0), level)
    with pytest.raises(ConfigError, match="between 0 and 1"):
        benjamini_hochberg(np.array([1, 2, 3]), level)


def textbook(p: npt.NDArray[np.float64], fdr: float) -> npt.NDArray[np.bool_]:
    """Benjamini & Hochberg 1995, (1): the k smallest, k the largest i with p_(i) <= i q / m."""
    order = np.argsort(p)
    passing = [i for i in range(1, len(p) + 1) if p[order[i - 1]] * len(p) <= i * fdr]
    rejected = np.zeros(len(p), bool)
    rejected[order[: max(passing, default=0)]] = True
    return rejected


@pytest.mark.parametrize("fdr", [0.01, 0.05, 0.1, 0.25, 0.5, 0.9])
def test_benjamini_hochberg_rejects_what_the_textbook_does(fdr: float) -> None:
    random = np.random.default_rng(int(1000 * fdr))
    rejections = 0
    for _ in range(200):
        n, m = random.integers(1, 500), random.integers(1, 80)
        places = np.minimum(random.geometric(random.uniform(0.01, 0.9), m), n + 1)
        p = np.where(random.random(m) < 0.5, places, random.integers(1, n + 2, m)) / (n + 1)
        counts = np.bincount(np.rint(p * (n + 1)).astype(np.int64) - 1, minlength=n + 1)
        expected = textbook(p, fdr)
        np.testing.assert_array_equal(p <= benjamini_hochberg(counts, fdr), expected)
        rejections += expected.sum()
    assert rejections


def test_without_images_nothing_is_rejected() -> None:
    assert benjamini_hochberg(np.zeros(100, np.int64), 0.1) == 0
