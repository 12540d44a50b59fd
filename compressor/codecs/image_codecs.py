"""Image codecs that store what the model cannot: one image at a time, uint8 (H, W, C).

WebP and PNG are Pillow's; JPEG-XL comes from imagecodecs, an extra. C is 1 (grey), 3 (RGB) or 4
(RGBA). WebP has no grey: grey is written as RGB with equal channels, of which the first is read.
"""

from __future__ import annotations

import io
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cache, partial
from typing import Any

import numpy as np
from PIL import Image

from ..data.images import Pixels
from ..errors import ArchiveError, MissingDependency, install


@dataclass(frozen=True)
class ImageCodec:
    """``encode`` takes an image and one of ``levels``, from the worst quality to the best.

    A lossless codec has one level. ``decode`` takes the bytes and the shape (H, W, C) to expect;
    both raise what their library raises.
    """

    encode: Callable[[Pixels, float], bytes]
    decode: Callable[[bytes, tuple[int, int, int]], Pixels]
    levels: Sequence[float] = (0,)

    @property
    def lossless(self) -> bool:
        return len(self.levels) == 1


def decode(codec: str, data: bytes, shape: tuple[int, int, int]) -> Pixels:
    """The image in the bytes of a file, uint8 of ``shape``, (H, W, C).

    Raises ArchiveError, with only the reason, if the bytes are not such an image;
    MissingDependency if the codec is not installed.
    """
    try:
        pixels = IMAGE_CODECS[codec].decode(data, shape)
    except MissingDependency:
        raise
    except Exception as error:  # damaged bytes make these libraries raise many unrelated types
        reason = " ".join(str(error).split()) or type(error).__name__
        raise ArchiveError(f"an image of it is not a {codec} of its size: {reason}") from error
    pixels = pixels[..., None] if pixels.ndim == 2 else pixels
    if shape[2] == 1:
        pixels = pixels[..., :1]
    if (
        shape[2] == 4 and pixels.shape[2] == 3
    ):  # encoders omit an alpha channel that is 255 everywhere
        pixels = np.concatenate([pixels, np.full((*shape[:2], 1), 255, np.uint8)], axis=2)
    if pixels.shape != shape or pixels.dtype != np.uint8:
        raise ArchiveError(f"an image of it is {pixels.shape}, not {shape}")
    return pixels


@cache
def imagecodecs() -> Any:
    """The library; MissingDependency if it is not installed."""
    try:
        import imagecodecs
    except ImportError as error:
        raise MissingDependency(f"JPEG-XL needs imagecodecs: {install('jpegxl')}") from error
    return imagecodecs


def _to_webp(pixels: Pixels, quality: float, *, lossless: bool = False) -> bytes:
    file = io.BytesIO()
    image = Image.fromarray(np.repeat(pixels, 3, axis=2) if pixels.shape[2] == 1 else pixels)
    # exact keeps the colours of wholly transparent pixels. Method 6 takes up to 27 times as long as
    # 4; on small photos lossy files are 3% smaller with it, lossless ones 2% larger.
    image.save(file, "WEBP", quality=quality, lossless=lossless, method=4, exact=True)
    return file.getvalue()


def _to_lossless_webp(pixels: Pixels, _: float) -> bytes:
    return _to_webp(
        pixels, 80, lossless=True
    )  # 80 is the effort; 100 takes 6 times as long for 1% less


def _to_png(pixels: Pixels, _: float) -> bytes:
    file = io.BytesIO()
    image = Image.fromarray(pixels[..., 0] if pixels.shape[2] == 1 else pixels)
    image.save(file, "PNG", optimize=True)
    return file.getvalue()


def _from_pillow(name: str, data: bytes, shape: tuple[int, int, int]) -> Pixels:
    with Image.open(io.BytesIO(data), formats=(name,)) as image:
        if image.size != (shape[1], shape[0]):  # checked before decoding fills the memory
            raise ValueError(f"has {image.size[0]}x{image.size[1]} pixels")
        return np.asarray(image)


def _to_jpegxl(pixels: Pixels, distance: float) -> bytes:
    image = pixels[..., 0] if pixels.shape[2] == 1 else pixels
    return bytes(
        imagecodecs().jpegxl_encode(
            image,
            lossless=distance == 0,
            distance=distance or None,
            effort=7,
            usecontainer=False,
            numthreads=1,
        )
    )


def _from_jpegxl(data: bytes, shape: tuple[int, int, int]) -> Pixels:
    pixels = np.empty(shape[:2] if shape[2] == 1 else shape, np.uint8)
    imagecodecs().jpegxl_decode(data, numthreads=1, out=pixels)
    return pixels


_from_webp, _from_png = partial(_from_pillow, "WEBP"), partial(_from_pillow, "PNG")

IMAGE_CODECS = {
    "webp-lossless": ImageCodec(_to_lossless_webp, _from_webp),
    "webp": ImageCodec(_to_webp, _from_webp, range(101)),
    "jpegxl-lossless": ImageCodec(_to_jpegxl, _from_jpegxl),
    # Distances from 25 to 0.05, 10% a step.
    "jpegxl": ImageCodec(
        _to_jpegxl, _from_jpegxl, [25 * 0.002 ** (step / 63) for step in range(64)]
    ),
    "png": ImageCodec(_to_png, _from_png),
}
