"""Archives of image files as sources, read without unpacking: WebDataset tar, and zip."""

from __future__ import annotations

import tarfile
import zipfile
import zlib
from collections.abc import Iterator, Sequence
from functools import partial
from pathlib import Path, PurePosixPath
from typing import Self

from ..errors import DataError, UnreadableImage
from .decode import MAX_ENCODED_BYTES, decode_all
from .formats import IMAGE_SUFFIXES
from .images import Chunk, Images, Shard
from .names import as_text, is_unsafe
from .reading import chunks_of, fingerprint, reading


class TarSource:
    """The images of a .tar or .tar.gz file in its order; other members (json, cls) are left out.

    Reads from front to end; ``chunks`` raises DataError for a file that is damaged, cut off,
    without images, or has a member whose name leads out of a folder.
    """

    shape = columns = None
    shards: Sequence[Shard] = ()

    def __init__(self, path: Path) -> None:
        self.location = str(path)
        self._path = path

    def count(self) -> None:
        return None

    def fingerprint(self) -> str:
        return fingerprint("tar", iter([("", self._path)]))

    def chunks(self, size: int, start: int = 0) -> Iterator[Chunk]:
        return chunks_of(self._images(start), size, start)

    def length(self) -> int:
        """How many images there are; reads to the end, skipping their bytes where it can seek."""
        return sum(1 for _ in self._members())

    def _images(self, start: int) -> Iterator[tuple[str, bytes | UnreadableImage]]:
        for position, (tar, name, member) in enumerate(self._members()):
            if position >= start:
                with reading(self._path):
                    content = _tar_content(tar, member)
                yield name, content

    def _members(self) -> Iterator[tuple[tarfile.TarFile, str, tarfile.TarInfo]]:
        empty = True
        with reading(self._path), tarfile.open(self._path, tarinfo=_TarInfo) as tar:
            while (member := tar.next()) is not None:
                # tarfile keeps every member it has read: memory would grow with the archive.
                tar.members.clear()  # type: ignore[attr-defined]
                name = _image_name(member.name, self._path)
                if name is None or member.isdir():
                    continue
                empty = False
                yield tar, name, member
            _read_to_end(tar)
        if empty:
            raise DataError(f"{self._path} holds no images ({', '.join(sorted(IMAGE_SUFFIXES))})")


class ZipSource:
    """The images of a .zip file, sorted by name; other members are left out.

    Raises DataError for a file that is damaged, without images, or has a member whose name leads
    out of a folder. A damaged or encrypted member is an unreadable image.
    """

    shape = columns = None
    shards: Sequence[Shard] = ()

    def __init__(self, path: Path) -> None:
        self.location = str(path)
        self._path = path
        with reading(path):
            self._archive = zipfile.ZipFile(path)  # stays open as long as there are chunks to load
        members = [
            (name, member)
            for member in self._archive.infolist()
            if (name := _image_name(member.filename, path)) and not member.is_dir()
        ]
        if not members:
            raise DataError(f"{path} holds no images ({', '.join(sorted(IMAGE_SUFFIXES))})")
        self._members = sorted(members, key=lambda pair: pair[0])

    def count(self) -> int:
        return len(self._members)

    def fingerprint(self) -> str:
        return fingerprint("zip", iter([("", self._path)]))

    def chunks(self, size: int, start: int = 0) -> Iterator[Chunk]:
        for first in range(start, len(self._members), size):
            members = self._members[first : first + size]
            yield Chunk(first, len(members), partial(self._load, members))

    def _load(self, members: list[tuple[str, zipfile.ZipInfo]]) -> Iterator[Images]:
        contents = (self._content(member) for _, member in members)
        return decode_all([name for name, _ in members], contents)

    def _content(self, member: zipfile.ZipInfo) -> bytes | UnreadableImage:
        if member.file_size > MAX_ENCODED_BYTES:
            return UnreadableImage(f"is larger than {MAX_ENCODED_BYTES:,} bytes")
        try:
            return self._archive.read(member)
        # RuntimeError: encrypted, or an unknown compression method
        except (zipfile.BadZipFile, zlib.error, EOFError, OSError, RuntimeError) as error:
            return UnreadableImage(f"cannot be unpacked: {error}")


class _TarInfo(tarfile.TarInfo):
    """Raises for a damaged header, which tarfile takes for the end of the archive."""

    @classmethod
    def fromtarfile(cls, tar: tarfile.TarFile) -> Self:
        try:
            return super().fromtarfile(tar)
        except tarfile.EOFHeaderError:  # type: ignore[attr-defined]
            raise  # a block of zeros: the real end
        except tarfile.HeaderError as error:
            raise tarfile.ReadError(str(error)) from error


def _tar_content(tar: tarfile.TarFile, member: tarfile.TarInfo) -> bytes | UnreadableImage:
    if not member.isreg():
        return UnreadableImage("is a link or a device in the tar; pack the file itself")
    if member.size > MAX_ENCODED_BYTES:
        return UnreadableImage(f"is larger than {MAX_ENCODED_BYTES:,} bytes")
    file = tar.extractfile(member)
    assert file is not None  # members that are regular files have content
    with file:
        return file.read()


def _read_to_end(tar: tarfile.TarFile) -> None:
    """Reads what follows the last member: gzip checks its CRC-32 at the end only."""
    assert tar.fileobj is not None
    while tar.fileobj.read(2**16):
        pass


def _image_name(member: str, path: Path) -> str | None:
    """The image's name of a member of an archive; None if it is hidden or not an image.

    Raises DataError if the name leads out of a folder: such an archive was made to do harm.
    """
    if is_unsafe(member):
        raise DataError(
            f"{path} has a member named {member!r}, which leads out of a folder; "
            "pack it again with relative names if you trust it"
        )
    name = PurePosixPath(member)
    hidden = any(part.startswith(".") for part in name.parts)
    return None if hidden or name.suffix.lower() not in IMAGE_SUFFIXES else as_text(str(name))
