"""Blocks of images that a fallback codec stored: its files in one frame, see FORMAT.md."""

from __future__ import annotations

from dataclasses import dataclass

import google_crc32c
import numpy as np
import numpy.typing as npt

from ..codecs.image_codecs import IMAGE_CODECS, decode
from ..data.images import Pixels
from ..errors import ArchiveError, DataError
from .blocks import MAX_ELEMENTS, Header, opened


@dataclass(frozen=True)
class StoredGroup:
    """Images of one size as files of one codec; ``positions``, (n,), says which they are.

    ``pixels``, uint8 (n, H, W, C), are what the files decode to, ``originals`` what they were.
    """

    positions: npt.NDArray[np.int64]
    codec: str
    files: list[bytes]
    pixels: Pixels
    originals: Pixels


def pack_stored(codec: str, files: list[bytes], pixels: Pixels) -> bytes:
    """The frame, numbered 0, of 1 to 256 files that decode to ``pixels``, uint8 (n, H, W, C).

    Raises DataError if the images are more than a reader takes.
    """
    count, height, width, _ = pixels.shape
    if pixels.size > MAX_ELEMENTS:
        raise DataError(f"images of {height}x{width} are too large for an archive")
    lengths = np.array([len(file) for file in files], "<u4")
    payload = lengths.tobytes() + b"".join(files)
    header = Header(
        codec=codec,
        number=0,
        length=len(payload),
        images=count,
        height=height,
        width=width,
        payload_crc=google_crc32c.value(payload),
        content_crc=_pixels_crc(codec, pixels),
    )
    return header.to_bytes() + payload


def unpack_stored(frame: bytes, channels: int) -> Pixels:
    """The images, uint8 (n, H, W, C); all lengths and checksums are checked.

    Raises ArchiveError that names the block, MissingDependency if its codec is not installed.
    """
    header, block, payload = opened(frame)
    shape = (header.height, header.width, channels)
    if not 1 <= header.images * header.height * header.width * channels <= MAX_ELEMENTS:
        raise ArchiveError(
            f"{block} claims {header.images} images of {header.height}x{header.width}, "
            "which no writer puts into one block"
        )
    start = 4 * header.images
    lengths = np.frombuffer(payload[: len(payload) // 4 * 4][:start], "<u4")
    ends = start + np.cumsum(lengths, dtype=np.int64)
    if len(ends) != header.images or ends[-1] != len(payload):
        raise ArchiveError(f"{block} does not hold the files that it lists")
    try:
        pixels = np.stack(
            [
                decode(header.codec, payload[begin:end], shape)
                for begin, end in zip([start, *ends.tolist()], ends.tolist(), strict=False)
            ]
        )
    except ArchiveError as error:
        raise ArchiveError(f"{block} cannot be decoded: {error}") from error
    if _pixels_crc(header.codec, pixels) != header.content_crc:
        raise ArchiveError(f"{block} decodes to pixels without their checksum")
    return pixels


def _pixels_crc(codec: str, pixels: Pixels) -> int:
    """CRC-32C of the pixels in C order; 0 where decoders may differ, which is with lossy codecs."""
    return int(google_crc32c.value(pixels.tobytes())) if IMAGE_CODECS[codec].lossless else 0
