"""The verb calibrate: thresholds change, what decoding depends on does not."""

from __future__ import annotations

import shutil
import zipfile
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest

from compressor.data.images import Pixels
from compressor.errors import CompressorError
from compressor.model import Model
from compressor.verbs import calibrate, compress, decompress, score, verify


@pytest.fixture(params=["folder", "zip"])
def copy(model: Path, tmp_path: Path, request: pytest.FixtureRequest) -> Path:
    if request.param == "folder":
        return shutil.copytree(model, tmp_path / "model")
    path = tmp_path / "model.zip"
    with zipfile.ZipFile(path, "w") as archive:
        for file in model.iterdir():
            archive.write(file, file.name)
    return path


def test_thresholds_come_from_the_new_images(copy: Path, clothes: Pixels, tmp_path: Path) -> None:
    before = score(clothes[:100], copy, tmp_path / "before.parquet", fpr=0.1)
    dim = clothes[500:] // 4
    summary = calibrate(copy, dim)
    assert summary["images"] == 500 and summary["model"] == str(copy)
    after = score(clothes[:100], copy, tmp_path / "after.parquet", fpr=0.1)
    assert after["threshold"] < before["threshold"] and after["anomalies"] > before["anomalies"]

    score(dim, copy, tmp_path / "dim.parquet", threshold=0)
    scores = pq.read_table(tmp_path / "dim.parquet")["score"].to_numpy()
    np.testing.assert_array_equal(Model.open(copy).calibration("l2"), np.sort(scores))


def test_more_images_allow_a_lower_level(copy: Path, clothes: Pixels, tmp_path: Path) -> None:
    with pytest.raises(CompressorError, match="needs at least 499"):
        score(clothes[:50], copy, tmp_path / "r.parquet", fpr=0.002)
    calibrate(copy, clothes[100:])
    score(clothes[:50], copy, tmp_path / "r.parquet", fpr=0.002)


def test_nothing_else_changes_and_archives_stay_readable(
    copy: Path, clothes: Pixels, tmp_path: Path
) -> None:
    before = Model.open(copy)
    contents = {name: before.read(name) for name in before.manifest.files}
    compress(clothes[:50], copy, tmp_path / "a", embed=False)
    calibrate(copy, clothes[500:600])
    after = Model.open(copy)
    assert after.digest == before.digest
    assert verify(copy)["ok"]
    changed = [name for name in contents if after.read(name) != contents[name]]
    assert changed == ["calibration.parquet"] and list(after.manifest.files) == list(contents)
    assert after.manifest.model_dump(exclude={"files"}) == before.manifest.model_dump(
        exclude={"files"}
    )
    summary = decompress(tmp_path / "a", tmp_path / "out.npy", model=copy)
    assert summary["images"] == 50 and not summary["damage"]


def test_images_that_do_not_fit_leave_the_model_as_it_was(
    copy: Path, clothes: Pixels, tmp_path: Path
) -> None:
    digests = {path: path.read_bytes() for path in tmp_path.rglob("*") if path.is_file()}
    with pytest.raises(CompressorError, match="every row has 3 channels"):
        calibrate(copy, np.concatenate([clothes, clothes[::-1], clothes], axis=3))
    assert {path: path.read_bytes() for path in tmp_path.rglob("*") if path.is_file()} == digests
