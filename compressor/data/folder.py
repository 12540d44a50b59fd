"""Image files, alone or in a folder, as a source."""

from __future__ import annotations

import os
import stat
from collections.abc import Iterator, Sequence
from functools import partial
from pathlib import Path

from ..errors import DataError, UnreadableImage
from .decode import decode_all
from .formats import HEAD
from .images import Chunk, Images, Shard
from .left_out import LeftOut
from .names import as_text, is_unsafe
from .reading import bytes_of, encoded_file, fingerprint


class FolderSource:
    """The image files ``files``, in that order: paths relative to ``folder``, as of find_files.

    left_out: the files of the folder that are not among them.

    A file that cannot be read, or whose name other systems would take for a path elsewhere, is an
    unreadable image.
    """

    shape = columns = None
    shards: Sequence[Shard] = ()

    def __init__(
        self, folder: Path, files: list[str], location: str, left_out: LeftOut | None = None
    ) -> None:
        self.location = location
        self.left_out = left_out or LeftOut()
        self._folder, self._files = folder, files

    def count(self) -> int:
        return len(self._files)

    def bytes_on_disk(self) -> int:
        return bytes_of(self._folder / file for file in self._files)

    def fingerprint(self) -> str:
        return fingerprint("folder", ((file, self._folder / file) for file in self._files))

    def chunks(self, size: int, start: int = 0) -> Iterator[Chunk]:
        for first in range(start, len(self._files), size):
            files = self._files[first : first + size]
            yield Chunk(first, len(files), partial(self._load, files))

    def _load(self, files: list[str]) -> Iterator[Images]:
        return decode_all([as_text(file) for file in files], map(self._read, files))

    def _read(self, file: str) -> bytes | UnreadableImage:
        if is_unsafe(file):
            return UnreadableImage("has a backslash or a drive in its name; rename the file")
        return encoded_file(self._folder / file)


def first_bytes(path: Path) -> bytes | None:
    """The HEAD first bytes of a file, none if it cannot be read; None for what is no file, as a
    pipe, which is not opened."""
    try:
        if not stat.S_ISREG(path.stat().st_mode):
            return None
        with path.open("rb") as file:
            return file.read(HEAD)
    except OSError:
        return b""


def find_files(folder: Path) -> Iterator[str]:
    """The files below ``folder``: relative POSIX paths, in no order.

    Leaves out hidden files and folders. Follows links to folders, into each real folder once, so
    that loops end.
    Raises DataError if a folder cannot be listed.
    """
    seen = set()

    def is_new(path: str) -> bool:
        status = Path(path).stat()
        identity = status.st_dev, status.st_ino
        new = identity not in seen
        seen.add(identity)
        return new

    def refuse(error: OSError) -> None:
        raise error

    try:
        is_new(str(folder))
        for parent, folders, files in os.walk(folder, onerror=refuse, followlinks=True):
            folders[:] = [
                name
                for name in sorted(folders)
                if not name.startswith(".") and is_new(os.path.join(parent, name))  # noqa: PTH118
            ]
            prefix = Path(parent).relative_to(folder).as_posix()
            prefix = "" if prefix == "." else f"{prefix}/"
            yield from (prefix + name for name in files if not name.startswith("."))
    except OSError as error:
        raise DataError(
            f"cannot list {error.filename}: {error.strerror}; check its permissions"
        ) from error
