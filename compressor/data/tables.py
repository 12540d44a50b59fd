"""Tables that verbs write beside their answer: rows of one schema, as Parquet or CSV."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Protocol

import pyarrow as pa
import pyarrow.csv
import pyarrow.parquet as pq

from ..errors import ConfigError
from ..files import atomic_file, refuse_existing, refuse_input


class Table(Protocol):
    """What takes rows."""

    def write_table(self, table: pa.Table) -> None: ...


def refuse_table(option: str, path: Path, force: bool, *inputs: object) -> None:
    """Raises ConfigError or OutputError for a table that cannot be written.

    option: what the path was given as, for the message.
    """
    if path.suffix not in (".parquet", ".csv"):
        raise ConfigError(f"{option}={path}: they are written as .parquet or .csv")
    refuse_input(path, *inputs)
    refuse_existing(path, force)


@contextmanager
def table_file(path: Path, schema: pa.Schema, force: bool) -> Iterator[Table]:
    """Yields a writer of .csv, else of Parquet; the file takes its name at the end of the body."""
    with (
        atomic_file(path, force) as temporary,
        (
            pyarrow.csv.CSVWriter(temporary, schema)
            if path.suffix == ".csv"
            else pq.ParquetWriter(temporary, schema, compression="zstd")
        ) as writer,
    ):
        yield writer
