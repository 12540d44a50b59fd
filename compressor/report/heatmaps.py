"""Error maps drawn over their images: where an image is strange."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from ..data.images import Pixels
from ..errors import ConfigError
from .pictures import enlarged, png

# Eight even steps of "inferno" (van der Walt and Smith, 2015): its lightness rises evenly, so that
# equal steps of error look equal, also in grey and to colour-blind readers.
RAMP = np.array(
    [
        (0, 0, 4),
        (33, 12, 74),
        (86, 16, 110),
        (137, 34, 106),
        (187, 55, 84),
        (227, 89, 50),
        (249, 140, 10),
        (249, 201, 50),
        (252, 255, 164),
    ],
    np.float32,
)
RAMP_START = 0.35  # below it the ramp is too dark to show on a dark image
GREY_BRIGHTNESS = 0.6  # of the image, so that nothing in it is as bright as an error
LUMA = np.array([0.299, 0.587, 0.114], np.float32)  # ITU-R BT.601


def overlay(pixels: Pixels, error_map: npt.NDArray[np.float32], scale: float) -> Pixels:
    """The image in grey, its errors in colour over it: uint8 (H, W, 3).

    ``pixels`` are uint8 (H, W, C), C in 1, 3, 4 (alpha is ignored); ``error_map`` is float32
    (H, W), 0 for no error. Errors of ``scale`` and above, and NaN, get the brightest colour; one
    scale for many images makes them comparable. Raises ConfigError if ``scale`` is not positive.
    """
    if not scale > 0:
        raise ConfigError(f"the scale of a heatmap is {scale}; it must be above 0")
    grey = pixels[:, :, 0] if pixels.shape[2] == 1 else pixels[:, :, :3] @ LUMA
    strength = np.clip(np.nan_to_num(error_map / scale, nan=1.0), 0, 1)
    opacity = np.sqrt(strength)[:, :, None]
    mixed = (1 - opacity) * GREY_BRIGHTNESS * grey[:, :, None] + opacity * ramp(strength)
    rounded: Pixels = np.rint(mixed).astype(np.uint8)
    return rounded


def ramp(strength: npt.NDArray[np.float32]) -> npt.NDArray[np.float32]:
    """Colours, float32 (..., 3) in [0, 255], for strengths in [0, 1]."""
    places = np.linspace(0, 1, len(RAMP))
    at = RAMP_START + (1 - RAMP_START) * strength
    return np.stack([np.interp(at, places, channel) for channel in RAMP.T], axis=-1).astype(
        np.float32
    )


def heatmap(pixels: Pixels, error_map: npt.NDArray[np.float32], scale: float) -> bytes:
    """The ``overlay`` as a PNG file, small images enlarged to about 224 pixels.

    Raises ConfigError as ``overlay`` does.
    """
    return png(enlarged(overlay(pixels, error_map, scale)))
