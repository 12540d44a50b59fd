"""Image formats: which are read, by suffix and by their first bytes, and which are only known."""

from __future__ import annotations

import re

IMAGE_SUFFIXES = frozenset({
    ".png", ".apng", ".jpg", ".jpeg", ".jpe", ".jfif", ".mpo", ".webp", ".tif", ".tiff", ".bmp",
    ".dib", ".gif", ".avif", ".jp2", ".j2k", ".j2c", ".jpx", ".jxl", ".ppm", ".pgm", ".pbm",
    ".pnm",
})  # fmt: skip
# Files of these are pictures that are not read: a job that leaves one out is not complete.
OTHER_IMAGE_SUFFIXES = frozenset({
    ".heic", ".heif", ".hif", ".avifs", ".raw", ".cr2", ".cr3", ".crw", ".nef", ".nrw", ".arw",
    ".srf", ".sr2", ".dng", ".raf", ".orf", ".rw2", ".rwl", ".pef", ".srw", ".x3f", ".3fr",
    ".fff", ".iiq", ".erf", ".kdc", ".mrw", ".dcr", ".psd", ".psb", ".xcf", ".svg", ".ico",
    ".icns", ".cur", ".tga", ".pcx", ".exr", ".dcm", ".dicom", ".fits", ".jls", ".jxr", ".wdp",
    ".sgi", ".pfm", ".pam", ".qoi", ".dds", ".svs", ".ndpi",
})  # fmt: skip
FORMATS = "PNG, JPEG, WebP, TIFF, BMP, GIF, AVIF, JPEG 2000, JPEG-XL or PPM"
HEAD = 64  # bytes of a file that tell its format

_STARTS = (
    (b"\x89PNG\r\n\x1a\n", "PNG"),
    (b"\xff\xd8\xff", "JPEG"),
    (b"GIF87a", "GIF"),
    (b"GIF89a", "GIF"),
    (b"II*\0", "TIFF"),
    (b"MM\0*", "TIFF"),
    (b"II+\0", "TIFF"),
    (b"MM\0+", "TIFF"),
    (b"\0\0\0\x0cjP  \r\n\x87\n", "JPEG2000"),
    (b"\xff\x4f\xff\x51", "JPEG2000"),
    (b"\0\0\0\x0cJXL \r\n\x87\n", "JPEG-XL"),
    (b"\xff\x0a", "JPEG-XL"),
    (b"8BPS", "PSD"),
    (b"v/1\x01", "EXR"),
)
_BMP_HEADERS = (12, 40, 52, 56, 64, 108, 124)  # their sizes in bytes
_PPM = re.compile(rb"P[1-6]\s+(#[^\n]*\n\s*)*[0-9#]")
_HEIF_BRANDS = {b"heic", b"heix", b"heim", b"heis", b"hevc", b"hevx", b"mif1", b"msf1"}
NOT_READ = {"HEIC": ".heic", "PSD": ".psd", "EXR": ".exr"}  # formats by which a suffix is named


def format_of(head: bytes) -> str | None:
    """The format of a file that begins with ``head``, HEAD bytes or all; None if it is no image."""
    for start, name in _STARTS:
        if head.startswith(start):
            return name
    if head[:4] == b"RIFF" and head[8:12] == b"WEBP":
        return "WEBP"
    if head[4:8] == b"ftyp":  # ISO/IEC 14496-12, 4.3: a brand, a version, further brands
        end = min(int.from_bytes(head[:4]), len(head))
        brands = {head[8:12], *(head[at : at + 4] for at in range(16, end, 4))}
        if brands & {b"avif", b"avis"}:
            return "AVIF"
        return "HEIC" if brands & _HEIF_BRANDS else None
    if head[:2] == b"BM" and int.from_bytes(head[14:18], "little") in _BMP_HEADERS:
        return "BMP"
    return "PPM" if _PPM.match(head) else None


def is_read(head: bytes) -> bool:
    """Whether a file that begins with ``head`` is an image of a format that is read."""
    return format_of(head) not in (None, *NOT_READ)
