"""Arrays as sources: given from Python, in a .npy file, or as a member of a .npz file.

uint8 arrays are images, (N, H, W) grey or (N, H, W, C) with C of 1, 3 or 4; arrays (N, D) of
floats, of integers other than uint8, or of booleans, which are 0 and 1, are vectors.
"""

from __future__ import annotations

import hashlib
import math
import os
import zipfile
from collections.abc import Iterator, Sequence
from functools import partial
from pathlib import Path
from typing import IO, Any

import numpy as np
import numpy.typing as npt

from ..errors import DataError, UnreadableImage
from ..spec import refuse_pixels
from ..untrusted import npy_header
from .images import Chunk, Group, Images, Rows, Shard
from .names import row_names
from .reading import bytes_of, fingerprint, reading
from .vectors import vectors

Header = tuple[tuple[int, ...], bool, np.dtype[Any]]


class ArraySource:
    """Rows of an array of images or vectors.

    ``array`` is it.

    Raises DataError for other types and shapes. ``path`` is the file that the array maps, if any;
    ``columns`` names the numbers of vectors.
    """

    shards: Sequence[Shard] = ()

    def __init__(
        self,
        array: npt.NDArray[Any],
        path: Path | None = None,
        columns: tuple[str, ...] | None = None,
    ) -> None:
        self.location = str(path) if path else "the array"
        self.shape = _row_shape(array.shape, array.dtype, self.location)
        self.array, self._path, self.columns = array, path, columns

    def count(self) -> int:
        return len(self.array)

    def bytes_on_disk(self) -> int | None:
        return bytes_of([self._path]) if self._path else None

    def fingerprint(self) -> str:
        if self._path:
            return fingerprint("npy", iter([("", self._path)]))
        named = f" {self.columns}" if self.columns else ""
        digest = hashlib.sha256(f"array {self.array.shape}{named}".encode())
        for first in range(0, len(self.array), 256):
            digest.update(np.ascontiguousarray(self.array[first : first + 256]).data)
        return digest.hexdigest()

    def chunks(self, size: int, start: int = 0) -> Iterator[Chunk]:
        total = len(self.array)
        for first in range(start, total, size):
            stop = min(first + size, total)
            yield Chunk(first, stop - first, partial(self._load, first, stop))

    def _load(self, first: int, stop: int) -> Iterator[Images]:
        names = row_names(first, stop, len(self.array))
        yield _one_group(names, self._rows(first, stop), self.shape, self.columns)

    def _rows(self, first: int, stop: int) -> Rows:
        """A copy. Rows of a file in C order are read, not taken from the map: pages of a map count
        as memory of the process, and a file cut off meanwhile would kill it."""
        array, path = self.array, self._path
        if path is None or not array.flags.c_contiguous or not isinstance(array, np.memmap):
            return np.array(array[first:stop], order="C", subok=False)
        size = math.prod(array.shape[1:])
        offset = array.offset + first * size * array.itemsize
        with reading(path):
            rows = np.fromfile(path, array.dtype, (stop - first) * size, offset=offset)
            if len(rows) < (stop - first) * size:
                raise EOFError("it is shorter than its header says")
        return rows


class NpzSource:
    """Rows of one array in a .npz file, read in order and never held as a whole.

    The exception: vectors in Fortran order, stored column by column, are held as a whole. Without a
    ``key`` the file must have exactly one array of images or vectors, or DataError lists the keys.
    """

    columns = None
    shards: Sequence[Shard] = ()

    def __init__(self, path: Path, key: str | None) -> None:
        with reading(path), zipfile.ZipFile(path) as archive:
            headers = dict(_headers(archive))
        if key is None:
            readable = [key for key, header in headers.items() if _is_readable(header)]
            # Booleans beside other arrays are masks and labels.
            candidates = [key for key in readable if headers[key][2] != np.bool_] or readable
            if len(headers) == 1:
                candidates = list(headers)  # it is the one, or what is wrong with it is said
            if len(candidates) != 1:
                raise DataError(
                    f"{path} has {len(candidates) or 'no'} arrays of images or vectors; name one "
                    f"of its keys ({', '.join(headers)}) as {path}::KEY"
                )
            key = candidates[0]
        elif key not in headers:
            raise DataError(f"{path} has no array {key!r}; its keys are {', '.join(headers)}")
        self.location = f"{path}::{key}"
        shape, in_fortran_order, dtype = headers[key]
        self.shape, self._dtype = _row_shape(shape, dtype, self.location), dtype
        self._in_fortran_order = in_fortran_order
        if in_fortran_order and len(self.shape) > 1:
            raise DataError(
                f"{self.location} is stored in Fortran order and has no rows to read one by one; "
                "save it again after numpy.ascontiguousarray"
            )
        self._path, self._key, self._count = path, key, shape[0]

    def count(self) -> int:
        return self._count

    def bytes_on_disk(self) -> int:
        with reading(self._path), zipfile.ZipFile(self._path) as archive:
            return archive.getinfo(f"{self._key}.npy").compress_size

    def fingerprint(self) -> str:
        return fingerprint("npz", iter([(self._key, self._path)]))

    def chunks(self, size: int, start: int = 0) -> Iterator[Chunk]:
        row = math.prod(self.shape) * self._dtype.itemsize
        with (
            reading(self._path),
            zipfile.ZipFile(self._path) as archive,
            archive.open(f"{self._key}.npy") as file,
        ):
            _read_header(file)
            if self._in_fortran_order:
                columns = np.frombuffer(file.read(), self._dtype).reshape(-1, self._count)
                yield from ArraySource(columns.T).chunks(size, start)
                return
            file.seek(start * row, os.SEEK_CUR)
            for first in range(start, self._count, size):
                stop = min(first + size, self._count)
                data = file.read((stop - first) * row)
                if len(data) < (stop - first) * row:
                    raise EOFError(f"array {self._key!r} is shorter than its header says")
                yield Chunk(first, stop - first, partial(self._load, data, first, stop))

    def _load(self, data: bytes, first: int, stop: int) -> Iterator[Images]:
        rows = np.frombuffer(data, self._dtype).copy()  # bytes are read-only, of which torch warns
        yield _one_group(row_names(first, stop, self._count), rows, self.shape)


def open_npy(path: Path) -> ArraySource:
    """A .npy file. Raises DataError if it is damaged or holds something else."""
    with reading(path):
        with path.open("rb") as file:
            shape, _, dtype = _read_header(file)
        if dtype.hasobject:  # NumPy would say that it cannot be mapped
            _row_shape(shape, dtype, str(path))
        array = np.lib.format.open_memmap(path, mode="r")
    return ArraySource(array, path)


def _one_group(
    names: list[str],
    rows: Rows,
    shape: tuple[int, ...],
    columns: tuple[str, ...] | None = None,
) -> Images:
    rows = rows.reshape(len(names), *shape)
    if len(shape) == 1:
        return vectors(names, rows, columns)
    return Images(names, [Group(np.arange(len(names), dtype=np.int64), rows)])


def _row_shape(shape: tuple[int, ...], dtype: np.dtype[Any], location: str) -> tuple[int, ...]:
    """(H, W, C) or (D,). Raises DataError unless the rows are clearly images or vectors."""
    refuse_unreadable(shape, dtype, location)
    if dtype != np.uint8:
        return (shape[1],)
    try:
        refuse_pixels(*shape[1:3])
    except UnreadableImage as error:
        raise DataError(f"{location}: every image {error}") from error
    return shape[1], shape[2], shape[3] if len(shape) == 4 else 1


def refuse_unreadable(shape: tuple[int, ...], dtype: np.dtype[Any], location: str) -> None:
    """Raises DataError, saying what to give, unless an array is of images or vectors."""
    if not _is_readable((shape, False, dtype)):
        raise DataError(
            f"{location} is {dtype} {shape}; give uint8 (N, H, W) or (N, H, W, C) with 1, 3 or 4 "
            "channels (one image: array[None]), or float32 (N, D) for vectors, no length 0"
            f"{_advice(shape, dtype)}"
        )


def _advice(shape: tuple[int, ...], dtype: np.dtype[Any]) -> str:
    """What an array is that cannot be read, and what makes one of it that can."""
    numbers, vectors = "array.astype(numpy.float32)", "array.reshape(len(array), -1)"
    if not all(shape):
        return ""
    if dtype.names:
        return ": of these records, numpy.lib.recfunctions.structured_to_unstructured(array)"
    if dtype.hasobject:
        numbers = "numpy.stack(list(array))" if len(shape) == 1 else numbers
        return (
            f": of these Python objects {numbers}, where they hold as many numbers each; of images "
            "of several sizes a folder of files"
        )
    if dtype.kind not in "bfiu" or dtype.itemsize > 8:
        return f": where it holds plain numbers, {numbers}"
    if dtype == np.uint8:
        if len(shape) == 2:
            return f": for vectors {numbers}, for one image array[None]"
        if len(shape) == 4 and shape[1] in (1, 3, 4):
            return f": of these {shape[1]} channels, which come first, array.transpose(0, 2, 3, 1)"
        return ""
    if len(shape) == 1:
        return ": array[:, None] for one number a row, array[None] for one row"
    if len(shape) in (3, 4):
        levels = {
            "b": "array.astype(numpy.uint8) * 255",
            "f": "(255 * array).round().astype(numpy.uint8) of values in [0, 1]",
            "i": "array.astype(numpy.uint8) of values from 0 to 255",
            "u": "(array >> 8).astype(numpy.uint8) of 16 bits",
        }[dtype.kind]
        return f": for images {levels}, for vectors {vectors}"
    return ""


def _is_readable(header: Header) -> bool:
    shape, _, dtype = header
    if not shape or not all(shape):
        return False
    if dtype != np.uint8:
        return len(shape) == 2 and dtype.kind in "bfiu" and dtype.itemsize <= 8
    # (H, W, 3) is one colour image without N, not H grey images three pixels wide.
    images = ((3, False), (4, True))
    return (len(shape), shape[-1] in (1, 3, 4)) in images


def _headers(archive: zipfile.ZipFile) -> Iterator[tuple[str, Header]]:
    """Keys and headers of the members that are arrays; reads neither data nor pickles."""
    for member in archive.namelist():
        if member.endswith(".npy"):
            with archive.open(member) as file:
                yield member.removesuffix(".npy"), _read_header(file)


def _read_header(file: IO[bytes]) -> Header:
    """Of arrays that hold no pickles. Raises ValueError, EOFError."""
    shape, in_fortran_order, dtype, _ = npy_header(file)
    return shape, in_fortran_order, dtype
