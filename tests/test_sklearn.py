"""Detectors with the methods of scikit-learn's and PyOD's: the verbs' answers, or an error."""

from __future__ import annotations

import copy
import multiprocessing
import pickle
import re
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import joblib
import numpy as np
import pandas as pd
import pytest
import sklearn.utils.estimator_checks as checks
from onnx import TensorProto, helper, numpy_helper
from sklearn.base import clone
from sklearn.exceptions import NotFittedError
from sklearn.linear_model import LogisticRegression
from sklearn.model_selection import GridSearchCV, StratifiedKFold
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

from compressor import verbs
from compressor.anomaly.scorers import score_rows
from compressor.data.arrays import ArraySource
from compressor.data.images import Pixels
from compressor.engine.engine import Engine
from compressor.errors import CompressorError, ConfigError, OutputError
from compressor.manifests import file_entries
from compressor.model import (
    Model,
    ModelManifest,
    PluginEntry,
    calibration_bytes,
    manifest_files,
)
from compressor.sklearn import AutoencoderDetector, PyODDetector
from compressor.spec import CodeSpec, VectorSpec
from compressor.training.dataset import split_rows

ROOT = Path(__file__).parents[1]
GOLDEN = ROOT / "tests" / "golden"
SMALL = {"hidden": [8], "latent": 2, "batch_size": 32}
Floats = np.ndarray[Any, np.dtype[np.float32]]


@pytest.fixture(scope="module")
def table(clothes: Pixels) -> pd.DataFrame:
    """Mean greys of ten pairs of rows of pixels of clothes, and a column that never changes."""
    means = clothes[:, 4:24, :, 0].reshape(1000, 10, 56).mean(2)
    return pd.DataFrame(means, columns=[f"rows {n}" for n in range(10)]).assign(lot=7)


@pytest.fixture
def principal(monkeypatch: pytest.MonkeyPatch) -> list[dict[str, Any]]:
    """Training gives the principal components at once, for tests of everything around it.

    They are what the undercomplete autoencoder finds at last (Baldi & Hornik 1989). The list has
    the arguments of each training.
    """
    calls: list[dict[str, Any]] = []

    def train(plugin: str, data: ArraySource, output: Path, **arguments: Any) -> None:
        calls.append({"plugin": plugin, **arguments})
        pieces = [images for chunk in data.chunks(256) for images in chunk.load()]
        rows = np.concatenate([group.pixels for images in pieces for group in images.groups])
        share, seed = arguments["settings"]["calibration"], arguments["seed"]
        split = split_rows(len(rows), 0.1, share, seed)
        Model.write(output, principal_components(rows, split, data.columns, seed), force=False)

    monkeypatch.setattr(verbs, "train", train)
    return calls


def principal_components(
    rows: Floats, split: Any, columns: tuple[str, ...] | None, seed: int
) -> dict[str, bytes]:
    """The files of a model of vectors, half of whose principal components are the code."""
    known = rows[split.training].astype(np.float64)
    mean, scale = known.mean(0), known.std(0)
    scale[scale <= 1e-7 * (1 + np.abs(mean))] = 1
    components = np.linalg.svd((known - mean) / scale, full_matrices=False)[2]
    kept = components[: max(1, rows.shape[1] // 2)].astype(np.float32)
    constants = {
        "mean": mean.astype(np.float32),
        "scale": scale.astype(np.float32),
        "down": kept.T.copy(),
        "up": kept,
        "step": np.float32(0.01),
    }
    standardised = ["Sub vector mean -> centred", "Div centred scale -> x", "MatMul x down -> z"]
    data = VectorSpec(
        length=rows.shape[1],
        mean=tuple(mean.tolist()),
        scale=tuple(scale.tolist()),
        columns=columns,
    )
    files = {
        "encoder.onnx": graph(
            [*standardised, "Div z step -> steps", "Floor steps -> whole", "Cast whole -> code"],
            constants,
            ("vector", TensorProto.FLOAT, data.length),
            {"code": TensorProto.INT32},
        ),
        "decoder.onnx": graph(
            [
                "Cast code -> whole",
                "Mul whole step -> z",
                "MatMul z up -> x",
                "Mul x scale -> centred",
                "Add centred mean -> vector",
            ],
            constants,
            ("code", TensorProto.INT32, len(kept)),
            {"vector": TensorProto.FLOAT},
        ),
        "scorer.onnx": graph(
            [
                *standardised,
                "MatMul z up -> rebuilt",
                "Sub x rebuilt -> error",
                "Mul error error -> error_map",
                "ReduceMean error_map axes -> l2",
            ],
            {**constants, "axes": np.array([1])},
            ("vector", TensorProto.FLOAT, data.length),
            {"l2": TensorProto.FLOAT, "error_map": TensorProto.FLOAT},
        ),
    }
    manifest = ModelManifest(
        plugin=PluginEntry(name="principal", distribution="tests", version="1"),
        data=data,
        code=CodeSpec(shape=(len(kept),)),
        scores=("l2",),
        training={"seed": seed},
        files=file_entries(files),
    )
    engine = Engine(Model.from_files(files | manifest_files(manifest)), "cpu")
    only = {"l2": lambda seen: seen.scored["l2"]}
    scores = score_rows(only, engine, rows, split.calibration)
    files["calibration.parquet"] = calibration_bytes(scores)
    manifest = manifest.model_copy(update={"files": file_entries(files)})
    return files | manifest_files(manifest)


def graph(
    lines: list[str],
    constants: Mapping[str, Any],
    given: tuple[str, int, int],
    outputs: Mapping[str, int],
) -> bytes:
    """An ONNX graph of lines ``Operator input ... -> output``."""
    nodes = []
    for line in lines:
        (operator, *inputs), (output,) = (side.split() for side in line.split(" -> "))
        kind = TensorProto.INT32 if output == "code" else TensorProto.FLOAT
        options = {"Cast": {"to": kind}, "ReduceMean": {"keepdims": 0}}.get(operator, {})
        nodes.append(helper.make_node(operator, inputs, [output], **options))
    used = {name for node in nodes for name in node.input}
    name, kind, length = given
    made = helper.make_graph(
        nodes,
        "principal",
        [helper.make_tensor_value_info(name, kind, ["N", length])],
        [helper.make_tensor_value_info(name, kind, None) for name, kind in outputs.items()],
        [
            numpy_helper.from_array(np.asarray(value), name)
            for name, value in constants.items()
            if name in used
        ],
    )
    model = helper.make_model(made, opset_imports=[helper.make_opsetid("", 18)])
    model.ir_version = 10
    content: bytes = model.SerializeToString()
    return content


# Small, so that the ten rows of some checks are enough to calibrate with.
@checks.parametrize_with_checks([AutoencoderDetector(fpr=0.3), PyODDetector(fpr=0.3)])
def test_estimators_keep_the_conventions_of_scikit_learn(
    estimator: Any, check: Any, principal: list[Any]
) -> None:
    check(estimator)


@pytest.fixture(scope="module")
def trained(table: pd.DataFrame) -> AutoencoderDetector:
    """Really trained, on a table."""
    detector = AutoencoderDetector(settings=SMALL, fpr=0.05, max_steps=200)
    return detector.fit(table[:800])


@pytest.fixture(scope="module")
def of_images(model: Path) -> AutoencoderDetector:
    return AutoencoderDetector.from_model(model)


def test_a_detector_of_a_table_answers_as_the_command_line_does(
    trained: AutoencoderDetector, table: pd.DataFrame, tmp_path: Path
) -> None:
    trained.save(tmp_path / "model")
    unseen = table[800:].assign(beside="x")[["beside", *reversed(table.columns)]]
    unseen.iloc[:50, 1:] *= -1.0
    unseen.to_csv(tmp_path / "unseen.csv", index=False)
    summary = verbs.score(
        tmp_path / "unseen.csv", tmp_path / "model", tmp_path / "results.csv", fpr=0.05
    )
    results = pd.read_csv(tmp_path / "results.csv")
    X = unseen[table.columns]
    np.testing.assert_array_equal(trained.score_samples(X), -results["score"])
    np.testing.assert_allclose(trained.p_values(X), results["p_value"])
    np.testing.assert_array_equal(trained.predict(X) == -1, results["is_anomaly"])
    np.testing.assert_array_equal(trained.decision_function(X) < 0, results["is_anomaly"])
    assert trained.threshold_ == -trained.offset_ == summary["threshold"]
    assert 50 <= summary["anomalies"] < 100
    assert list(trained.feature_names_in_) == list(table.columns)


def test_a_detector_is_the_model_that_train_makes(
    trained: AutoencoderDetector, table: pd.DataFrame, tmp_path: Path
) -> None:
    rows = table[:800].to_numpy(np.float32)
    verbs.train("undercomplete", rows, tmp_path / "model", settings=SMALL, max_steps=200)
    again = AutoencoderDetector.from_model(tmp_path / "model", fpr=0.05)
    for name in ("encoder.onnx", "scorer.onnx", "prior.bin", "calibration.parquet"):
        assert again.model_.read(name) == trained.model_.read(name)
    assert again.threshold_ == trained.threshold_
    assert again.settings is not None and again.settings.items() >= SMALL.items()


def test_images_are_scored_as_the_verb_does_and_rebuilt_as_the_archive_does(
    of_images: AutoencoderDetector, model: Path, clothes: Pixels, letters: Pixels, tmp_path: Path
) -> None:
    images = np.concatenate([clothes[:500], letters])
    verbs.score(images, model, tmp_path / "r.csv", fpr=0.01)
    results = pd.read_csv(tmp_path / "r.csv")
    np.testing.assert_array_equal(of_images.score_samples(images), -results["score"])
    np.testing.assert_array_equal(of_images.predict(images[..., 0]) == -1, results["is_anomaly"])
    verbs.encode(images, model, tmp_path / "codes.npy")
    codes = of_images.transform(images)
    np.testing.assert_array_equal(codes, np.load(tmp_path / "codes.npy").reshape(800, -1))
    engine = Engine(Model.open(model))
    rebuilt = engine.decode(engine.encode(images), 28, 28)[..., 0]
    np.testing.assert_array_equal(of_images.inverse_transform(codes), rebuilt)
    assert not hasattr(of_images, "n_features_in_")


def test_a_detector_is_fitted_on_images(clothes: Pixels, letters: Pixels) -> None:
    settings = {"hidden": [8], "latent": 1}
    detector = AutoencoderDetector(settings=settings, fpr=0.05, max_steps=60, random_state=3)
    detector.fit(clothes[:600, ..., 0])
    assert detector.model_.spec.shape == (28, 28, 1)
    assert detector.model_.manifest.training["seed"] == 3
    assert detector.score_samples(letters).mean() < detector.score_samples(clothes[600:]).mean()
    assert (detector.predict(clothes[600:]) == -1).mean() < 0.12


def test_the_threshold_follows_the_parameters_without_another_fit(
    of_images: AutoencoderDetector, clothes: Pixels
) -> None:
    detector = copy.deepcopy(of_images)
    p = detector.p_values(clothes)
    for fpr in (0.01, 0.1, 0.5):
        detector.set_params(fpr=fpr)
        np.testing.assert_array_equal(detector.predict(clothes) == -1, p <= fpr)
    average = detector.set_params(fpr=0.1).threshold_
    assert detector.set_params(confidence=0.95).threshold_ > average


def test_calibration_takes_as_many_rows_as_the_rate_needs(principal: list[dict[str, Any]]) -> None:
    X = np.random.default_rng(0).normal(size=(2000, 3))
    shares = {
        (count, fpr): len(AutoencoderDetector(fpr=fpr).fit(X[:count]).model_.calibration("l2"))
        for count, fpr in [(2000, 0.01), (300, 0.01), (205, 0.01), (300, 0.2)]
    }
    assert list(shares.values()) == [200, 99, 99, 30]
    AutoencoderDetector(settings={"calibration": 0.3}).fit(X)
    assert principal[-1]["settings"] == {"calibration": 0.3}
    confident = AutoencoderDetector(confidence=0.95).fit(X[:700])
    assert len(confident.model_.calibration("l2")) == 299
    assert confident.threshold_ == confident.model_.calibration("l2").max()


@pytest.mark.parametrize(
    ("parameters", "rows", "told"),
    [
        ({}, 150, "fpr=0.01 needs at least 99 rows that are not trained on, and 74 of these 150"),
        ({"confidence": 0.9}, 300, "fpr=0.01 with confidence=0.9 needs at least 230 rows"),
        ({"settings": {"calibration": 0.1}}, 500, "50 of these 500 can be held out"),
        ({"settings": {"calibration": 0}}, 500, "0 of these 500 can be held out"),
        ({"fpr": 1e-5}, 10**6, "at least 99999 rows"),
        ({"fpr": 0}, 500, "it must lie between 0 and 1"),
        ({"plugin": "none"}, 500, "there is no plugin 'none'"),
        ({"settings": {"latnt": 3}}, 500, "there is no setting 'latnt'"),
        ({"settings": {"calibration": 0.7}}, 500, "calibration=0.7: .* at|less"),
    ],
)
def test_what_cannot_be_fitted_is_told_before_training(
    parameters: dict[str, Any], rows: int, told: str
) -> None:
    with pytest.raises(CompressorError, match=told):
        AutoencoderDetector(**parameters).fit(np.ones((rows, 2), np.float32))


@pytest.mark.parametrize(
    ("X", "told"),
    [
        (np.ones((1, 4)), "1 sample"),
        (np.ones((9, 4)) * np.nan, "contains NaN"),
        (np.ones((9, 4)) * 1e300, "too large for dtype"),
        (np.ones(9), "Reshape your data"),
        (np.zeros((1, 28, 28), np.uint8), r"X has 1 image\(s\); give at least 3"),
        (np.zeros((9, 28, 28)), r"images are uint8 .* X is float64 \(9, 28, 28\)"),
        (np.zeros((28, 28, 3), np.uint8), r"one image: array\[None\]"),
        (pd.DataFrame({"a": ["x", "y", "z"]}), "could not convert string to float"),
    ],
)
def test_data_that_cannot_be_fitted_are_a_value_error(X: Any, told: str) -> None:
    with pytest.raises(ValueError, match=told):
        AutoencoderDetector().fit(X)


def test_data_of_another_kind_than_the_models_are_a_value_error(
    of_images: AutoencoderDetector, trained: AutoencoderDetector, table: pd.DataFrame
) -> None:
    with pytest.raises(ValueError, match="every row is a vector, the model takes images"):
        of_images.predict(np.ones((2, 5)))
    with pytest.raises(ValueError, match="every row has 3 channels, the model takes 1"):
        of_images.predict(np.ones((2, 28, 28, 3), np.uint8))
    with pytest.raises(ValueError, match="every row is an image, the model takes vectors"):
        trained.predict(np.ones((2, 28, 28), np.uint8))
    with pytest.raises(ValueError, match="feature names should match"):
        trained.predict(table.rename(columns={"lot": "plot"}))
    with pytest.raises(ValueError, match=r"codes are \(N, 2\), and X is \(4, 3\)"):
        trained.inverse_transform(np.ones((4, 3)))


def test_a_column_that_never_changes_counts_once_it_does(
    trained: AutoencoderDetector, table: pd.DataFrame
) -> None:
    assert np.isfinite(trained.score_samples(table)).all()
    other = trained.score_samples(table.assign(lot=9)) - trained.score_samples(table)
    assert other.mean() < -0.2  # of one column in eleven, 2 off


def test_a_model_without_calibration_scores_and_does_not_judge(
    table: pd.DataFrame, trained: AutoencoderDetector, tmp_path: Path
) -> None:
    files = {n: c for n, c in trained.model_.contents().items() if n != "calibration.parquet"}
    entries = {n: e for n, e in trained.model_.manifest.files.items() if n in files}
    manifest = trained.model_.manifest.model_copy(update={"files": entries})
    Model.write(tmp_path / "model", files | manifest_files(manifest), force=False)
    bare = AutoencoderDetector.from_model(tmp_path / "model")
    np.testing.assert_array_equal(bare.score_samples(table), trained.score_samples(table))
    with pytest.raises(ConfigError, match="no calibration scores"):
        bare.predict(table)


def test_a_score_that_the_model_lacks_is_named_and_another_one_can_be_set(
    clothes: Pixels,
) -> None:
    path = GOLDEN / "1-discriminator" / "model"
    detector = AutoencoderDetector.from_model(path, scorer="ssim")
    with pytest.raises(ConfigError, match="no score 'ssim'; it has l2, logit, feature_distance"):
        detector.predict(clothes)
    first = detector.set_params(scorer=None).score_samples(clothes[:9])
    np.testing.assert_array_equal(
        detector.set_params(scorer="l2").score_samples(clothes[:9]), first
    )
    assert (detector.set_params(scorer="logit").score_samples(clothes[:9]) != first).all()


def test_pyod_detectors_turn_the_signs_around(
    trained: AutoencoderDetector, table: pd.DataFrame, principal: list[Any], tmp_path: Path
) -> None:
    trained.save(tmp_path / "model.zip")
    pyod = PyODDetector.from_model(tmp_path / "model.zip", fpr=0.05)
    np.testing.assert_array_equal(pyod.decision_function(table), -trained.score_samples(table))
    np.testing.assert_array_equal(pyod.predict(table), trained.predict(table) == -1)
    assert pyod.threshold_ == trained.threshold_
    p = pyod.predict_proba(table)
    np.testing.assert_array_equal(p[:, 0], trained.p_values(table))
    np.testing.assert_array_equal(p.sum(1), 1)
    assert not hasattr(pyod, "labels_")

    labels = pyod.fit_predict(table)
    np.testing.assert_array_equal(labels, pyod.labels_)
    np.testing.assert_array_equal(pyod.decision_scores_, pyod.decision_function(table))
    np.testing.assert_array_equal(pyod.labels_, pyod.decision_scores_ > pyod.threshold_)


@pytest.mark.parametrize("copied", [copy.deepcopy, lambda d: pickle.loads(pickle.dumps(d))])
def test_copies_give_the_same_answers_and_need_no_file(
    copied: Any, model: Path, clothes: Pixels, tmp_path: Path
) -> None:
    Model.write(tmp_path / "model.zip", Model.open(model).contents(), force=False)
    detector = AutoencoderDetector.from_model(tmp_path / "model.zip")
    (tmp_path / "model.zip").unlink()
    expected = detector.decision_function(clothes[:50])
    np.testing.assert_array_equal(copied(detector).decision_function(clothes[:50]), expected)
    joblib.dump(detector, tmp_path / "detector.joblib", compress=3)
    again = joblib.load(tmp_path / "detector.joblib")
    np.testing.assert_array_equal(again.decision_function(clothes[:50]), expected)
    assert (tmp_path / "detector.joblib").stat().st_size < sum(
        map(len, detector.model_.contents().values())
    )


def test_a_forked_process_makes_sessions_of_its_own(
    of_images: AutoencoderDetector, clothes: Pixels
) -> None:
    expected = of_images.score_samples(clothes[:50])  # the parent has sessions now
    with multiprocessing.get_context("fork").Pool(1) as pool:
        scores = pool.apply(of_images.score_samples, (clothes[:50],))
    np.testing.assert_array_equal(scores, expected)


def test_a_clone_is_unfitted_and_trains_alike(
    of_images: AutoencoderDetector, table: pd.DataFrame, principal: list[dict[str, Any]]
) -> None:
    again = clone(of_images)
    with pytest.raises(NotFittedError):
        _ = again.threshold_
    again.fit(table)
    assert principal[0]["plugin"] == "undercomplete"
    assert principal[0]["settings"].items() >= {"hidden": [8, 16], "calibration": 0.2}.items()
    assert again.n_features_in_ == 11


def test_a_fit_on_images_forgets_the_columns_of_a_table(
    table: pd.DataFrame, principal: list[Any], clothes: Pixels
) -> None:
    detector = AutoencoderDetector(fpr=0.05).fit(table)
    assert detector.n_features_in_ == 11
    with pytest.raises(ValueError, match="uint8"):
        detector.fit(clothes.astype(np.float32))
    assert not hasattr(detector, "feature_names_in_")


def test_pipelines_and_grid_searches_take_detectors(
    table: pd.DataFrame, principal: list[dict[str, Any]]
) -> None:
    strange = table[:50].sample(frac=1, axis=1, random_state=0).set_axis(table.columns, axis=1)
    X, y = pd.concat([table, strange]), np.r_[np.ones(len(table)), -np.ones(50)]
    pipeline = make_pipeline(StandardScaler(), AutoencoderDetector(fpr=0.05))
    pipeline.fit(table)
    assert (pipeline.predict(strange) == -1).all()
    assert pipeline.decision_function(strange).max() < 0
    grid = {"settings": [{"latent": 1}, {"latent": 2}], "random_state": [0, 1]}
    detector, folds = AutoencoderDetector(fpr=0.05), StratifiedKFold(2)
    search = GridSearchCV(detector, grid, scoring="roc_auc", cv=folds)
    search.fit(X, y)
    assert search.best_score_ > 0.7
    assert {call["settings"]["latent"] for call in principal[1:]} == {1, 2}
    codes = make_pipeline(AutoencoderDetector(fpr=0.05), LogisticRegression(max_iter=1000))
    assert codes.fit(X, y).score(X, y) > 0.95
    frame = AutoencoderDetector(fpr=0.05).set_output(transform="pandas").fit_transform(table)
    assert list(frame.columns) == [f"autoencoderdetector{n}" for n in range(5)]


def test_what_exists_is_not_replaced_unasked(
    of_images: AutoencoderDetector, tmp_path: Path
) -> None:
    of_images.save(tmp_path / "model")
    with pytest.raises(OutputError, match="exists"):
        of_images.save(tmp_path / "model")
    of_images.save(tmp_path / "model", force=True)
    assert verbs.verify(tmp_path / "model")["ok"]


def test_a_model_that_only_decodes_is_refused(clothes: Pixels, model: Path, tmp_path: Path) -> None:
    verbs.compress(clothes[:20], model, tmp_path / "archive")
    with pytest.raises(ConfigError, match="no scorer"):
        AutoencoderDetector.from_model(tmp_path / "archive" / "model")


def test_the_examples_of_the_readme_and_of_detectors_run(
    principal: list[Any], model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "examples").symlink_to(ROOT / "examples")
    shutil.copytree(model, tmp_path / "clothes")
    really = verbs.train

    def train(plugin: str, data: ArraySource, output: Path, **arguments: Any) -> None:
        """Of images a model that is there, of tables the quick one."""
        if len(data.shape) == 3:
            shutil.copytree(model, output)
        else:
            really(plugin, data, output, **arguments)

    monkeypatch.setattr(verbs, "train", train)
    told: dict[str, Any] = {"np": np}
    readme = (ROOT / "README.md").read_text(encoding="utf-8")
    page = (ROOT / "docs" / "detectors.md").read_text(encoding="utf-8")
    blocks = [block for text in (readme, page) for block in python_blocks(text)]
    ours = [block for block in blocks if "detector" in block or "rows." in block]
    assert len(ours) == 4
    for block in ours:
        exec(block, told)
    assert (told["unseen"] == -1).mean() < 0.15 and (told["found"] == -1).mean() > 0.5
    assert told["p_values"].shape == (200,)
    told["classifier"].fit(told["table"], told["is_coat"])
    assert list(told["again"].feature_names_in_[:2]) == ["row0", "row1"]
    assert told["again"].threshold_ <= told["threshold"]


def python_blocks(text: str) -> list[str]:
    return re.findall(r"```python\n(.*?)```", text, re.DOTALL)
