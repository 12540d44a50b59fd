"""A CSV as a table: how it is written is told by its first lines.

Cells have commas, semicolons, tabs or bars between them; a first line ``sep=;`` says which. Numbers
have a decimal point or a decimal comma. The text is UTF-8, or UTF-16 or UTF-32 with a byte order
mark, and may be in gzip. The first line names the columns; one without a name and without cells,
from a comma at each line's end, is none.
"""

from __future__ import annotations

import csv
import gzip
import io
import re
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from itertools import islice
from pathlib import Path
from typing import Any, NamedTuple

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.csv

from ..errors import DataError
from .cells import MISSING, NUMBER, kinds_of_text
from .images import Shard
from .reading import fingerprint, reading

_PLAIN_SUFFIXES = (".csv", ".tsv", ".txt")
CSV_SUFFIXES = (*_PLAIN_SUFFIXES, *(f"{suffix}.gz" for suffix in _PLAIN_SUFFIXES))
CSV_BLOCK = 2**22  # bytes; no line may be longer
DELIMITERS = {",": "commas", ";": "semicolons", "\t": "tabs", "|": "bars"}
ROWS_SNIFFED, ROWS_JUDGED = 20, 4096  # for the delimiter; for the kinds of the columns
MAX_NAMES_LISTED = 8  # in a message
_SEPARATOR_LINE = re.compile(r'"?sep=(.)"?[,;\t|]*(\r\n|\n|\r)', re.IGNORECASE)
_MARKS = ((b"\xff\xfe\0\0", "utf-32"), (b"\0\0\xfe\xff", "utf-32"), (b"\xff\xfe", "utf-16"),
          (b"\xfe\xff", "utf-16"))  # fmt: skip


class Dialect(NamedTuple):
    """How a CSV is written.

    names: of the columns as the first line has them, without spaces around them; skipped: the lines
    up to that one, itself included; ends: whether no line follows.
    """

    encoding: str
    delimiter: str
    names: list[str]
    skipped: int
    ends: bool

    @property
    def says(self) -> str:
        """What a CSV is, for messages."""
        between = DELIMITERS.get(self.delimiter, repr(self.delimiter))
        return (
            f"a CSV is a line of column names and then rows of as many cells, with {between} "
            "between them, in UTF-8"
        )


class CsvTable:
    """A CSV file with a header; its cells are text until they are read as numbers.

    known: columns that a user or a model names; a first line with those is a header even if they
    are numbers. Raises DataError.
    """

    indices: Sequence[str] = ()

    def __init__(self, path: Path, known: Sequence[str] = ()) -> None:
        self.files = [path]
        self.shards: list[Shard] = []
        self._dialect = dialect_of(path)
        names = self._dialect.names
        _refuse_header(path, names, known)
        # The first may be pandas' index. Arrow takes each name once.
        self._names = [n if n or not at else f"\0{at}" for at, n in enumerate(names)]
        first = next(self.batches(self._names), None)
        columns = dict.fromkeys(self._names, pa.array([], pa.string()))
        if first is not None:
            columns = dict(zip(self._names, first.slice(0, ROWS_JUDGED).columns, strict=True))
        for at, name in enumerate(self._names):
            if name.startswith("\0"):
                _refuse_cells_without_a_name(path, at, columns.pop(name))
        self.kinds, self.decimal = kinds_of_text(columns, self._dialect.delimiter)

    def count(self) -> int:
        return sum(len(batch) for batch in self.batches(list(self.kinds)[:1]))

    def fingerprint(self, kind: str) -> str:
        return fingerprint(kind, ((file.name, file) for file in self.files))

    def batches(self, columns: list[str]) -> Iterator[pa.RecordBatch]:
        if self._dialect.ends:
            return
        with self._open(columns) as reader:
            yield from reader

    @contextmanager
    def _open(self, columns: list[str]) -> Iterator[Any]:
        path, dialect = self.files[0], self._dialect
        convert = pyarrow.csv.ConvertOptions(
            include_columns=columns, column_types=dict.fromkeys(columns, pa.string())
        )
        # Without threads, Arrow's errors name the row; other work runs in other threads anyway.
        read = pyarrow.csv.ReadOptions(
            use_threads=False,
            block_size=CSV_BLOCK,
            column_names=self._names,
            skip_rows=dialect.skipped,
            encoding=dialect.encoding,
        )
        parse = pyarrow.csv.ParseOptions(delimiter=dialect.delimiter, newlines_in_values=True)
        with reading(path):
            try:
                compression = "gzip" if _is_gzip(path) else None
                with (
                    pa.input_stream(str(path), compression=compression) as file,
                    pyarrow.csv.open_csv(file, read, parse, convert) as reader,
                ):
                    yield reader
            except (pa.ArrowException, UnicodeDecodeError) as error:
                reason = " ".join(str(error).split())
                raise DataError(f"cannot read {path}: {reason}; {dialect.says}") from error


def dialect_of(path: Path) -> Dialect:
    """How a CSV is written, by its first lines. Raises DataError if it has no line of names."""
    with reading(path), gzip.open(path) if _is_gzip(path) else path.open("rb") as file:
        head = file.read(CSV_BLOCK)
    encoding = next((name for mark, name in _MARKS if head.startswith(mark)), "utf-8")
    if encoding == "utf-8" and 3 * head[:1000].count(0) > len(head[:1000]):
        raise DataError(f"{path} is not UTF-8, and has no byte order mark; save it as UTF-8")
    text = head.decode(encoding, "replace").removeprefix("\ufeff")
    separator = _SEPARATOR_LINE.match(text)
    if separator and (not separator[1].isascii() or separator[1] in '"\0 '):
        raise DataError(
            f"{path} says in its first line that {separator[1]!r} lies between its cells, which "
            "cannot be: give a comma, a semicolon, a tab or a bar"
        )
    body = text[separator.end() :] if separator else text
    whole = len(head) < CSV_BLOCK
    sniffed = {d: _records(body, d, whole) for d in (separator[1] if separator else DELIMITERS)}
    delimiter = separator[1] if separator else _likeliest(sniffed)
    records, lines = sniffed[delimiter]
    dialect = Dialect(encoding, delimiter, [], lines + bool(separator), whole and len(records) < 2)
    if not records:
        raise DataError(f"cannot read {path}: Empty CSV file; {dialect.says}")
    header = trimmed(records[0])
    if any("\ufffd" in name for name in header):
        _refuse_encoding(path, head, dialect)
    names = _names_of_all(path, header, records[1:])
    return dialect._replace(names=names)


def _records(text: str, delimiter: str, whole: bool) -> tuple[list[list[str]], int]:
    """The first records that are not blank, and the number of lines up to the first one's end."""
    reader = csv.reader(io.StringIO(text, newline=""), delimiter=delimiter)
    records: list[list[str]] = []
    lines = 0
    try:
        for record in islice(filter(None, reader), ROWS_SNIFFED + 1):
            lines = lines or reader.line_num
            records.append(record)
    except csv.Error:  # a cell that is longer than the csv module allows: the first ones will do
        return records, lines
    if len(records) <= ROWS_SNIFFED and not whole and len(records) > 1:
        records.pop()  # cut off
    return records, lines


def _likeliest(sniffed: dict[str, tuple[list[list[str]], int]]) -> str:
    """The delimiter that all rows have as often as the first line; of several, the one between
    most numbers, a comma where that is even."""
    shares: dict[str, float] = {}
    for delimiter, (records, _) in sniffed.items():
        if len(records) > 1 and len(records[0]) > 1 and _width(records) == len(records[0]):
            cells = [cell for record in records[1:] for cell in record]
            shares[delimiter] = sum(map(_is_number, cells)) / len(cells)
    if shares:
        return max(shares, key=lambda delimiter: shares[delimiter])
    several = [d for d, (records, _) in sniffed.items() if records and len(records[0]) > 1]
    return several[0] if several else ","


def _width(records: list[list[str]]) -> int | None:
    """The cells of each row, without an empty one at each row's end where the first line has none;
    None if rows differ."""
    widths = {len(record) for record in records[1:]}
    if len(widths) != 1:
        return None
    (width,) = widths
    extra = width == len(records[0]) + 1 and not any(record[-1].strip() for record in records[1:])
    return width - extra


def _names_of_all(path: Path, header: list[str], rows: list[list[str]]) -> list[str]:
    """The header, with an empty name for what a delimiter at each row's end makes.

    Raises DataError if there are not as many names as cells.
    """
    if not rows or len({len(row) for row in rows}) > 1 or len(rows[0]) == len(header):
        _refuse_spaces(path, header, rows)
        return header
    if _width([header, *rows]) == len(header):
        return [*header, ""]
    raise DataError(
        f"{path} begins with {listed(header)!r} and its rows have {len(rows[0])} cells; its first "
        "line has to name each column: remove what stands above the names, or add those that lack"
    )


def _refuse_spaces(path: Path, header: list[str], rows: list[list[str]]) -> None:
    lines = [header, *rows]
    if len(header) == 1 and all(len(line) == 1 and len(line[0].split()) > 1 for line in lines):
        cells = [cell for row in rows or lines for cell in row[0].split()]
        if all(map(_is_number, cells)):
            raise DataError(
                f"{path} has spaces between its cells; write commas, semicolons or tabs, and a "
                "first line that names the columns"
            )


def _refuse_header(path: Path, names: list[str], known: Sequence[str]) -> None:
    """Raises DataError if the first line of a CSV has no names, one for each column."""
    if (double := next((n for n in names if n and names.count(n) > 1), None)) is not None:
        raise DataError(
            f"{path} has two columns named {double!r}; its first line has to name the columns, "
            "each differently"
        )
    if known and set(known) <= set(names):
        return
    counted = [str(number) for number in range(len(names))]  # names that pandas gives
    held = [name for name in names if name not in MISSING]
    if held and all(map(_is_number, held)) and names not in (counted, ["", *counted[:-1]]):
        raise DataError(
            f"{path} begins with the numbers {listed(names)}; its first line has to name the "
            "columns"
        )


def _refuse_cells_without_a_name(path: Path, at: int, cells: pa.Array) -> None:
    held = cells.filter(pc.not_equal(pc.utf8_trim_whitespace(cells), ""))
    if len(held):
        raise DataError(
            f"{path}: column {at + 1} has no name and holds {held[0].as_py()!r}; name it in the "
            "first line, or take it out"
        )


def _refuse_encoding(path: Path, head: bytes, dialect: Dialect) -> None:
    """Raises DataError if the head cannot be decoded; U+FFFD may stand in the file itself."""
    try:
        head.decode(dialect.encoding)
    except UnicodeDecodeError as error:
        if error.end < len(head) or len(head) < CSV_BLOCK:
            raise DataError(f"cannot read {path}: {error}; {dialect.says}") from error


def _is_number(cell: str) -> bool:
    text = cell.strip()
    return bool(re.match(NUMBER, text) or re.match(NUMBER, text.replace(",", ".", 1)))


def _is_gzip(path: Path) -> bool:
    return path.name.lower().endswith(".gz")


def trimmed(names: Sequence[str]) -> list[str]:
    """Names as a table has them."""
    return [name.strip() for name in names]


def listed(names: Sequence[str]) -> str:
    """Names for a message."""
    more = len(names) - MAX_NAMES_LISTED
    return ", ".join(names[:MAX_NAMES_LISTED]) + (f" and {more} more" if more > 0 else "")
