"""How close decoded images are to their originals: PSNR and SSIM of each."""

from __future__ import annotations

from collections.abc import Callable
from functools import cache

import numpy as np
import numpy.typing as npt

from ..data.images import Pixels
from ..errors import MissingDependency, install

PEAK = 255  # the largest grey level
ELEMENTS_AT_ONCE = 1 << 20  # of differences, which take four times the images' memory
SSIM_ELEMENTS = 1 << 21  # of a strip
SSIM_WINDOW = 11  # pixels a side: the Gaussian of sigma 1.5 is cut off at 3.5 sigma
Numbers = npt.NDArray[np.float64]  # one an image


def psnr(original: Pixels, decoded: Pixels) -> Numbers:
    """10 log10(255^2 / MSE) of each image, in dB: uint8 (n, H, W, C) twice -> (n,).

    The mean is over all pixels and channels; infinity where an image came back exactly.
    """
    return decibels(squared_errors(original, decoded), original[:1].size)


def squared_errors(original: Pixels, decoded: Pixels) -> npt.NDArray[np.int64]:
    """The sum over each image: uint8 (n, H, W, C) twice -> (n,)."""
    errors = np.zeros(len(original), np.int64)
    step = max(1, ELEMENTS_AT_ONCE // max(1, original[:, :1].size))  # rows of all images
    for top in range(0, original.shape[1], step):
        rows = slice(top, top + step)
        difference = original[:, rows].astype(np.int32) - decoded[:, rows]
        errors += np.square(difference).sum((1, 2, 3), dtype=np.int64)
    return errors


def decibels(squared_error: npt.ArrayLike, elements: int) -> Numbers:
    with np.errstate(divide="ignore"):
        return 10 * np.log10(PEAK**2 * elements / np.asarray(squared_error, np.float64))


def ssim(original: Pixels, decoded: Pixels) -> Numbers:
    """The structural similarity of each image: uint8 (n, H, W, C) twice -> (n,), at most 1.

    As in Wang et al. (2004): a Gaussian window of 11x11 with sigma 1.5, population covariances,
    the mean over all windows inside of the image, and then over channels. Smaller images are
    mirrored beyond their border as far as the window needs it; with a side below 3 it is NaN.
    Raises MissingDependency without scikit-image.
    """
    if min(original.shape[1:3]) < 3:
        return np.full(len(original), np.nan)
    return np.array([_ssim(one, other) for one, other in zip(original, decoded, strict=True)])


def _ssim(original: Pixels, decoded: Pixels) -> float:
    """That of one image, (H, W, C): of a large one strip by strip, each with the rows that its
    windows reach beyond it, since scikit-image takes 100 bytes for each element."""
    side = min(SSIM_WINDOW, *original.shape[:2])
    side -= 1 - side % 2  # odd; only sets how much border is left out
    border = side // 2
    inside = len(original) - 2 * border  # rows, in whose mean no window lies beyond the image
    # The Gaussian reaches five rows, whatever the border: a narrow image is done whole.
    step = max(1, SSIM_ELEMENTS // original[0].size) if side == SSIM_WINDOW else inside
    total = 0.0
    for top in range(0, inside, step):
        rows = slice(top, min(top + step, inside) + 2 * border)
        similarity = structural_similarity()(
            original[rows],
            decoded[rows],
            win_size=side,
            gaussian_weights=True,
            sigma=1.5,
            use_sample_covariance=False,
            data_range=PEAK,
            channel_axis=2,
        )
        total += similarity * min(step, inside - top)
    return float(total / inside)


@cache
def structural_similarity() -> Callable[..., float]:
    """That of scikit-image; MissingDependency if it is not installed."""
    try:
        from skimage.metrics import structural_similarity
    except ImportError as error:
        raise MissingDependency(
            f"measuring SSIM needs scikit-image: {install('measure')}"
        ) from error
    function: Callable[..., float] = structural_similarity
    return function
