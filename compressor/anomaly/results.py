"""Results of a scoring job: path, score, p_value, is_anomaly, error; Parquet, or CSV by name."""

from __future__ import annotations

import csv
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

import pyarrow as pa
import pyarrow.parquet as pq

from ..files import atomic_file

SCHEMA = pa.schema(
    [
        ("path", pa.string()),
        ("score", pa.float64()),
        ("p_value", pa.float64()),
        ("is_anomaly", pa.bool_()),
        ("error", pa.string()),
    ]
)


@dataclass(frozen=True)
class Row:
    """One image. score, p_value and is_anomaly are None where they are unknown; error says why."""

    path: str
    score: float | None = None
    p_value: float | None = None
    is_anomaly: bool | None = None
    error: str | None = None


class RowWriter(Protocol):
    def write(self, rows: list[Row]) -> None: ...


class _ParquetRows:
    def __init__(self, path: Path) -> None:
        self._writer = pq.ParquetWriter(path, SCHEMA, compression="zstd")

    def write(self, rows: list[Row]) -> None:
        self._writer.write_table(pa.Table.from_pylist([vars(row) for row in rows], SCHEMA))

    def close(self) -> None:
        self._writer.close()


class _CsvRows:
    def __init__(self, path: Path) -> None:
        self._file = path.open("w", newline="", encoding="utf-8")
        self._csv = csv.writer(self._file)
        self._csv.writerow(SCHEMA.names)

    def write(self, rows: list[Row]) -> None:
        self._csv.writerows(
            [
                "" if value is None else str(value).lower() if isinstance(value, bool) else value
                for value in vars(row).values()
            ]
            for row in rows
        )

    def close(self) -> None:
        self._file.close()


@contextmanager
def results_file(path: Path, force: bool) -> Iterator[RowWriter]:
    """A writer of rows; the file takes its name when the body ends without an error."""
    with atomic_file(path, force) as temporary:
        make = _CsvRows if path.suffix == ".csv" else _ParquetRows
        writer: _CsvRows | _ParquetRows = make(temporary)
        try:
            yield writer
        finally:
            writer.close()
