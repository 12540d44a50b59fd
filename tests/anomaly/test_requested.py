"""--scorer: one or several, rank averages, auto; columns of results; what a model does not have."""

from __future__ import annotations

import csv
import shutil
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest

from compressor.anomaly.calibration import p_values
from compressor.anomaly.requested import MEMBERS, Requested
from compressor.data.images import Pixels
from compressor.errors import ConfigError, ExportError
from compressor.manifests import file_entries
from compressor.model import Model, calibration_bytes, manifest_files
from compressor.verbs import calibrate, inspect, score

SAMPLE = Path(__file__).parents[2] / "examples" / "data" / "fashion_mnist.npz"
COLUMNS = ["path", "score", "p_value", "is_anomaly", "error"]


def test_the_first_decides_and_the_others_have_columns(
    model: Path, clothes: Pixels, letters: Pixels, tmp_path: Path
) -> None:
    images = np.concatenate([clothes[:50], letters[:20]])
    summary = score(images, model, tmp_path / "r.parquet", scorer="knn,l2,codelength", fpr=0.05)
    assert (summary["scorer"], summary["other_scorers"]) == ("knn", ["l2", "codelength"])
    table = pq.read_table(tmp_path / "r.parquet")
    assert table.column_names == [*COLUMNS, "l2", "codelength"]
    assert inspect(tmp_path / "r.parquet")["other_scores"] == ["l2", "codelength"]
    for name in ("knn", "l2", "codelength"):
        alone = tmp_path / f"{name}.parquet"
        score(images, model, alone, scorer=name, fpr=0.05)
        scores = pq.read_table(alone)["score"]
        column = table["score" if name == "knn" else name]
        np.testing.assert_allclose(column.to_numpy(), scores.to_numpy(), rtol=1e-9)
    calibration = Model.open(model).calibration("knn")
    expected = p_values(calibration, table["score"].to_numpy())
    np.testing.assert_array_equal(table["p_value"].to_numpy(), expected)


def test_other_scores_go_through_an_fdr_and_into_csv(
    model: Path, clothes: Pixels, letters: Pixels, tmp_path: Path
) -> None:
    images = np.concatenate([clothes[:50], letters[:50]])
    score(images, model, tmp_path / "r.csv", scorer=["l2", "top"], fdr=0.3)
    score(images, model, tmp_path / "r.parquet", scorer=["l2", "top"], fpr=0.1)
    with (tmp_path / "r.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    assert list(rows[0]) == [*COLUMNS, "top"]
    expected = pq.read_table(tmp_path / "r.parquet")["top"].to_pylist()
    assert [float(row["top"]) for row in rows] == expected
    assert inspect(tmp_path / "r.csv")["other_scores"] == ["top"]


def test_an_unreadable_image_has_no_other_scores(
    model: Path, clothes: Pixels, tmp_path: Path
) -> None:
    from PIL import Image

    folder = tmp_path / "images"
    folder.mkdir()
    Image.fromarray(clothes[0, ..., 0]).save(folder / "a.png")
    (folder / "b.png").write_bytes(b"no image")
    score(folder, model, tmp_path / "r.parquet", scorer="l2,knn", fpr=0.1)
    good, bad = pq.read_table(tmp_path / "r.parquet").to_pylist()
    assert good["knn"] > 0 and bad["knn"] is None and bad["score"] is None


def test_an_ensemble_ranks_among_the_calibrations_and_keeps_to_the_level(
    model: Path, tmp_path: Path
) -> None:
    for scorer in ("ensemble", "l2+knn"):
        out = tmp_path / "r.parquet"
        summary = score(f"{SAMPLE}::train", model, out, scorer=scorer, fpr=0.1, force=True)
        assert summary["scorer"] == scorer
        # For 200 calibration images the rate is Beta distributed: 4 standard deviations.
        assert abs(summary["anomalies"] / 5000 - 0.1) < 4 * (0.09 / 200) ** 0.5
    members = Requested(Model.open(model), "ensemble")._members("ensemble")
    known = Model.open(model).manifest.separability
    assert len(members) == 3 and {*members} <= {*MEMBERS}
    assert min(known[m] for m in members) >= max(
        known[m] for m in known if m in MEMBERS and m not in members
    )


def test_a_plugin_says_what_is_taken_where_no_score_is_named(
    clothes: Pixels, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from compressor.plugins.undercomplete import Undercomplete

    from compressor.verbs import train

    monkeypatch.setattr(Undercomplete, "default_score", "knn")
    train("undercomplete", clothes[:300], tmp_path / "model", max_steps=3)
    summary = score(clothes[:5], tmp_path / "model", tmp_path / "r.parquet", fpr=0.1)
    assert summary["scorer"] == "knn"
    assert inspect(tmp_path / "model")["scorers"][0]["name"] == "knn"
    monkeypatch.setattr(Undercomplete, "default_score", "vibes")
    with pytest.raises(ExportError, match="default_score is 'vibes'; its models have l2"):
        train("undercomplete", clothes[:300], tmp_path / "other", max_steps=3)


def test_auto_is_what_separates_best(model: Path, clothes: Pixels, tmp_path: Path) -> None:
    known = Model.open(model).manifest.separability
    summary = score(clothes[:20], model, tmp_path / "r.parquet", scorer="auto", fpr=0.1)
    assert known[summary["scorer"]] == max(known.values())


def without(model: Path, copy: Path, column: str) -> Path:
    """A copy of a model without the calibration's scores of one name."""
    shutil.copytree(model, copy)
    opened = Model.open(model)
    columns = opened.calibration_columns()
    del columns[column]
    content = calibration_bytes(columns)
    entries = opened.manifest.files | file_entries({"calibration.parquet": content})
    manifest = opened.manifest.model_copy(
        update={"files": entries, "separability": {}, "quartiles": {}}
    )
    for name, new in {"calibration.parquet": content, **manifest_files(manifest)}.items():
        (copy / name).write_bytes(new)
    return copy


def test_a_score_that_was_not_calibrated_says_so_until_it_is(
    model: Path, clothes: Pixels, tmp_path: Path
) -> None:
    copy, out = without(model, tmp_path / "model", "knn"), tmp_path / "r.parquet"
    with pytest.raises(ConfigError, match="no calibration scores"):
        score(clothes[:20], copy, out, scorer="knn")
    with pytest.raises(ConfigError, match=r"none of knn: calibrate it \(compressor calibrate"):
        score(clothes[:20], copy, out, scorer="l2+knn", fpr=0.1)
    with pytest.raises(ConfigError, match="auto: this model's training has not compared"):
        score(clothes[:20], copy, out, scorer="auto", fpr=0.1)
    score(clothes[:20], copy, out, scorer="l2,knn", fpr=0.1)  # beside another it needs none
    calibrate(copy, clothes[500:700])
    score(clothes[:20], copy, out, scorer="ensemble,knn", fpr=0.1, force=True)


@pytest.mark.parametrize("scorer", ["vibes", "l2,vibes", "l2+vibes", "l2,", "+", ["l2", "knn+"]])
def test_a_name_that_is_no_score_is_answered_with_those_there_are(
    model: Path, clothes: Pixels, tmp_path: Path, scorer: str | list[str]
) -> None:
    with pytest.raises(ConfigError, match=r"no score '.*'; it has l2, l1, top, gradient"):
        score(clothes[:5], model, tmp_path / "r.parquet", scorer=scorer, fpr=0.1)
