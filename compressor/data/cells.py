"""Columns of tables: of which kind they are, and their numbers."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.csv

NUMBER = r"^[+-]?([0-9]+\.?[0-9]*|\.[0-9]+)([eE][+-]?[0-9]+)?$"
THOUSANDS = r"^[+-]?[1-9][0-9]{0,2}(,[0-9]{3})+$"  # 1,234: with a decimal comma a number, too
NUMBERS, LISTS, CELLS = "numbers", "lists of numbers", "text"  # kinds of columns
MISSING = frozenset(pyarrow.csv.ConvertOptions().null_values)


def numbers(column: pa.Array, decimal: str = ".") -> npt.NDArray[np.float64]:
    """A column as float64, NaN where a cell is missing or not a number.

    decimal: what text has between whole numbers and fractions; with a comma, a cell with a point
    is not a number, for there it may separate thousands.
    """
    if pa.types.is_dictionary(column.type):
        column = column.dictionary_decode()
    if pa.types.is_string(column.type):
        text = pc.utf8_lower(pc.utf8_trim_whitespace(column))
        if decimal == ",":
            text = pc.if_else(pc.match_substring(text, "."), None, text)
            text = pc.replace_substring(text, ",", ".")
        number = pc.if_else(pc.match_substring_regex(text, NUMBER), text, None)
        number = pc.if_else(pc.equal(text, "true"), "1", number)
        column = pc.if_else(pc.equal(text, "false"), "0", number)
    values: npt.NDArray[np.float64] = column.cast(pa.float64(), safe=False).to_numpy(
        zero_copy_only=False
    )
    return values


def kind_of_type(kind: pa.DataType) -> str:
    """NUMBERS, LISTS or the type's name."""
    types = pa.types
    if types.is_list(kind) or types.is_large_list(kind) or types.is_fixed_size_list(kind):
        return LISTS if kind_of_type(kind.value_type) == NUMBERS else str(kind)
    if types.is_dictionary(kind):
        return NUMBERS if kind_of_type(kind.value_type) == NUMBERS else str(kind.value_type)
    is_number = (
        types.is_integer(kind)
        or types.is_floating(kind)
        or types.is_boolean(kind)
        or types.is_decimal(kind)
    )
    return NUMBERS if is_number else str(kind)


def kinds_of_text(columns: dict[str, pa.Array], delimiter: str) -> tuple[dict[str, str], str]:
    """The kinds of columns of text, by their first cells, and the decimal mark of all of them.

    NUMBERS if at least half of the cells that are not missing are numbers; CELLS, or text that
    says what is in the way, if not. The mark is a comma where a column has numbers with that
    alone. 1,234 may be either: it is taken for a fraction where cells have semicolons between
    them, as programs write that have a decimal comma, or where other cells leave no doubt.
    """
    held = {name: _held(column) for name, column in columns.items()}
    plain = {name for name, cells in held.items() if _mostly(np.isfinite(numbers(cells)), cells)}
    others = held.keys() - plain
    fractions = {
        name for name in others if _mostly(np.isfinite(numbers(held[name], ",")), held[name])
    }
    thousands = {name for name in others if _mostly(_matching(held[name], THOUSANDS), held[name])}
    certain = {
        name
        for name in fractions
        if delimiter == ";" or not np.all(_matching(held[name], rf"{THOUSANDS}|^[^,]*$"))
    }
    if certain:
        pointed = {
            n for n in plain if _mostly(_matching(held[n], r"[0-9]\.|\.[0-9]"), held[n], 0.5)
        }
        kinds = dict.fromkeys(columns, CELLS) | dict.fromkeys(fractions | plain - pointed, NUMBERS)
        kinds |= {
            name: f"text such as {_first(held[name])!r} where others have a decimal comma (write "
            "all numbers with one mark)"
            for name in pointed
        }
        return kinds, ","
    kinds = dict.fromkeys(columns, CELLS) | dict.fromkeys(plain, NUMBERS)
    for name in thousands:
        cell = next(c for c in held[name].to_pylist() if "," in c)
        kinds[name] = (
            f"text such as {cell!r}, whose comma may mark decimals or thousands (write "
            f"{cell.replace(',', '.', 1).replace(',', '')} or {cell.replace(',', '')})"
        )
    return kinds, "."


def _held(cells: pa.Array) -> pa.Array:
    """Those that are not missing, without spaces around them."""
    cells = pc.utf8_trim_whitespace(cells)
    return cells.filter(pc.invert(pc.is_in(cells, pa.array(sorted(MISSING)))))


def _matching(cells: pa.Array, pattern: str) -> npt.NDArray[np.bool_]:
    found: npt.NDArray[np.bool_] = pc.match_substring_regex(cells, pattern).to_numpy(
        zero_copy_only=False
    )
    return found


def _mostly(found: npt.NDArray[np.bool_], cells: pa.Array, above: float | None = None) -> bool:
    """Whether at least half of the cells are found; with ``above``, more than that share."""
    share = float(found.mean()) if len(cells) else 1.0
    return share >= 0.5 if above is None else len(cells) > 0 and share > above


def _first(cells: pa.Array) -> str:
    return str(next(cell for cell in cells.to_pylist() if "." in cell))
