"""Results files: their columns and types are what scripts rely on."""

from __future__ import annotations

import csv
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from compressor.anomaly.results import SCHEMA, decide
from compressor.data.arrays import ArraySource
from compressor.data.images import Shard
from compressor.errors import OutputError
from compressor.results import ResultsWriter, read_manifest
from compressor.verbs import inspect

ROWS = [
    ("a/1.png", 0.25, 0.5, False, None),
    ('b,"2".png', 1 / 3, 0.01, True, None),
    ("c\n3.png", None, None, None, "is damaged"),
    ("d.png", 2.5, None, True, None),
]
COLUMNS = ["path", "score", "p_value", "is_anomaly", "error"]


def table(rows: list[tuple[object, ...]]) -> pa.Table:
    """Undecided."""
    undecided = [(*row[:3], None, row[4]) for row in rows]
    return pa.Table.from_pylist([dict(zip(COLUMNS, r, strict=True)) for r in undecided], SCHEMA)


class Source(ArraySource):
    """Four rows, of one dataset or of the shards given."""

    def __init__(self, *shards: Shard) -> None:
        super().__init__(np.zeros((4, 2, 2), np.uint8))
        self.shards = shards


def write(path: Path | str, *shards: Shard, rows: int = 4, **options: bool) -> int:
    """Rows in two pieces; gives the number of anomalies."""
    writer = ResultsWriter(
        path, {}, Source(*shards), "image", **{"force": False, "resume": False} | options
    )
    with writer:
        for piece in (ROWS[:3], ROWS[3:]):
            writer.add(table(piece[:rows]))
        writer.end()
        anomalies = decide(writer, 0.3)
        writer.publish({})
    return anomalies


@pytest.fixture(params=["r.parquet", "r.csv", "r"])
def path(tmp_path: Path, request: pytest.FixtureRequest) -> Path:
    path: Path = tmp_path / request.param
    assert write(path) == 2
    assert list(tmp_path.iterdir()) == [path]
    return path


def test_parquet_has_the_columns_and_types_of_the_design(tmp_path: Path) -> None:
    write(tmp_path / "r.parquet")
    found = pq.read_table(tmp_path / "r.parquet")
    assert found.schema.names == COLUMNS
    expected = [pa.string(), pa.float64(), pa.float64(), pa.bool_(), pa.string()]
    assert found.schema.types == expected
    assert [tuple(row.values()) for row in found.to_pylist()] == ROWS


def test_csv_has_the_same_columns_and_loses_no_digit(tmp_path: Path) -> None:
    write(tmp_path / "r.csv")
    with (tmp_path / "r.csv").open(newline="", encoding="utf-8") as file:
        header, *lines = csv.reader(file)
    assert header == COLUMNS
    assert [line[0] for line in lines] == [row[0] for row in ROWS]
    assert [float(line[1]) if line[1] else None for line in lines] == [row[1] for row in ROWS]
    assert [line[3] for line in lines] == ["false", "true", "", "true"]
    assert [line[4] for line in lines] == ["", "", "is damaged", ""]
    assert lines[2][1:4] == ["", "", ""] and lines[3][2] == ""


FORMULA = "=cmd|' /C calc'!A1"


@pytest.mark.parametrize("safe", [False, True])
def test_names_and_errors_that_spreadsheets_would_run_get_a_quote_where_that_is_asked_for(
    tmp_path: Path, safe: bool
) -> None:
    names = [FORMULA, "+1", "-1", "@SUM(A1)", "\t=1", "\r=1", "plain.png", "a=1", "'quoted"]
    rows = [(name, -1.5, None, None, "=error" if name == "a=1" else None) for name in names]
    options = {"force": False, "resume": False, "csv_safe": safe}
    with ResultsWriter(tmp_path / "r.csv", {}, Source(), "image", **options) as writer:
        writer.add(pa.Table.from_pylist([dict(zip(COLUMNS, r, strict=True)) for r in rows], SCHEMA))
        writer.end()
        decide(writer, 0.3)
        writer.publish({})
    with (tmp_path / "r.csv").open(newline="", encoding="utf-8") as file:
        _, *lines = csv.reader(file)
    quote = "'" if safe else ""
    assert [line[0] for line in lines] == [*(quote + n for n in names[:6]), *names[6:]]
    assert lines[7][4] == f"{quote}=error" and lines[0][1] == "-1.5"
    assert inspect(tmp_path / "r.csv")["images"] == len(names)


def test_inspect_reads_all_kinds(path: Path) -> None:
    assert inspect(path) == {
        "kind": "results",
        "images": 3,
        "unreadable": 1,
        "anomalies": 2,
        "lowest_score": 0.25,
        "highest_score": 2.5,
    } | ({} if path.suffix else {"parts": 1})


def test_rows_are_cut_where_shards_end_and_an_empty_shard_has_an_empty_part(
    tmp_path: Path,
) -> None:
    write(tmp_path / "r", Shard("a", 1), Shard("b", 1), Shard("c", 4))
    manifest = read_manifest(tmp_path / "r")
    assert manifest is not None
    assert [(part.shard, part.rows) for part in manifest.parts] == [("a", 1), ("b", 0), ("c", 3)]
    found = [pq.read_table(tmp_path / "r" / part.file) for part in manifest.parts]
    assert [tuple(row.values()) for row in pa.concat_tables(found).to_pylist()] == ROWS


@pytest.mark.parametrize("name", ["r.parquet", "r.csv", "r"])
def test_results_are_whole_or_absent(tmp_path: Path, name: str) -> None:
    options = {"force": False, "resume": False}
    with (
        pytest.raises(KeyError),
        ResultsWriter(tmp_path / name, {}, Source(), "image", **options) as writer,
    ):
        writer.add(table(ROWS))
        raise KeyError
    assert not list(tmp_path.iterdir())


def test_results_that_exist_stay_without_force(path: Path) -> None:
    def content() -> list[bytes]:
        files = sorted(path.iterdir()) if path.is_dir() else [path]
        return [file.read_bytes() for file in files]

    before = content()
    with pytest.raises(OutputError, match="exists"):
        write(path)
    assert content() == before and list(path.parent.iterdir()) == [path]
    write(path, rows=1, force=True)
    assert inspect(path)["images"] == 2
