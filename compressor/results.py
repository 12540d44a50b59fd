"""Results of a job that gives one row for each input, in one file or in a folder of parts.

They are written in two steps. Rows come in parts, as ``resume.py`` says; when all are there, one
pass over the parts, which may change them, writes them to one file or to a folder with a part for
each. That pass reads only what is on disk and writes beside it, so a job that is killed in it does
it again.
"""

from __future__ import annotations

import csv
import shutil
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from contextlib import closing, suppress
from pathlib import Path
from types import TracebackType
from typing import Any, Final, Literal

import pyarrow as pa
import pyarrow.parquet as pq
from pydantic import BaseModel, ConfigDict, ValidationError

from . import __version__
from .data.images import Source
from .errors import ConfigError, OutputError
from .files import (
    output_errors,
    refuse_existing,
    refuse_irreplaceable,
    replace_file,
    replace_folder,
    sync,
)
from .manifests import FileEntry
from .resume import Ledger, Unfinished

FORMAT: Final = "compressor-results"
MANIFEST = "_manifest.json"  # readers of folders of Parquet files leave out what begins with _
PART_ROWS = 1 << 14  # of data that are not in shards
ROWS_AT_ONCE = 1 << 14
TEXTS = ("path", "label", "error")  # columns that hold what others have named
FORMULAS = ("=", "+", "-", "@", "\t", "\r")  # how cells begin that spreadsheets run: OWASP 2023


class ResultPart(BaseModel):
    """A part of the results: its file, its rows, and the shard of the source that they are of."""

    model_config = ConfigDict(frozen=True)

    file: str
    rows: int
    shard: str | None = None


class ResultsLedger(Ledger):
    """The parts whose rows are on disk; ``complete`` if they are all; and the output, one file,
    when it was about to get its name."""

    parts: tuple[ResultPart, ...] = ()
    complete: bool = False
    output: FileEntry | None = None


class ResultsManifest(BaseModel):
    """_manifest.json of a folder of results. Readers ignore keys they do not know."""

    model_config = ConfigDict(frozen=True, extra="ignore")

    format: Literal["compressor-results"] = FORMAT
    format_version: Literal[1] = 1
    created_by: str = f"compressor {__version__}"
    job: dict[str, str]
    summary: dict[str, Any]
    parts: tuple[ResultPart, ...]
    files: dict[str, FileEntry]  # all but the manifest


def is_folder(output: str | Path) -> bool:
    """Whether results go to a folder of parts, and not to one file.

    Raises ConfigError for a name that is neither's.
    """
    if str(output).endswith("/") or not Path(output).suffix:
        return True
    if Path(output).suffix not in (".parquet", ".csv"):
        raise ConfigError(
            f"output={output}: results are written as .parquet or .csv, or as parts into a folder, "
            "whose name ends with /"
        )
    return False


Change = Callable[[pa.Table], pa.Table]


class ResultsWriter:
    """Writes results to ``output``, which changes only when ``publish`` is called.

    ``job`` says what the rows are made from: the model, the source's fingerprint and every option
    that matters. With ``resume`` the job that was cut short goes on: ``consumed`` images of the
    source are done. A part holds one of the source's shards, or PART_ROWS images where it has none.

    After ``add`` of all rows and ``end``, ``tables`` are the rows, ``write`` writes them as they
    are to be seen and ``publish`` gives them their name. Raises OutputError if ``output`` cannot
    be written or the job cannot go on. ``replaceable``: other outputs may be replaced.
    ``csv_safe``: in a .csv texts that spreadsheets would take for formulas begin with a quote.
    """

    def __init__(
        self,
        output: str | Path,
        job: Mapping[str, str],
        source: Source,
        kind: str,
        *,
        force: bool,
        resume: bool,
        csv_safe: bool = False,
    ) -> None:
        self._csv_safe = csv_safe
        self._in_parts, self._force, self._resume = is_folder(output), force, resume
        self._source = source
        self._work = Unfinished(Path(output), "scores", ResultsLedger(job=dict(job)), kind)
        self.path = self._work.path
        self._part: _ParquetRows | None = None
        self._were_all_done = False  # before this run

    @property
    def _ledger(self) -> ResultsLedger:
        return self._work.ledger

    @property
    def consumed(self) -> int:
        """How many images of the source are in finished parts."""
        return self._ledger.consumed

    @property
    def replaceable(self) -> bool:
        """Of heat maps and reports: with ``force``, and where an earlier run had all rows: it may
        have made them."""
        return self._force or self._were_all_done

    def finished(self) -> dict[str, Any] | None:
        """The summary of this very job, if it has ended already and left a folder."""
        if not (self._resume and self._in_parts):
            return None
        manifest = read_manifest(self.path)
        if manifest is None or manifest.job != self._ledger.job:
            return None
        with suppress(OutputError):  # what a run that was killed at its very end left
            self._work.open(resume=False, discard=True)
            self._work.close()
        return manifest.summary

    def __enter__(self) -> ResultsWriter:
        with output_errors(self.path):
            if not self._resume:
                self._refuse_existing()
            # Results in one file have always started anew.
            self._work.open(resume=self._resume, discard=self._force or not self._in_parts)
            self._were_all_done = self._ledger.complete
            try:
                self._refuse_existing()
            except BaseException:
                self._work.close()
                raise
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        with output_errors(self.path):
            try:
                if self._part is not None:
                    self._part.close()
            finally:
                self._work.close()

    def add(self, rows: pa.Table) -> None:
        """Adds the next rows."""
        with output_errors(self.path):
            first = 0
            while first < len(rows):
                self._part = part = self._part or self._new_part(rows.schema)
                stop = self._stop  # known late, of a tar, and where it is met for an empty shard
                room = len(rows) if stop is None else stop - self.consumed - part.rows
                piece = rows.slice(first, room)
                part.write(piece)
                first += len(piece)
                if self.consumed + part.rows == stop:
                    self._finish_part()

    def end(self) -> None:
        """Says that all rows are there."""
        with output_errors(self.path):
            if self._part is not None:
                self._finish_part()
            self._note(complete=True)

    def tables(self, columns: Sequence[str], at_once: int = ROWS_AT_ONCE) -> Iterator[pa.Table]:
        """All rows as they were added, in their order, some at a time."""
        for part in self._ledger.parts:
            yield from read_rows(self._work.folder / part.file, columns, at_once)

    def write(self, change: Change | None = None, leave_out: Collection[str] = ()) -> None:
        """Writes all rows, not yet in view: without some columns, and with what ``change``, which
        keeps columns and types, makes of some rows at a time."""
        parts = [self._work.folder / part.file for part in self._ledger.parts]
        with output_errors(self.path):
            schema = pq.read_schema(parts[0])
            schema = pa.schema(field for field in schema if field.name not in leave_out)
            if self._in_parts:
                shutil.rmtree(self._written, ignore_errors=True)
                self._written.mkdir()
                for part in parts:
                    with closing(_ParquetRows(self._written / part.name, schema)) as file:
                        _write([part], schema, change, file)
            else:
                is_csv, path = self.path.suffix == ".csv", self._written
                made = _CsvRows(path, schema, self._csv_safe) if is_csv else None
                with closing(made or _ParquetRows(path, schema)) as file:
                    _write(parts, schema, change, file)

    def publish(self, summary: Mapping[str, Any]) -> None:
        """Gives what is written its name; a folder says the ``summary`` in its manifest, too."""
        with output_errors(self.path):
            may_replace = self._refuse_existing()
            if self._in_parts:
                names = [part.file for part in self._ledger.parts]
                manifest = ResultsManifest(
                    job=self._ledger.job,
                    summary=dict(summary),
                    parts=self._ledger.parts,
                    files={name: FileEntry.of_file(self._written / name) for name in names},
                )
                text = manifest.model_dump_json(indent=1) + "\n"
                (self._written / MANIFEST).write_text(text, encoding="utf-8")
                replace_folder(self._written, self.path, may_replace)
            else:
                self._note(output=FileEntry.of_file(self._written))
                replace_file(self._written, self.path, may_replace)
            self._work.remove()

    @property
    def _written(self) -> Path:
        return self._work.partial / "decided"

    @property
    def _stop(self) -> int | None:
        """The image before which the part that grows ends, or None if that is not known yet."""
        number, shards = len(self._ledger.parts), self._source.shards
        if not shards:
            return self.consumed + PART_ROWS
        return shards[number].stop if number < len(shards) else None

    def _new_part(self, schema: pa.Schema) -> _ParquetRows:
        name = f"part-{len(self._ledger.parts):05d}.parquet"
        return _ParquetRows(self._work.folder / name, schema)

    def _finish_part(self) -> None:
        part, ledger = self._part, self._ledger
        assert part is not None
        part.close()
        sync(part.path)
        sync(part.path.parent)
        shards = self._source.shards
        name = shards[len(ledger.parts)].name if len(ledger.parts) < len(shards) else None
        done = ResultPart(file=part.path.name, rows=part.rows, shard=name)
        self._note(
            consumed=ledger.consumed + part.rows,
            parts=(*ledger.parts, done),
            files={**ledger.files, part.path.name: FileEntry.of_file(part.path)},
        )
        self._part = None

    def _note(self, **changes: Any) -> None:
        self._work.ledger = self._ledger.model_copy(update=changes)
        self._work.save()

    def _refuse_existing(self) -> bool:
        """Raises OutputError if an output is in the way; else whether it may be replaced."""
        if self._in_parts:
            refuse_irreplaceable(self.path, self._force, FORMAT, MANIFEST)
            return self._force
        # A run that was killed at its very end may have given the output its name.
        given = self._ledger.output
        is_ours = (
            given is not None and self.path.is_file() and FileEntry.of_file(self.path) == given
        )
        refuse_existing(self.path, self._force or is_ours)
        return self._force or is_ours


class _ParquetRows:
    def __init__(self, path: Path, schema: pa.Schema) -> None:
        self.path, self.rows = path, 0
        self._writer = pq.ParquetWriter(path, schema, compression="zstd")

    def write(self, rows: pa.Table) -> None:
        self._writer.write_table(rows)
        self.rows += len(rows)

    def close(self) -> None:
        self._writer.close()


class _CsvRows:
    def __init__(self, path: Path, schema: pa.Schema, safe: bool) -> None:
        self._safe = safe
        self._file = path.open("w", newline="", encoding="utf-8")
        self._csv = csv.writer(self._file)
        self._csv.writerow(schema.names)

    def write(self, rows: pa.Table) -> None:
        if self._safe:
            for name in set(TEXTS) & set(rows.schema.names):
                cells = [_without_formula(cell) for cell in rows[name].to_pylist()]
                at = rows.schema.get_field_index(name)
                rows = rows.set_column(at, name, pa.array(cells, pa.string()))
        self._csv.writerows(
            [
                "" if value is None else str(value).lower() if isinstance(value, bool) else value
                for value in values
            ]
            for values in zip(*(column.to_pylist() for column in rows.columns), strict=True)
        )

    def close(self) -> None:
        self._file.close()


def _without_formula(cell: str | None) -> str | None:
    """A cell that spreadsheets show as text; a quote is in front of one that they would run."""
    return f"'{cell}" if cell is not None and cell.startswith(FORMULAS) else cell


def _write(
    parts: list[Path], schema: pa.Schema, change: Change | None, file: _ParquetRows | _CsvRows
) -> None:
    for part in parts:
        for rows in read_rows(part, schema.names):
            file.write(change(rows) if change else rows)


def read_rows(
    path: Path, columns: Sequence[str], at_once: int = ROWS_AT_ONCE
) -> Iterator[pa.Table]:
    """The rows of a Parquet file, some at a time."""
    with pq.ParquetFile(path) as file:
        for batch in file.iter_batches(at_once, columns=list(columns)):
            yield pa.Table.from_batches([batch])


def read_manifest(folder: Path) -> ResultsManifest | None:
    """The manifest of a folder of results; None if it has none that this version reads."""
    try:
        return ResultsManifest.model_validate_json((folder / MANIFEST).read_bytes())
    except (OSError, ValidationError):
        return None
