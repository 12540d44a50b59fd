"""Encoded images to pixels: 8 bits a channel, one frame; formats.py has the formats."""

from __future__ import annotations

import io
import warnings
import zlib
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Set
from contextlib import contextmanager
from contextvars import ContextVar
from typing import NamedTuple

import numpy as np
from PIL import Image, TiffImagePlugin, UnidentifiedImageError, features

from ..errors import CompressorError, UnreadableImage, install
from ..spec import refuse_pixels
from .formats import FORMATS, HEAD, NOT_READ, format_of
from .headers import jpeg_xl_size, more_than_8_bits, refuse_second_ppm
from .images import CHUNK_BYTES, Group, Images, Pixels

MAX_ENCODED_BYTES = 2**30

SizeRefusal = Callable[[int, int], str]  # height, width -> why no image of that size is wanted
_size_refusal: ContextVar[SizeRefusal | None] = ContextVar("size_refusal", default=None)

# Pillow tries no other format: some run programs.
_FORMATS = ["PNG", "JPEG", "WEBP", "TIFF", "BMP", "DIB", "GIF", "PPM"]
_BUILT_IN = {"AVIF": "avif", "JPEG2000": "jpg_2000"}  # or not, by Pillow's features
_FORMATS += [name for name, feature in _BUILT_IN.items() if features.check(feature)]
_MODES = {"1": "L", "L": "L", "P": "RGB", "RGB": "RGB", "RGBX": "RGB", "CMYK": "RGB",
          "YCbCr": "RGB", "LA": "RGBA", "PA": "RGBA", "RGBA": "RGBA", "RGBa": "RGBA"}  # fmt: skip
_ORIENTATION = 0x0112  # an EXIF tag
_TURNS = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}
# Chunks of a PNG that its pixels do not need, and what they hold.
_PNG_METADATA = {b"tEXt": "text", b"zTXt": "text", b"iTXt": "text", b"iCCP": "ICC"}
_JPEG_SEGMENTS = {bytes([marker]) for marker in (*range(0xE0, 0xF0), 0xFE)}  # APPn, a comment
_JPEG_METADATA = {marker: "" for marker in range(0xE0, 0xF0) if marker not in (0xE1, 0xEE)}
_JPEG_METADATA[0xFE] = "text"
_XMP_AND_MORE = {"XML:com.adobe.xmp", "Raw profile type exif"}  # text in PNG that is not counted so
_EMPTY_EXIF = b"Exif\0\0"
_EXIF_OF_TIFF = (0x8769, 0x8825)  # where a TIFF has EXIF and GPS, beside its own tags


class Decoded(NamedTuple):
    """The pixels of an image, as of ``decode``, and what else it has that they do not hold."""

    pixels: Pixels
    not_kept: Set[str]


@contextmanager
def sizes_refused_by(refusal: SizeRefusal) -> Iterator[None]:
    """Within, and in this thread, images of a size that is refused are unreadable for that reason
    before their pixels are decoded: a few bytes may stand for gigabytes of them."""
    token = _size_refusal.set(refusal)
    try:
        yield
    finally:
        _size_refusal.reset(token)


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
    not_kept: Counter[str] = Counter()
    start = held = 0
    for number, content in enumerate(contents):
        try:
            if isinstance(content, UnreadableImage):
                raise content
            pixels, beside = decode_with(content)
        except UnreadableImage as error:
            unreadable[number - start] = str(error)
            continue
        if held and held + pixels.size > CHUNK_BYTES:
            yield Images(names[start:number], _taken(sizes), unreadable, not_kept)
            start, held, unreadable, not_kept = number, 0, {}, Counter()
        held += pixels.size
        not_kept.update(beside)
        sizes.setdefault(pixels.shape, []).append((number - start, pixels))
    yield Images(names[start:], _taken(sizes), unreadable, not_kept)


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

    Grey with transparency becomes RGBA, a palette RGB or RGBA, CMYK and YCbCr RGB, 1 bit grey. Of a
    JPEG with further pictures (a depth map, a preview) the first is taken.
    Raises UnreadableImage, with only the reason, for damaged or truncated data, other formats,
    more than 8 bits a channel, several frames, and too many pixels (spec.max_pixels).
    """
    return decode_with(data).pixels


def decode_with(data: bytes) -> Decoded:
    """The same, and which metadata the image has beside its pixels: EXIF, ICC, XMP, text."""
    if format_of(data[:HEAD]) == "JPEG-XL":
        return _decode_jpeg_xl(data)
    try:
        return _decode_by_pillow(data)
    except UnreadableImage:
        bare, dropped = _without_metadata(data)
        if len(bare) == len(data):
            raise
        decoded = _decode_by_pillow(bare)
        return Decoded(decoded.pixels, decoded.not_kept | dropped)


def _decode_by_pillow(data: bytes) -> Decoded:
    try:
        with Image.open(io.BytesIO(data), formats=_FORMATS) as image:
            return Decoded(_pixels(image, data), _metadata(image))
    except CompressorError:
        raise
    except UnidentifiedImageError as error:
        raise UnreadableImage(_why_unidentified(data)) from error
    except Image.DecompressionBombError as error:
        raise UnreadableImage(f"has too many pixels to be decoded safely: {error}") from error
    except Exception as error:  # damaged bytes make Pillow raise a dozen unrelated types
        reason = " ".join(str(error).split()) or type(error).__name__
        raise UnreadableImage(f"is damaged: {reason}") from error


def _why_unidentified(data: bytes) -> str:
    name = format_of(data[:HEAD])
    if name in NOT_READ:
        return f"is {name}, which is not read; convert it to PNG or JPEG"
    if name in _BUILT_IN and name not in _FORMATS:
        return f"is {name}, which this Pillow was built without; install one that has it"
    return f"is damaged, or not a {FORMATS} image of a known kind"


def _pixels(image: Image.Image, data: bytes) -> Pixels:
    # The second picture of an MPO is a preview, a depth or a gain map.
    if getattr(image, "is_animated", False) and image.format != "MPO":
        raise UnreadableImage("has several frames or pages; save each as an image of its own")
    if image.format == "PNG":
        _check_crcs(data)
    mode = "RGBA" if image.has_transparency_data else _MODES.get(image.mode)
    if mode is None or more_than_8_bits(image, data):
        raise UnreadableImage(
            "does not have 8 unsigned bits a channel in grey, RGB or CMYK; convert it to 8 bits"
        )
    refuse_second_ppm(image, data)
    _refuse_size(*image.size)
    image.load()
    orientation = _exif(image).get(_ORIENTATION)
    turn = _TURNS.get(orientation) if isinstance(orientation, int) else None
    upright = image if turn is None else image.transpose(turn)
    if upright.mode == "La":  # Pillow converts it to LA alone
        upright = upright.convert("LA")
    pixels = np.asarray(upright if upright.mode == mode else upright.convert(mode))
    return pixels[..., None] if pixels.ndim == 2 else pixels


def _refuse_size(width: int, height: int) -> None:
    refuse_pixels(height, width)
    if refusal := _size_refusal.get():
        # An orientation may yet turn it.
        reasons = refusal(height, width), refusal(width, height)
        if all(reasons):
            raise UnreadableImage(reasons[0])


def _exif(image: Image.Image) -> Mapping[int, object]:
    """The EXIF tags of a loaded image; none if they are broken: the pixels are good.

    A TIFF is turned by Pillow, and has tags of its own: of those there are none either.
    """
    if isinstance(image, TiffImagePlugin.TiffImageFile):
        return {tag: None for tag in _EXIF_OF_TIFF if tag in image.tag_v2}
    try:
        return dict(image.getexif())
    except Exception:  # as many types as damaged images raise
        return {}


def _metadata(image: Image.Image) -> set[str]:
    """What a loaded image has beside its pixels."""
    info, tags = image.info, _exif(image).keys()
    texts = {name for name, value in info.items() if isinstance(value, str)}
    bands = 0
    if isinstance(image, TiffImagePlugin.TiffImageFile):
        bands = image.tag_v2.get(TiffImagePlugin.SAMPLESPERPIXEL, 1)
    has = {
        "EXIF": tags - {_ORIENTATION} or (not tags and info.get("exif", _EMPTY_EXIF) > _EMPTY_EXIF),
        "ICC": info.get("icc_profile"),
        "XMP": {"xmp", "XML:com.adobe.xmp"} & info.keys(),
        "text": "comment" in info or (image.format == "PNG" and texts - _XMP_AND_MORE),
        "further pictures": image.format == "MPO",
        "further channels": bands > len(image.getbands()),
    }
    return {name for name, value in has.items() if value}


def _decode_jpeg_xl(data: bytes) -> Decoded:
    try:
        import imagecodecs
    except ImportError as error:
        raise UnreadableImage(
            f"is JPEG-XL, which needs imagecodecs: {install('jpegxl')}"
        ) from error
    _refuse_size(*jpeg_xl_size(data))
    try:
        pixels = imagecodecs.jpegxl_decode(data, numthreads=1)
    except Exception as error:  # libjxl's errors, and ValueError
        raise UnreadableImage(f"is damaged: {' '.join(str(error).split())}") from error
    if pixels.dtype != np.uint8:
        raise UnreadableImage(
            "does not have 8 unsigned bits a channel in grey, RGB or CMYK; convert it to 8 bits"
        )
    if pixels.ndim == 3 and pixels.shape[2] == 2:  # grey and alpha
        pixels = np.ascontiguousarray(pixels[..., [0, 0, 0, 1]])
    if pixels.ndim == 2:
        pixels = pixels[..., None]
    return Decoded(pixels, {"EXIF"} if b"Exif" in data else set())


def _without_metadata(data: bytes) -> tuple[bytes, set[str]]:
    """A PNG or JPEG without what its pixels do not need, of which Pillow refuses large or broken
    parts, and what that was; other data as they are."""
    kind = format_of(data[:HEAD])
    parts = _png_parts if kind == "PNG" else _jpeg_parts if kind == "JPEG" else None
    if parts is None:
        return data, set()
    kept, dropped = [], set()
    for part, holds in parts(data):
        if holds is None:
            kept.append(part)
        else:
            dropped.add(holds)
    return b"".join(kept), dropped - {""}


def _png_parts(data: bytes) -> Iterator[tuple[bytes, str | None]]:
    """The chunks, and what each holds that pixels do not need; None for those that they need."""
    yield data[:8], None
    at = 8
    while at < len(data):
        end = at + 12 + int.from_bytes(data[at : at + 4])
        yield data[at:end], _PNG_METADATA.get(data[at + 4 : at + 8])
        at = end


def _jpeg_parts(data: bytes) -> Iterator[tuple[bytes, str | None]]:
    """The same of the segments of a JPEG up to the first that is no APPn or comment, and the rest.

    APP1 has the orientation, APP14 says which colours.
    """
    yield data[:2], None
    at = 2
    while data[at : at + 1] == b"\xff" and data[at + 1 : at + 2] in _JPEG_SEGMENTS:
        end = at + 2 + max(2, int.from_bytes(data[at + 2 : at + 4]))
        is_profile = data[at + 4 : end].startswith(b"ICC_PROFILE")
        yield data[at:end], "ICC" if is_profile else _JPEG_METADATA.get(data[at + 1])
        at = end
    yield data[at:], None


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
