"""Blocks: the codes of some images of one size, entropy-coded together and framed with checksums.

Or images of one size that a fallback codec stored: see fallback_blocks.py. A frame says where it
belongs and can be found without the index: see FORMAT.md.
"""

from __future__ import annotations

import math
import os
import re
import struct
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import BinaryIO, NamedTuple

import google_crc32c
import numpy as np
import numpy.typing as npt

from ..data.images import Group
from ..entropy import coder
from ..entropy.tables import Codes, Tables
from ..errors import ArchiveError, DataError, ModelError
from ..spec import MORE_PIXELS, CodeSpec, max_pixels
from ..untrusted import open_regular

MODEL = "model"  # in place of a codec's name
# The magic of a frame says what stored its images; its last byte is the version of everything that
# decoding needs.
MAGICS = {
    MODEL: b"CBk\x02",
    "webp-lossless": b"CBw\x02",
    "webp": b"CBv\x02",
    "jpegxl-lossless": b"CBx\x02",
    "jpegxl": b"CBj\x02",
    "png": b"CBp\x02",
}
MAX_COUNT = 256  # images of a block
GOOD_ELEMENTS = 1 << 22  # of a block that is made: random access costs decoding all of them
MAX_ELEMENTS = 1 << 28  # of a block of pixels: bounds memory, whatever a header claims
# Above these a block, or an image, needs a payload of a thousandth as many bytes: no codes are so
# predictable, and a header alone does not make a reader take gigabytes.
SURELY_ELEMENTS, SURELY_BYTES = 1 << 26, 1 << 30
PER_PART = 1 << 16  # blocks

_FIELDS, _FIELDS_1 = struct.Struct("<4s8I"), struct.Struct("<4s7I")  # version 1 knew no archive
_CODECS = {magic: (codec, _FIELDS) for codec, magic in MAGICS.items()}
_CODECS |= {magic[:3] + b"\x01": (codec, _FIELDS_1) for codec, magic in MAGICS.items()}
_ANY_MAGIC = re.compile(b"|".join(map(re.escape, _CODECS)))
_CRC = struct.Struct("<I")
HEADER_SIZE = _FIELDS.size + _CRC.size  # of what is written; version 1 is shorter
_PIECE = 1 << 16  # bytes that scan holds at a time


@dataclass(frozen=True)
class CodeGroup:
    """Codes of images of one size: int32 (n, *shape); ``positions``, (n,), says which they are."""

    positions: npt.NDArray[np.int64]
    height: int
    width: int
    codes: Codes


@dataclass(frozen=True)
class CodedImages:
    """Consecutive images as codes: what data.images.Images is for pixels.

    ``names`` has every image; ``groups`` holds the codes by image size, ``stored`` the pixels of
    those that a fallback codec stored, each position of ``names`` at most once; ``missing`` maps
    the others to the reason (unreadable, or lost to damage).
    """

    names: list[str]
    groups: list[CodeGroup]
    missing: dict[int, str]
    stored: list[Group] = field(default_factory=list)


class Header(NamedTuple):
    """A frame's header. ``number`` is part * 65536 + the block's ordinal within the part.

    ``content_crc`` is that of the codes, or of the pixels; 0 for those of a lossy codec.
    ``archive`` is the id of the archive that the frame belongs to; 0 in version 1 and in Zarr.
    """

    codec: str
    number: int
    length: int  # of the payload, in bytes
    images: int
    height: int
    width: int
    payload_crc: int
    content_crc: int
    archive: int = 0
    size: int = HEADER_SIZE  # of the header itself, in bytes

    def to_bytes(self) -> bytes:
        fields = _FIELDS.pack(MAGICS[self.codec], *self[1:-1])
        return fields + _CRC.pack(google_crc32c.value(fields))

    @classmethod
    def parse(cls, frame: bytes) -> Header | None:
        """The header at the start of ``frame``; None if there is no sound one."""
        codec, layout = _CODECS.get(frame[:4], ("", _FIELDS))
        size = layout.size + _CRC.size
        if not codec or len(frame) < size:
            return None
        fields = frame[: layout.size]
        if _CRC.unpack_from(frame, layout.size) != (google_crc32c.value(fields),):
            return None
        header = cls(codec, *layout.unpack(fields)[1:])._replace(size=size)
        return header if 1 <= header.images <= MAX_COUNT else None


def images_per_block(code_shape: tuple[int, ...]) -> int:
    """How many images with codes of this shape share a block."""
    return max(1, min(MAX_COUNT, GOOD_ELEMENTS // math.prod(code_shape)))


def pack(codes: Codes, height: int, width: int, prior: Tables) -> tuple[bytes, float]:
    """The frame, numbered 0, of int32 codes (n, *shape) of images of height x width; 1 <= n <= 256.
    And the codes' bits under the prior.

    Raises DataError if the codes are more than a reader takes.
    """
    if codes.size > max_pixels():  # the same memory
        raise DataError(
            f"images of {height}x{width} have a code of {codes.size:,} numbers, more than "
            f"{max_pixels():,}: cut them into smaller ones, or raise {MORE_PIXELS} in the "
            "environment"
        )
    stages = prior.coded(codes)  # once for both
    payload = coder.encode_stages(stages, prior)
    header = Header(
        codec=MODEL,
        number=0,
        length=len(payload),
        images=len(codes),
        height=height,
        width=width,
        payload_crc=google_crc32c.value(payload),
        content_crc=_codes_crc(codes),
    )
    return header.to_bytes() + payload, prior.ideal_bits_of(stages)


def numbered(frame: bytes, number: int, archive: int = 0) -> tuple[Header, bytes]:
    """The header and the frame at its place in an archive; the payload stays as it is."""
    header = Header.parse(frame)
    if header is None:
        raise ValueError("not a frame made by pack()")
    header = header._replace(number=number, archive=archive)
    return header, header.to_bytes() + frame[HEADER_SIZE:]


def opened(frame: bytes) -> tuple[Header, str, bytes]:
    """The header, the block's name for messages, and the payload, which has its checksum.

    Raises ArchiveError that names the block.
    """
    header = Header.parse(frame)
    if header is None:
        raise ArchiveError("the header of a block is damaged")
    part, ordinal = divmod(header.number, PER_PART)
    block = f"block {ordinal} of part {part}"
    payload = frame[header.size :]
    if len(payload) != header.length:
        raise ArchiveError(f"{block} is cut short")
    if google_crc32c.value(payload) != header.payload_crc:
        raise ArchiveError(f"{block} is damaged: its payload does not have its checksum")
    return header, block, payload


def unpack(frame: bytes, prior: Tables, code: CodeSpec) -> tuple[Codes, int, int]:
    """Codes int32 (n, *shape), height and width; all lengths and checksums are checked.

    Raises ArchiveError that names the block; no codes but those packed ever come out.
    """
    header, block, payload = opened(frame)
    shape = code.shape_for(header.height, header.width)
    elements = header.images * math.prod(shape)
    if not 1 <= elements <= max_pixels() or not plausible(header, elements, SURELY_ELEMENTS):
        raise ArchiveError(
            f"{block} claims {header.images} images of {header.height}x{header.width}, "
            "which no writer puts into one block"
        )
    try:
        codes = coder.decode(payload, header.images, shape, prior)
    except (ArchiveError, ModelError) as error:
        raise ArchiveError(f"{block} cannot be decoded: {error}") from error
    if _codes_crc(codes) != header.content_crc:
        raise ArchiveError(
            f"{block} decodes to codes without their checksum: it was made with another prior"
        )
    return codes, header.height, header.width


def plausible(header: Header, claimed: int, surely: int) -> bool:
    """Whether a payload of that length can stand for so many elements or bytes."""
    return claimed <= max(surely, header.length << 10)


def scan(path: Path) -> Iterator[tuple[int, Header]]:
    """Offset and header of each frame in a file of frames, with no need of an index.

    Goes on at the next whole header after damage; frames cut off by the file's end do not count.
    Raises OSError if the file cannot be read.
    """
    position = 0
    with open_regular(path) as file:
        size = os.fstat(file.fileno()).st_size
        while (found := _next_header(file, position, size)) is not None:
            yield found
            offset, header = found
            position = offset + header.size + header.length


def _next_header(file: BinaryIO, position: int, size: int) -> tuple[int, Header] | None:
    while position < size:
        file.seek(position)
        piece = file.read(_PIECE)
        for match in _ANY_MAGIC.finditer(piece):
            start = match.start()
            header = Header.parse(piece[start : start + HEADER_SIZE])
            if header is not None and position + start + header.size + header.length <= size:
                return position + start, header
        # A header may straddle two pieces: the next one starts where it could.
        position += max(len(piece) - HEADER_SIZE + 1, 1)
    return None


def _codes_crc(codes: Codes) -> int:
    """CRC-32C of the codes as little-endian int32 in C order."""
    return int(google_crc32c.value(codes.astype("<i4", copy=False).tobytes()))
