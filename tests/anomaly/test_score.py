"""The verb score: results in order, decisions, heat maps, the report, letters among clothes."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
import pytest
from PIL import Image

import compressor
from compressor.anomaly.calibration import p_values, threshold_for
from compressor.data.images import Pixels
from compressor.engine.engine import Engine
from compressor.errors import ConfigError
from compressor.manifests import file_entries
from compressor.model import Model, manifest_files
from compressor.verbs import score

SAMPLE = Path(__file__).parents[2] / "examples" / "data" / "fashion_mnist.npz"


def rows_of(path: Path) -> list[dict[str, Any]]:
    rows: list[dict[str, Any]] = pq.read_table(path).to_pylist()
    return rows


def names_of(rows: list[dict[str, Any]]) -> list[str]:
    return [row["path"] for row in rows]


def scores_of(rows: list[dict[str, Any]]) -> list[float]:
    return [row["score"] for row in rows]


@pytest.fixture(scope="module")
def strange(clothes: Pixels, letters: Pixels) -> Pixels:
    """300 clothes, then 100 letters."""
    return np.concatenate([clothes[:300], letters[:100]])


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory, clothes: Pixels, letters: Pixels) -> Path:
    """Images of several sizes in sub-folders, one that is broken and one that does not fit."""
    folder = tmp_path_factory.mktemp("images")
    for number in range(30):
        image = (letters if number % 5 == 0 else clothes)[number, :, :, 0]
        height, width = [(28, 28), (23, 28), (28, 21)][number % 3]
        path = folder / f"batch {number % 4}" / f"{number:02d}.png"
        path.parent.mkdir(exist_ok=True)
        Image.fromarray(image[:height, :width]).save(path)
    (folder / "batch 1" / "00 broken.png").write_bytes(b"no image")
    Image.fromarray(np.concatenate([*clothes[:3]], axis=2)).save(folder / "batch 2" / "odd.png")
    return folder


# Results


def test_order_and_names_are_kept_and_unreadable_images_are_rows_with_a_reason(
    folder: Path, model: Path, tmp_path: Path
) -> None:
    summary = score(folder, model, tmp_path / "r.parquet", fpr=0.05)
    rows = rows_of(tmp_path / "r.parquet")
    files = sorted(path.relative_to(folder).as_posix() for path in folder.rglob("*.png"))
    assert names_of(rows) == files
    failed = {row["path"]: row["error"] for row in rows if row["error"]}
    assert list(failed) == ["batch 1/00 broken.png", "batch 2/odd.png"]
    assert "is damaged" in failed["batch 1/00 broken.png"]
    assert "has 3 channels" in failed["batch 2/odd.png"]
    for row in rows:
        unknown = [row[column] is None for column in ("score", "p_value", "is_anomaly")]
        assert set(unknown) == {row["path"] in failed}
    assert (summary["images"], summary["unreadable"]) == (30, 2)
    assert summary["anomalies"] == sum(bool(row["is_anomaly"]) for row in rows) > 0


def test_an_image_has_the_same_score_alone_as_among_others(
    folder: Path, model: Path, tmp_path: Path
) -> None:
    score(folder, model, tmp_path / "all.parquet", fpr=0.05)
    for row in rows_of(tmp_path / "all.parquet")[::4]:
        if row["error"] is None:
            one = tmp_path / "one.parquet"
            score(folder / row["path"], model, one, fpr=0.05, force=True)
            (alone,) = rows_of(one)
            assert alone == row | {"path": Path(row["path"]).name}


def test_scores_are_the_engines_and_p_values_those_of_the_calibration(
    strange: Pixels, model: Path, tmp_path: Path
) -> None:
    summary = score(strange, model, tmp_path / "r.parquet", fpr=0.03)
    rows, opened = rows_of(tmp_path / "r.parquet"), Model.open(model)
    assert names_of(rows) == [f"{number:05d}" for number in range(400)]
    expected = Engine(opened).score(strange)["l2"].astype(np.float64)
    assert scores_of(rows) == expected.tolist()
    calibration = opened.calibration("l2")
    p = p_values(calibration, expected)
    assert [row["p_value"] for row in rows] == p.tolist()
    assert [row["is_anomaly"] for row in rows] == (p <= 0.03).tolist()
    assert summary["threshold"] == threshold_for(calibration, 0.03)


def test_l2_is_the_mean_squared_error_of_the_reconstruction(
    clothes: Pixels, model: Path, tmp_path: Path
) -> None:
    """Up to rounding, of codes and of pixels: the score itself sees neither."""
    score(clothes[:200], model, tmp_path / "r.parquet", fpr=0.05)
    engine = Engine(Model.open(model))
    rebuilt = engine.decode(engine.encode(clothes[:200]), 28, 28)
    errors = np.square(clothes[:200] / 255 - rebuilt / 255).mean(axis=(1, 2, 3))
    scores = np.array(scores_of(rows_of(tmp_path / "r.parquet")))
    assert np.corrcoef(errors, scores)[0, 1] > 0.95
    assert 0.7 < np.median(errors / scores) < 1.5


def test_csv_says_the_same_as_parquet(strange: Pixels, model: Path, tmp_path: Path) -> None:
    import csv

    for name in ("r.parquet", "r.csv"):
        score(strange[290:310], model, tmp_path / name, fpr=0.05)
    with (tmp_path / "r.csv").open(newline="") as file:
        found = list(csv.DictReader(file))
    rows = rows_of(tmp_path / "r.parquet")
    assert [float(row["score"]) for row in found] == scores_of(rows)
    assert [row["is_anomaly"] == "true" for row in found] == [row["is_anomaly"] for row in rows]


# Decisions


def test_one_of_fpr_fdr_and_threshold(strange: Pixels, model: Path, tmp_path: Path) -> None:
    for given in (
        {"fpr": 0.1, "fdr": 0.1},
        {"fpr": 0.1, "threshold": 1.0},
        {"fdr": 0.1} | {"threshold": 1.0},
    ):
        with pytest.raises(
            ConfigError, match="fpr, fdr and threshold are three ways to decide: give one"
        ):
            score(strange, model, tmp_path / "r.parquet", **given)
    assert not list(tmp_path.iterdir())


def test_the_default_is_one_false_alarm_in_a_hundred(
    strange: Pixels, model: Path, tmp_path: Path
) -> None:
    said = score(strange, model, tmp_path / "a.parquet")
    asked = score(strange, model, tmp_path / "b.parquet", fpr=0.01)
    assert said["threshold"] == asked["threshold"]
    assert rows_of(tmp_path / "a.parquet") == rows_of(tmp_path / "b.parquet")


def test_confidence_raises_the_threshold_and_the_summary_says_what_holds(
    strange: Pixels, model: Path, tmp_path: Path
) -> None:
    average = score(strange, model, tmp_path / "a.parquet", fpr=0.05)
    sure = score(strange, model, tmp_path / "s.parquet", fpr=0.05, confidence=0.95)
    calibration = Model.open(model).calibration("l2")
    assert sure["threshold"] == threshold_for(calibration, 0.05, 0.95) > average["threshold"]
    rows = rows_of(tmp_path / "s.parquet")
    assert [row["is_anomaly"] for row in rows] == [row["score"] > sure["threshold"] for row in rows]
    called = "at most 0.05 of normal data are called anomalies"
    assert average["guarantee"] == f"{called}, on average over calibrations"
    assert sure["guarantee"] == f"{called}, with probability at least 0.95 over calibrations"
    false = score(strange, model, tmp_path / "f.parquet", fdr=0.1)
    assert false["guarantee"] == "at most 0.1 of the alarms are false, on average"
    assert score(strange, model, tmp_path / "t.parquet", threshold=0.1)["guarantee"] is None


def test_confidence_goes_with_a_rate_of_false_alarms(
    strange: Pixels, model: Path, tmp_path: Path
) -> None:
    for others in ({}, {"fdr": 0.1}, {"threshold": 1.0}):
        with pytest.raises(ConfigError, match=r"confidence=.* is that fpr holds"):
            score(strange, model, tmp_path / "r.parquet", confidence=0.95, **others)
    with pytest.raises(ConfigError, match=r"confidence=0.95 needs at least 299 calibration"):
        score(strange, model, tmp_path / "r.parquet", fpr=0.01, confidence=0.95)
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("fpr", [0.05, 0.2])
def test_false_alarms_among_clothes_that_were_never_seen_keep_to_the_level(
    model: Path, tmp_path: Path, fpr: float
) -> None:
    summary = score(f"{SAMPLE}::train", model, tmp_path / "r.parquet", fpr=fpr)
    # For 200 calibration images the rate of a job is Beta distributed: 4 standard deviations.
    spread = 4 * (fpr * (1 - fpr) / 200) ** 0.5
    assert abs(summary["anomalies"] / summary["images"] - fpr) < spread


def test_a_raw_threshold_needs_no_calibration(strange: Pixels, model: Path, tmp_path: Path) -> None:
    summary = score(strange, model, tmp_path / "r.parquet", threshold=0.02)
    rows = rows_of(tmp_path / "r.parquet")
    assert summary["threshold"] == 0.02
    assert [row["is_anomaly"] for row in rows] == [row["score"] > 0.02 for row in rows]

    opened = Model.open(model)
    files = {name: opened.read(name) for name in opened.manifest.files}
    del files["calibration.parquet"]
    manifest = opened.manifest.model_copy(update={"files": file_entries(files)})
    bare = tmp_path / "bare"
    bare.mkdir()
    for name, content in (files | manifest_files(manifest)).items():
        (bare / name).write_bytes(content)
    bare_summary = score(strange, bare, tmp_path / "bare.parquet", threshold=0.02)
    assert bare_summary["drift"] is bare_summary["drift_limit"] is None
    without = rows_of(tmp_path / "bare.parquet")
    assert without == [row | {"p_value": None} for row in rows]
    with pytest.raises(ConfigError, match="no calibration scores of this kind: give a threshold"):
        score(strange, bare, tmp_path / "none.parquet")


def test_at_a_false_discovery_rate_alarms_are_mostly_right(
    strange: Pixels, letters: Pixels, model: Path, tmp_path: Path
) -> None:
    clothes = np.load(SAMPLE)["train"][:300, ..., None]
    batch = np.concatenate([clothes, letters])
    summary = score(batch, model, tmp_path / "r.parquet", fdr=0.1)
    rows = rows_of(tmp_path / "r.parquet")
    alarms = np.array([row["is_anomaly"] for row in rows])
    assert summary["anomalies"] == alarms.sum() > 30
    assert alarms[:300].sum() / alarms.sum() < 0.2  # 0.1 on average over calibrations
    # The rule itself, over the batch: Benjamini & Hochberg 1995.
    p = np.sort([row["p_value"] for row in rows])
    passing = np.flatnonzero(p * len(p) <= 0.1 * np.arange(1, len(p) + 1))
    assert alarms.tolist() == [row["p_value"] <= p[passing[-1]] for row in rows]


def test_at_a_false_discovery_rate_unreadable_images_count_for_nothing(
    folder: Path, model: Path, tmp_path: Path
) -> None:
    summary = score(folder, model, tmp_path / "r.parquet", fdr=0.3)
    rows = rows_of(tmp_path / "r.parquet")
    assert (summary["images"], summary["unreadable"], len(rows)) == (30, 2, 32)
    assert summary["anomalies"] == sum(bool(row["is_anomaly"]) for row in rows)


def test_too_few_calibration_images_for_a_level_are_told(
    strange: Pixels, model: Path, tmp_path: Path
) -> None:
    with pytest.raises(ConfigError, match=r"fpr=0.001 needs at least 999 calibration scores"):
        score(strange, model, tmp_path / "r.parquet", fpr=0.001)
    assert not list(tmp_path.iterdir())


def test_a_scorer_that_the_model_lacks_is_answered_with_those_it_has(
    strange: Pixels, model: Path, tmp_path: Path
) -> None:
    with pytest.raises(ConfigError, match=r"no score 'vibes'; it has l2"):
        score(strange, model, tmp_path / "r.parquet", scorer="vibes")
    for scorer in Model.open(model).manifest.scores:
        summary = score(strange, model, tmp_path / f"{scorer}.parquet", scorer=scorer)
        assert summary["scorer"] == scorer


@pytest.mark.parametrize("which", ["model", "dense_model"])
def test_letters_stand_out_among_clothes(
    which: str, letters: Pixels, tmp_path: Path, request: pytest.FixtureRequest
) -> None:
    clothes = np.load(SAMPLE)["train"][:1000, ..., None]
    batch = np.concatenate([clothes, letters])
    score(batch, request.getfixturevalue(which), tmp_path / "r.parquet", fpr=0.05)
    scores = np.array(scores_of(rows_of(tmp_path / "r.parquet")))
    auroc = (scores[1000:, None] > scores[None, :1000]).mean()
    assert auroc > 0.7


# Drift


@pytest.mark.parametrize("how", [{"fpr": 0.05}, {"fdr": 0.1}, {"threshold": 0.05}])
@pytest.mark.parametrize(
    ("factor", "told"), [(1, False), (1.5, True), (0.5, True)], ids=["same", "bright", "dim"]
)
def test_other_light_is_told_and_the_same_light_is_not(
    model: Path,
    tmp_path: Path,
    caplog: pytest.LogCaptureFixture,
    how: dict[str, float],
    factor: float,
    told: bool,
) -> None:
    batch = np.load(SAMPLE)["train"][:1000, ..., None]
    lit = np.minimum(batch * factor, 255).astype(np.uint8)
    with caplog.at_level("WARNING", "compressor"):
        summary = score(lit, model, tmp_path / "r.parquet", **how)
    assert (summary["drift"] > summary["drift_limit"]) == told
    warnings = [message for message in caplog.messages if message.startswith("drift: ")]
    assert len(warnings) == told
    assert all("compressor calibrate MODEL DATA" in warning for warning in warnings)


# Heat maps and the report


@pytest.mark.parametrize("level", [{"fpr": 0.02}, {"fdr": 0.05}, {"threshold": 0.05}])
def test_each_anomaly_has_a_heat_map_and_no_other_image(
    strange: Pixels, model: Path, tmp_path: Path, level: dict[str, float]
) -> None:
    summary = score(strange, model, tmp_path / "r.parquet", heatmaps=tmp_path / "maps", **level)
    rows = rows_of(tmp_path / "r.parquet")
    expected = {f"{row['path']}.png" for row in rows if row["is_anomaly"]}
    assert {path.name for path in (tmp_path / "maps").rglob("*")} == expected
    assert 0 < len(expected) == summary["anomalies"] < 400
    with Image.open(tmp_path / "maps" / min(expected)) as image:
        assert image.mode == "RGB" and image.width >= 28


def test_heat_maps_keep_the_folders_of_their_images(
    folder: Path, model: Path, tmp_path: Path
) -> None:
    score(folder, model, tmp_path / "r.parquet", threshold=0.0, heatmaps=tmp_path / "maps")
    maps = {path.relative_to(tmp_path / "maps").as_posix() for path in tmp_path.rglob("*.png")}
    rows = rows_of(tmp_path / "r.parquet")
    assert maps == {row["path"] for row in rows if not row["error"]}


def test_without_anomalies_there_is_an_empty_folder(
    strange: Pixels, model: Path, tmp_path: Path
) -> None:
    options = {"threshold": 1e9, "heatmaps": tmp_path / "maps"}
    summary = score(strange, model, tmp_path / "r.parquet", **options)
    assert summary["anomalies"] == 0
    assert not list((tmp_path / "maps").iterdir())


@pytest.mark.parametrize("level", [{"fpr": 0.02}, {"fdr": 0.05}])
def test_the_report_shows_the_strangest_images_first(
    strange: Pixels, model: Path, tmp_path: Path, level: dict[str, float]
) -> None:
    summary = score(strange, model, tmp_path / "r.parquet", report=tmp_path / "r.html", **level)
    page = (tmp_path / "r.html").read_text(encoding="utf-8")
    assert f"{summary['anomalies']:,} of 400 images are anomalies" in page
    rows = sorted(rows_of(tmp_path / "r.parquet"), key=lambda row: -row["score"])
    strangest = [row["path"] for row in rows[:60]]
    places = [page.find(f">{name}<") for name in strangest]
    assert -1 not in places and places == sorted(places)
    assert all(f">{row['path']}<" not in page for row in rows[60:])


def test_a_report_of_images_that_could_not_all_be_read_names_those(
    folder: Path, model: Path, tmp_path: Path
) -> None:
    score(folder, model, tmp_path / "r.parquet", report=tmp_path / "r.html")
    page = (tmp_path / "r.html").read_text(encoding="utf-8")
    assert "00 broken.png" in page and "odd.png" in page


def test_formulas_are_kept_from_spreadsheets_in_csv_alone(
    dense_model: Path, clothes: Pixels, tmp_path: Path
) -> None:
    data = compressor.rows(clothes[:2], names=["=1+1", "plain"])
    told: dict[str, Any] = {"threshold": 1.0, "csv_safe": True}
    score(data, dense_model, tmp_path / "r.csv", **told)
    lines = (tmp_path / "r.csv").read_text().splitlines()
    assert [line.partition(",")[0] for line in lines[1:]] == ["'=1+1", "plain"]
    for name in ("r.parquet", "r"):
        with pytest.raises(ConfigError, match=r"csv_safe=True is for results in \.csv"):
            score(data, dense_model, tmp_path / name, **told)
