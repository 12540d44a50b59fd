"""Archives of image files as sources, read without unpacking: WebDataset tar, and zip."""

from __future__ import annotations

import lzma
import tarfile
import zipfile
import zlib
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from pathlib import Path, PurePosixPath
from typing import IO, Any, Self

from ..errors import DataError, UnreadableImage
from .decode import MAX_ENCODED_BYTES, decode_all
from .formats import FORMATS, HEAD, IMAGE_SUFFIXES, is_read
from .images import Chunk, Images, Shard
from .left_out import LeftOut, listed, suffix_of
from .names import as_text, is_unsafe
from .reading import bytes_of, chunks_of, fingerprint, reading

MAX_HEADER = 1 << 20  # bytes of a name, or of attributes, ahead of a member of a tar
SURELY_UNPACKED, UNPACKED_TIMES = 1 << 30, 64  # bytes, and of the size of the file
_HEADERS_OF_THE_NEXT = {
    *(tarfile.GNUTYPE_LONGNAME, tarfile.GNUTYPE_LONGLINK),
    *(tarfile.XHDTYPE, tarfile.XGLTYPE, tarfile.SOLARIS_XHDTYPE),
}
# RuntimeError: encrypted, or an unknown compression method
_UNPACKING = (zipfile.BadZipFile, zlib.error, lzma.LZMAError, EOFError, OSError, RuntimeError)


class TarSource:
    """The images of a .tar file, compressed or not, in its order.

    Other members (json, cls) are left out; ``left_out`` counts them once the file has been read to
    its end. Of archives one after the other in one file all are read. Reads from front to end;
    ``chunks`` raises DataError for a file that is damaged, cut off, without images, or has a member
    whose name leads out of a folder.
    """

    shape = columns = None
    shards: Sequence[Shard] = ()

    def __init__(self, path: Path) -> None:
        self.location = str(path)
        self.left_out = LeftOut()
        self._path = path

    def count(self) -> None:
        return None

    def bytes_on_disk(self) -> int:
        return bytes_of([self._path])

    def fingerprint(self) -> str:
        return fingerprint("tar", iter([("", self._path)]))

    def chunks(self, size: int, start: int = 0) -> Iterator[Chunk]:
        return chunks_of(self._images(start), size, start)

    def length(self) -> int:
        """How many images there are; reads to the end, skipping their bytes where it can seek."""
        return sum(1 for _ in self._members())

    def _images(self, start: int) -> Iterator[tuple[str, bytes | UnreadableImage]]:
        for position, (name, read) in enumerate(self._members()):
            if position >= start:
                with reading(self._path):
                    content = read()
                yield name, content

    def _members(self) -> Iterator[tuple[str, Callable[[], bytes | UnreadableImage]]]:
        """The names of the images, and what reads each before the next is asked for."""
        empty, left_out = True, LeftOut()
        with (
            reading(self._path),
            _Tar.open(self._path, tarinfo=_TarInfo, ignore_zeros=True) as tar,
        ):
            while (member := tar.next()) is not None:
                tar.refuse_beyond()  # the next one, before what lies between is unpacked
                # tarfile keeps every member it has read: memory would grow with the archive.
                tar.members.clear()  # type: ignore[attr-defined]
                name = _visible_name(member.name, self._path)
                if name is None or member.isdir():
                    continue
                file, head = tar.extractfile(member) if member.isreg() else None, b""
                if file is not None and not suffix_of(name):
                    head = file.read(HEAD)
                if not _is_image(name, head):
                    left_out.add(name, head)
                    continue
                empty = False
                yield name, partial(_tar_content, member, file, head)
            tar.read_to_end()
        self.left_out = left_out
        if empty:
            raise _no_images(self._path, left_out)


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
        self.left_out = LeftOut()
        members = []
        for member in self._archive.infolist():
            name = _visible_name(member.filename, path)
            if name is None or member.filename.endswith(("/", "\\")):
                continue
            head = b"" if suffix_of(name) else self._head(member)
            if _is_image(name, head):
                members.append((name, member))
            else:
                self.left_out.add(name, head)
        if not members:
            raise _no_images(path, self.left_out)
        if sum(member.file_size for _, member in members) > _unpacked_limit(path):
            raise _bomb(path)
        self._members = sorted(members, key=lambda pair: pair[0])

    def count(self) -> int:
        return len(self._members)

    def bytes_on_disk(self) -> int:
        return bytes_of([self._path])

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
        except _UNPACKING as error:
            return UnreadableImage(f"cannot be unpacked: {error}")

    def _head(self, member: zipfile.ZipInfo) -> bytes:
        """The first bytes of a member; none if it cannot be unpacked."""
        try:
            with self._archive.open(member) as file:
                return file.read(HEAD)
        except _UNPACKING:
            return b""


class _Tar(tarfile.TarFile):
    """Refuses to unpack far more than the file has."""

    ended = False  # whether blocks of zeros came last, the end of an archive

    def __init__(self, name: Any, *arguments: Any, **options: Any) -> None:
        self._limit = _unpacked_limit(Path(name))
        super().__init__(name, *arguments, **options)

    def refuse_beyond(self, further: int = 0) -> None:
        """Raises DataError if what comes next, and ``further`` bytes, lies beyond the limit."""
        if self.offset + further > self._limit:
            raise _bomb(str(self.name))

    def read_to_end(self) -> None:
        """Reads what follows the last member: gzip checks its CRC-32 at the end only."""
        assert self.fileobj is not None
        further = 0
        while piece := self.fileobj.read(2**16):
            further += len(piece)
            self.refuse_beyond(further)


class _TarInfo(tarfile.TarInfo):
    """Raises for a damaged header, which tarfile takes for the end of the archive.

    After an end, where ``cat`` may have put another archive, what is no header is skipped.
    """

    @classmethod
    def frombuf(cls, *arguments: Any) -> Self:
        info = super().frombuf(*arguments)
        if info.type in _HEADERS_OF_THE_NEXT and info.size > MAX_HEADER:
            raise tarfile.ReadError(f"a name or a header has {info.size} bytes")
        return info

    @classmethod
    def fromtarfile(cls, tar: tarfile.TarFile) -> Self:
        assert isinstance(tar, _Tar)
        tar.refuse_beyond()
        ended, tar.ended = tar.ended, False
        try:
            return super().fromtarfile(tar)
        except tarfile.EOFHeaderError:  # type: ignore[attr-defined]
            tar.ended = True
            raise  # a block of zeros: the real end
        except tarfile.HeaderError as error:
            if ended and isinstance(error, tarfile.EmptyHeaderError):  # type: ignore[attr-defined]
                tar.ended = True
                raise  # the end of the file
            if ended and isinstance(error, tarfile.InvalidHeaderError):  # type: ignore[attr-defined]
                tar.ended = True
                raise tarfile.EOFHeaderError(str(error)) from error  # type: ignore[attr-defined]
            raise tarfile.ReadError(str(error)) from error


def _tar_content(
    member: tarfile.TarInfo, file: IO[bytes] | None, head: bytes
) -> bytes | UnreadableImage:
    """A member's content, of which ``head`` has been read already."""
    if file is None:
        return UnreadableImage("is a link or a device in the tar; pack the file itself")
    if member.size > MAX_ENCODED_BYTES:
        return UnreadableImage(f"is larger than {MAX_ENCODED_BYTES:,} bytes")
    return head + file.read()


def _unpacked_limit(path: Path) -> int:
    """Bytes that an archive may unpack to; images hardly shrink when they are packed."""
    return max(SURELY_UNPACKED, UNPACKED_TIMES * path.stat().st_size)


def _bomb(path: Path | str) -> DataError:
    return DataError(
        f"{path} unpacks to more than {UNPACKED_TIMES} times its size; if you trust it, unpack it "
        "yourself and give the folder"
    )


def _visible_name(member: str, path: Path) -> str | None:
    """A member's name, with / where PowerShell 5 wrote a backslash; None if it is hidden.

    Raises DataError if the name leads out of a folder: such an archive was made to do harm.
    """
    slashed = member.replace("\\", "/")
    if is_unsafe(slashed):
        raise DataError(
            f"{path} has a member named {member!r}, which leads out of a folder; "
            "pack it again with relative names if you trust it"
        )
    name = PurePosixPath(slashed)
    hidden = any(part.startswith(".") or part == "__MACOSX" for part in name.parts)
    return None if hidden else as_text(str(name))


def _is_image(name: str, head: bytes) -> bool:
    """By its name, or where that has no suffix by its first bytes."""
    return PurePosixPath(name).suffix.lower() in IMAGE_SUFFIXES or is_read(head)


def _no_images(path: Path, left_out: LeftOut) -> DataError:
    beside = f", but {listed(left_out.sorted())}" if left_out else ""
    return DataError(f"{path} holds no images{beside}; give {FORMATS} files")
