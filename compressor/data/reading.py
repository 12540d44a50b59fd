"""What sources share: errors for damaged files, fingerprints, and chunks of a stream."""

from __future__ import annotations

import hashlib
import lzma
import stat
import tarfile
import tokenize
import zipfile
import zlib
from collections.abc import Iterable, Iterator
from contextlib import contextmanager, suppress
from functools import partial
from itertools import islice
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq

from ..errors import DataError, UnreadableImage
from .decode import MAX_ENCODED_BYTES, decode_all
from .images import Chunk, Shard, Source

COLUMN_BYTES_AT_ONCE = 2**20  # of a Parquet file
LARGE_IMAGE = 1 << 20  # bytes of a file
# What zipfile, tarfile, NumPy and gzip were seen to raise for damaged files.
_ERRORS = (
    OSError,
    EOFError,
    ValueError,
    RuntimeError,
    tokenize.TokenError,
    zlib.error,
    lzma.LZMAError,
    tarfile.TarError,
    zipfile.BadZipFile,
)


@contextmanager
def reading(path: Path) -> Iterator[None]:
    """Turns what the readers of array and archive files raise into a DataError about ``path``."""
    try:
        yield
    except _ERRORS as error:
        if isinstance(error, OSError) and error.strerror:
            reason = f"{error.strerror}; check the path and its permissions"
        else:
            detail = " ".join(str(error).split()) or type(error).__name__
            reason = f"it is damaged or cut off ({detail}); copy it again from where it came"
        raise DataError(f"cannot read {path}: {reason}") from error


@contextmanager
def parquet_file(path: Path) -> Iterator[pq.ParquetFile]:
    """The open file; damage that shows now or in the body raises a DataError as in ``reading``.

    Column chunks are read piece by piece: one of plain bytes is as large as its row group, and the
    pages of a map would count as memory of the process.
    """
    with reading(path):
        try:
            with pq.ParquetFile(path, pre_buffer=False, buffer_size=COLUMN_BYTES_AT_ONCE) as file:
                yield file
        except pa.ArrowException as error:
            raise ValueError(str(error)) from error


def bytes_of(files: Iterable[Path]) -> int:
    """Of all files together; those that are gone count nothing."""
    sizes = 0
    for path in files:
        with suppress(OSError):
            sizes += path.stat().st_size
    return sizes


def encoded_file(path: Path) -> bytes | UnreadableImage:
    """The bytes of an image's file, or why there are none; what is no regular file stays closed."""
    try:
        status = path.stat()
        if not stat.S_ISREG(status.st_mode):
            return UnreadableImage("is not a regular file")
        if status.st_size > MAX_ENCODED_BYTES:
            return UnreadableImage(f"is larger than {MAX_ENCODED_BYTES:,} bytes")
        return path.read_bytes()
    except (OSError, ValueError) as error:
        return UnreadableImage(f"cannot be read: {getattr(error, 'strerror', None) or error}")


def fingerprint(kind: str, files: Iterator[tuple[str, Path]]) -> str:
    """SHA-256, in hex, over the kind of source and the name, size and time of every file."""
    digest = hashlib.sha256(kind.encode())
    for name, path in files:
        try:
            status = path.stat()
            state = f"{status.st_size} {status.st_mtime_ns}"
        except OSError as error:  # a file that is gone is a state, too; reading it raises
            state = f"errno {error.errno}"
        digest.update(name.encode("utf-8", "surrogateescape") + f"\0{state}\0".encode())
    return digest.hexdigest()


def refuse_changed(source: Source, fingerprint: str) -> None:
    """Raises DataError unless the source's fingerprint is still this one, as it was at first."""
    if source.fingerprint() != fingerprint:
        raise DataError(
            f"{source.location} changed while it was read; when it is complete, start anew"
        )


def chunks_of(
    images: Iterator[tuple[str, bytes | UnreadableImage]], size: int, start: int
) -> Iterator[Chunk]:
    """Chunks of a stream of names and encoded bytes whose first image has number ``start``.

    A large image is in a chunk's memory once, however often a dictionary of Parquet says it.
    """
    while True:
        names: list[str] = []
        contents: list[bytes | UnreadableImage] = []
        seen: dict[bytes, bytes] = {}
        for name, content in islice(images, size):
            if isinstance(content, bytes) and len(content) >= LARGE_IMAGE:
                content = seen.setdefault(content, content)
            names.append(name)
            contents.append(content)
        if not names:
            return
        yield Chunk(start, len(names), partial(decode_all, names, contents))
        start += len(names)


def shards_of(files: list[Path], ends: list[int]) -> list[Shard]:
    """The shards of a dataset in several files; a single file has none."""
    if len(files) == 1:
        return []
    return [Shard(file.name, stop) for file, stop in zip(files, ends, strict=True)]
