"""Results files: their columns and types are what scripts rely on."""

from __future__ import annotations

import csv
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from compressor.anomaly.results import Row, results_file
from compressor.errors import OutputError
from compressor.verbs import inspect

ROWS = [
    Row("a/1.png", 0.25, 0.5, False),
    Row('b,"2".png', 1 / 3, 0.01, True),
    Row("c\n3.png", error="is damaged"),
    Row("d.png", 2.5, None, True),
]


@pytest.fixture(params=["r.parquet", "r.csv"])
def path(tmp_path: Path, request: pytest.FixtureRequest) -> Path:
    """Results in two pieces."""
    path: Path = tmp_path / request.param
    with results_file(path, force=False) as rows:
        rows.write(ROWS[:3])
        rows.write(ROWS[3:])
    return path


def test_parquet_has_the_columns_and_types_of_the_design(tmp_path: Path) -> None:
    with results_file(tmp_path / "r.parquet", force=False) as rows:
        rows.write(ROWS)
    table = pq.read_table(tmp_path / "r.parquet")
    assert table.schema.names == ["path", "score", "p_value", "is_anomaly", "error"]
    expected = [pa.string(), pa.float64(), pa.float64(), pa.bool_(), pa.string()]
    assert table.schema.types == expected
    assert [Row(**values) for values in table.to_pylist()] == ROWS


def test_csv_has_the_same_columns_and_loses_no_digit(tmp_path: Path) -> None:
    with results_file(tmp_path / "r.csv", force=False) as rows:
        rows.write(ROWS)
    with (tmp_path / "r.csv").open(newline="", encoding="utf-8") as file:
        header, *lines = csv.reader(file)
    assert header == ["path", "score", "p_value", "is_anomaly", "error"]
    assert [line[0] for line in lines] == [row.path for row in ROWS]
    assert [float(line[1]) if line[1] else None for line in lines] == [row.score for row in ROWS]
    assert [line[3] for line in lines] == ["false", "true", "", "true"]
    assert [line[4] for line in lines] == ["", "", "is damaged", ""]
    assert lines[2][1:4] == ["", "", ""] and lines[3][2] == ""


def test_inspect_reads_both_kinds(path: Path) -> None:
    assert inspect(path) == {
        "kind": "results",
        "images": 3,
        "unreadable": 1,
        "anomalies": 2,
        "lowest_score": 0.25,
        "highest_score": 2.5,
    }


@pytest.mark.parametrize("name", ["r.parquet", "r.csv"])
def test_results_are_whole_or_absent(tmp_path: Path, name: str) -> None:
    with pytest.raises(KeyError), results_file(tmp_path / name, force=False) as rows:
        rows.write(ROWS)
        raise KeyError
    assert not list(tmp_path.iterdir())


def test_results_that_exist_stay_without_force(path: Path) -> None:
    before = path.read_bytes()
    with pytest.raises(OutputError, match="exists"), results_file(path, force=False):
        pass
    with pytest.raises(KeyError), results_file(path, force=True):
        raise KeyError
    assert path.read_bytes() == before
    with results_file(path, force=True) as rows:
        rows.write(ROWS[:1])
    assert inspect(path)["images"] == 1
