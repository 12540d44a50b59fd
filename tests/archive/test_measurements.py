import numpy as np
import pytest
from skimage.metrics import structural_similarity

from compressor.archive.measurements import ImageQuality, Rebuilt


@pytest.fixture
def pair(images):
    """Ten images (10, 28, 28, 1), and what is left of them without their lowest four bits."""
    original = images[:10, :, :, None]
    return original, original & 0xF0


def figures(*rebuilt):
    quality = ImageQuality()
    for one in rebuilt:
        names = [str(number) for number in range(one.positions.max() + 1)]
        quality.add(quality.measure(names, [one]))
    return quality.figures()


def test_images_below_three_pixels_a_side_have_no_ssim(pair):
    original, decoded = (one[:, 8:10] for one in pair)
    told = figures(Rebuilt(np.arange(10), "model", original, decoded))
    assert told["ssim"] is None and told["ssim_min"] is None and told["psnr"] > 20


def test_exact_images_are_counted_and_do_not_enter_the_mean(pair):
    original, decoded = pair
    half = Rebuilt(np.arange(5), "model", original[:5], decoded[:5])
    exact = Rebuilt(np.arange(5), "webp-lossless", original[5:], original[5:])
    told, alone = figures(half, exact), figures(half)
    assert told["exact_images"] == 5 and alone["exact_images"] == 0
    for key in ("psnr_mean", "psnr_min"):
        assert told[key] == alone[key]
    assert told["psnr_min"] <= told["psnr_mean"]
    assert told["psnr"] == pytest.approx(alone["psnr"] + 10 * np.log10(2), abs=1e-3)
    assert told["ssim"] == pytest.approx((1 + alone["ssim"]) / 2, abs=1e-5)
    nothing = dict.fromkeys(("psnr", "psnr_mean", "psnr_min"))
    assert figures(exact) == {**nothing, "exact_images": 5, "ssim": 1.0, "ssim_min": 1.0}


def test_rows_come_in_the_order_of_the_source_without_what_was_unreadable(pair):
    original, decoded = pair
    quality = ImageQuality()
    parts = [
        Rebuilt(np.array([4, 0]), "png", original[:2], original[:2]),
        Rebuilt(np.array([1]), "model", original[2:3, :2], decoded[2:3, :2] ^ 1),
        Rebuilt(np.array([3, 5]), "model", original[3:5], decoded[3:5]),
    ]
    rows = quality.measure(list("abcdef"), parts).table().to_pylist()
    assert [row["path"] for row in rows] == list("abdef")
    assert [row["codec"] for row in rows] == ["png", "model", "model", "png", "model"]
    assert [row["psnr"] for row in rows[::3]] == [np.inf, np.inf]
    assert rows[1]["ssim"] is None and rows[0]["ssim"] == 1
    reference = structural_similarity(
        original[3, :, :, 0],
        decoded[3, :, :, 0],
        gaussian_weights=True,
        sigma=1.5,
        use_sample_covariance=False,
        data_range=255,
    )
    assert rows[2]["ssim"] == pytest.approx(reference)
