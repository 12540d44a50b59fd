"""Conformal p-values, thresholds and Benjamini-Hochberg, on scores of real images and of chance."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import numpy.typing as npt
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.stats import beta, binom

from compressor.anomaly.calibration import (
    Scores,
    benjamini_hochberg,
    confident_rank,
    p_values,
    scores_needed,
    threshold_for,
)
from compressor.engine.engine import Engine
from compressor.errors import ConfigError
from compressor.model import Model

LEVELS = (0.01, 0.05, 0.1, 0.2, 0.5)


@pytest.fixture(scope="module")
def normal(model: Path) -> Scores:
    """Scores of 5,000 clothes that the model has not seen."""
    pixels = np.load(Path(__file__).parents[2] / "examples" / "data" / "fashion_mnist.npz")["train"]
    return Engine(Model.open(model)).score(pixels[..., None])["l2"].astype(np.float64)


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


@pytest.mark.parametrize(("n", "fpr"), [(200, 0.05), (500, 0.01), (1000, 0.01)])
def test_over_a_thousand_resplits_the_level_holds_on_average(
    normal: Scores, n: int, fpr: float
) -> None:
    """5,000 images, n of them to calibrate with and the others as the batch.

    The rate among the others has the mean k / (n + 1), k = floor(fpr (n + 1)), whether they are
    all there is or a sample of more.
    """
    # In order: which ranks are drawn, and so every number below, depends on the seed alone.
    random, ordered = np.random.default_rng(2), np.sort(normal)
    rates = np.zeros(1000)
    for draw in range(len(rates)):
        chosen = np.zeros(len(ordered), bool)
        chosen[random.choice(len(ordered), n, replace=False)] = True
        rates[draw] = (ordered[~chosen] > threshold_for(ordered[chosen], fpr)).mean()
    assert rates.mean() <= fpr + 2 * rates.std() / np.sqrt(len(rates))
    # It is an average: given one calibration, the rate is above the level nearly half the time.
    assert 0.3 < (rates > fpr).mean() < 0.6


@pytest.mark.parametrize(("n", "fpr"), [(200, 0.05), (500, 0.01), (1000, 0.01)])
@pytest.mark.parametrize("levels", [None, 40])
def test_over_a_thousand_calibrations_the_true_rate_is_within_the_level_as_often_as_promised(
    normal: Scores, n: int, fpr: float, levels: int | None
) -> None:
    """The 5,000 images are the population, and a calibration is n draws from it, put back.

    So the draws are independent, and the true rate of a threshold is known: its share among the
    5,000. Were they not put back, the rate among the others would be an estimate of that of more
    images, and its noise would push some above the level that are not: the promise is about the
    true rate. With ``levels`` scores are rounded to so many values, and most of them are ties.
    """
    random, ordered = np.random.default_rng(3), np.sort(normal)
    if levels is not None:
        ordered = np.floor(np.arange(len(ordered)) * levels / len(ordered))
    within = 0
    for _ in range(1000):
        calibration = ordered[np.sort(random.integers(len(ordered), size=n))]
        within += (ordered > threshold_for(calibration, fpr, 0.95)).mean() <= fpr
    # 95% or more of calibrations; the allowance is chance's, once in a thousand times.
    assert within >= binom.ppf(0.001, 1000, 0.95)
    if levels is None:  # nor is it wasteful: the next rank would break the promise
        k = confident_rank(n, fpr, 0.95)
        assert beta.cdf(fpr, k + 1, n - k) < 0.95
        assert abs(within / 1000 - beta.cdf(fpr, k, n + 1 - k)) < 0.03


@settings(deadline=None)
@given(n=st.integers(1, 3000), fpr=st.floats(0.0005, 0.9995), confidence=st.floats(0.0005, 0.9995))
def test_the_confident_rank_is_the_largest_that_keeps_the_promise(
    n: int, fpr: float, confidence: float
) -> None:
    k = confident_rank(n, fpr, confidence)
    assert 0 <= k <= n
    if k:
        assert beta.cdf(fpr, k, n + 1 - k) >= confidence - 1e-6
    if k < n:
        assert beta.cdf(fpr, k + 1, n - k) < confidence + 1e-6


def test_confidence_never_lowers_a_threshold() -> None:
    """Below about 0.6 the confident rank alone would break the promise of the average."""
    scores = np.arange(1000.0)
    thresholds = [threshold_for(scores, 0.01, level) for level in (0.1, 0.5, 0.9, 0.99, 0.9999)]
    assert thresholds == sorted(thresholds) and len(set(thresholds)) > 3
    assert thresholds[0] == threshold_for(scores, 0.01)


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
    assert scores_needed(level) == needed
    assert threshold_for(enough, level) == needed - 1
    with pytest.raises(ConfigError, match=f"needs at least {needed} calibration scores") as error:
        threshold_for(enough[:-1], level)
    assert f"the model has {needed - 1}" in str(error.value)
    assert "compressor calibrate" in str(error.value)


@pytest.mark.parametrize(
    ("level", "confidence", "needed"),
    [(0.01, 0.95, 299), (0.05, 0.95, 59), (0.001, 0.99, 4603), (0.01, 0.1, 99), (0.5, 0.75, 2)],
)
def test_too_few_images_for_a_confidence_are_told_how_many_it_takes(
    level: float, confidence: float, needed: int
) -> None:
    enough = np.arange(needed, dtype=np.float64)
    assert scores_needed(level, confidence) == needed
    assert threshold_for(enough, level, confidence) == needed - 1
    with pytest.raises(ConfigError, match=f"needs at least {needed} calibration scores") as error:
        threshold_for(enough[:-1], level, confidence)
    assert f"fpr={level:g} with confidence={confidence:g}" in str(error.value)


@pytest.mark.parametrize("confidence", [None, 0.95, 0.5])
def test_the_level_that_an_error_offers_is_taken(confidence: float | None) -> None:
    for n in (5, 98, 150, 298, 5000):
        with pytest.raises(ConfigError, match="ask for fpr=") as error:
            threshold_for(np.arange(float(n)), 1e-6, confidence)
        offered = str(error.value).partition("ask for fpr=")[2].partition(" ")[0]
        assert threshold_for(np.arange(float(n)), float(offered), confidence) == n - 1


@pytest.mark.parametrize("level", [0.0, 1.0, -0.1, 2.0, float("nan")])
def test_a_level_lies_between_0_and_1(level: float) -> None:
    with pytest.raises(ConfigError, match="between 0 and 1"):
        threshold_for(np.arange(100.0), level)
    with pytest.raises(ConfigError, match=r"confidence=.* between 0 and 1"):
        threshold_for(np.arange(100.0), 0.1, level)
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
