"""The verb calibrate: thresholds change, what decoding depends on does not."""

from __future__ import annotations

import shutil
import subprocess
import sys
import threading
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


KILLED = """
import os, sys
from pathlib import Path
import numpy as np
from compressor.model import Model

left, model = int(sys.argv[2]), Model.open(sys.argv[1])
scores = {name: np.full(7, 0.5) for name in model.calibration_columns()}

def kill(event, arguments):
    global left
    if event in ("os.mkdir", "os.rename", "os.rmdir"):
        left -= 1
        if left < 0:
            os._exit(9)

sys.addaudithook(kill)
model.write_calibration(scores)
"""


def test_a_model_is_the_old_or_the_new_one_after_a_kill_before_any_step(
    copy: Path, model: Path
) -> None:
    sizes, step, code = list[int](), 0, 9
    before = len(Model.open(model).calibration("l2"))
    while code == 9:
        if copy.is_dir():
            shutil.rmtree(copy)
            shutil.copytree(model, copy)
        code = subprocess.run([sys.executable, "-c", KILLED, str(copy), str(step)]).returncode
        opened = Model.open(copy)
        assert opened.check() == []
        sizes.append(len(opened.calibration("l2")))
        opened.write_calibration({"l2": np.arange(5.0)})
        assert not [entry.name for entry in copy.parent.iterdir() if entry != copy]
        if copy.is_dir():
            assert {entry.name for entry in copy.iterdir()} == {e.name for e in model.iterdir()}
        step += 1
        before = before if copy.is_dir() else 5
    assert code == 0 and sizes[-1] == 7
    assert sizes == sorted(sizes, reverse=True) if copy.is_dir() else set(sizes[1:-1]) <= {5}
    if copy.is_dir():
        assert set(sizes) == {before, 7} and step == 7


def test_what_a_killed_calibration_left_is_not_a_foreign_file_and_force_takes_it(
    dense_model: Path, tmp_path: Path
) -> None:
    copy = shutil.copytree(dense_model, tmp_path / "m")
    for name in (f".files.{2**22 + 1}.partial", ".committed"):
        (copy / name).mkdir()
        (copy / name / "half").write_bytes(b"")
    (copy / f".manifest.json.{2**22 + 1}.partial").write_bytes(b"")  # of versions before 0.5.0
    assert Model.open(copy).check() == [f"{copy}/half does not belong to the model"]
    (copy / "half").unlink()
    assert verify(copy)["ok"]
    Model.refuse_output(copy, force=True)


def test_readers_see_one_calibration_or_the_other_while_it_changes(
    dense_model: Path, tmp_path: Path
) -> None:
    copy = shutil.copytree(dense_model, tmp_path / "m")
    columns = Model.open(copy).calibration_columns()
    kinds = [{name: np.full(size, float(size)) for name in columns} for size in (50, 70)]
    Model.open(copy).write_calibration(kinds[0])
    ended, problems, seen = threading.Event(), list[object](), set[int]()

    def read() -> None:
        while not ended.is_set():
            try:
                found = {len(column) for column in Model.open(copy).calibration_columns().values()}
                problems.extend(Model.open(copy).check())
            except Exception as error:
                problems.append(error)
                continue
            if len(found) != 1:
                problems.append(found)
            seen.update(found)

    readers = [threading.Thread(target=read) for _ in range(2)]
    for reader in readers:
        reader.start()
    writer = Model.open(copy)
    for turn in range(60):
        writer.write_calibration(kinds[turn % 2])
    ended.set()
    for reader in readers:
        reader.join()
    assert not problems and seen == {50, 70}


def test_a_model_that_was_opened_before_takes_the_calibration_of_now(
    dense_model: Path, tmp_path: Path
) -> None:
    copy = shutil.copytree(dense_model, tmp_path / "m")
    early = Model.open(copy)
    Model.open(copy).write_calibration({"l2": np.arange(9.0)})
    assert len(early.calibration("l2")) == 9
    assert early.manifest == Model.open(copy).manifest
    (copy / "calibration.parquet").write_bytes(b"damaged")
    with pytest.raises(CompressorError, match="altered, swapped or damaged"):
        early.calibration("l2")
