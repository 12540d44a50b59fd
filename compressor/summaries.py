"""What a verb gives, as short lines and aligned tables for people; ``--json`` has all of it."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

MAX_NUMBERS_SHOWN = 4  # of a list; of longer ones how many there are, the least and the largest
DIGITS = 6  # of a number that is no integer
HASH_DIGITS = 12  # of a SHA-256


def lines(summary: Mapping[str, Any], indent: str = "") -> Iterator[str]:
    """A line for each key, or a table below it where its value is a list or a dict of records.

    Empty values are left out.
    """
    for key, value in summary.items():
        if value is None or (isinstance(value, list | tuple | dict | str) and not value):
            continue
        records = _records(value)
        if records:
            yield f"{indent}{key}:"
            yield from (f"{indent}  {line}" for line in table(records))
        elif isinstance(value, Mapping):
            yield f"{indent}{key}:"
            yield from lines(value, f"{indent}  ")
        elif isinstance(value, list | tuple) and isinstance(value[0], str) and key != "columns":
            yield f"{indent}{key}:"
            yield from (f"{indent}  {entry}" for entry in value)
        else:
            yield f"{indent}{key}: {cell(value)}"


def table(records: Sequence[Mapping[str, Any]]) -> Iterator[str]:
    """The records below a header; numbers to the right, columns without a value left out."""
    names = list(dict.fromkeys(name for record in records for name in record))
    names = [n for n in names if any(record.get(n) not in (None, "") for record in records)]
    columns = [[cell(record.get(name)) for record in records] for name in names]
    widths = [max(map(len, [n, *column])) for n, column in zip(names, columns, strict=True)]
    right = [any(_is_number(record.get(name)) for record in records) for name in names]
    for row in [names, *zip(*columns, strict=True)]:
        cells = (
            text.rjust(width) if number else text.ljust(width)
            for text, width, number in zip(row, widths, right, strict=True)
        )
        yield "  ".join(cells).rstrip()


def cell(value: Any) -> str:
    """A value as short text."""
    if value is None:
        return ""
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, int):
        return f"{value:,}"
    if isinstance(value, float):
        return f"{value:.{DIGITS}g}"
    if isinstance(value, list | tuple):
        if len(value) > MAX_NUMBERS_SHOWN and all(_is_number(number) for number in value):
            return f"{len(value):,} numbers, {cell(min(value))} to {cell(max(value))}"
        return ", ".join(map(cell, value))
    text = str(value)
    is_hash = len(text) == 64 and not set(text) - set("0123456789abcdef")
    return text[:HASH_DIGITS] if is_hash else text


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)


def _records(value: Any) -> list[Mapping[str, Any]]:
    """A list of dicts, or a dict of dicts with their names; [] for all else."""
    if isinstance(value, list) and value and all(isinstance(v, Mapping) for v in value):
        return value
    if isinstance(value, Mapping) and all(isinstance(v, Mapping) for v in value.values()):
        return [{"name": name, **record} for name, record in value.items()]
    return []
