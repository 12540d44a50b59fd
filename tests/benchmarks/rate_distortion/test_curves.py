import numpy as np
import pytest
from rate_distortion.curves import Best, Curve, Point, bd_rate, bits_a_pixel
from rate_distortion.figures import Figures
from rate_distortion.report import PUBLISHED, published

PSNR = (20.0, 23.0, 25.5, 29.0, 32.0, 36.0)


def exponential(factor=1.0, psnr=PSNR):
    """6.02 dB a bit: the log rate is linear, and PCHIP gives it exactly."""
    return Curve([Point(factor * 0.01 * np.exp(0.2 * value), value) for value in psnr])


def test_half_the_bits_at_every_psnr_is_a_bd_rate_of_minus_a_half():
    result = bd_rate(exponential(0.5), exponential())
    assert result.change == pytest.approx(-0.5)
    assert (result.low, result.high) == (20, 36)
    assert bd_rate(exponential(), exponential(0.5)).change == pytest.approx(1.0)


def test_a_bd_rate_is_the_mean_of_the_log_rates_difference():
    """Log rates 0.2 and 0.25 a dB apart from 20 dB on: (0.05 * 16) / 2 in the mean to 36 dB."""
    steeper = Curve([Point(0.01 * np.exp(4 + 0.25 * (value - 20)), value) for value in PSNR])
    assert bd_rate(steeper, exponential()).change == pytest.approx(np.expm1(0.4), rel=1e-6)
    assert bd_rate(steeper, exponential(), 20, 24).change == pytest.approx(np.expm1(0.1), rel=1e-6)


def test_a_bd_rate_is_over_what_both_cover_and_says_so():
    shifted = exponential(0.8, [value + 5 for value in PSNR])
    result = bd_rate(shifted, exponential(), 22, 99)
    assert result.change == pytest.approx(-0.2)
    assert (result.low, result.high) == (25, 36)
    assert bd_rate(shifted, exponential(), 20, 25) is None


def test_five_points_each_are_asked_for():
    few = exponential(1.0, PSNR[:4])
    assert bd_rate(few, exponential()) is None and bd_rate(exponential(), few) is None
    assert bd_rate(exponential(1.0, PSNR[:5]), exponential()) is not None


def test_bjontegaard_of_published_curves_is_as_computed_elsewhere():
    """Piecewise linear log rates on a fine grid, by another road, agree to half a percent."""
    hyper, factorized = (PUBLISHED[f"bmshj2018-{name}"] for name in ("hyperprior", "factorized"))
    grid = np.linspace(hyper[0][1], factorized[-1][1], 5000)
    logs = [
        np.interp(grid, [psnr for _, psnr in curve], np.log([bits for bits, _ in curve]))
        for curve in (hyper, factorized)
    ]
    expected = np.expm1(np.mean(logs[0] - logs[1]))
    found = bd_rate(published("bmshj2018-hyperprior"), published("bmshj2018-factorized"))
    assert -0.4 < expected < -0.1
    assert found.change == pytest.approx(expected, abs=0.005)


def test_points_that_another_one_beats_are_left_out():
    points = [Point(1, 20), Point(2, 25), Point(2.5, 24.5), Point(2, 24), Point(4, 30)]
    curve = Curve(points)
    assert curve.points == 3
    assert list(curve.bits(np.array([20.0, 25.0, 30.0]))) == pytest.approx([1, 2, 4])


def test_between_points_rates_rise_and_outside_there_are_none():
    curve = Curve([Point(1, 20), Point(1.01, 24), Point(4, 25), Point(4.1, 30)])
    rates = curve.bits(np.linspace(20, 30, 200))
    assert (np.diff(rates) > 0).all()
    assert np.isnan(curve.bits(np.array([19.99, 30.01]))).all()


def test_the_best_of_curves_has_the_fewest_bits_at_each_psnr():
    low, high = exponential(1.0, (20, 24, 26, 28, 30)), exponential(0.7, (25, 27, 30, 33, 36))
    best = Best([low, high])
    assert (best.low, best.high) == (20, 36)
    at = np.array([19.0, 21.0, 26.0, 34.0, 37.0])
    expected = [np.nan, low.bits(at)[1], high.bits(at)[2], high.bits(at)[3], np.nan]
    np.testing.assert_allclose(best.bits(at), expected)


def test_a_better_quality_for_fewer_bits_counts_below_its_lowest_psnr():
    """At 24.5 dB the other's 25 dB cost less than the one's 24.5."""
    dear, cheap = exponential(), exponential(0.5, (25, 27, 30, 33, 36))
    at = np.array([24.5])
    assert Best([dear, cheap]).bits(at) == pytest.approx(cheap.bits(np.array([25.0])))


def test_the_model_is_shared_by_as_many_images_as_said():
    figures = Figures(
        bytes=21_000,
        fixed_bytes=1_000,
        model_bytes=49_000,
        images=200,
        pixels=200 * 28 * 28,
        psnr=30,
        mean_psnr=30,
    )
    assert bits_a_pixel(figures, None) == pytest.approx(8 * 21_000 / 200 / 784)
    assert bits_a_pixel(figures, 200) == pytest.approx(8 * 70_000 / 200 / 784)
    assert bits_a_pixel(figures, 100_000) == pytest.approx(8 * (100 + 0.5) / 784)
