"""Grey, RGB and RGBA into each other: without loss, or on demand to grey."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import numpy.typing as npt

from .images import Group, Images, Pixels

CHANNELS = {"grey": 1, "rgb": 3}
_LUMA = np.array([19595, 38470, 7471], np.uint32)  # ITU-R BT.601 in 2^-16, as Pillow's "L" has it


def in_channels(
    pixels: Pixels, channels: int, luma: bool = False
) -> tuple[Pixels, npt.NDArray[np.bool_]]:
    """Images (n, H, W, C) in so many channels, those that can be, and which of the n they are.

    Those can be whose alpha, where it goes, is opaque, and whose colours, where they go, are equal,
    or with ``luma`` any: they become Y' = 0.299 R' + 0.587 G' + 0.114 B'.
    """
    fits = np.ones(len(pixels), bool)
    if pixels.shape[3] == 4 and channels != 4:
        fits &= (pixels[..., 3] == 255).all(axis=(1, 2))
        pixels = pixels[..., :3]
    if pixels.shape[3] == 3 and channels == 1:
        if luma:  # of equal channels it is what they are
            return np.stack([_luma(image) for image in pixels])[fits], fits
        fits &= (pixels == pixels[..., :1]).all(axis=(1, 2, 3))
        pixels = pixels[..., :1]
    pixels = pixels[fits]
    if pixels.shape[3] == 1 and channels != 1:
        pixels = pixels.repeat(3, axis=3)
    if pixels.shape[3] == 3 and channels == 4:
        opaque = np.full((*pixels.shape[:3], 1), 255, np.uint8)
        pixels = np.concatenate([pixels, opaque], axis=3)
    return pixels, fits


def _luma(pixels: Pixels) -> Pixels:
    """Of an image (H, W, 3), one at a time: the sums take four times its bytes."""
    return ((pixels @ _LUMA + 2**15) >> 16).astype(np.uint8)[..., None]


def as_asked(images: Images, channels: str) -> Images:
    """The images in ``channels``, "grey" or "rgb"; those with alpha to lose become unreadable."""
    groups, unreadable = [], dict(images.unreadable)
    reason = f"has alpha that is not opaque everywhere, which channels={channels} would lose"
    for group in images.groups:
        pixels, fits = in_channels(group.pixels, CHANNELS[channels], luma=True)
        unreadable |= dict.fromkeys(group.positions[~fits].tolist(), reason)
        if fits.any():
            groups.append(Group(group.positions[fits], pixels))
    return replace(images, groups=groups, unreadable=unreadable)
