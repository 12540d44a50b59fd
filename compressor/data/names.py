"""Names of images: relative POSIX paths that stay inside a folder wherever they are written."""

from __future__ import annotations

import re

# Empty, absolute, a drive, a backslash, a NUL or a step upwards. Python's re and Arrow's RE2 agree
# on it.
UNSAFE = r"^$|^/|^[A-Za-z]:|\\|\x00|(^|/)\.\.(/|$)"

_unsafe = re.compile(UNSAFE).search


def is_unsafe(name: str) -> bool:
    """Whether a file of this name, in some folder on some system, could land outside of it."""
    return _unsafe(name) is not None


def as_text(name: str) -> str:
    """A file system's or a tar's name as valid Unicode: bytes that are not UTF-8 become U+FFFD."""
    return name.encode("utf-8", "surrogateescape").decode("utf-8", "replace")


def row_names(start: int, stop: int, total: int) -> list[str]:
    """Numbers for rows without names, all as wide as the last one's, at least five digits."""
    width = max(5, len(str(total - 1)))
    return [f"{row:0{width}}" for row in range(start, stop)]
