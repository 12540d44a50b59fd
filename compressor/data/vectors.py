"""Tables of numbers as sources of vectors: CSV and Parquet, streamed.

The numbers of a row are its vector. A column named path, name, filename or id names the rows and is
not part of the vector; nor are the columns of an index that pandas has written.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from functools import cached_property, partial
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from ..errors import DataError
from .cells import CELLS, LISTS, NUMBERS, kind_of_type, numbers
from .csv_table import listed
from .images import Chunk, Group, Images, Shard
from .names import UNSAFE, row_names
from .reading import bytes_of, fingerprint, parquet_file, shards_of

# The last three are pandas' names for an unnamed index: in CSV, read from CSV, and in Parquet.
NAME_COLUMNS = ("path", "name", "filename", "id", "", "Unnamed: 0", "__index_level_0__")
ROWS_AT_ONCE = 4096  # of Parquet


class Table(Protocol):
    """A table on disk.

    ``kinds`` maps its columns to NUMBERS, LISTS, CELLS (a CSV's that are mostly not numbers) or
    another type; ``indices`` are those that pandas has written as an index; ``decimal`` is what
    numbers in text have between whole numbers and fractions.
    """

    files: list[Path]
    kinds: dict[str, str]
    indices: Sequence[str]
    decimal: str
    shards: list[Shard]

    def count(self) -> int:
        """How many rows there are."""

    def batches(self, columns: list[str]) -> Iterator[pa.RecordBatch]:
        """All rows in order, with only these columns."""

    def fingerprint(self, kind: str) -> str:
        """Changes with ``kind`` and when the table changes."""


class TableSource:
    """The rows of a table as float32 vectors.

    key: the columns to take, separated by commas, or one column of lists of numbers. wanted: the
    columns that a model takes, in its order. Without either: all columns of numbers, or the only
    one of lists. Raises DataError, naming the column, if one is missing or not of numbers.
    """

    def __init__(
        self,
        location: Path | str,
        table: Table,
        key: str | Sequence[str] | None,
        wanted: Sequence[str] | None,
    ) -> None:
        named = key if isinstance(key, str) else ",".join(key or ())
        self.location = f"{location}::{named}" if named else str(location)
        self._table = table
        self._chosen = _columns(location, table, key, wanted)
        self._lists = table.kinds[self._chosen[0]] == LISTS
        index = table.indices if len(table.indices) == 1 else ()  # one of several levels names none
        names = [n for n in (*NAME_COLUMNS, *index) if n in table.kinds and n not in self._chosen]
        self._name_column = names[0] if names else None

    @property
    def columns(self) -> tuple[str, ...] | None:
        return None if self._lists else tuple(self._chosen)

    @cached_property
    def shape(self) -> tuple[int] | None:
        return None if self._lists else (len(self._chosen),)

    @property
    def shards(self) -> list[Shard]:
        return self._table.shards

    def count(self) -> int:
        return self._names_and_count[1]

    def bytes_on_disk(self) -> int | None:
        return bytes_of(self._table.files) or None  # of a table in memory

    def fingerprint(self) -> str:
        kind = f"table {self._chosen} {self._name_column}"
        return self._table.fingerprint(kind)

    def chunks(self, size: int, start: int = 0) -> Iterator[Chunk]:
        pieces: list[pa.RecordBatch] = []
        rows, first, skip = 0, start, start
        for batch in self._table.batches(self._chosen):
            rest = batch.slice(min(skip, len(batch)))
            skip -= len(batch) - len(rest)
            while len(rest):
                piece = rest.slice(0, size - rows)
                rest = rest.slice(len(piece))
                pieces.append(piece)
                rows += len(piece)
                if rows == size:
                    yield Chunk(first, rows, partial(self._load, pieces, first, first + rows))
                    pieces, rows, first = [], 0, first + size
        if rows:
            yield Chunk(first, rows, partial(self._load, pieces, first, first + rows))

    def _load(self, pieces: list[pa.RecordBatch], first: int, stop: int) -> Iterator[Images]:
        column, total = self._names_and_count
        if column is None:
            names = row_names(first, stop, total)
        else:
            names = column.slice(first, stop - first).to_pylist()
        if self._lists:
            yield _list_rows(names, [piece.column(0) for piece in pieces], self._length)
        else:
            decimal = self._table.decimal
            yield vectors(
                names, np.concatenate([_rows(piece, decimal) for piece in pieces]), self._chosen
            )

    @cached_property
    def _length(self) -> int:
        """The lists' length: that of the first that is not missing or empty."""
        for batch in self._table.batches(self._chosen):
            for value in batch.column(0):
                if value.is_valid and len(value):
                    return len(value)
        raise DataError(f"{self.location} has no numbers: its lists are missing or empty")

    @cached_property
    def _names_and_count(self) -> tuple[pa.ChunkedArray | None, int]:
        """The names, None unless every row has a safe and distinct one; and the number of rows."""
        total = self._table.count()
        if not total:
            raise DataError(f"{self.location} has no rows; give a table with at least one")
        if self._name_column is None:
            return None, total
        try:
            pieces = [
                batch.column(0).cast(pa.string())
                for batch in self._table.batches([self._name_column])
            ]
        except pa.ArrowException:  # neither text nor convertible to it
            return None, total
        names = pa.chunked_array(pieces)
        unsafe = pc.any(pc.match_substring_regex(names, UNSAFE)).as_py()
        distinct = pc.count_distinct(names, mode="only_valid").as_py()
        return (None if unsafe or distinct != total else names), total


class ParquetTable:
    """Parquet files with the same columns, one after the other."""

    decimal = "."

    def __init__(self, parts: list[Path]) -> None:
        self.files, self._count = parts, 0
        self.indices: Sequence[str] = ()
        ends = []
        for number, part in enumerate(parts):
            with parquet_file(part) as file:
                schema = file.schema_arrow
                self._count += file.metadata.num_rows
            ends.append(self._count)
            if (again := repeated(schema.names)) is not None:
                raise DataError(f"{part} has two columns named {again!r}; rename one")
            self.indices = tuple(dict.fromkeys([*self.indices, *pandas_indices(schema)]))
            kinds = {field.name: kind_of_type(field.type) for field in schema}
            if number == 0:
                self.kinds = kinds
            elif kinds != self.kinds:
                raise DataError(f"{part} has other columns than {parts[0]}; read them one by one")
        self.shards = shards_of(parts, ends)

    def count(self) -> int:
        return self._count

    def fingerprint(self, kind: str) -> str:
        return fingerprint(kind, ((file.name, file) for file in self.files))

    def batches(self, columns: list[str]) -> Iterator[pa.RecordBatch]:
        for part in self.files:
            with parquet_file(part) as file:
                for batch in file.iter_batches(ROWS_AT_ONCE, columns=columns):
                    yield batch.select(columns)


def pandas_indices(schema: pa.Schema) -> list[str]:
    """The columns that pandas has written as the levels of an index, by its metadata."""
    try:
        levels = json.loads((schema.metadata or {}).get(b"pandas", b"{}"))["index_columns"]
        # A range has no column: a mapping stands for it.
        return [name for name in levels if isinstance(name, str) and name in schema.names]
    except (ValueError, KeyError, TypeError):
        return []


def vectors(
    names: list[str], values: npt.NDArray[Any], columns: Sequence[str] | None = None
) -> Images:
    """Rows (n, D) of any type as float32; those with a value that is not finite are unreadable."""
    given = values
    with np.errstate(over="ignore"):
        values = np.ascontiguousarray(given, np.float32)
    finite = np.isfinite(values)
    whole = finite.all(1)
    unreadable = {}
    for row in np.flatnonzero(~whole).tolist():
        place = int(finite[row].argmin())
        unreadable[row] = (
            f"has a value in column {columns[place] if columns else place} that is missing, not a "
            "number, or too large for float32"
        )
    if not whole.any():
        return Images(names, [], unreadable)
    lost = None
    if not np.can_cast(given.dtype, np.float32):
        lost = given[whole].astype(np.float64) - values[whole]
    return Images(names, [Group(np.flatnonzero(whole), values[whole], lost)], unreadable)


def _columns(
    location: Path | str,
    table: Table,
    key: str | Sequence[str] | None,
    wanted: Sequence[str] | None,
) -> list[str]:
    """The columns that make the vectors. Raises DataError."""
    kinds, left_out = table.kinds, {*NAME_COLUMNS, *table.indices}
    others = [column for column in kinds if column not in left_out]
    of_numbers = [column for column in others if kinds[column] == NUMBERS]
    lists = [column for column in others if kinds[column] == LISTS]
    if key is not None:
        chosen = key.split(",") if isinstance(key, str) else list(key)
        if (again := repeated(chosen)) is not None:
            raise DataError(f"{location}::{','.join(chosen)} names {again!r} twice; leave one out")
    elif len(lists) == 1 and not of_numbers:
        chosen = lists
    elif wanted is not None:
        chosen = [column for column in kinds if column in of_numbers or column in wanted]
    else:
        chosen = others
    if wanted is not None and (not chosen or kinds.get(chosen[0]) != LISTS):
        if missing := [column for column in wanted if column not in chosen]:
            raise DataError(
                f"{location} lacks {listed(missing)}, which the model was trained on; "
                f"it has {listed(chosen) or 'no numbers'}"
            )
        chosen = list(wanted)
    if not chosen:
        raise DataError(f"{location} has no column of numbers")
    for column in chosen:
        if column not in kinds:
            raise DataError(f"{location} has no column {column!r}; it has {', '.join(kinds)}")
        if wanted is not None and kinds[column] == CELLS:
            continue  # a model takes it as numbers: rows with other cells are unreadable
        if kinds[column] != NUMBERS and (kinds[column] != LISTS or len(chosen) > 1):
            if "binary" in kinds[column]:
                raise DataError(
                    f"{location}: the column {column!r} is {kinds[column]}, neither numbers nor "
                    "encoded images, which are binary, or a struct of bytes and path, one a row"
                )
            raise DataError(
                f"{location}: the column {column!r} is {kinds[column]}, not numbers; leave it out, "
                f"or name the wanted columns as {_way_to_name(location, table, of_numbers)}"
            )
    return chosen


def _way_to_name(location: Path | str, table: Table, columns: list[str]) -> str:
    some = columns[:3] or ["a", "b", "c"]
    if table.files:
        return f"{location}::{','.join(some)}"
    return f"compressor.rows(data, columns={some})"


def repeated(names: Sequence[str]) -> str | None:
    """A name that is there twice."""
    return next((name for name in names if names.count(name) > 1), None)


def _rows(piece: pa.RecordBatch, decimal: str) -> npt.NDArray[np.float64]:
    """(n, columns) float64."""
    if len(set(piece.schema.types)) == 1:  # at once: a call costs more than a few hundred cells
        together = numbers(pa.concat_arrays(piece.columns), decimal)
        return together.reshape(piece.num_columns, piece.num_rows).T
    return np.stack([numbers(column, decimal) for column in piece.columns], 1)


def _list_rows(names: list[str], pieces: list[pa.Array], length: int) -> Images:
    lengths = np.concatenate([pc.list_value_length(piece).fill_null(0) for piece in pieces])
    values = np.full((len(names), length), np.nan)
    fitting = [piece.filter(pc.equal(pc.list_value_length(piece), length)) for piece in pieces]
    values[lengths == length] = np.concatenate(
        [numbers(piece.flatten()) for piece in fitting]
    ).reshape(-1, length)
    images = vectors(names, values)
    odd = {
        int(row): f"has {lengths[row]} numbers, the first row {length}"
        for row in np.flatnonzero(lengths != length)
    }
    return Images(images.names, images.groups, images.unreadable | odd)
