"""Parquet files with a column of encoded images as a source, in the layouts of Hugging Face."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from functools import cached_property
from itertools import accumulate
from pathlib import Path

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from ..errors import DataError, UnreadableImage
from .images import Chunk
from .names import UNSAFE, row_names
from .reading import bytes_of, chunks_of, fingerprint, parquet_file, shards_of

NAME_COLUMNS = ("path", "name", "filename")
ROWS_AT_ONCE, BYTES_AT_ONCE = 64, 1 << 28


class ParquetSource:
    """The rows of ``parts``, one file after the other; ``column`` holds the encoded images.

    The column is binary, or a struct {bytes: binary, path: string}; without ``column`` it is the
    one named ``image``, or the only one of such a type. Names come from a string column ``path``,
    ``name`` or ``filename``, or else from the struct's path; if any name is missing, occurs twice
    or leads out of a folder, rows are numbered. Raises DataError if there is no such column, or a
    part is damaged or different.
    """

    shape = columns = None

    def __init__(self, location: Path, parts: list[Path], column: str | None) -> None:
        self._parts: list[tuple[Path, int]] = []
        for part in parts:
            with parquet_file(part) as file:
                schema, rows = file.schema_arrow, file.metadata.num_rows
            if not self._parts:
                self._column = _image_column(schema, column, part)
                self._names_at = names_at(schema, self._column)
                self._columns = list(dict.fromkeys([self._column, *self._names_at[:1]]))
                types = _types(schema, self._columns)
            if _types(schema, self._columns) != types:
                raise DataError(
                    f"{part} has other columns than {parts[0]}; read the two one by one"
                )
            self._parts.append((part, rows))
        ends = list(accumulate(rows for _, rows in self._parts))
        self._count = ends[-1]
        self.shards = shards_of([part for part, _ in self._parts], ends)
        if not self._count:
            raise DataError(f"{location} has no rows; give Parquet files with at least one image")
        self.location = f"{location}::{self._column}"

    def count(self) -> int:
        return self._count

    def bytes_on_disk(self) -> int:
        return bytes_of(part for part, _ in self._parts)

    def fingerprint(self) -> str:
        parts = ((part.name, part) for part, _ in self._parts)
        return fingerprint(f"parquet {self._column}", parts)

    def chunks(self, size: int, start: int = 0) -> Iterator[Chunk]:
        return chunks_of(self._images(start), size, start)

    def _images(self, start: int) -> Iterator[tuple[str, bytes | UnreadableImage]]:
        first = 0
        for part, rows in self._parts:
            if first + rows > start:
                with parquet_file(part) as file:
                    yield from self._rows(file, first, start)
            first += rows

    def _rows(
        self, file: pq.ParquetFile, first: int, start: int
    ) -> Iterator[tuple[str, bytes | UnreadableImage]]:
        """The rows from ``start`` on of one part, which begins at row ``first``."""
        for group in range(file.num_row_groups):
            metadata = file.metadata.row_group(group)
            if first + metadata.num_rows <= start:
                first += metadata.num_rows
                continue
            # Every row may be the largest entry of a dictionary.
            at_once = min(ROWS_AT_ONCE, max(1, BYTES_AT_ONCE // max(1, metadata.total_byte_size)))
            for batch in file.iter_batches(at_once, row_groups=[group], columns=self._columns):
                rest = batch.slice(max(start - first, 0))
                first += len(batch)
                yield from zip(
                    self._names(rest, first), contents_of(rest.column(self._column)), strict=True
                )

    def _names(self, batch: pa.RecordBatch, stop: int) -> list[str]:
        if self._has_names:
            names: list[str] = selected(batch, self._names_at).to_pylist()
            return names
        return row_names(stop - len(batch), stop, self._count)

    @cached_property
    def _has_names(self) -> bool:
        """Whether every row has a safe, distinct name; reads only the names, of all parts."""
        if not self._names_at:
            return False
        pieces = []
        for part, _ in self._parts:
            with parquet_file(part) as file:
                for batch in file.iter_batches(columns=[".".join(self._names_at)]):
                    pieces.append(selected(batch, self._names_at).cast(pa.large_string()))
        names = pa.chunked_array(pieces, pa.large_string())
        unsafe = pc.any(pc.match_substring_regex(names, UNSAFE)).as_py()
        distinct = pc.count_distinct(names, mode="only_valid").as_py()
        return not unsafe and bool(distinct == self._count)


def holds_images(part: Path, column: str | None) -> bool:
    """Whether ``column``, or any column of the file, has encoded images."""
    with parquet_file(part) as file:
        return bool(image_column(file.schema_arrow, column))


def contents_of(
    column: pa.Array, read: Callable[[str], bytes | UnreadableImage] | None = None
) -> Iterator[bytes | UnreadableImage]:
    """The encoded images of a column; where it has a path alone, what ``read`` gives for that."""
    if pa.types.is_dictionary(column.type):
        column = column.dictionary_decode()
    paths: list[str | None] = [None] * len(column)
    if pa.types.is_struct(column.type):
        if read and any(field.name == "path" for field in column.type):
            paths = pc.struct_field(column, "path").to_pylist()
        column = pc.struct_field(column, "bytes")
    missing = UnreadableImage("has no bytes in the table; embed the image instead of a link")
    for scalar, path in zip(column, paths, strict=True):
        if (value := scalar.as_py()) is not None:
            yield value
        else:
            yield read(path) if read and path is not None else missing


def image_column(schema: pa.Schema, column: str | None) -> list[str]:
    """The columns of encoded images, or ``column`` if it is one."""
    return [
        field.name for field in schema if column in (None, field.name) and _holds_images(field.type)
    ]


def _image_column(schema: pa.Schema, column: str | None, part: Path) -> str:
    """The column of encoded images. Raises DataError if it is unclear which one it is."""
    candidates = image_column(schema, None)
    if column is None and "image" in candidates:
        column = "image"
    if column is None and len(candidates) == 1:
        (column,) = candidates
    if column is None or column not in candidates:
        wanted = "one column" if column is None else f"the column {column!r}"
        raise DataError(
            f"{part} does not have {wanted} of encoded images (binary, or a struct of bytes and "
            f"path); such columns are: {', '.join(candidates) or 'none'}; name one as PATH::COLUMN"
        )
    return column


def _holds_images(kind: pa.DataType) -> bool:
    if pa.types.is_dictionary(kind):
        kind = kind.value_type
    if pa.types.is_struct(kind):
        return any(field.name == "bytes" and _holds_images(field.type) for field in kind)
    return bool(pa.types.is_binary(kind) or pa.types.is_large_binary(kind))


def names_at(schema: pa.Schema, image_column: str) -> tuple[str, ...]:
    """Where the names are: a column, a column and its field, or nowhere."""
    for column in NAME_COLUMNS:
        if column in schema.names and _is_string(schema.field(column).type):
            return (column,)
    kind = schema.field(image_column).type
    if pa.types.is_struct(kind) and any(f.name == "path" and _is_string(f.type) for f in kind):
        return image_column, "path"
    return ()


def selected(batch: pa.RecordBatch, path: tuple[str, ...]) -> pa.Array:
    column = batch.column(path[0])
    return pc.struct_field(column, path[1]) if path[1:] else column


def _is_string(kind: pa.DataType) -> bool:
    if pa.types.is_dictionary(kind):
        kind = kind.value_type
    return bool(pa.types.is_string(kind) or pa.types.is_large_string(kind))


def _types(schema: pa.Schema, columns: list[str]) -> list[pa.DataType | None]:
    return [schema.field(column).type if column in schema.names else None for column in columns]
