"""Which input has which label: told by folders, by a table, by a column or by an array."""

from __future__ import annotations

import hashlib
import math
import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.parquet as pq

from ..data.csv_table import CSV_SUFFIXES, CsvTable
from ..data.reading import fingerprint, reading
from ..errors import ConfigError, DataError
from ..untrusted import read_npy, read_npz, read_regular

FOLDERS = "folders"
NONE = -1  # the number of an input without a label
PATH, LABEL = "path", "label"
MAX_LABEL = 200  # characters
MAX_LABELS = 10_000
MAX_BYTES = 1 << 30  # of an array of labels
NAMED = 3  # in a message
BLANKS = ("", "nan", "na", "null", "none")  # in a table of text
_NUMBER = re.compile(r"[+-]?\d+(\.0*)?", re.ASCII)
LAST_CHARACTER = 0x10FFFF  # of Unicode


@dataclass(frozen=True)
class Labels:
    """The labels of n inputs: ``names``, ascending, and for each input the number of its own.

    of: int64 (n,), NONE where there is none. unmatched: paths of a table that no input has.
    """

    names: tuple[str, ...]
    of: npt.NDArray[np.int64]
    unmatched: tuple[str, ...] = ()


def labels_of(
    given: Any, paths: Sequence[str], positions: npt.NDArray[np.int64], count: int
) -> Labels:
    """The labels of inputs at ``positions`` of a source of ``count``, which calls them ``paths``.

    given: "folders" (the first folder of each path that differs), a .csv or .parquet with the
    columns path and label, F.parquet::COLUMN, F.csv::COLUMN, F.npz::KEY or F.npy, or a sequence:
    these have a value for each input of the source, in its order. Numbers are labels by their
    digits. Blank, null and negative ones are none. Raises DataError.
    """
    unmatched: tuple[str, ...] = ()
    if isinstance(given, str | Path) and str(given) == FOLDERS:
        texts = _by_folder(paths)
    elif isinstance(given, str | Path):
        file, _, key = str(given).partition("::")
        if not key and not file.endswith((".npy", ".npz")):
            texts, unmatched = _by_path(Path(file), paths)
        else:
            texts = _at(positions, _texts(_column(Path(file), key), given), count, given)
    else:
        texts = _at(positions, _texts(given, "the labels"), count, "the labels")
    names = sorted({text for text in texts if text})
    if len(names) > MAX_LABELS:
        raise DataError(f"{len(names):,} different labels; {MAX_LABELS:,} at most: are they names?")
    numbers = {name: number for number, name in enumerate(names)}
    of = np.array([numbers.get(text, NONE) for text in texts], np.int64)
    return Labels(tuple(names), of, unmatched)


def fingerprint_of(given: Any) -> str:
    """Changes when the labels do: a file by its size and time, values by themselves."""
    if isinstance(given, str | Path):
        file = Path(str(given).partition("::")[0])
        return (
            f"{given} {fingerprint('labels', iter([(file.name, file)])) if file.is_file() else ''}"
        )
    return hashlib.sha256(repr(None if given is None else list(given)).encode()).hexdigest()


def listed(names: Sequence[str]) -> str:
    """The first few, for a message."""
    more = f" and {len(names) - NAMED:,} more" if len(names) > NAMED else ""
    return ", ".join(names[:NAMED]) + more


def _by_folder(paths: Sequence[str]) -> list[str]:
    """The first folder of each path behind those that all paths begin with."""
    parts = [path.split("/")[:-1] for path in paths]
    depth = 0
    while parts and all(len(p) > depth + 1 for p in parts) and len({p[depth] for p in parts}) == 1:
        depth += 1
    return [_checked(p[depth], "the folder") if len(p) > depth else "" for p in parts]


def _by_path(file: Path, paths: Sequence[str]) -> tuple[list[str], tuple[str, ...]]:
    """The labels of a table's rows by path; it may call inputs by a longer path than the source."""
    table = _table(file, [PATH, LABEL])
    rows = zip(table[PATH].to_pylist(), _texts(table[LABEL].to_pylist(), file), strict=True)
    by_path: dict[str, str] = {}
    for path, label in rows:
        name = str(path or "").strip().replace("\\", "/").removeprefix("./")
        if not name or not label:
            continue
        if by_path.setdefault(name, label) != label:
            raise DataError(
                f"{file} has two labels for {name}: {by_path[name]} and {label}; keep one"
            )
    wanted = set(paths)
    depth = 0  # of folders in front, which the source does not have in its names
    deepest = max((name.count("/") for name in by_path), default=0)
    while depth < deepest and not any(_behind(name, depth) in wanted for name in by_path):
        depth += 1
    by_name: dict[str, str] = {}
    for path, label in by_path.items():
        name = _behind(path, depth)
        if by_name.setdefault(name, label) != label:
            raise DataError(
                f"{file} has two labels for {name}: {by_name[name]} and {label}; keep one"
            )
    unmatched = tuple(name for name in by_path if _behind(name, depth) not in wanted)
    if len(unmatched) == len(by_path):
        example = f" (it has {listed(unmatched)}; inputs are called {listed(paths)})"
        raise DataError(f"no path in {file} is that of an input{example if by_path else ''}")
    return [by_name.get(path, "") for path in paths], unmatched


def _behind(name: str, depth: int) -> str:
    return name.split("/", depth)[-1]


def _table(file: Path, columns: list[str]) -> pa.Table:
    """Those columns of a .csv or .parquet. Raises DataError if it lacks one."""
    if not file.is_file():
        raise DataError(f"there are no labels at {file}: no such file")
    if file.name.lower().endswith(CSV_SUFFIXES):
        csv = CsvTable(file, columns)
        _refuse_missing(file, columns, list(csv.kinds))
        batches = list(csv.batches(columns))
        schema = pa.schema([(name, pa.string()) for name in columns])
        return pa.Table.from_batches([b.select(columns) for b in batches], schema)
    if file.suffix != ".parquet":
        raise DataError(f"labels={file}: give a .csv or .parquet, {FOLDERS!r}, or an .npz::KEY")
    with reading(file):
        try:
            _refuse_missing(file, columns, pq.read_schema(file).names)
            return pq.read_table(file, columns=columns)
        except pa.ArrowException as error:
            raise DataError(f"cannot read {file}: {' '.join(str(error).split())}") from error


def _refuse_missing(file: Path, columns: Sequence[str], present: Sequence[str]) -> None:
    for name in columns:
        if name not in present:
            raise DataError(
                f"{file} has no column {name!r}, it has {listed(present)}; labels are in the "
                f"columns {PATH} and {LABEL}, or in one column that is named: {file}::COLUMN"
            )


def _column(file: Path, key: str) -> Sequence[Any]:
    """The values of a column or of an array, one for each input of a source."""
    if file.suffix not in (".npy", ".npz"):
        return list(_table(file, [key])[key].to_pylist())
    try:
        content = read_regular(file, MAX_BYTES)
        if file.suffix == ".npy":
            values = read_npy(content)
        else:
            arrays = read_npz(content)
            if key not in arrays:
                raise ConfigError(f"{file} has no array {key!r}, it has {', '.join(arrays)}")
            values = arrays[key]
    except OSError as error:
        raise DataError(f"cannot read {file}: {error.strerror or error}") from error
    except (ValueError, EOFError) as error:
        raise DataError(f"{file} is no array of labels: {error}") from error
    if values.dtype.kind == "U":
        points = np.frombuffer(
            values.tobytes(), np.dtype("u4").newbyteorder(values.dtype.byteorder)
        )
        if points.size and points.max() > LAST_CHARACTER:
            raise DataError(f"{file} is no array of labels: it has characters that are none")
    if values.dtype.kind not in "biufUS":
        raise DataError(f"{file} is no array of labels: it holds {values.dtype}")
    if values.ndim != 1:
        raise DataError(f"{file}::{key} is {values.shape}; labels are one value for each input")
    return list(values.tolist())


def _at(
    positions: npt.NDArray[np.int64], texts: Sequence[str], count: int, given: object
) -> list[str]:
    if len(texts) != count:
        raise DataError(f"{given} has {len(texts):,} labels, and there are {count:,} inputs")
    return [texts[position] for position in positions]


def _texts(values: Iterable[Any], where: object) -> list[str]:
    return [_text(value, where) for value in values]


def _text(value: Any, where: object) -> str:
    """A label as text; "" for none."""
    if value is None or (isinstance(value, float) and math.isnan(value)):
        return ""
    if isinstance(value, bool | np.bool_):
        return str(bool(value)).lower()
    if isinstance(value, int | float | np.integer | np.floating):
        if not math.isfinite(value) or value != int(value):
            raise DataError(f"{where}: {value} is no label: numbers that name a class are whole")
        return "" if value < 0 else str(int(value))
    if isinstance(value, bytes):
        value = value.decode("utf-8", "replace")
    text = str(value).strip()
    if text.lower() in BLANKS:
        return ""
    if _NUMBER.fullmatch(text):  # of a CSV, whose cells are all text
        return _text(float(text), where) if abs(float(text)) < 1 << 53 else text
    return _checked(text, where)


def _checked(text: str, where: object) -> str:
    if len(text) > MAX_LABEL or not text.isprintable():
        raise DataError(
            f"{where}: {text[:30]!r} is no label: one is a line of up to {MAX_LABEL} characters"
        )
    return text
