"""The Parquet files of a part: items, a row per image, and the index of its blocks."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.parquet as pq

from ..errors import ArchiveError
from .blocks import MAGICS, MODEL

Integers = npt.NDArray[np.int64]

MAX_ROWS = 1 << 16  # of a part, in either file
MAX_NAME = 4096  # bytes of UTF-8
READ_AT_ONCE = 1 << 28  # bytes that a few rows may become
MAX_UNPACKED = MAX_ROWS * (MAX_NAME + 64)  # bytes, whatever a footer claims

_CODEC = pa.field(
    "codec", pa.string(), nullable=False
)  # up to version 3 not where all are the model's
_ARCHIVE = b"archive"  # the key of an archive's id in the metadata of its items
_ITEMS = pa.schema(
    [pa.field("path", pa.string(), nullable=False)]
    + [
        pa.field(name, pa.int32(), nullable=False)
        for name in ("block", "index", "height", "width", "channels")
    ]
)
_INDEX = pa.schema(
    [pa.field("offset", pa.int64(), nullable=False)]
    + [
        pa.field(name, pa.int32(), nullable=False)
        for name in ("length", "count", "height", "width")
    ]
)


class Names(Sequence[str]):
    """The names of a part's images, as Arrow has them: a quarter of what a list of str takes."""

    def __init__(self, array: pa.StringArray) -> None:
        self._array = array

    @property
    def longest(self) -> int:
        """The bytes of the longest name."""
        offsets = np.frombuffer(self._array.buffers()[1] or b"", np.int32)
        offsets = offsets[self._array.offset :][: len(self._array) + 1]
        return int(np.diff(offsets).max(initial=0))

    def __getitem__(self, row: Any) -> Any:
        return self._array[int(row)].as_py()

    def __iter__(self) -> Iterator[str]:
        return iter(self._array.to_pylist())

    def __len__(self) -> int:
        return len(self._array)


@dataclass(frozen=True)
class Items:
    """The images of a part in source order: name, block, index within it, size; each (n,).

    ``codec`` says what stored each, ``archive`` is the id of the archive; 0 if the file has none.
    """

    path: Sequence[str]
    codec: list[str]
    block: Integers
    index: Integers
    height: Integers
    width: Integers
    channels: Integers
    archive: int = 0

    def __len__(self) -> int:
        return len(self.path)

    def to_bytes(self) -> bytes:
        return _to_parquet(vars(self), _ITEMS, {_ARCHIVE: b"%d" % self.archive})

    @classmethod
    def from_bytes(cls, content: bytes) -> Items:
        """Raises ArchiveError if ``content`` is no such Parquet file."""
        table = _from_parquet(content, _ITEMS)
        path = Names(table["path"].combine_chunks())
        if path.longest > MAX_NAME:
            raise ArchiveError(f"has a name of more than {MAX_NAME} bytes")
        numbers = {name: _integers(table, name) for name in _ITEMS.names[1:]}
        archive = (table.schema.metadata or {}).get(_ARCHIVE, b"0")
        if not re.fullmatch(rb"\d{1,10}", archive):
            raise ArchiveError("has an id of its archive that is no number")
        return cls(path=path, codec=_codecs(table), archive=int(archive), **numbers)


@dataclass(frozen=True)
class Index:
    """The frames of a part in order: offset, payload length, images, their size; each (n,).

    ``codec`` says what stored each one's images, as in Items.
    """

    codec: list[str]
    offset: Integers
    length: Integers
    count: Integers
    height: Integers
    width: Integers

    def __len__(self) -> int:
        return len(self.offset)

    def to_bytes(self) -> bytes:
        return _to_parquet(vars(self), _INDEX)

    @classmethod
    def from_bytes(cls, content: bytes) -> Index:
        """Raises ArchiveError if ``content`` is no such Parquet file."""
        table = _from_parquet(content, _INDEX)
        numbers = {name: _integers(table, name) for name in _INDEX.names}
        index = cls(codec=_codecs(table), **numbers)
        if any(np.any(column < 0) for column in numbers.values()):
            raise ArchiveError("has negative numbers")
        if index.count.sum() > MAX_ROWS:
            raise ArchiveError(f"claims more than {MAX_ROWS} images")
        return index


def _to_parquet(
    columns: Mapping[str, Any], schema: pa.Schema, metadata: Mapping[bytes, bytes] | None = None
) -> bytes:
    schema = schema.append(_CODEC)
    table = pa.Table.from_arrays(
        [_array(columns[field.name], field) for field in schema], schema=schema
    )
    sink = pa.BufferOutputStream()
    encoding = {
        field.name: "DELTA_BYTE_ARRAY" if field.type == pa.string() else "DELTA_BINARY_PACKED"
        for field in schema
    }
    with pq.ParquetWriter(
        sink,
        schema,
        compression="zstd",
        column_encoding=encoding,
        use_dictionary=False,
        write_statistics=False,
        store_schema=False,
        write_page_checksum=True,
    ) as writer:
        writer.write_table(table, row_group_size=MAX_ROWS)
        writer.add_key_value_metadata(metadata or {})
    return bytes(sink.getvalue())


def _from_parquet(content: bytes, schema: pa.Schema) -> pa.Table:
    try:
        file = pq.ParquetFile(pa.BufferReader(content), page_checksum_verification=True)
        if not any(file.schema_arrow.equals(one) for one in (schema, schema.append(_CODEC))):
            raise ArchiveError("does not have the columns of the format")
        metadata = file.metadata
        groups = [metadata.row_group(number) for number in range(metadata.num_row_groups)]
        if metadata.num_rows > MAX_ROWS or len(groups) > 1:
            raise ArchiveError(f"has more than {MAX_ROWS} rows, or not in one row group")
        if sum(group.total_byte_size for group in groups) > MAX_UNPACKED:
            raise ArchiveError("claims more bytes than a part can have")
        # Row by row a few bytes may stand for many: a dictionary's entries, prefixes of names.
        rows = max(1, READ_AT_ONCE // max(1, *(group.total_byte_size for group in groups), 1))
        batches, held = [], 0
        for batch in file.iter_batches(min(rows, MAX_ROWS), use_threads=False):
            held += batch.nbytes
            if held > MAX_UNPACKED:
                raise ArchiveError("holds more bytes than a part can have")
            batches.append(batch)
        table = pa.Table.from_batches(batches, file.schema_arrow).combine_chunks()
        if len(table) != metadata.num_rows:
            raise ArchiveError("does not have the rows that it claims")
        table.validate(full=True)
    except (pa.ArrowException, OSError, ValueError, MemoryError, OverflowError) as error:
        raise ArchiveError("is damaged: it cannot be read as Parquet") from error
    return table


def _codecs(table: pa.Table) -> list[str]:
    if _CODEC.name not in table.column_names:
        return [MODEL] * len(table)
    codecs: list[str] = table[_CODEC.name].to_pylist()
    unknown = set(codecs) - MAGICS.keys()
    if unknown:
        raise ArchiveError(f"has a codec that this version does not know: {min(unknown)!r}")
    return codecs


# Not pa.array and to_numpy: these import pandas where there is one, which takes longer and more
# memory than many a job.


def _array(values: Any, field: pa.Field) -> pa.Array:
    if field.type == pa.string():
        builder = pa.lib.StringBuilder()
        builder.append_values(values)
        return builder.finish()
    numbers = np.ascontiguousarray(values, field.type.to_pandas_dtype())
    return pa.Array.from_buffers(field.type, len(numbers), [None, pa.py_buffer(numbers)])


def _integers(table: pa.Table, name: str) -> Integers:
    return np.from_dlpack(table[name].combine_chunks()).astype(np.int64)
