"""Tables of numbers as sources of vectors: CSV and Parquet, streamed.

The numeric columns of a row are its vector. A column named path, name, filename or id gives the
rows their names and is no part of it.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from functools import cached_property, partial
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.csv
import pyarrow.parquet as pq

from ..errors import DataError
from .images import Chunk, Group, Images
from .names import UNSAFE, row_names
from .reading import fingerprint, reading

NAME_COLUMNS = ("path", "name", "filename", "id")
ROWS_AT_ONCE = 4096
NUMBER = r"^[+-]?([0-9]+\.?[0-9]*|\.[0-9]+)([eE][+-]?[0-9]+)?$"


class Table(Protocol):
    """A table on disk. ``schema`` has string columns where the cells are text."""

    files: list[Path]
    schema: pa.Schema

    def batches(self, columns: list[str]) -> Iterator[pa.RecordBatch]:
        """The rows from the front, these columns alone."""


class TableSource:
    """The rows of a table as float32 vectors.

    key: the columns to take, with commas between them, or one column of lists of numbers; without
    it, all numeric columns, or the only column of lists. wanted: the columns that a model takes, in
    its order. Raises DataError, naming the column, if it is unclear or missing.
    """

    def __init__(
        self, location: Path, table: Table, key: str | None, wanted: Sequence[str] | None
    ) -> None:
        self.location = f"{location}::{key}" if key else str(location)
        self._table = table
        self._name_column = next((n for n in NAME_COLUMNS if n in table.schema.names), None)
        if key is not None and self._name_column in key.split(","):
            self._name_column = None
        chosen = _columns(table.schema, key, self._name_column, location)
        self.columns: tuple[str, ...] | None = None
        self._lists = _is_list(table.schema.field(chosen[0]).type)
        if not self._lists:
            if wanted is not None:
                if missing := [column for column in wanted if column not in chosen]:
                    raise DataError(
                        f"{self.location} lacks the columns {', '.join(missing)}, which the model "
                        f"was trained on; it has {', '.join(chosen)}"
                    )
                chosen = list(wanted)
            self.columns = tuple(chosen)
        self._chosen = chosen

    def count(self) -> int:
        return self._names_and_count[1]

    def fingerprint(self) -> str:
        kind = f"table {self._chosen} {self._name_column}"
        return fingerprint(kind, ((file.name, file) for file in self._table.files))

    def chunks(self, size: int, start: int = 0) -> Iterator[Chunk]:
        names, total = self._names_and_count
        pending: list[pa.RecordBatch] = []
        rows, first, skip = 0, start, start
        for batch in self._table.batches(self._chosen):
            skipped = min(skip, len(batch))
            skip -= skipped
            pending.append(batch.slice(skipped))
            rows += len(batch) - skipped
            while rows >= size:
                table = pa.Table.from_batches(pending)
                yield self._chunk(table.slice(0, size), first, names, total)
                pending = table.slice(size).to_batches()
                rows, first = rows - size, first + size
        if rows:
            yield self._chunk(pa.Table.from_batches(pending), first, names, total)

    def _chunk(
        self, table: pa.Table, first: int, names: pa.ChunkedArray | None, total: int
    ) -> Chunk:
        stop = first + table.num_rows
        return Chunk(first, table.num_rows, partial(self._load, table, first, stop, names, total))

    def _load(
        self, table: pa.Table, first: int, stop: int, names: pa.ChunkedArray | None, total: int
    ) -> Images:
        if names is None:
            own = row_names(first, stop, total)
        else:
            own = names.slice(first, stop - first).to_pylist()
        if self._lists:
            return _list_rows(own, table.column(0), self._length)
        columns = [_numbers(table.column(name)) for name in self._chosen]
        return vectors(own, np.stack(columns, axis=1))

    @cached_property
    def _length(self) -> int:
        """Of the lists: that of the first one that is not missing."""
        for batch in self._table.batches(self._chosen):
            for value in batch.column(0):
                if value.is_valid:
                    return len(value)
        return 0

    @cached_property
    def _names_and_count(self) -> tuple[pa.ChunkedArray | None, int]:
        """The names, where every row has a safe one of its own, and the number of rows."""
        column = self._name_column or self._chosen[0]
        pieces = [batch.column(0) for batch in self._table.batches([column])]
        total = sum(len(piece) for piece in pieces)
        if not total:
            raise DataError(f"{self.location} has no rows; give a table with at least one")
        if self._name_column is None:
            return None, total
        names = pa.chunked_array([piece.cast(pa.string()) for piece in pieces])
        unsafe = pc.any(pc.match_substring_regex(names, UNSAFE)).as_py()
        distinct = pc.count_distinct(names, mode="only_valid").as_py()
        return (None if unsafe or distinct != total else names), total


class CsvTable:
    """A CSV file with a header; cells are text until they are read as numbers."""

    def __init__(self, path: Path) -> None:
        self.files = [path]
        with self._open({}) as reader:
            self.schema = reader.schema  # as the first block of the file has it

    def batches(self, columns: list[str]) -> Iterator[pa.RecordBatch]:
        with self._open({"include_columns": columns}) as reader:
            yield from reader

    @contextmanager
    def _open(self, options: dict[str, Any]) -> Iterator[Any]:
        path = self.files[0]
        with reading(path), _arrow_errors():
            if options:
                # A cell that is no number in a later block would otherwise end the whole.
                options["column_types"] = dict.fromkeys(options["include_columns"], pa.string())
            convert = pyarrow.csv.ConvertOptions(strings_can_be_null=False, **options)
            with pyarrow.csv.open_csv(path, convert_options=convert) as reader:
                yield reader


class ParquetTable:
    """Parquet files of one schema, one after the other."""

    def __init__(self, parts: list[Path]) -> None:
        self.files = parts
        for number, part in enumerate(parts):
            with self._open(part) as file:
                schema = file.schema_arrow
            if number == 0:
                self.schema = schema
            elif schema.names != self.schema.names:
                raise DataError(f"{part} has other columns than {parts[0]}; read them one by one")

    def batches(self, columns: list[str]) -> Iterator[pa.RecordBatch]:
        for part in self.files:
            with self._open(part) as file:
                for batch in file.iter_batches(ROWS_AT_ONCE, columns=columns):
                    yield batch.select(columns)

    @contextmanager
    def _open(self, part: Path) -> Iterator[pq.ParquetFile]:
        with reading(part), _arrow_errors(), pq.ParquetFile(part, memory_map=True) as file:
            yield file


def vectors(names: list[str], values: npt.NDArray[Any]) -> Images:
    """Rows (n, D) of any float type as float32; those with a value that is not finite are named."""
    with np.errstate(over="ignore"):
        values = np.ascontiguousarray(values, np.float32)
    finite = np.isfinite(values).all(1)
    unreadable = {
        int(row): "has a value that is missing, not a number, or too large for float32"
        for row in np.flatnonzero(~finite)
    }
    groups = [Group(np.flatnonzero(finite), values[finite])] if finite.any() else []
    return Images(names, groups, unreadable)


def _columns(schema: pa.Schema, key: str | None, names: str | None, path: Path) -> list[str]:
    """The columns that make the vectors. Raises DataError."""
    kinds = {field.name: field.type for field in schema}
    if len(kinds) < len(schema.names):
        raise DataError(f"{path} has two columns of one name; rename one")
    if key is not None:
        chosen = key.split(",")
        for column in chosen:
            if column not in kinds:
                raise DataError(f"{path} has no column {column!r}; it has {', '.join(kinds)}")
            if not (_is_number(kinds[column]) or (_is_list(kinds[column]) and len(chosen) == 1)):
                raise DataError(f"{path}: the column {column!r} is {kinds[column]}, not numbers")
        return chosen
    others = [column for column in kinds if column != names]
    lists = [column for column in others if _is_list(kinds[column])]
    numbers = [column for column in others if _is_number(kinds[column])]
    if len(lists) == 1 and not numbers:
        return lists
    for column in others:
        if column not in numbers:
            raise DataError(
                f"{path}: the column {column!r} is {kinds[column]}, not numbers; name the wanted "
                f"columns as {path}::{','.join(numbers[:3]) or 'a,b,c'}"
            )
    if not numbers:
        raise DataError(f"{path} has no column of numbers")
    return numbers


def _is_number(kind: pa.DataType) -> bool:
    types = pa.types
    return bool(
        types.is_integer(kind)
        or types.is_floating(kind)
        or types.is_boolean(kind)
        or types.is_decimal(kind)
        or types.is_null(kind)  # a column of a CSV whose first cells are all empty
    )


def _is_list(kind: pa.DataType) -> bool:
    is_list = pa.types.is_list(kind) or pa.types.is_large_list(kind)
    return (is_list or pa.types.is_fixed_size_list(kind)) and _is_number(kind.value_type)


def _numbers(column: pa.ChunkedArray) -> npt.NDArray[np.float64]:
    """A column as float64, NaN for what is missing or no number."""
    if pa.types.is_string(column.type):
        text = pc.utf8_trim_whitespace(column)
        text = pc.if_else(pc.match_substring_regex(text, NUMBER), text, None)
        lower = pc.utf8_lower(column)
        text = pc.if_else(pc.equal(lower, "true"), "1", text)
        column = pc.if_else(pc.equal(lower, "false"), "0", text)
    numbers: npt.NDArray[np.float64] = column.cast(pa.float64(), safe=False).to_numpy()
    return numbers


def _list_rows(names: list[str], column: pa.ChunkedArray, length: int) -> Images:
    values = np.full((len(names), length), np.nan)
    odd = {}
    for row, value in enumerate(column.to_pylist()):
        if value is None or len(value) != length:
            odd[row] = f"has {0 if value is None else len(value)} numbers, the first row {length}"
        else:
            values[row] = [np.nan if number is None else number for number in value]
    images = vectors(names, values)
    return Images(images.names, images.groups, images.unreadable | odd)


@contextmanager
def _arrow_errors() -> Iterator[None]:
    try:
        yield
    except pa.ArrowException as error:
        raise ValueError(str(error)) from error
