"""Labels as people have them: folders, tables, columns, arrays; and what is wrong with some."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from compressor.errors import ConfigError, DataError
from compressor.labels.given import NONE, labels_of


def given(labels: Any, *paths: str, count: int | None = None) -> list[str | None]:
    """The label of each path."""
    found = labels_of(labels, paths, np.arange(len(paths)), count or len(paths))
    return [None if number == NONE else found.names[number] for number in found.of]


def test_a_folder_is_a_class_and_what_all_paths_begin_with_is_none() -> None:
    assert given("folders", "cat/1.png", "dog/a/2.png", "3.png") == ["cat", "dog", None]
    assert given("folders", "data/train/cat/1.png", "data/train/dog/2.png") == ["cat", "dog"]
    assert given("folders", "cat/1.png", "cat/2.png") == ["cat", "cat"]


@pytest.fixture(params=["labels.csv", "labels.tsv", "labels.parquet"])
def table(request: pytest.FixtureRequest, tmp_path: Path) -> Any:
    """Writes rows of path and label."""

    def write(*rows: tuple[Any, Any]) -> Path:
        path: Path = tmp_path / request.param
        if path.suffix == ".parquet":
            names, labels = zip(*rows, strict=True)
            pq.write_table(pa.table({"path": names, "other": names, "label": labels}), path)
        else:
            comma = "\t" if path.suffix == ".tsv" else ","
            lines = [("path", "other", "label"), *((p, 1, "" if a is None else a) for p, a in rows)]
            path.write_text("".join(comma.join(map(str, line)) + "\n" for line in lines))
        return path

    return write


def test_a_table_has_paths_and_labels_in_any_order(table: Any) -> None:
    path = table(("b/2.png", "dog"), ("a/1.png", "cat"))
    assert given(path, "a/1.png", "b/2.png", "c.png") == ["cat", "dog", None]


def test_a_table_may_call_inputs_by_longer_paths(table: Any) -> None:
    path = table(("./set/images/a/1.png", "cat"), ("./set/images/2.png", "dog"))
    assert given(path, "a/1.png", "2.png") == ["cat", "dog"]


def test_numbers_are_labels_and_blanks_are_none(table: Any) -> None:
    rows = table(("1", "3"), ("2", "3.0"), ("3", "-1"), ("4", "NA"), ("5", "03x"))
    assert given(rows, "1", "2", "3", "4", "5") == ["3", "3", None, None, "03x"]
    assert given(table(("1", 7), ("2", 7), ("3", None)), "1", "2", "3") == ["7", "7", None]


def test_labels_that_no_input_has_are_named(table: Any) -> None:
    path = table(("1.png", "cat"), ("2.png", "dog"), ("9.png", "dog"))
    found = labels_of(path, ["1.png", "2.png"], np.arange(2), 2)
    assert found.unmatched == ("9.png",)
    with pytest.raises(DataError, match=r"no path in .* is that of an input \(it has 1.png, 2.png"):
        labels_of(path, ["x.png"], np.arange(1), 1)


def test_one_label_twice_is_one_and_two_are_refused(table: Any) -> None:
    assert given(table(("1.png", "cat"), ("1.png", "cat")), "1.png") == ["cat"]
    deeper = table(("A/1.png", "cat"), ("B/1.png", "dog"))
    with pytest.raises(DataError, match=r"two labels for 1\.png: cat and dog"):
        given(deeper, "1.png")
    with pytest.raises(DataError, match=r"two labels for 1\.png: cat and dog"):
        given(table(("1.png", "cat"), ("1.png", "dog")), "1.png")


def test_a_column_and_an_array_have_a_label_for_each_input_of_the_source(tmp_path: Path) -> None:
    pq.write_table(pa.table({"x": [1, 2, 3], "kind": ["a", None, "b"]}), tmp_path / "t.parquet")
    np.savez(tmp_path / "t.npz", y=np.array([3, -1, 4]), text=np.array(["a", "", "b"]))
    np.save(tmp_path / "y.npy", np.array([True, False, True]))
    for location, expected in (
        ("t.parquet::kind", ["a", None, "b"]),
        ("t.npz::y", ["3", None, "4"]),
        ("t.npz::text", ["a", None, "b"]),
        ("y.npy", ["true", "false", "true"]),
    ):
        assert given(str(tmp_path / location), "0", "1", "2") == expected
    # Of the source's three inputs the second cannot be read.
    found = labels_of(str(tmp_path / "t.npz::y"), ["0", "2"], np.array([0, 2]), 3)
    assert [found.names[number] for number in found.of] == ["3", "4"]
    assert given([2.0, None, 1.0], "0", "1", "2") == ["2", None, "1"]


@pytest.mark.parametrize(
    ("location", "message"),
    [
        ("missing.csv", "there are no labels at .*missing.csv"),
        ("missing.npz::y", "cannot read .*missing.npz"),
        ("t.npz::z", "has no array 'z', it has y, flat"),
        ("t.npz::y", "has 2 labels, and there are 3 inputs"),
        ("t.npz::flat", "labels are one value for each input"),
        (
            "other.csv",
            "has no column 'path', it has a, b; labels are in the columns path and label",
        ),
        ("other.csv::c", "has no column 'c'"),
        ("t.txt.gz.zip", "there are no labels at"),
        ("bad.npy", "is no array of labels"),
        ("t.jpg", "give a .csv or .parquet"),
        ("wrong.npy", "it has characters that are none"),
        ("complex.npy", "it holds complex64"),
    ],
)
def test_labels_that_cannot_be_read_are_refused(
    location: str, message: str, tmp_path: Path
) -> None:
    np.savez(tmp_path / "t.npz", y=np.array([1, 2]), flat=np.zeros((2, 2)))
    (tmp_path / "other.csv").write_text("a,b\n1,2\n")
    (tmp_path / "bad.npy").write_bytes(b"none")
    (tmp_path / "t.jpg").write_bytes(b"none")
    np.save(tmp_path / "wrong.npy", np.full(3, 0x110000, np.uint32).view("U1"))
    np.save(tmp_path / "complex.npy", np.zeros(3, np.complex64))
    with pytest.raises((DataError, ConfigError), match=message) as caught:
        given(str(tmp_path / location), "0", "1", "2")
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("value", [1.5, "a\nb", "x" * 201, float("inf")])
def test_what_names_no_class_is_refused(value: object) -> None:
    with pytest.raises(DataError, match="is no label"):
        given([value], "0")
