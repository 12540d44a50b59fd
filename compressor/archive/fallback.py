"""What takes the place of the model for images that it rebuilds badly."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np

from ..codecs.image_codecs import IMAGE_CODECS, decode, imagecodecs
from ..codecs.quality import psnr
from ..data.images import Group, Pixels
from ..errors import ArchiveError, ConfigError, DataError
from .fallback_blocks import StoredGroup

FALLBACKS = ("webp-lossless", "webp", "jpegxl-lossless", "jpegxl")


@dataclass(frozen=True)
class StoredImage:
    """An image as a file of ``codec``, and the uint8 (H, W, C) ``pixels`` that come out of it."""

    codec: str
    file: bytes
    pixels: Pixels


class Fallback:
    """Stores an image so that it comes back with a PSNR of at least ``min_psnr``, in dB.

    A lossy codec takes the lowest quality that reaches it, found by bisection. Where the lossless
    form of the same codec is smaller, or alone reaches it, that is taken, and PNG where an image is
    too large for the codec: WebP ends at 16,383 pixels a side. Raises ConfigError for a name or a
    PSNR that cannot be, MissingDependency if the codec is not installed.
    """

    def __init__(self, name: str, min_psnr: float) -> None:
        if name not in FALLBACKS:
            raise ConfigError(f"fallback={name}: there is {', '.join(FALLBACKS)}")
        if not 0 < min_psnr < math.inf:
            raise ConfigError(f"min_psnr={min_psnr}: give a PSNR above 0 in dB, say 30")
        family = name.removesuffix("-lossless")
        if family == "jpegxl":
            imagecodecs()  # missing now, and not when the first image needs it
        self.name, self.min_psnr = name, min_psnr
        self._codecs = list(dict.fromkeys([name, f"{family}-lossless"]))

    def store(self, images: Group) -> list[StoredGroup]:
        """Images of one size as files, by codec; raises DataError if no codec takes one."""
        by_codec: dict[str, list[tuple[int, StoredImage]]] = {}
        for row, image in enumerate(images.pixels):
            stored = self._smallest(image)
            by_codec.setdefault(stored.codec, []).append((row, stored))
        return [
            StoredGroup(
                positions=images.positions[[row for row, _ in members]],
                codec=codec,
                files=[stored.file for _, stored in members],
                pixels=np.stack([stored.pixels for _, stored in members]),
                originals=images.pixels[[row for row, _ in members]],
            )
            for codec, members in by_codec.items()
        ]

    def _smallest(self, image: Pixels) -> StoredImage:
        candidates = [stored for codec in self._codecs if (stored := self._lowest(codec, image))]
        best = min(candidates, key=lambda stored: len(stored.file), default=None)
        best = best or self._lowest("png", image)
        if best is None:
            height, width, _ = image.shape
            raise DataError(
                f"an image of {height}x{width} is below min_psnr and too large for "
                "every other codec; cut it up, or leave it out"
            )
        return best

    def _lowest(self, codec: str, image: Pixels) -> StoredImage | None:
        """At the lowest of the codec's levels that reaches the PSNR; None if none does."""
        levels, best = IMAGE_CODECS[codec].levels, None
        low, high = 0, len(levels)
        while low < high:
            middle = (low + high) // 2
            stored = self._at(codec, levels[middle], image)
            if stored is not None:
                best, high = stored, middle
            else:
                low = middle + 1
        return best

    def _at(self, codec: str, level: float, image: Pixels) -> StoredImage | None:
        """At one level; None if it does not reach the PSNR or the codec cannot take the image."""
        try:
            file = IMAGE_CODECS[codec].encode(image, level)
            pixels = decode(codec, file, image.shape)
        except (ArchiveError, ValueError, RuntimeError, OSError):
            return None
        wanted = math.inf if IMAGE_CODECS[codec].lossless else self.min_psnr
        reached = psnr(image[None], pixels[None])[0] >= wanted
        return StoredImage(codec, file, pixels) if reached else None
