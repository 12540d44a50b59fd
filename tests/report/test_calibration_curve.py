import numpy as np
import pytest
from scipy import stats

from compressor.report.calibration_curve import band, calibration_curve, tail


@pytest.mark.parametrize(
    ("n", "m", "k"), [(99, 50, 1), (99, 50, 5), (500, 160, 499), (1000, 5000, 10), (10, 3, 10)]
)
def test_the_band_is_that_of_the_beta_binomial(n, m, k):
    expected = stats.betabinom(m, k, n + 1 - k)
    for j in (1, m // 2, m):
        assert tail(n, m, k, j) == pytest.approx(expected.sf(j - 1), abs=1e-9)
    assert band(n, m, k) == expected.interval(0.95)


def test_normal_batches_stay_within_the_band_as_often_as_it_says():
    rng = np.random.default_rng(0)
    n, m, k = 200, 100, 10
    low, high = band(n, m, k)
    inside = 0
    for _ in range(2000):
        calibration = np.sort(rng.normal(size=n))
        inside += low <= np.sum(rng.normal(size=m) > calibration[n - k]) <= high
    assert inside / 2000 >= 0.95 - 2 * np.sqrt(0.05 * 0.95 / 2000)


def test_a_band_of_many_images_is_that_of_the_calibration_alone():
    low, high = band(1000, 10**7, 10)
    assert (low / 1e7, high / 1e7) == pytest.approx(stats.beta(10, 991).interval(0.95), rel=1e-3)


def test_every_normal_image_has_a_p_value_of_at_most_one():
    assert band(99, 50, 100) == (50, 50)


def test_at_the_threshold_the_curve_has_the_share_that_is_flagged():
    calibration = np.arange(1.0, 100.0)
    counts = np.zeros(100, np.int64)
    counts[[0, 3, 60]] = 5, 2, 93
    curve = calibration_curve(calibration, counts, threshold=95.0)  # the 5th largest
    assert curve is not None and curve.flagged is not None
    _, alpha, rate = curve.flagged
    assert (alpha, rate) == pytest.approx((0.05, 0.07))


def test_nothing_scored_or_nothing_calibrated_has_no_curve():
    assert calibration_curve(np.zeros(0), np.array([7]), 1.0) is None
    assert calibration_curve(np.ones(9), np.zeros(10, np.int64), 1.0) is None


@pytest.mark.parametrize("threshold", [-np.inf, 0.0, 1.0, 2.0, np.inf])
def test_ties_and_thresholds_outside_still_make_a_curve(threshold):
    curve = calibration_curve(np.ones(9), np.full(10, 3), threshold)
    assert curve is not None and "nan" not in curve.batch + curve.band + curve.calibration
