"""Files that a source leaves out, counted by suffix."""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import PurePosixPath

from .formats import NOT_READ, OTHER_IMAGE_SUFFIXES, format_of

NO_SUFFIX, NO_FILE, OTHERS = "(no suffix)", "(no regular file)", "(others)"
MAX_SUFFIXES = 100  # that are counted on their own

_SUFFIX = re.compile(r"\.(?=[0-9_+-]*[a-z])[a-z0-9_+-]{1,12}").fullmatch


def suffix_of(name: str) -> str:
    """The suffix, lower; empty where what follows the last dot is none, as in ``frame.0001``."""
    suffix = PurePosixPath(name).suffix.lower()
    return suffix if _SUFFIX(suffix) else ""


class LeftOut(dict[str, int]):
    """How many files of each suffix are left out; of bounded size."""

    def add(self, name: str, head: bytes = b"") -> None:
        """Counts a file; ``head`` are its first bytes, which say more where it has no suffix."""
        suffix = suffix_of(name) or NOT_READ.get(format_of(head) or "", NO_SUFFIX)
        self.add_all({suffix: 1})

    def add_all(self, others: Mapping[str, int]) -> None:
        for suffix, count in others.items():
            key = suffix if suffix in self or len(self) < MAX_SUFFIXES else OTHERS
            self[key] = self.get(key, 0) + count

    def sorted(self) -> dict[str, int]:
        """The most frequent suffix first."""
        return dict(sorted(self.items(), key=lambda item: (-item[1], item[0])))


def left_out(source: object) -> dict[str, int]:
    """What a source has left out, as far as it has been read; nothing where it counts nothing."""
    counts = getattr(source, "left_out", None)
    return counts.sorted() if isinstance(counts, LeftOut) else {}


def listed(counts: Mapping[str, int]) -> str:
    """Counts as a line names them: "12 .txt, 3 .heic"."""
    return ", ".join(f"{count:,} {suffix}" for suffix, count in counts.items())


def images_among(counts: Mapping[str, int]) -> int:
    """How many of them are pictures, in a format that is known but not read."""
    return sum(count for suffix, count in counts.items() if suffix in OTHER_IMAGE_SUFFIXES)
