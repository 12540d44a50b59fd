"""The Parquet files of a part: items, a row per image, and the index of its blocks."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.parquet as pq

from ..errors import ArchiveError

Integers = npt.NDArray[np.int64]

MAX_ROWS = 1 << 16  # of a part, in either file
MAX_NAME = 4096  # bytes of UTF-8
MAX_UNPACKED = MAX_ROWS * (MAX_NAME + 64)  # bytes, whatever a footer claims

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


@dataclass(frozen=True)
class Items:
    """The images of a part in source order: name, block, index within it, size; each (n,)."""

    path: list[str]
    block: Integers
    index: Integers
    height: Integers
    width: Integers
    channels: Integers

    def __len__(self) -> int:
        return len(self.path)

    def to_bytes(self) -> bytes:
        return _to_parquet(pa.Table.from_pydict(vars(self), schema=_ITEMS))

    @classmethod
    def from_bytes(cls, content: bytes) -> Items:
        """Raises ArchiveError if ``content`` is no such Parquet file."""
        table = _from_parquet(content, _ITEMS)
        try:
            path = table["path"].to_pylist()
        except UnicodeDecodeError as error:
            raise ArchiveError("has a name that is not UTF-8") from error
        return cls(path, *(_integers(table, name) for name in _ITEMS.names[1:]))


@dataclass(frozen=True)
class Index:
    """The frames of a part in order: offset, payload length, images, their size; each (n,)."""

    offset: Integers
    length: Integers
    count: Integers
    height: Integers
    width: Integers

    def __len__(self) -> int:
        return len(self.offset)

    def to_bytes(self) -> bytes:
        return _to_parquet(pa.Table.from_pydict(vars(self), schema=_INDEX))

    @classmethod
    def from_bytes(cls, content: bytes) -> Index:
        """Raises ArchiveError if ``content`` is no such Parquet file."""
        table = _from_parquet(content, _INDEX)
        index = cls(*(_integers(table, name) for name in _INDEX.names))
        if any(np.any(column < 0) for column in vars(index).values()):
            raise ArchiveError("has negative numbers")
        if index.count.sum() > MAX_ROWS:
            raise ArchiveError(f"claims more than {MAX_ROWS} images")
        return index


def _to_parquet(table: pa.Table) -> bytes:
    sink = pa.BufferOutputStream()
    encoding = {
        field.name: "DELTA_BYTE_ARRAY" if field.type == pa.string() else "DELTA_BINARY_PACKED"
        for field in table.schema
    }
    pq.write_table(
        table,
        sink,
        compression="zstd",
        column_encoding=encoding,
        use_dictionary=False,
        write_statistics=False,
        store_schema=False,
        write_page_checksum=True,
        row_group_size=MAX_ROWS,
    )
    return bytes(sink.getvalue())


def _from_parquet(content: bytes, schema: pa.Schema) -> pa.Table:
    try:
        file = pq.ParquetFile(pa.BufferReader(content), page_checksum_verification=True)
        if not file.schema_arrow.equals(schema):
            raise ArchiveError("does not have the columns of the format")
        metadata = file.metadata
        groups = [metadata.row_group(number) for number in range(metadata.num_row_groups)]
        if metadata.num_rows > MAX_ROWS or len(groups) > 1:
            raise ArchiveError(f"has more than {MAX_ROWS} rows, or not in one row group")
        if sum(group.total_byte_size for group in groups) > MAX_UNPACKED:
            raise ArchiveError("claims more bytes than a part can have")
        table = file.read()
        table.validate(full=True)
    except (pa.ArrowException, OSError, ValueError, MemoryError, OverflowError) as error:
        raise ArchiveError("is damaged: it cannot be read as Parquet") from error
    return table


def _integers(table: pa.Table, name: str) -> Integers:
    return table[name].to_numpy().astype(np.int64)  # type: ignore[no-any-return]
