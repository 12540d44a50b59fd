"""Python objects as sources: lists, tensors, data frames, Arrow tables, datasets of Hugging Face.

Nothing is imported for it: an object of a library that is not loaded cannot be given.
"""

from __future__ import annotations

import hashlib
import io
import os
import sys
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
from PIL import Image, ImageOps

from ..errors import DataError, UnreadableImage
from ..files import refuse_elsewhere
from .arrays import ArraySource, refuse_unreadable
from .cells import kind_of_type
from .decode import decode_all
from .images import CHUNK_BYTES, Chunk, Data, Group, Images, Pixels, Shard, Source
from .names import is_unsafe, row_names
from .parquet import contents_of, image_column, names_at, selected
from .reading import encoded_file, fingerprint
from .vectors import ROWS_AT_ONCE, TableSource, pandas_indices, repeated

WANTED = (
    "a path, an array or a tensor, a list of those, of paths of images or of PIL images, a pandas "
    "DataFrame, an Arrow table, or a Dataset of Hugging Face"
)


@dataclass(frozen=True)
class NamedRows:
    """Data with names for its rows, and for its columns; see ``rows``."""

    data: Data
    names: tuple[str, ...] | None
    columns: tuple[str, ...] | None


def rows(
    data: Data, *, names: Sequence[str] | None = None, columns: Sequence[str] | None = None
) -> NamedRows:
    """``data`` for any verb, with names of its own.

    names: of the rows, one each, distinct, as results and archives have them. columns: of an array
    of vectors, what its columns are called; of a table, the columns that are taken.
    """
    return NamedRows(
        data,
        None if names is None else tuple(map(str, names)),
        None if columns is None else tuple(map(str, columns)),
    )


def open_object(
    data: Any, taken: Sequence[str] | None = None, wanted: Sequence[str] | None = None
) -> Source:
    """A source of what is not a path. taken: NamedRows.columns; wanted: those a model takes.

    Raises DataError, naming the type, for what it cannot be.
    """
    if isinstance(data, Image.Image):
        data = [data]
    if _is(data, "pandas", "DataFrame"):
        try:
            data = pa.Table.from_pandas(data)
        except (pa.ArrowException, TypeError, ValueError) as error:
            raise DataError(f"the DataFrame cannot be read: {_one_line(error)}") from error
    if _is(data, "datasets", "Dataset"):
        return _open_dataset(data, taken, wanted)
    if (table := _table(data)) is not None:
        return _open_rows("the table", table.schema, len(table), table.slice, taken, wanted)
    if isinstance(data, list | tuple):
        source = _open_list(data)
    elif hasattr(data, "__array__"):
        source = ArraySource(_array(data))
    else:
        raise DataError(f"the data are of the type {_type(data)}{_advice(data)}; give {WANTED}")
    if taken is None:
        return source
    if not isinstance(source, ArraySource) or source.shape != (len(taken),):
        raise DataError(
            f"columns={','.join(taken)} are {len(taken)} names of columns, and the rows of "
            f"{source.location} are {source.shape or 'images'}; name each column of vectors (N, D)"
        )
    return ArraySource(source.array, columns=tuple(taken))


class NamedSource:
    """A source whose rows have other names. Raises DataError if they are not one a row, each
    distinct and safe."""

    def __init__(self, source: Source, names: Sequence[str]) -> None:
        self._source, self._names = source, list(names)
        self.location, self.shape, self.columns = source.location, source.shape, source.columns
        count = source.count()
        if count is not None and count != len(names):
            raise DataError(f"there are {len(names)} names for the {count} rows; give one each")
        if (again := repeated(self._names)) is not None:
            raise DataError(f"two rows are named {again!r}; name each differently")
        if unsafe := next(filter(is_unsafe, names), None):
            raise DataError(f"the name {unsafe!r} could lead out of a folder; give another one")

    @property
    def shards(self) -> Sequence[Shard]:
        return self._source.shards

    def count(self) -> int:
        return len(self._names)

    def bytes_on_disk(self) -> int | None:
        return self._source.bytes_on_disk()

    def fingerprint(self) -> str:
        text = "\0".join([self._source.fingerprint(), *self._names])
        return hashlib.sha256(text.encode("utf-8", "surrogatepass")).hexdigest()

    def chunks(self, size: int, start: int = 0) -> Iterator[Chunk]:
        for chunk in self._source.chunks(size, start):
            yield Chunk(chunk.start, chunk.count, partial(self._load, chunk))

    def _load(self, chunk: Chunk) -> Iterator[Images]:
        first = chunk.start
        for images in chunk.load():
            stop = first + len(images.names)
            yield Images(self._names[first:stop], images.groups, images.unreadable)
            first = stop


class _Rows:
    """A source of rows that are loaded by their numbers: load(first, stop) gives their images."""

    shape = columns = None
    shards: Sequence[Shard] = ()

    def __init__(
        self,
        location: str,
        count: int,
        load: Callable[[int, int], Iterator[Images]],
        digest: Callable[[], str],
    ) -> None:
        self.location, self._count = location, count
        self._load, self._digest = load, digest

    def count(self) -> int:
        return self._count

    def bytes_on_disk(self) -> None:
        return None

    def fingerprint(self) -> str:
        return self._digest()

    def chunks(self, size: int, start: int = 0) -> Iterator[Chunk]:
        for first in range(start, self._count, size):
            stop = min(first + size, self._count)
            yield Chunk(first, stop - first, partial(self._load, first, stop))


class MemoryTable:
    """An Arrow table in memory."""

    decimal = "."

    def __init__(self, location: str, table: pa.Table) -> None:
        self.files: list[Path] = []
        self.shards: list[Shard] = []
        self._table = table
        if (again := repeated(table.column_names)) is not None:
            raise DataError(f"{location} has two columns named {again!r}; rename one")
        self.indices: Sequence[str] = pandas_indices(table.schema)
        self.kinds = {field.name: kind_of_type(field.type) for field in table.schema}

    def count(self) -> int:
        return int(self._table.num_rows)

    def batches(self, columns: list[str]) -> Iterator[pa.RecordBatch]:
        yield from self._table.select(columns).to_batches(ROWS_AT_ONCE)

    def fingerprint(self, kind: str) -> str:
        return _digest_of_table(kind, self._table)


def _table(data: Any) -> pa.Table | None:
    """A table of Arrow, Polars or another library that gives its columns to Arrow."""
    if isinstance(data, pa.Table):
        return data
    if hasattr(data, "__arrow_c_stream__"):
        try:
            return pa.table(data)
        except pa.ArrowException:  # one column alone, as a Series
            return None
    return None


# Lists


def _open_list(data: Sequence[Any]) -> Source:
    if not len(data):
        raise DataError(f"the {_type(data)} is empty; give at least one row")
    if all(isinstance(item, str | os.PathLike) for item in data):
        refuse_elsewhere(*data)
        paths = [Path(item) for item in data]
        names = _names_of_paths(paths)

        def read(first: int, stop: int) -> Iterator[Images]:
            return decode_all(names[first:stop], map(encoded_file, paths[first:stop]))

        files = list(zip(map(str, paths), paths, strict=True))
        return _Rows("the list", len(data), read, lambda: fingerprint("list", iter(files)))
    if all(isinstance(item, Image.Image) for item in data):
        return _Rows(
            "the list",
            len(data),
            lambda first, stop: decode_all(
                row_names(first, stop, len(data)), map(_encoded, data[first:stop])
            ),
            lambda: _digest((f"{i.mode} {i.size}".encode(), i.tobytes()) for i in data),
        )
    arrays = [_array(item) for item in data]
    if arrays[0].ndim < 2:
        try:
            return ArraySource(np.stack(arrays))
        except ValueError as error:
            raise DataError(f"the rows of the list differ: {_one_line(error)}") from error
    for number, array in enumerate(arrays):
        refuse_unreadable(
            (1, *array.shape), array.dtype, f"row {number} of the list, as array[None],"
        )
    images = [array if array.ndim == 3 else array[..., None] for array in arrays]
    return _Rows(
        "the list",
        len(images),
        lambda first, stop: _by_size(row_names(first, stop, len(images)), images[first:stop]),
        lambda: _digest((str(i.shape).encode(), np.ascontiguousarray(i).data) for i in images),
    )


def _array(data: Any) -> Any:
    """An array of what has __array__: tensors come from their device and out of their graph."""
    try:
        if hasattr(data, "detach"):
            data = data.detach().cpu()
        return np.asarray(data)
    except (TypeError, ValueError, RuntimeError) as error:
        raise DataError(f"{_type(data)} cannot be made an array: {_one_line(error)}") from error


def _by_size(names: list[str], images: Sequence[Pixels]) -> Iterator[Images]:
    """In pieces as Chunk.load says."""
    first = held = 0
    for number in range(len(images) + 1):
        ends = number == len(images)
        if ends or (held and held + images[number].size > CHUNK_BYTES):
            sizes: dict[tuple[int, ...], list[int]] = {}
            for place, image in enumerate(images[first:number]):
                sizes.setdefault(image.shape, []).append(place)
            groups = [
                Group(np.array(places, np.int64), np.stack([images[first + p] for p in places]))
                for places in sizes.values()
            ]
            yield Images(names[first:number], groups)
            first, held = number, 0
        if not ends:
            held += images[number].size


def _names_of_paths(paths: list[Path]) -> list[str]:
    """The paths, or their last parts, where those are distinct and safe; else numbers."""
    for names in ([path.as_posix() for path in paths], [path.name for path in paths]):
        if not any(map(is_unsafe, names)) and len(set(names)) == len(names):
            return names
    return row_names(0, len(paths), len(paths))


def _encoded(image: Image.Image) -> bytes | UnreadableImage:
    """An image as a file that decodes to its pixels."""
    if getattr(image, "is_animated", False):
        return UnreadableImage("has several frames or pages; give each as an image of its own")
    file = io.BytesIO()
    try:
        upright = ImageOps.exif_transpose(image)
        png = image.mode in ("1", "L", "LA", "P", "RGB", "RGBA", "I", "I;16")
        if png:
            upright.save(file, "PNG", compress_level=0)
        else:
            upright.save(file, "TIFF")
    except Exception as error:  # damaged files, which open late, make Pillow raise many types
        return UnreadableImage(f"is damaged: {_one_line(error)}")
    return file.getvalue()


# Tables


def _open_rows(
    location: str,
    schema: pa.Schema,
    count: int,
    part: Callable[[int, int], pa.Table],
    taken: Sequence[str] | None,
    wanted: Sequence[str] | None,
    read: Callable[[str], bytes | UnreadableImage] | None = None,
) -> Source:
    """Images where a column has them, else vectors. part(first, rows) is some of the table.

    read: gives the bytes of an image that the table has as a path.
    """
    column = taken[0] if taken is not None and len(taken) == 1 else None
    if not image_column(schema, column):
        table = MemoryTable(location, part(0, count))
        return TableSource(location, table, taken, wanted)
    if not count:
        raise DataError(f"{location} has no rows; give at least one")
    found = image_column(schema, column)
    if len(found) > 1 and column is None and "image" not in found:
        raise DataError(
            f"{location} has several columns of encoded images, {', '.join(found)}: name one, as "
            f"in compressor.rows(data, columns=[{found[0]!r}])"
        )
    chosen = column or ("image" if "image" in found else found[0])
    place = names_at(schema, chosen)
    names: list[str] | None = None
    if place:
        held = selected(part(0, count).select([place[0]]).combine_chunks(), place).to_pylist()
        if None not in held and not any(map(is_unsafe, held)) and len(set(held)) == count:
            names = held

    def load(first: int, stop: int) -> Iterator[Images]:
        of_rows = names[first:stop] if names else row_names(first, stop, count)
        table = part(first, stop - first).select([chosen]).combine_chunks()
        return decode_all(of_rows, contents_of(table.column(0), read))

    def digest() -> str:
        return _digest_of_table(f"images {chosen}", part(0, count).select([chosen]))

    return _Rows(location, count, load, digest)


def _open_dataset(data: Any, taken: Sequence[str] | None, wanted: Sequence[str] | None) -> Source:
    """A Dataset of Hugging Face, whose images may be paths."""
    arrow = data.with_format("arrow")

    def part(first: int, rows: int) -> pa.Table:
        table = arrow[first : first + rows]
        return table if isinstance(table, pa.Table) else table.table

    return _open_rows(
        "the dataset",
        part(0, 1).schema,
        len(data),
        part,
        taken,
        wanted,
        lambda p: encoded_file(Path(p)),
    )


def _digest_of_table(kind: str, table: pa.Table) -> str:
    sink = pa.BufferOutputStream()
    with pa.ipc.new_stream(sink, table.schema) as writer:
        writer.write_table(table.combine_chunks())
    return _digest([(kind.encode(), sink.getvalue())])


def _digest(pieces: Any) -> str:
    digest = hashlib.sha256()
    for piece in pieces:
        for part in piece:
            digest.update(part)
    return digest.hexdigest()


# What is given


def _is(data: Any, module: str, name: str) -> bool:
    """Whether it is of that class, which is not imported for it."""
    found = getattr(sys.modules.get(module), name, None)
    return isinstance(found, type) and isinstance(data, found)


def _type(data: Any) -> str:
    kind = type(data)
    module = kind.__module__.partition(".")[0]
    return kind.__qualname__ if module == "builtins" else f"{module}.{kind.__qualname__}"


def _advice(data: Any) -> str:
    if isinstance(data, dict):
        keys = ", ".join(map(repr, list(data)[:3]))
        return f", with the keys {keys}: give one of its values" if keys else ""
    if hasattr(data, "__iter__") and not isinstance(data, bytes | set | frozenset):
        return ", which is read once, and data are read several times: make a list of it"
    return ""


def _one_line(error: Exception) -> str:
    return " ".join(str(error).split()) or type(error).__name__
