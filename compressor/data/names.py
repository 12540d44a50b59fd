"""Names of images: relative POSIX paths that stay inside a folder wherever they are written."""

from __future__ import annotations

import hashlib
import re
from pathlib import PurePosixPath

HASH_DIGITS, MAX_SUFFIX = 8, 8  # of a name that is shortened
MAX_PARTS = 100  # of a path that is written: making and removing deep folders is recursive

# Empty, absolute, a drive, a backslash, a NUL or a step upwards. Python's re and Arrow's RE2 agree
# on it.
UNSAFE = r"^$|^/|^[A-Za-z]:|\\|\x00|(^|/)\.\.(/|$)"

_unsafe = re.compile(UNSAFE).search


def is_unsafe(name: str) -> bool:
    """Whether a file of this name, in some folder on some system, could land outside of it."""
    return _unsafe(name) is not None


def as_text(name: str) -> str:
    """A file system's or a tar's name as valid Unicode: bytes that are not UTF-8 become %E9 and so
    on, so that names stay different."""
    return re.sub("[\udc80-\udcff]", lambda byte: f"%{ord(byte[0]) - 0xDC00:02X}", name)


def row_names(start: int, stop: int, total: int) -> list[str]:
    """Numbers for rows without names, all as wide as the last one's, at least five digits."""
    width = max(5, len(str(total - 1)))
    return [f"{row:0{width}}" for row in range(start, stop)]


def shortened(path: str, name_bytes: int, path_bytes: int) -> str:
    """A relative POSIX path whose parts have at most ``name_bytes`` and it all ``path_bytes``.

    One that fits stays as it is. Of a part that is too long the middle gives way to a hash: its own
    in a folder, so that files stay together; in the file's name that of the whole path. Of a path
    of too many parts only the last is left.
    """
    *folders, name = path.split("/")
    fits = [_cut(folder, name_bytes, folder) for folder in folders]
    short = "/".join([*fits, _cut(name, name_bytes, path)])
    if len(_bytes(short)) <= path_bytes and len(folders) < MAX_PARTS:
        return short
    return _cut(name, min(name_bytes, path_bytes), path, always=True)


def _cut(part: str, most: int, hashed: str, always: bool = False) -> str:
    if len(_bytes(part)) <= most and not always:
        return part
    suffixes = [s for s in PurePosixPath(part).suffixes[-2:] if len(_bytes(s)) <= MAX_SUFFIX]
    suffix = "".join(suffixes) if part.endswith("".join(suffixes)) else ""
    end = f"-{hashlib.sha256(_bytes(hashed)).hexdigest()[:HASH_DIGITS]}{suffix}"
    stem = _bytes(part.removesuffix(suffix))[: max(0, most - len(_bytes(end)))]
    return stem.decode("utf-8", "ignore") + end


def _bytes(name: str) -> bytes:
    return name.encode("utf-8", "surrogatepass")
