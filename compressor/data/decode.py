"""Encoded images to pixels: PNG, JPEG, WebP, TIFF and BMP, 8 bits a channel, one frame."""

from __future__ import annotations

import io
import warnings
import zlib
from collections.abc import Iterable, Iterator

import numpy as np
from PIL import Image, ImageOps, TiffImagePlugin, UnidentifiedImageError

from ..errors import UnreadableImage
from .images import CHUNK_BYTES, Group, Images, Pixels

IMAGE_SUFFIXES = frozenset({".png", ".jpg", ".jpeg", ".webp", ".tif", ".tiff", ".bmp"})
MAX_ENCODED_BYTES = 2**30  # within Pillow's limit of pixels no image is larger, even uncompressed

# Pillow tries no other format: none is in IMAGE_SUFFIXES, and some run programs.
_FORMATS = ("PNG", "JPEG", "WEBP", "TIFF", "BMP")
_MODES = {"1": "L", "L": "L", "P": "RGB", "RGB": "RGB", "RGBX": "RGB", "CMYK": "RGB",
          "YCbCr": "RGB", "LA": "RGBA", "PA": "RGBA", "RGBA": "RGBA", "RGBa": "RGBA"}  # fmt: skip


def decode_all(names: list[str], contents: Iterable[bytes | UnreadableImage]) -> Iterator[Images]:
    """Decodes one image after the other, in pieces as Chunk.load says; images that fail are
    unreadable.

    ``contents`` has, for each name, the encoded bytes or why there are none.
    """
    # Pillow warns about odd metadata. catch_warnings would undo this filter, but is not safe in
    # threads; the filter is, and affects no other module's warnings.
    warnings.filterwarnings("ignore", module=r"PIL\.")
    sizes: dict[tuple[int, ...], list[tuple[int, Pixels]]] = {}
    unreadable: dict[int, str] = {}
    start = held = 0
    for number, content in enumerate(contents):
        try:
            if isinstance(content, UnreadableImage):
                raise content
            pixels = decode(content)
        except UnreadableImage as error:
            unreadable[number - start] = str(error)
            continue
        if held and held + pixels.size > CHUNK_BYTES:
            yield Images(names[start:number], _taken(sizes), unreadable)
            start, held, unreadable = number, 0, {}
        held += pixels.size
        sizes.setdefault(pixels.shape, []).append((number - start, pixels))
    yield Images(names[start:], _taken(sizes), unreadable)


def _taken(sizes: dict[tuple[int, ...], list[tuple[int, Pixels]]]) -> list[Group]:
    """Groups of the positions and pixels in ``sizes``, which it empties to hold no pixels twice."""
    groups = [
        Group(np.array([p for p, _ in members], np.int64), np.stack([x for _, x in members]))
        for members in sizes.values()
    ]
    sizes.clear()
    return groups


def decode(data: bytes) -> Pixels:
    """The pixels of an encoded image, upright: uint8 (H, W, C), C of 1 (grey), 3 (RGB), 4 (RGBA).

    Grey with transparency becomes RGBA, a palette RGB or RGBA, CMYK and YCbCr RGB, 1 bit grey.
    Raises UnreadableImage, with only the reason, for damaged or truncated data, other formats,
    more than 8 bits a channel, several frames, and more pixels than Pillow deems safe.
    """
    try:
        with Image.open(io.BytesIO(data), formats=_FORMATS) as image:
            return _pixels(image, data)
    except UnreadableImage:
        raise
    except UnidentifiedImageError as error:
        raise UnreadableImage(
            "is damaged, or not a PNG, JPEG, WebP, TIFF or BMP image of a known kind"
        ) from error
    except Image.DecompressionBombError as error:
        raise UnreadableImage(f"has too many pixels to be decoded safely: {error}") from error
    except Exception as error:  # damaged bytes make Pillow raise a dozen unrelated types
        reason = " ".join(str(error).split()) or type(error).__name__
        raise UnreadableImage(f"is damaged: {reason}") from error


def _pixels(image: Image.Image, data: bytes) -> Pixels:
    if getattr(image, "is_animated", False):
        raise UnreadableImage("has several frames or pages; save each as an image of its own")
    if image.format == "PNG":
        _check_crcs(data)
    mode = "RGBA" if image.has_transparency_data else _MODES.get(image.mode)
    if mode is None or _more_than_8_bits(image, data):
        raise UnreadableImage(
            "does not have 8 unsigned bits a channel in grey, RGB or CMYK; convert it to 8 bits"
        )
    ImageOps.exif_transpose(image, in_place=True)
    pixels = np.asarray(image if image.mode == mode else image.convert(mode))
    return pixels[..., None] if pixels.ndim == 2 else pixels


def _more_than_8_bits(image: Image.Image, data: bytes) -> bool:
    """Whether Pillow would reduce the samples to 8 bits, or read signed or float ones wrongly."""
    if image.format == "PNG":
        return data[24] > 8  # the bit depth in IHDR, PNG specification 11.2.1
    if isinstance(image, TiffImagePlugin.TiffImageFile):
        bits = image.tag_v2.get(TiffImagePlugin.BITSPERSAMPLE, 1)
        kinds = image.tag_v2.get(TiffImagePlugin.SAMPLEFORMAT, 1)
        return bool(np.max(bits) > 8 or not np.isin(kinds, (1, 4)).all())  # unsigned, undefined
    return False


def _check_crcs(data: bytes) -> None:
    """Raises UnreadableImage if a chunk of a PNG is cut off or does not have its CRC-32.

    Pillow stops reading at the last pixel, before the checksums: of all single flipped bits in a
    PNG, one in sixty changed pixels without an error.
    """
    view, at, more = memoryview(data), 8, True
    while more:
        end = at + 8 + int.from_bytes(view[at : at + 4])
        if len(view) < end + 4:
            raise UnreadableImage("is cut off")
        if zlib.crc32(view[at + 4 : end]) != int.from_bytes(view[end : end + 4]):
            raise UnreadableImage("is damaged: a checksum does not match")
        at, more = end + 4, bytes(view[at + 4 : at + 8]) != b"IEND"
