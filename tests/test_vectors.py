"""Real vectors through every verb: tables in, codes, archives, scores and tables out."""

from __future__ import annotations

import contextlib
import csv
import hashlib
import io
import json
import shutil
import sys
from pathlib import Path
from typing import Any, NamedTuple
from unittest import mock

import cv2
import numpy as np
import numpy.typing as npt
import onnx
import onnxruntime as ort
import openvino
import pyarrow as pa
import pyarrow.csv
import pyarrow.parquet as pq
import pytest
from compressor.cli import main
from onnx.reference import ReferenceEvaluator
from sklearn.datasets import load_breast_cancer
from sklearn.metrics import roc_auc_score

from compressor import verbs
from compressor.engine.engine import Engine
from compressor.errors import ConfigError, DataError
from compressor.model import Model

Values = npt.NDArray[np.float32]
Arrays = dict[str, npt.NDArray[Any]]
IMAGES = Path(__file__).parent / "golden" / "1"
CLOTHES = Path(__file__).parents[1] / "examples" / "data" / "fashion_mnist.npz"
SETTINGS = {"hidden": [16], "latent": 6, "batch_size": 32, "calibration": 0.2}


class Tumours(NamedTuple):
    """Measures of 569 breast tumours (Street, Wolberg & Mangasarian 1993) and a constant one.

    values: (569, 31), in units from thousandths to thousands.
    """

    values: Values
    columns: list[str]
    benign: npt.NDArray[np.bool_]

    def table(self, rows: slice | npt.NDArray[Any] = slice(None)) -> pa.Table:
        numbers = np.arange(len(self.values))[rows]
        names = pa.array([f"case {number}" for number in numbers])
        values = self.values[rows]
        return pa.table({"id": names, **dict(zip(self.columns, values.T, strict=True))})


@pytest.fixture(scope="module")
def tumours() -> Tumours:
    found = load_breast_cancer()
    values = np.column_stack([found.data, np.full(len(found.data), 5)]).astype(np.float32)
    return Tumours(values, [*found.feature_names, "lot"], found.target == 1)


@pytest.fixture(scope="module")
def data(tumours: Tumours, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """All of them as a CSV: do not change it."""
    path = tmp_path_factory.mktemp("data") / "tumours.csv"
    pyarrow.csv.write_csv(tumours.table(), path)
    return path


@pytest.fixture(scope="module")
def vector_model(tumours: Tumours, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A small model of 250 benign tumours, trained on a CSV: do not change it."""
    folder = tmp_path_factory.mktemp("vectors")
    benign = np.flatnonzero(tumours.benign)[:250]
    pyarrow.csv.write_csv(tumours.table(benign), folder / "benign.csv")
    told = verbs.train(
        "undercomplete", folder / "benign.csv", folder / "model", settings=SETTINGS, max_steps=150
    )
    assert told["images"] == 250 and told["unreadable"] == 0
    return folder / "model"


@pytest.fixture(scope="module")
def archive(vector_model: Path, data: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """All 569 in three blocks: do not change it."""
    path = tmp_path_factory.mktemp("archive") / "a"
    verbs.compress(data, vector_model, path)
    return path


@pytest.fixture(scope="module")
def rebuilt(vector_model: Path, tumours: Tumours) -> Values:
    """What the model makes of them: g(f(x)), (569, 31)."""
    engine = Engine(Model.open(vector_model))
    found: Values = engine.decode(engine.encode(tumours.values), 1, 31)
    return found


class Ran(NamedTuple):
    code: int
    out: str
    err: str

    @property
    def error(self) -> str:
        """The one line that says what went wrong."""
        lines = [line for line in self.err.splitlines() if not line.startswith("device:")]
        assert len(lines) == 1 and lines[0].startswith("Error: "), self.err
        assert "unexpected" not in lines[0]
        return lines[0]


def run(*arguments: object) -> Ran:
    """Runs the command line in this process."""
    out, err, code = io.StringIO(), io.StringIO(), 0
    with (
        mock.patch.object(sys, "argv", ["compressor", *map(str, arguments)]),
        contextlib.redirect_stdout(out),
        contextlib.redirect_stderr(err),
    ):
        try:
            main()
        except SystemExit as end:
            code = int(end.code or 0)
    return Ran(code, out.getvalue(), err.getvalue())


def columns_of(path: Path) -> dict[str, list[Any]]:
    found: dict[str, list[Any]] = pq.read_table(path).to_pydict()
    return found


# train, inspect, export


def test_a_model_knows_the_columns_and_units_of_its_vectors(
    vector_model: Path, tumours: Tumours
) -> None:
    told = verbs.inspect(vector_model)
    spec = told["data"]
    assert (spec["kind"], spec["length"], spec["columns"]) == ("vector", 31, tumours.columns)
    benign = tumours.values[tumours.benign]
    np.testing.assert_allclose(spec["mean"], benign.mean(0), rtol=0.3)
    np.testing.assert_allclose(spec["scale"][:-1], benign.std(0)[:-1], rtol=0.5)
    assert (spec["mean"][-1], spec["scale"][-1]) == (5, 1)  # of the constant column
    assert "Vectors | 31" in (vector_model / "MODEL_CARD.md").read_text()


def test_graphs_take_and_give_the_units_of_the_data(
    vector_model: Path, tumours: Tumours, rebuilt: Values, tmp_path: Path
) -> None:
    verbs.export(vector_model, tmp_path / "graphs")
    encoder, decoder, scorer = (
        ort.InferenceSession(tmp_path / "graphs" / f"{name}.onnx")
        for name in ("encoder", "decoder", "scorer")
    )
    (code,) = encoder.run(["code"], {"vector": tumours.values})
    (vector,) = decoder.run(["vector"], {"code": code})
    l2, error_map = scorer.run(["l2", "error_map"], {"vector": tumours.values})
    assert vector.dtype == np.float32 and vector.shape == error_map.shape == (569, 31)
    spec = verbs.inspect(vector_model)["data"]
    np.testing.assert_allclose(l2, error_map.mean(1), rtol=1e-5)
    # Were it not the data's own units, the area in the thousands would be far off.
    apart = (vector - rebuilt) / np.array(spec["scale"])
    assert np.mean(np.abs(apart) > 1e-3) < 0.01
    assert np.abs(vector - tumours.values)[tumours.benign].mean(0)[3] < 200


def reference(graph: bytes, inputs: Arrays, names: list[str]) -> list[npt.NDArray[Any]]:
    return list(ReferenceEvaluator(onnx.load_from_string(graph)).run(names, inputs))


def openvino_f32(graph: bytes, inputs: Arrays, names: list[str]) -> list[npt.NDArray[Any]]:
    core, precision = openvino.Core(), {"INFERENCE_PRECISION_HINT": "f32"}
    found = core.compile_model(core.read_model(graph, b""), "CPU", precision)(inputs)
    return [np.array(found[name]) for name in names]


def opencv(graph: bytes, inputs: Arrays, names: list[str]) -> list[npt.NDArray[Any]]:
    net = cv2.dnn.readNetFromONNX(np.frombuffer(graph, np.uint8))
    for name, array in inputs.items():
        net.setInput(array, name)
    return list(net.forward(names))


@pytest.mark.parametrize("runtime", [reference, openvino_f32, opencv])
def test_other_runtimes_answer_as_golden_npz_says(vector_model: Path, runtime: Any) -> None:
    model = Model.open(vector_model)
    golden, given = model.golden(), {"vector": model.golden()["vector"]}
    (code,) = runtime(model.read("encoder.onnx"), given, ["code"])
    assert np.abs(code.astype(int) - golden["code"]).max() <= 1
    (vector,) = runtime(model.read("decoder.onnx"), {"code": golden["code"]}, ["vector"])
    scale = np.array(verbs.inspect(vector_model)["data"]["scale"])
    assert np.all(np.abs(vector - golden["reconstruction"]) <= 1e-4 * scale + 1e-6 * np.abs(vector))
    names = ["l2", "l1", "error_map"]
    for name, found in zip(names, runtime(model.read("scorer.onnx"), given, names), strict=True):
        np.testing.assert_allclose(found, golden[name], rtol=1e-3, atol=1e-5)


def test_units_of_the_data_do_not_matter(
    vector_model: Path, tumours: Tumours, rebuilt: Values, tmp_path: Path
) -> None:
    """The same data a thousand times as large and shifted give the same codes."""
    scaled = 1000 * tumours.values.astype(np.float64) + 300
    benign = np.flatnonzero(tumours.benign)[:250]
    verbs.train("undercomplete", scaled[benign], tmp_path / "m", settings=SETTINGS, max_steps=150)
    verbs.encode(tumours.values, vector_model, tmp_path / "codes.npy")
    verbs.encode(scaled, tmp_path / "m", tmp_path / "scaled.npy")
    codes, found = np.load(tmp_path / "codes.npy"), np.load(tmp_path / "scaled.npy")
    assert np.mean(codes[tumours.benign] == found[tumours.benign]) > 0.95

    verbs.compress(scaled, tmp_path / "m", tmp_path / "a")
    verbs.decompress(tmp_path / "a", tmp_path / "out.csv")
    table = pyarrow.csv.read_csv(tmp_path / "out.csv")
    assert table.column_names[:3] == ["name", "c0", "c1"]  # an array's columns have no names
    given_back = np.column_stack([table[f"c{place}"] for place in range(31)])
    apart = (
        (given_back - (1000 * rebuilt + 300)) / 1000 / verbs.inspect(vector_model)["data"]["scale"]
    )
    assert np.median(np.abs(apart[tumours.benign])) < 0.02


# encode


def test_every_kind_of_table_gives_the_same_codes(
    vector_model: Path, tumours: Tumours, data: Path, tmp_path: Path
) -> None:
    verbs.encode(data, vector_model, tmp_path / "codes.npy")
    codes = np.load(tmp_path / "codes.npy")
    assert codes.shape == (569, 6) and codes.dtype == np.int32

    mixed = tumours.table().select(["id", *sorted(tumours.columns)])
    mixed = mixed.append_column("diagnosis", pa.array(tumours.benign.astype(str)))
    mixed = mixed.append_column("age", pa.array(np.arange(569)))
    pyarrow.csv.write_csv(mixed, tmp_path / "mixed.csv")
    (tmp_path / "parts").mkdir()
    pq.write_table(mixed.slice(0, 300), tmp_path / "parts" / "0.parquet")
    pq.write_table(mixed.slice(300), tmp_path / "parts" / "1.parquet")
    pq.write_table(pa.table({"embedding": list(tumours.values)}), tmp_path / "lists.parquet")
    np.savez(tmp_path / "arrays.npz", x=tumours.values, y=tumours.benign)
    given = ["mixed.csv", "parts", "lists.parquet", "arrays.npz::x"]
    for data in (tumours.values, *(f"{tmp_path}/{name}" for name in given)):
        verbs.encode(data, vector_model, tmp_path / "other.npy", force=True)
        np.testing.assert_array_equal(np.load(tmp_path / "other.npy"), codes)

    verbs.encode(tmp_path / "mixed.csv", vector_model, tmp_path / "codes.parquet")
    table = columns_of(tmp_path / "codes.parquet")
    assert table["path"][7] == "case 7" and table["code"][7] == codes[7].tolist()


@pytest.mark.parametrize("offset", [0, 1.7e9])
def test_numbers_that_float32_cannot_tell_apart_are_warned_of_by_name(
    vector_model: Path, tumours: Tumours, tmp_path: Path, offset: float
) -> None:
    values = tumours.values.astype(np.float64)
    values[:, 4] += offset
    table = pa.table(dict(zip(tumours.columns, values.T, strict=True)))
    pyarrow.csv.write_csv(table, tmp_path / "far.csv")
    for verb, output, *more in (("score", "r.csv", "--fpr", "0.1"), ("encode", "codes.npy")):
        ran = run(verb, tmp_path / "far.csv", "-m", vector_model, "-o", tmp_path / output, *more)
        warning = (
            "float32 rounds off most of what matters to the model in the column 'mean smoothness'"
        )
        assert (warning in ran.err) == bool(offset) and ran.code == 0


# compress, decompress, verify


def test_what_is_measured_is_what_comes_back(
    vector_model: Path, tumours: Tumours, data: Path, tmp_path: Path
) -> None:
    told = verbs.compress(data, vector_model, tmp_path / "a", measure=True)
    assert (told["images"], told["unreadable"], told["raw_bytes"]) == (569, 0, 569 * 31 * 4)
    assert "psnr" not in told and "bits_per_pixel" not in told
    on_disk = sum(path.stat().st_size for path in (tmp_path / "a").rglob("*") if path.is_file())
    assert told["archive_bytes"] == on_disk
    assert told["bits_per_value"] == pytest.approx(8 * on_disk / (569 * 31), abs=1e-5)

    verbs.decompress(tmp_path / "a", tmp_path / "out.npy")
    spec = verbs.inspect(vector_model)["data"]
    mean, scale = np.array(spec["mean"]), np.array(spec["scale"])
    error = np.square((np.load(tmp_path / "out.npy") - tumours.values.astype(float)) / scale).mean()
    power = np.square((tumours.values - mean) / scale).mean()
    assert told["mse"] == pytest.approx(error, rel=1e-6)
    assert told["snr"] == pytest.approx(10 * np.log10(power / error), abs=1e-3)
    assert told["snr"] > 0


def test_vectors_come_back_as_arrays_and_tables_with_names_and_columns(
    archive: Path, tumours: Tumours, rebuilt: Values, tmp_path: Path
) -> None:
    for kind in ("npy", "csv", "parquet"):
        told = verbs.decompress(archive, tmp_path / f"out.{kind}")
        assert (told["images"], told["unreadable"], told["damage"]) == (569, 0, [])
    np.testing.assert_array_equal(np.load(tmp_path / "out.npy"), rebuilt)
    tables = (pyarrow.csv.read_csv(tmp_path / "out.csv"), pq.read_table(tmp_path / "out.parquet"))
    for table in tables:
        assert table.column_names == ["name", *tumours.columns]
        assert table["name"].to_pylist() == [f"case {number}" for number in range(569)]
        values = np.column_stack([table[name].to_numpy() for name in tumours.columns])
        np.testing.assert_array_equal(values.astype(np.float32), rebuilt)


def test_some_vectors_can_be_had_alone(archive: Path, rebuilt: Values, tmp_path: Path) -> None:
    verbs.decompress(archive, tmp_path / "some.parquet", only="case 30*")
    table = columns_of(tmp_path / "some.parquet")
    assert table["name"] == ["case 30", *(f"case {number}" for number in range(300, 310))]
    assert table["worst area"][3] == rebuilt[302, 23]
    with pytest.raises(DataError, match=r"no vector in .* has a name that matches 'nobody'"):
        verbs.decompress(archive, tmp_path / "none.csv", only="nobody")


@pytest.mark.parametrize("name", ["out", "out.png", "out.tsv"])
def test_vectors_are_not_written_as_pictures(archive: Path, tmp_path: Path, name: str) -> None:
    ran = run("decompress", archive, "-o", tmp_path / name)
    assert ran.code == 2 and "vectors are written as .npy, .csv or .parquet" in ran.error
    assert not list(tmp_path.iterdir())


def test_an_archive_says_that_it_holds_vectors(archive: Path, tumours: Tumours) -> None:
    told = verbs.inspect(archive)
    assert (told["images"], told["data"]["kind"]) == (569, "vector")
    items = columns_of(archive / "items" / "part-00000.parquet")
    assert set(items["height"]) == set(items["channels"]) == {1} and set(items["width"]) == {31}
    # A reader that knows images alone does not take it for an archive of those.
    manifest = json.loads((archive / "manifest.json").read_text())
    assert manifest["data"]["columns"] == tumours.columns and "height" not in manifest["data"]


def test_the_digest_of_a_model_is_what_the_format_says(archive: Path) -> None:
    manifest = json.loads((archive / "model" / "manifest.json").read_text())
    hashes = {name: entry["sha256"] for name, entry in manifest["files"].items()}
    identity = {"code": manifest["code"], "data": manifest["data"], "files": hashes}
    digest = hashlib.sha256(json.dumps(identity, sort_keys=True).encode()).hexdigest()
    assert json.loads((archive / "manifest.json").read_text())["model"] == digest


def test_any_damage_to_an_archive_of_vectors_is_found_and_costs_one_block(
    archive: Path, vector_model: Path, rebuilt: Values, tmp_path: Path
) -> None:
    assert verbs.verify(archive)["ok"] and verbs.verify(vector_model)["ok"]
    names = [path.relative_to(archive) for path in archive.rglob("*") if path.is_file()]
    assert len(names) == 9
    for number, name in enumerate(names):
        copy = shutil.copytree(archive, tmp_path / str(number))
        content = bytearray((copy / name).read_bytes())
        content[len(content) // 2] ^= 1
        (copy / name).write_bytes(content)
        told = verbs.verify(copy)
        assert not told["ok"] and any(name.name in problem for problem in told["problems"])
        if name.suffix == ".bin":
            told = verbs.decompress(copy, tmp_path / "rest.npy")
            assert told["unreadable"] in (256, 57) and "case" in told["unreadable_names"][0]
            rest = {row.tobytes() for row in np.load(tmp_path / "rest.npy")}
            assert rest <= {row.tobytes() for row in rebuilt}


def test_a_model_whose_graphs_give_other_vectors_is_found(
    vector_model: Path, tmp_path: Path
) -> None:
    copy = shutil.copytree(vector_model, tmp_path / "model")
    golden = dict(np.load(copy / "golden.npz"))
    golden["reconstruction"][0, 3] *= 1.01
    np.savez(copy / "golden.npz", **golden)
    manifest = json.loads((copy / "manifest.json").read_text())
    content = (copy / "golden.npz").read_bytes()
    entry = {"size": len(content), "sha256": hashlib.sha256(content).hexdigest()}
    manifest["files"]["golden.npz"] = entry
    text = json.dumps(manifest)
    (copy / "manifest.json").write_text(text)
    digest = hashlib.sha256(text.encode()).hexdigest()
    (copy / "manifest.sha256").write_text(f"{digest}  manifest.json\n")
    assert verbs.verify(copy)["problems"] == ["decoder.onnx gives other vectors than golden.npz"]


def test_a_job_on_a_csv_that_was_cut_short_resumes_to_the_same_bytes(
    vector_model: Path, data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("compressor.archive.writer.PART_IMAGES", 256)
    whole = verbs.compress(data, vector_model, tmp_path / "whole", measure=True)
    encode = Engine.encode

    def cut_short(self: Engine, vectors: Values) -> Any:
        if len(vectors) < 256:  # the last chunk
            raise KeyboardInterrupt
        return encode(self, vectors)

    monkeypatch.setattr(Engine, "encode", cut_short)
    with pytest.raises(KeyboardInterrupt):
        verbs.compress(data, vector_model, tmp_path / "a")
    ran = run("compress", data, "-m", vector_model, "-o", tmp_path / "a")
    assert "256 vectors of a job that was cut short; give --resume" in ran.error

    calls: list[Values] = []
    monkeypatch.setattr(Engine, "encode", lambda self, x: calls.append(x) or encode(self, x))
    resumed = verbs.compress(data, vector_model, tmp_path / "a", resume=True)
    assert sum(map(len, calls)) == 569 - 256
    for path in (tmp_path / "whole").rglob("*.*"):
        assert (
            path.read_bytes()
            == (tmp_path / "a" / path.relative_to(tmp_path / "whole")).read_bytes()
        )
    assert resumed["images"] == whole["images"] and resumed["raw_bytes"] == whole["raw_bytes"]


# score, calibrate, report


def test_malignant_tumours_are_strange_to_a_model_of_benign_ones(
    vector_model: Path, tumours: Tumours, data: Path, tmp_path: Path
) -> None:
    told = verbs.score(
        data, vector_model, tmp_path / "r.parquet", fpr=0.05, report=tmp_path / "r.html"
    )
    rows = columns_of(tmp_path / "r.parquet")
    assert rows["path"] == [f"case {number}" for number in range(569)]
    assert roc_auc_score(~tumours.benign, rows["score"]) > 0.9
    assert told["anomalies"] == sum(rows["is_anomaly"]) and told["scorer"] == "l2"
    never_seen = np.flatnonzero(tumours.benign)[250:]
    assert np.mean(np.array(rows["is_anomaly"])[never_seen]) < 0.2

    verbs.score(data, vector_model, tmp_path / "r.csv", fpr=0.05)
    with (tmp_path / "r.csv").open(newline="") as file:
        for row, score in zip(csv.DictReader(file), rows["score"], strict=True):
            assert float(row["score"]) == pytest.approx(score, rel=1e-6)
    assert verbs.inspect(tmp_path / "r.csv")["anomalies"] == told["anomalies"]

    page = (tmp_path / "r.html").read_text()
    assert "vectors are anomalies" in page
    strangest = rows["path"][int(np.argmax(rows["score"]))]
    assert strangest in page and any(column in page for column in tumours.columns)


def test_a_vector_that_overflows_the_network_is_an_anomaly(
    vector_model: Path, tumours: Tumours, tmp_path: Path
) -> None:
    values = tumours.values[tumours.benign][:4].copy()
    values[1, 3], values[2] = 1e30, 3e38 * np.where(np.arange(31) % 2, 1, -1)
    told = verbs.score(values, vector_model, tmp_path / "r.parquet", threshold=1e6)
    assert columns_of(tmp_path / "r.parquet")["is_anomaly"] == [False, True, True, False]
    assert told["anomalies"] == 2
    assert verbs.inspect(tmp_path / "r.parquet")["highest_score"] is None  # JSON has no infinity
    np.save(tmp_path / "far.npy", values)
    job = "compress", tmp_path / "far.npy", "-m", vector_model, "-o", tmp_path / "a"
    ran = run(*job, "--measure", "--json")
    told = json.loads(ran.out, parse_constant=lambda name: pytest.fail(f"{name} is not JSON"))
    assert told["images"] == 4


def test_data_without_any_deviation_have_no_snr(vector_model: Path, tmp_path: Path) -> None:
    mean = np.float32(verbs.inspect(vector_model)["data"]["mean"])
    told = verbs.compress(np.stack([mean] * 3), vector_model, tmp_path / "a", measure=True)
    assert told["snr"] is None and told["mse"] > 0


def test_calibrating_replaces_the_scores(
    vector_model: Path, tumours: Tumours, tmp_path: Path
) -> None:
    copy = shutil.copytree(vector_model, tmp_path / "model")
    pq.write_table(tumours.table(np.flatnonzero(tumours.benign)[250:]), tmp_path / "new.parquet")
    assert verbs.calibrate(copy, tmp_path / "new.parquet")["images"] == 107
    assert len(Model.open(copy).calibration("l2")) == 107
    assert verbs.verify(copy)["ok"]


def test_heat_maps_and_other_codecs_are_for_images(
    vector_model: Path, data: Path, tmp_path: Path
) -> None:
    with pytest.raises(ConfigError, match=r"heatmaps=.* is for images"):
        verbs.score(data, vector_model, tmp_path / "r.csv", heatmaps=tmp_path / "maps")
    with pytest.raises(ConfigError, match="compare=True is for images"):
        verbs.compress(data, vector_model, tmp_path / "a", compare=True)
    assert not list(tmp_path.iterdir())


def test_a_page_shows_what_a_model_of_vectors_has_learned(
    vector_model: Path, data: Path, tumours: Tumours, tmp_path: Path
) -> None:
    assert verbs.report(vector_model, data, tmp_path / "page.html")["images"] == 569
    assert tumours.columns[0] in (tmp_path / "page.html").read_text()


# Bad data


def test_rows_that_cannot_be_read_are_named_and_left_out(
    vector_model: Path, tumours: Tumours, tmp_path: Path
) -> None:
    with (tmp_path / "bad.csv").open("w", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(["name", *tumours.columns])
        for number, cell in enumerate(["1.5", "", "nan", "inf", "1e39", "much", "2.5"]):
            row = tumours.values[number].astype(object)
            row[3] = cell
            writer.writerow([f"row {number}", *row])
    bad = [f"row {number}" for number in range(1, 6)]
    verbs_with = ("encode", "c.npy"), ("compress", "a"), ("score", "r.parquet", "--fpr", "0.05")
    for verb, output, *more in verbs_with:
        job = verb, tmp_path / "bad.csv", "-m", vector_model, "-o", tmp_path / output
        ran = run(*job, *more, "--json")
        told = json.loads(ran.out)
        assert (ran.code, told["images"], told["unreadable"]) == (4, 2, 5)
        for name, reason in zip(bad, told["unreadable_names"], strict=True):
            assert reason.startswith(f"{name}: has a value in column mean area that is missing")
            assert f"skipped {name}" in ran.err
    assert np.load(tmp_path / "c.npy").shape == (2, 6)
    rows = columns_of(tmp_path / "r.parquet")
    assert [row is not None for row in rows["error"]] == [False, *[True] * 5, False]
    assert rows["score"][1:6] == rows["is_anomaly"][1:6] == [None] * 5
    assert verbs.inspect(tmp_path / "a")["left_out"] == 5


def test_many_bad_rows_are_named_in_the_summary_alone(
    vector_model: Path, tumours: Tumours, tmp_path: Path
) -> None:
    values = tumours.values[:100].copy()
    values[:50, 0] = np.nan
    np.save(tmp_path / "bad.npy", values)
    ran = run("encode", tmp_path / "bad.npy", "-m", vector_model, "-o", tmp_path / "c.npy")
    assert ran.code == 4 and ran.out.count("00049: has a value") == 1
    assert ran.err.count("skipped 000") == 20 and "skipped more" in ran.err


@pytest.mark.parametrize(
    ("data", "message"),
    [
        ("short", "every row has 30 numbers, the model takes 31"),
        ("clothes", "every row is an image, the model takes vectors"),
        ("lists", "the first: 00000 has 30 numbers, the model takes 31"),
    ],
)
def test_data_that_cannot_fit_a_model_of_vectors_are_refused(
    vector_model: Path, tumours: Tumours, tmp_path: Path, data: str, message: str
) -> None:
    given: Any = tumours.values[:, 1:]
    if data == "clothes":
        given = f"{CLOTHES}::test"
    if data == "lists":
        pq.write_table(pa.table({"v": list(given[:3])}), tmp_path / "lists.parquet")
        given = tmp_path / "lists.parquet"
    for verb in (verbs.encode, verbs.compress):
        with pytest.raises(DataError, match=message):
            verb(given, vector_model, tmp_path / "out.parquet")
    assert not (tmp_path / "out.parquet").exists()


def test_vectors_do_not_fit_a_model_of_images(data: Path, tmp_path: Path) -> None:
    ran = run("score", data, "-m", IMAGES / "model", "-o", tmp_path / "r.csv")
    assert ran.code == 1 and "every row is a vector, the model takes images" in ran.error
    ran = run("decompress", IMAGES / "archive", "-o", tmp_path / "out.csv")
    assert ran.code == 2 and "images are written as .npy, .parquet or a folder" in ran.error


def test_a_table_without_a_column_of_the_model_is_refused_in_one_line(
    vector_model: Path, tumours: Tumours, tmp_path: Path
) -> None:
    table = tumours.table().drop_columns(["mean area", "worst area"])
    pyarrow.csv.write_csv(table, tmp_path / "few.csv")
    ran = run("score", tmp_path / "few.csv", "-m", vector_model, "-o", tmp_path / "r.csv")
    assert ran.code == 1 and "few.csv lacks mean area, worst area, which the model" in ran.error
    assert not (tmp_path / "r.csv").exists()
