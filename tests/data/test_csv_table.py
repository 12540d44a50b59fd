"""CSV as other programs write it: each kind is read, or refused with one sentence."""

from __future__ import annotations

import gzip
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from compressor.data import csv_table
from compressor.data.sources import open_source
from compressor.errors import DataError

NUMBERS = [[1.5, -2.25, 30.0], [4.125, 5.5, -60.0]] * 3
Write = Callable[..., Path]


@pytest.fixture
def write(tmp_path: Path) -> Write:
    def write(text: str, name: str = "data.csv", encoding: str = "utf-8") -> Path:
        data = text.encode(encoding)
        (tmp_path / name).write_bytes(gzip.compress(data) if name.endswith(".gz") else data)
        return tmp_path / name

    return write


def lines(delimiter: str = ",", decimal: str = ".", end: str = "\n", header: str = "a,b,c") -> str:
    rows = [[str(number).replace(".", decimal) for number in row] for row in NUMBERS]
    return end.join([header.replace(",", delimiter), *map(delimiter.join, rows)]) + end


def numbers(read: Any, path: Path | str, columns: list[str] | None = None) -> list[list[float]]:
    found = read(open_source(path, columns))
    assert not found.unreadable
    return [pixels.tolist() for pixels in found.pixels]


@pytest.mark.parametrize("decimal", [".", ","])
@pytest.mark.parametrize("delimiter", [";", "\t", "|"])
@pytest.mark.parametrize("name", ["data.csv", "data.TXT", "data.tsv", "data.csv.gz", "data.txt.gz"])
def test_the_delimiter_and_the_decimal_mark_are_told_by_the_cells(
    write: Write, read: Any, delimiter: str, decimal: str, name: str
) -> None:
    path = write(lines(delimiter, decimal), name)
    assert numbers(read, path) == NUMBERS
    assert open_source(path).columns == ("a", "b", "c")
    assert numbers(read, f"{path}::c, a") == [[row[2], row[0]] for row in NUMBERS]


@pytest.mark.parametrize("encoding", ["utf-8-sig", "utf-16", "utf-32"])
@pytest.mark.parametrize("end", ["\n", "\r\n", "\r"])
def test_every_mark_of_an_encoding_and_every_line_end_is_read(
    write: Write, read: Any, encoding: str, end: str
) -> None:
    path = write(lines(end=end, header="größe,b,c"), encoding=encoding)
    assert numbers(read, path) == NUMBERS
    assert open_source(path).columns == ("größe", "b", "c")


def test_utf_16_without_a_mark_is_refused(write: Write) -> None:
    with pytest.raises(DataError, match=r"data\.csv is not UTF-8, .*; save it as UTF-8"):
        open_source(write(lines(), encoding="utf-16-le"))


@pytest.mark.parametrize("separator", ["\u00e9", '"', "\u2028"])
def test_a_line_that_names_an_impossible_separator_is_refused(separator, tmp_path):
    path = tmp_path / "a.csv"
    path.write_text(f"sep={separator}\na,b\n1,2\n", encoding="utf-8")
    with pytest.raises(DataError, match="lies between its cells"):
        open_source(path)


@pytest.mark.parametrize("first", ["sep=;\n", '"sep=;"\r\n', "SEP=;\r", "sep=,\n", "sep=^\n"])
def test_a_first_line_may_say_the_delimiter(write: Write, read: Any, first: str) -> None:
    delimiter = first.strip().strip('"')[-1]
    path = write(first + lines(delimiter, "," if delimiter == ";" else "."))
    assert numbers(read, path) == NUMBERS


def test_names_are_trimmed_as_cells_are(write: Write, read: Any) -> None:
    path = write('a,  b b ,"c "\n' + lines().partition("\n")[2])
    assert open_source(path).columns == ("a", "b b", "c")
    # A model from before has the names as they stood there.
    assert numbers(read, path, [" b b", "a"]) == [[row[1], row[0]] for row in NUMBERS]


@pytest.mark.parametrize("header", ["a,b,c,", "a,b,c", "a,b,c, "])
def test_a_delimiter_at_the_end_of_each_line_makes_no_column(
    write: Write, read: Any, header: str
) -> None:
    path = write(header + "\n" + lines().replace("\n", ",\n").partition("\n")[2])
    assert open_source(path).columns == ("a", "b", "c")
    assert numbers(read, path) == NUMBERS


def test_several_columns_without_names_and_cells_are_none(write: Write, read: Any) -> None:
    assert numbers(read, write("a,,b,,\n1,,2,,\n3,,4,,\n")) == [[1, 2], [3, 4]]
    with pytest.raises(DataError, match="column 2 has no name and holds '5'; name it in the first"):
        open_source(write("a,,b\n1,,2\n3,5,4\n"))


def test_blank_lines_above_and_cells_of_several_lines_are_read(
    write: Write, read: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(csv_table, "CSV_BLOCK", 2**12)  # the ends of blocks lie inside of cells
    rows = "".join(f'{number},"two\nlines, ""q"" {"x" * 50}\n"\n' for number in range(500))
    path = write(f'\n\n"a","no\nte"\n{rows}')
    assert numbers(read, f"{path}::a") == [[number] for number in range(500)]


def test_text_with_other_delimiters_stays_one_cell(write: Write, read: Any) -> None:
    path = write('a,"b;c|d"\n1,"2"\n3,"4"\n')
    assert open_source(path).columns == ("a", "b;c|d")
    path = write("size, mm;weight, kg\n1,5;2,75\n2,5;3,75\n")
    assert open_source(path).columns == ("size, mm", "weight, kg")
    assert numbers(read, path) == [[1.5, 2.75], [2.5, 3.75]]


def test_quoted_decimal_commas_are_read_where_they_cannot_be_thousands(
    write: Write, read: Any
) -> None:
    assert numbers(read, write('a,b\n"1,5","1,250"\n"0,25",7\n')) == [[1.5, 1.25], [0.25, 7]]


@pytest.mark.parametrize("delimiter", [",", "\t"])
def test_commas_that_may_be_thousands_are_refused(write: Write, delimiter: str) -> None:
    path = write(f'a{delimiter}b\n"1,234"{delimiter}1\n"5,678"{delimiter}2\n')
    message = r"'a' is text such as '1,234', whose comma .* \(write 1\.234 or 1234\)"
    with pytest.raises(DataError, match=message):
        open_source(path)
    assert open_source(f"{path}::b").columns == ("b",)


def test_a_point_is_no_decimal_mark_beside_decimal_commas(write: Write, read: Any) -> None:
    with pytest.raises(
        DataError, match=r"'b' is text such as '1\.234' where others have a decimal"
    ):
        open_source(write("a;b\n1,5;1.234\n2,5;5.678\n"))
    found = read(open_source(write("a;b\n1,5;1\n2,5;2\n3,5;1.234\n4,5;1.234,5\n")))
    assert list(found.unreadable) == [2, 3]


def test_names_keep_their_points_and_commas(write: Write, read: Any) -> None:
    found = read(open_source(write("name;a\n1,5.png;1,5\nb.png;2,5\n")))
    assert found.names == ["1,5.png", "b.png"]


@pytest.mark.parametrize(
    "text",
    ["1,2,3\n4,5,6\n", "2019,2020\n1,2\n", "1,5;2,7\n3,5;4,7\n", "1.5,,2\n1,2,3\n", "5\n6\n"],
)
def test_a_first_line_of_numbers_is_no_header(write: Write, text: str) -> None:
    with pytest.raises(DataError, match=r"begins with the numbers .* has to name the columns"):
        open_source(write(text))


def test_numbers_are_names_where_pandas_or_a_model_or_a_user_has_them(
    write: Write, read: Any
) -> None:
    assert numbers(read, write("0,1\n5,6\n")) == [[5, 6]]
    assert numbers(read, write(",0,1\n7,5,6\n")) == [[5, 6]]
    path = write("400,410\n5,6\n")
    assert numbers(read, path, ["410", "400"]) == [[6, 5]]
    assert numbers(read, f"{path}::410") == [[6]]


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("# made by X\na,b\n1,2\n", "begins with '# made by X' and its rows have 2 cells"),
        ("a,b\nr1,1,2\nr2,3,4\n", "begins with 'a, b' and its rows have 3 cells; its first line"),
        (
            "1.0e+00 2.0e+00\n3.0e+00 4.0e+00\n",
            "spaces between its cells; write commas, semicolons",
        ),
        ("a;b\n", "has no rows"),
        ("a;b", "has no rows"),
        ("a;b\n1;2\n3\n", "Row #3: Expected 2 columns, got 1: 3; .* with semicolons between them"),
    ],
)
def test_what_cannot_be_read_is_refused_with_the_reason(
    write: Write, read: Any, text: str, message: str
) -> None:
    with pytest.raises(DataError, match=rf"data\.csv.*{message}"):
        read(open_source(write(text)))


def test_a_damaged_gzip_file_is_refused(write: Write, read: Any) -> None:
    path = write(lines() * 1000, "data.csv.gz")
    path.write_bytes(path.read_bytes()[:-200])
    with pytest.raises(DataError, match=r"cannot read .*data\.csv\.gz"):
        read(open_source(path))


def test_a_wide_table_is_read(write: Write, read: Any) -> None:
    wide = np.random.default_rng(0).normal(size=(3, 3000)).round(3)
    text = ";".join(f"c{number}" for number in range(3000)) + "\n"
    text += "".join(";".join(map(str, row)).replace(".", ",") + "\n" for row in wide)
    np.testing.assert_array_equal(numbers(read, write(text)), wide.astype(np.float32))
