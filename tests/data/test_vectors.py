"""Tables of numbers as vectors. ``few`` are 20 rows of 5 real columns, whose names have spaces."""

from __future__ import annotations

import csv
from decimal import Decimal

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.csv
import pyarrow.parquet as pq
import pytest
from sklearn.datasets import load_breast_cancer

from compressor.data import csv_table
from compressor.data import vectors as tables
from compressor.data.sources import open_source
from compressor.errors import DataError

COLUMNS = ["mean radius", "mean area", "area error", "worst area", "fractal dimension error"]


@pytest.fixture(scope="session")
def few():
    """(20, 5) float32: measures of breast tumours (Street, Wolberg & Mangasarian 1993)."""
    tumours = load_breast_cancer()
    places = [tumours.feature_names.tolist().index(column) for column in COLUMNS]
    return np.ascontiguousarray(tumours.data[:20, places], np.float32)


def table_of(values, columns=COLUMNS, **more):
    """A pyarrow table; ``more`` are columns before those of the values."""
    return pa.table({**more, **dict(zip(columns, values.T, strict=True))})


def write_csv(path, header, *rows):
    with path.open("w", newline="", encoding="utf-8") as file:
        csv.writer(file).writerows([header, *rows])
    return path


def read_text(tmp_path, read, text, columns=None, encoding="utf-8"):
    (tmp_path / "data.csv").write_bytes(text.encode(encoding))
    return read(open_source(tmp_path / "data.csv", columns))


@pytest.fixture(
    params=["npy", "npz", "fortran.npz", "array", "csv", "parquet", "list.parquet", "parts"]
)
def source(request, tmp_path, few):
    """The same 20 vectors in every kind of source."""
    path = tmp_path / f"data.{request.param}"
    match request.param:
        case "npy":
            np.save(path, few)
        case "npz" | "fortran.npz":
            order = np.ascontiguousarray if request.param == "npz" else np.asfortranarray
            np.savez_compressed(path, X=order(few.astype(np.float64)), y=np.arange(20))
            return open_source(f"{path}::X")
        case "array":
            return open_source(few)
        case "csv":
            pyarrow.csv.write_csv(table_of(few), path)
        case "parquet":
            pq.write_table(table_of(few), path, row_group_size=6)
        case "list.parquet":
            pq.write_table(pa.table({"embedding": list(few)}), path, row_group_size=6)
        case "parts":
            (path / "b").mkdir(parents=True)
            pq.write_table(table_of(few[:9]), path / "a.parquet")
            pq.write_table(table_of(few[9:]), path / "b" / "b.parquet")
    return open_source(path)


# What all kinds share


@pytest.mark.parametrize("size", [1, 6, 20, 50])
def test_every_kind_gives_all_vectors_in_order_with_numbers_for_names(source, few, read, size):
    found = read(source, size)
    assert found.names == [f"{row:05}" for row in range(20)]
    assert np.array_equal(np.stack(found.pixels), few)
    assert source.count() == 20 and not found.unreadable


@pytest.mark.parametrize("start", [0, 1, 8, 9, 13, 19, 20, 25])
def test_every_kind_can_start_anywhere(source, few, read, start):
    if start > 20:
        assert list(source.chunks(6, start)) == []
        return
    found = read(source, 6, start)
    assert found.names == [f"{row:05}" for row in range(start, 20)]
    assert np.array_equal(np.reshape(found.pixels, (-1, 5)), few[start:])


def test_vectors_can_be_written_to_without_changing_the_source(source, few):
    for chunk in source.chunks(20):
        next(chunk.load()).groups[0].pixels[:] = 0
        assert np.array_equal(next(chunk.load()).groups[0].pixels, few)


def test_columns_that_have_names_are_known_by_them(source):
    is_table = source.location.endswith((".csv", "data.parquet", ".parts"))
    assert source.columns == (tuple(COLUMNS) if is_table else None)
    assert source.shape == (None if "list" in source.location else (5,))


def test_an_open_source_gives_the_same_fingerprint_every_time(source):
    assert source.fingerprint() == source.fingerprint()


# Arrays


@pytest.mark.parametrize("dtype", ["<f2", ">f4", "f8", "i2", "u2", "i8", "i1", "?"])
def test_arrays_of_other_numbers_become_float32(few, read, dtype):
    values = few.clip(0, 100).astype(dtype)
    found = np.stack(read(open_source(values)).pixels)
    assert found.dtype == np.float32 and np.array_equal(found, values.astype(np.float32))


@pytest.mark.parametrize("dtype", ["u1", "c8", "U4", "g"])
def test_arrays_that_may_be_something_else_are_refused(few, dtype):
    with pytest.raises(DataError, match=r"or float32 \(N, D\) for vectors"):
        open_source(np.ones((20, 5)).astype(dtype))


@pytest.mark.parametrize(
    ("array", "advice"),
    [
        (np.ones((20, 5), np.uint8), r"vectors array\.astype\(numpy\.float32\), for one image"),
        (np.ones(20), r"array\[:, None\] for one number a row"),
        (np.ones((20, 5), object), r"Python objects array\.astype\(numpy\.float32\)"),
        (np.array([[1], [1, 2]], object), r"Python objects numpy\.stack\(list\(array\)\)"),
        (np.ones(20, [("a", "f4")]), "of these records, .*structured_to_unstructured"),
        (np.ones((20, 5)).astype("U4"), r"where it holds plain numbers, array\.astype"),
        (np.ones((6, 9, 9), bool), r"for images array\.astype\(numpy\.uint8\) \* 255"),
        (np.ones((6, 9, 9), np.uint16), r"for images \(array >> 8\)\.astype"),
        (np.ones((6, 9, 9, 3), np.float32), r"for images \(255 \* array\)\.round\(\)"),
        (np.ones((6, 9, 9, 3), np.int64), "for images .*of values from 0 to 255"),
        (np.ones((6, 3, 9, 9), np.uint8), r"3 channels.*first, array\.transpose\(0, 2, 3, 1\)"),
        (np.ones((9, 9, 3), np.uint8), r"one image: array\[None\]"),
        (np.ones((6, 9, 9, 2), np.uint8), "1, 3 or 4 channels"),
        (np.ones((0, 9), np.float32), "no length 0"),
    ],
)
@pytest.mark.parametrize("kind", ["array", "npy", "npz"])
def test_other_arrays_are_refused_saying_what_they_are_and_what_to_give(
    tmp_path, array, advice, kind
):
    given = array if kind == "array" else tmp_path / f"data.{kind}"
    if kind != "array":
        (np.save if kind == "npy" else np.savez)(given, array)
    with pytest.raises(DataError, match=advice) as caught:
        open_source(given)
    assert "damaged" not in str(caught.value)


def test_masks_beside_images_in_a_file_are_not_taken_for_the_data(tmp_path, clothes):
    np.savez(tmp_path / "data.npz", images=clothes[:5], labels=np.ones((5, 3), bool))
    assert open_source(tmp_path / "data.npz").shape == (28, 28, 1)


def test_a_row_of_an_array_that_float32_cannot_hold_is_unreadable(few, read):
    values = few.astype(np.float64)
    values[3, 1], values[5, 2], values[7, 4] = np.nan, -np.inf, 1e39
    found = read(open_source(values))
    assert list(found.unreadable) == [3, 5, 7]
    assert found.unreadable[5].startswith("has a value in column 2 that is missing")
    assert np.array_equal(found.pixels[4], few[4])


# Columns


@pytest.fixture(params=["csv", "parquet"])
def write(request, tmp_path):
    """Writes a pyarrow table and gives its path."""

    def write(table, name="data"):
        path = tmp_path / f"{name}.{request.param}"
        (pyarrow.csv.write_csv if request.param == "csv" else pq.write_table)(table, path)
        return path

    return write


def test_the_columns_a_model_takes_come_in_its_order_whatever_else_there_is(few, read, write):
    text = pa.array(["benign"] * 20)
    path = write(table_of(few, label=text).append_column("more", pa.array(np.ones(20))))
    wanted = [COLUMNS[3], COLUMNS[0]]
    source = open_source(path, wanted)
    assert source.columns == tuple(wanted) and source.shape == (2,)
    assert np.array_equal(np.stack(read(source).pixels), few[:, [3, 0]])


def test_missing_columns_are_named(few, write):
    path = write(table_of(few))
    with pytest.raises(DataError, match=r"data\.\w+ lacks texture, age, which.*it has mean radius"):
        open_source(path, ["texture", COLUMNS[0], "age"])
    with pytest.raises(DataError, match=r"lacks c0, c1, .* c7 and 92 more, which"):
        open_source(path, [f"c{number}" for number in range(100)])


def test_columns_can_be_chosen(few, read, write):
    path = write(table_of(few, label=pa.array(["benign"] * 20)))
    source = open_source(f"{path}::{COLUMNS[2]},{COLUMNS[0]}")
    assert source.columns == (COLUMNS[2], COLUMNS[0])
    assert np.array_equal(np.stack(read(source).pixels), few[:, [2, 0]])
    assert source.fingerprint() != open_source(f"{path}::{COLUMNS[2]}").fingerprint()


@pytest.mark.parametrize(
    ("key", "message"),
    [
        ("label", "column 'label' is (text|string), not numbers"),
        ("mean radius,label", "column 'label' is (text|string), not numbers"),
        ("mean radius,size", "no column 'size'; it has label, mean radius, "),
        ("mean radius,mean radius", "names 'mean radius' twice"),
        ("", "no column ''"),
    ],
)
def test_columns_that_cannot_be_chosen_are_named(few, write, key, message):
    path = write(table_of(few, label=pa.array(["benign"] * 20)))
    with pytest.raises(DataError, match=message):
        open_source(f"{path}::{key}")


def test_a_column_that_has_no_numbers_has_to_be_left_out(few, write):
    path = write(table_of(few, label=pa.array(["benign"] * 20)))
    with pytest.raises(DataError, match=r"'label' is .*, not numbers; .*::mean radius,mean area,"):
        open_source(path)


def test_a_table_without_numbers_is_refused(write):
    with pytest.raises(DataError, match="no column of numbers"):
        open_source(write(pa.table({"id": [1, 2]})))
    with pytest.raises(DataError, match=r"lacks area, which the model .*; it has no numbers"):
        open_source(write(pa.table({"label": ["a", "b"]})), ["area"])


def test_columns_of_one_name_are_refused(few, write):
    table = pa.Table.from_arrays([pa.array(few[:, 0]), pa.array(few[:, 1])], ["size", "size"])
    with pytest.raises(DataError, match="two columns named 'size'"):
        open_source(write(table))


# Names


@pytest.mark.parametrize(
    "column", ["path", "name", "filename", "id", "", "Unnamed: 0", "__index_level_0__"]
)
def test_names_come_from_a_column_and_are_no_number_of_the_vector(few, read, write, column):
    names = [f"case {row}" for row in range(20)]
    found = read(open_source(write(table_of(few, **{column: pa.array(names)}))), 6)
    assert found.names == names
    assert np.array_equal(np.stack(found.pixels), few)


def test_numbers_are_names_as_they_are_written(few, read, write):
    found = read(open_source(write(table_of(few, id=pa.array(range(842300, 842320))))), 6, 3)
    assert found.names == [str(number) for number in range(842303, 842320)]
    assert np.array_equal(np.stack(found.pixels), few[3:])


def test_of_several_columns_of_names_none_is_a_number(few, read, write):
    more = {"id": pa.array(range(20)), "name": pa.array([f"case {row}" for row in range(20)])}
    found = read(open_source(write(table_of(few, **more))))
    assert found.names[7] == "case 7"
    assert np.array_equal(np.stack(found.pixels), few)


def test_a_column_of_names_that_the_model_was_trained_on_is_a_number(few, read, write):
    path = write(table_of(few[:, :1], ["size"], id=pa.array(range(20))))
    for source in (open_source(path, ["id", "size"]), open_source(f"{path}::id,size")):
        found = read(source)
        assert found.names == [f"{row:05}" for row in range(20)]
        assert np.array_equal(np.stack(found.pixels)[:, 0], np.arange(20))


@pytest.mark.parametrize(
    "names", [["a"] * 20, ["../a", *"bcdefghijklmnopqrst"], [None, *"bcdefghijklmnopqrst"]]
)
def test_names_that_are_double_unsafe_or_missing_give_way_to_numbers(few, read, write, names):
    found = read(open_source(write(table_of(few, name=pa.array(names)))))
    assert found.names == [f"{row:05}" for row in range(20)]


def test_names_that_are_no_text_give_way_to_numbers(tmp_path, few, read):
    pq.write_table(table_of(few, id=pa.array([[row] for row in range(20)])), tmp_path / "a.parquet")
    assert read(open_source(tmp_path / "a.parquet")).names[1] == "00001"


# Cells


def test_a_row_with_a_cell_that_is_no_finite_number_is_unreadable_and_named(tmp_path, read):
    cells = ["", "nan", "inf", "-Infinity", "1e39", "n/a", "NULL", "?", "1,5", "0x1F", "1_0", "one"]
    rows = [[f"row {cell}", "1.5", cell] for cell in cells]
    rows += [["fine", "2", "3"]] * 3 + [[f"good {row}", "2.5", "4"] for row in range(12)]
    source = open_source(write_csv(tmp_path / "a.csv", ["id", "a", "b"], *rows))
    found = read(source)
    assert list(found.unreadable) == list(range(len(cells)))
    assert all("column b that is missing, not a number" in r for r in found.unreadable.values())
    assert np.array_equal(found.pixels[-1], np.float32([2.5, 4]))


def test_a_cell_that_is_no_number_far_behind_the_first_ones_is_unreadable(tmp_path, read):
    rows = [[row, row % 7] for row in range(tables.ROWS_AT_ONCE * 2)]
    rows[-2][1] = "broken"
    found = read(open_source(write_csv(tmp_path / "a.csv", ["a", "b"], *rows)), 1000)
    assert list(found.unreadable) == [len(rows) - 2]


def test_a_column_whose_first_cells_are_all_missing_is_one_of_numbers(tmp_path, read):
    rows = [[row, "" if row < 5000 else row] for row in range(5010)]
    found = read(open_source(write_csv(tmp_path / "a.csv", ["a", "b"], *rows)), 1000)
    assert len(found.unreadable) == 5000 and found.pixels[-1].tolist() == [5009, 5009]


def test_numbers_are_read_however_they_are_written(tmp_path, read):
    cells = ["7", "+7.0", "7.", "07", "7e0", "70E-1", " 7 ", '"7"', ".7e+1"]
    found = read_text(tmp_path, read, "a\n" + "\n".join(cells) + "\n")
    assert np.array_equal(np.stack(found.pixels), np.full((len(cells), 1), 7, np.float32))
    found = read_text(tmp_path, read, "a,b\ntrue,False\nTRUE, false \n")
    assert np.array_equal(np.stack(found.pixels), [[1, 0], [1, 0]])


def test_what_spreadsheets_write_is_read(tmp_path, read):
    found = read_text(tmp_path, read, "a,größe\r\n1,2\r\n3,4\r\n", encoding="utf-8-sig")
    assert np.array_equal(np.stack(found.pixels), [[1, 2], [3, 4]])
    assert open_source(tmp_path / "data.csv").columns == ("a", "größe")


def test_numbers_that_count_columns_are_their_names(tmp_path, read):
    found = read_text(tmp_path, read, "0,1\n5,6\n")
    assert found.pixels[0].tolist() == [5, 6]


def test_a_column_the_model_takes_is_read_even_if_most_of_its_cells_are_no_numbers(tmp_path, read):
    found = read_text(tmp_path, read, "a,b\n1,off\n2,off\n3,4\n", ["b", "a"])
    assert list(found.unreadable) == [0, 1] and found.pixels[2].tolist() == [4, 3]


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "Empty CSV file"),
        ("a,b\n", "has no rows"),
        ("a,b\n1,2\n1\n", "Row #3: Expected 2 columns, got 1"),
        ("a,b\n1,2\n1,2,3\n", "Row #3: Expected 2 columns, got 3"),
        ("a,a\n1,2\n", "two columns named 'a'; its first line has to name the columns"),
        ("1.5,2.5\n1,2\n", "begins with the numbers 1.5, 2.5; its first line"),
        ("größe,b\n1,2\n", "utf-8.*in UTF-8"),
        ("name,b\ngröße,2\n", "invalid UTF8 .*in UTF-8"),
    ],
)
def test_a_csv_that_cannot_be_read_is_refused_with_the_reason(tmp_path, read, text, message):
    with pytest.raises(DataError, match=rf"data\.csv.*{message}"):
        read_text(tmp_path, read, text, encoding="latin-1")


def test_damage_far_behind_in_a_csv_is_told_with_its_row(tmp_path, read):
    path = write_csv(tmp_path / "a.csv", ["a", "b"], *[[1, 2]] * 3000, [3], *[[1, 2]] * 3000)
    with pytest.raises(DataError, match=r"a\.csv: .*Row #3002: Expected 2 columns, got 1"):
        read(open_source(path))


# Parquet


def test_types_of_numbers_are_all_read_and_missing_ones_unreadable(tmp_path, read):
    table = pa.table(
        {
            "half": pa.array(np.float16([1, 2])),
            "whole": pa.array([3, None], pa.int64()),
            "truth": pa.array([True, False]),
            "money": pa.array([Decimal("1.5"), Decimal("2.5")]),
            "with.dot": pa.array([4, 5], pa.uint8()),
        }
    )
    pq.write_table(table, tmp_path / "a.parquet")
    found = read(open_source(tmp_path / "a.parquet"))
    assert found.pixels[0].tolist() == [1, 3, 1, 1.5, 4]
    assert list(found.unreadable) == [1] and "column whole" in found.unreadable[1]


@pytest.mark.parametrize("kind", [pa.list_, pa.large_list])
def test_lists_of_another_length_or_with_gaps_are_unreadable(tmp_path, read, kind):
    lists = [None, [1, 2, 3], [4, 5], [], [6, None, 7], [8, 9, 10], [1, 2, 3, 4]]
    column = pa.array(lists, kind(pa.float64()))
    pq.write_table(pa.table({"id": range(7), "v": column}), tmp_path / "a.parquet")
    found = read(open_source(tmp_path / "a.parquet"), 3)
    assert [place for place, row in enumerate(found.pixels) if row is not None] == [1, 5]
    assert found.pixels[5].tolist() == [8, 9, 10]
    assert found.unreadable[0] == "has 0 numbers, the first row 3"
    assert found.unreadable[6] == "has 4 numbers, the first row 3"
    assert "column 1" in found.unreadable[4]


def test_lists_of_a_fixed_length_are_read_and_one_column_of_several_can_be_named(tmp_path, read):
    first = pa.array([[1, 2], [3, 4]], pa.list_(pa.int8(), 2))
    table = pa.table({"first": first, "second": [[5.0], [6.0]], "label": ["a", "b"]})
    pq.write_table(table, tmp_path / "a.parquet")
    found = read(open_source(f"{tmp_path}/a.parquet::first"))
    assert np.array_equal(np.stack(found.pixels), [[1, 2], [3, 4]])
    with pytest.raises(DataError, match="column 'first' is lists of numbers"):
        open_source(tmp_path / "a.parquet")


def test_lists_without_a_number_are_refused(tmp_path):
    pq.write_table(
        pa.table({"v": pa.array([None, []], pa.list_(pa.int8()))}), tmp_path / "a.parquet"
    )
    source = open_source(tmp_path / "a.parquet")
    with pytest.raises(DataError, match="no numbers: its lists are missing or empty"):
        next(next(source.chunks(2)).load())


def test_parts_may_have_other_types_of_numbers_and_another_order(tmp_path, few, read):
    pq.write_table(table_of(few[:9].astype(np.float64)), tmp_path / "a.parquet")
    pq.write_table(table_of(few[9:, ::-1], COLUMNS[::-1]), tmp_path / "b.parquet")
    assert np.array_equal(np.stack(read(open_source(tmp_path)).pixels), few)


@pytest.mark.parametrize("other", [{"size": [1.5]}, {"size": ["large"], "area": [1]}])
def test_parts_with_other_columns_are_refused(tmp_path, other):
    pq.write_table(pa.table({"size": [1.5], "area": [2]}), tmp_path / "a.parquet")
    pq.write_table(pa.table(other), tmp_path / "b.parquet")
    with pytest.raises(DataError, match=r"b\.parquet has other columns than .*a\.parquet"):
        open_source(tmp_path)


def test_damaged_parquet_is_refused(tmp_path, few):
    path = tmp_path / "a.parquet"
    pq.write_table(table_of(few), path)
    path.write_bytes(path.read_bytes()[:-20])
    with pytest.raises(DataError, match=r"cannot read .*a\.parquet: it is damaged"):
        open_source(path)


# Memory


@pytest.mark.parametrize("kind", ["csv", "parquet", "list.parquet"])
def test_memory_does_not_grow_with_a_table(tmp_path, monkeypatch, kind):
    monkeypatch.setattr(csv_table, "CSV_BLOCK", 2**16)
    values = np.random.default_rng(0).integers(0, 100, (100_000, 20)).astype(np.float32)
    path = tmp_path / f"data.{kind}"
    if kind == "csv":
        pyarrow.csv.write_csv(table_of(values, [f"c{place}" for place in range(20)]), path)
    elif kind == "parquet":
        pq.write_table(table_of(values, [f"c{place}" for place in range(20)]), path)
    else:
        pq.write_table(pa.table({"v": list(values)}), path, row_group_size=2**13)
    before, most, rows = pa.total_allocated_bytes(), 0, 0
    source = open_source(path)
    assert source.count() == 100_000
    for chunk in source.chunks(5000):
        rows += len(next(chunk.load()).groups[0].pixels)
        most = max(most, pa.total_allocated_bytes() - before)
    assert rows == 100_000
    assert most < 4_000_000 < values.nbytes, f"{most:,} bytes"


def test_an_index_that_pandas_has_written_names_the_rows_and_is_no_number(tmp_path, few, read):
    frame = pd.DataFrame(few, columns=COLUMNS, index=pd.Index(np.arange(20) * 7, name="time"))
    frame.to_parquet(tmp_path / "a.parquet")
    source = open_source(tmp_path / "a.parquet")
    assert source.columns == tuple(COLUMNS)
    found = read(source, 6, 3)
    assert found.names == [str(7 * row) for row in range(3, 20)]
    assert np.array_equal(np.stack(found.pixels), few[3:])
    # A model that was trained on it, and a user who names it, take it.
    assert open_source(tmp_path / "a.parquet", ["time"]).columns == ("time",)
    assert open_source(f"{tmp_path}/a.parquet::time").columns == ("time",)


def test_the_levels_of_an_index_are_no_numbers_and_no_names(tmp_path, few, read):
    index = pd.MultiIndex.from_product([range(4), range(5)], names=["batch", None])
    frame = pd.DataFrame(few, columns=pd.MultiIndex.from_product([["x"], COLUMNS]), index=index)
    frame.to_parquet(tmp_path / "a.parquet")
    source = open_source(tmp_path / "a.parquet")
    assert source.columns == tuple(f"('x', '{column}')" for column in COLUMNS)
    assert read(source).names == [f"{row:05}" for row in range(20)]


@pytest.mark.parametrize("metadata", [b"{", b"[]", b'{"index_columns": 3}'])
def test_metadata_that_cannot_be_read_is_ignored(tmp_path, few, read, metadata):
    table = table_of(few).replace_schema_metadata({b"pandas": metadata})
    pq.write_table(table, tmp_path / "a.parquet")
    assert open_source(tmp_path / "a.parquet").columns == tuple(COLUMNS)


def test_numbers_in_a_dictionary_are_read(tmp_path, few, read):
    table = pa.table(
        {name: pa.array(few[:, at]).dictionary_encode() for at, name in enumerate("ab")}
    )
    pq.write_table(table, tmp_path / "a.parquet")
    assert np.array_equal(np.stack(read(open_source(tmp_path / "a.parquet")).pixels), few[:, :2])
