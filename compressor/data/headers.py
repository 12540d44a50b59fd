"""What the headers of encoded images say that decoders keep to themselves.

Pillow reduces deeper samples to 8 bits without a word; imagecodecs has no limit of pixels.
"""

from __future__ import annotations

import re

import numpy as np
from PIL import Image, TiffImagePlugin
from PIL.ImageFile import ImageFile

from ..errors import UnreadableImage
from .formats import HEAD

_AV1C = re.compile(rb"av1C..(.)", re.DOTALL)
_PPM_HEADER = re.compile(rb"P[1-6]" + rb"\s+(?:#[^\n]*\n\s*)*([0-9]+)" * 3)


def more_than_8_bits(image: Image.Image, data: bytes) -> bool:
    """Whether Pillow would reduce the samples to 8 bits, or read signed or float ones wrongly."""
    match image.format:
        case "PNG":
            return data[24] > 8  # the bit depth in IHDR, PNG specification 11.2.1
        case "AVIF":  # high_bitdepth, AV1-ISOBMFF 2.3.3
            return any(found[1][0] & 0x40 for found in _AV1C.finditer(data))
        case "JPEG2000":
            return _jpeg_2000_depth(data)
        case "PPM":
            header = None if data[1:2] in b"14" else _PPM_HEADER.match(data)  # those have 1 bit
            return header is not None and int(header[3][:9]) > 255
    if isinstance(image, TiffImagePlugin.TiffImageFile):
        bits = image.tag_v2.get(TiffImagePlugin.BITSPERSAMPLE, 1)
        kinds = image.tag_v2.get(TiffImagePlugin.SAMPLEFORMAT, 1)
        return bool(np.max(bits) > 8 or not np.isin(kinds, (1, 4)).all())  # unsigned, undefined
    return False


def _jpeg_2000_depth(data: bytes) -> bool:
    """By the marker SIZ, ISO/IEC 15444-1 A.5.1: a byte of sign and depth - 1 for each component."""
    start = data.find(b"\xff\x4f\xff\x51") + 2
    components = int.from_bytes(data[start + 38 : start + 40])
    return any(depth & 0x80 or depth > 7 for depth in data[start + 40 :][: 3 * components : 3])


def refuse_second_ppm(image: Image.Image, data: bytes) -> None:
    """Raises UnreadableImage if a binary PPM is followed by another, which Pillow does not see."""
    if image.format != "PPM" or data[1:2] not in b"456" or not isinstance(image, ImageFile):
        return
    row = -(-image.width // 8) if image.mode == "1" else image.width * len(image.getbands())
    if re.match(rb"\s*P[1-7]\s", data[image.tile[0].offset + row * image.height :][:HEAD]):
        raise UnreadableImage("has several frames or pages; save each as an image of its own")


def jpeg_xl_size(data: bytes) -> tuple[int, int]:
    """Width and height of a JPEG-XL; raises UnreadableImage for an animated one.

    By SizeHeader and ImageMetadata, ISO/IEC 18181-1 Annex D, which begin a codestream: numbers of
    some bits, the lowest of a byte first.
    """
    at = 0
    if not data.startswith(b"\xff\x0a"):  # a container, in a box jxlc or (with a number) jxlp
        places = [data.find(name) + length for name, length in ((b"jxlc", 4), (b"jxlp", 8))]
        at = next((place for place in places if data[place : place + 2] == b"\xff\x0a"), -1)
        if at < 0:
            raise UnreadableImage("is damaged: it has no JPEG-XL codestream")
    bits = int.from_bytes(data[at + 2 : at + 32], "little")

    def take(count: int) -> int:
        nonlocal bits
        value = bits & ((1 << count) - 1)
        bits >>= count
        return value

    def size() -> tuple[int, int]:
        small = take(1)

        def side() -> int:
            return (take(5) + 1) * 8 if small else take((9, 13, 18, 30)[take(2)]) + 1

        height = side()
        across, down = ((0, 0), (1, 1), (6, 5), (4, 3), (3, 2), (16, 9), (5, 4), (2, 1))[take(3)]
        return height, height * across // down if down else side()

    height, width = size()
    if not take(1) and take(1):  # not all as by default, and further fields
        take(3)  # orientation
        if take(1):
            size()  # by which it means to be shown
        if not take(1) and take(1):  # no preview, but an animation
            raise UnreadableImage("has several frames or pages; save each as an image of its own")
    return width, height
