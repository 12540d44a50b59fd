"""The verb encode: the codes in a file are the engine's, in the order of the source."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from PIL import Image

from compressor.data.images import Pixels
from compressor.engine.engine import Engine
from compressor.errors import ConfigError
from compressor.model import Model
from compressor.verbs import encode


@pytest.mark.parametrize("which", ["model", "dense_model"])
def test_npy_and_parquet_hold_the_engines_codes(
    which: str, clothes: Pixels, tmp_path: Path, request: pytest.FixtureRequest
) -> None:
    model = request.getfixturevalue(which)
    expected = Engine(Model.open(model)).encode(clothes[:600])
    for name in ("codes.npy", "codes.parquet"):
        summary = encode(clothes[:600], model, tmp_path / name)
        assert summary["code_shape"] == list(expected.shape[1:]) and summary["images"] == 600
    codes = np.load(tmp_path / "codes.npy")
    assert codes.dtype == np.int32
    np.testing.assert_array_equal(codes, expected)
    table = pq.read_table(tmp_path / "codes.parquet")
    assert table.schema.types == [pa.string(), pa.list_(pa.int32())]
    assert table["path"].to_pylist() == [f"{number:05d}" for number in range(600)]
    assert table["code"].to_pylist() == expected.reshape(600, -1).tolist()


def test_parquet_takes_images_of_any_size_and_leaves_out_what_cannot_be_read(
    model: Path, clothes: Pixels, tmp_path: Path
) -> None:
    folder = tmp_path / "images"
    folder.mkdir()
    sizes = {"a.png": (28, 28), "b.png": (23, 28), "d.png": (28, 28)}
    for number, (name, (height, width)) in enumerate(sizes.items()):
        Image.fromarray(clothes[number, :height, :width, 0]).save(folder / name)
    (folder / "c.png").write_bytes(b"no image")
    summary = encode(folder, model, tmp_path / "codes.parquet")
    assert (summary["images"], summary["unreadable"]) == (3, 1)
    rows = pq.read_table(tmp_path / "codes.parquet").to_pylist()
    engine = Engine(Model.open(model))
    assert [row["path"] for row in rows] == list(sizes)
    for number, (row, (height, width)) in enumerate(zip(rows, sizes.values(), strict=True)):
        code = engine.encode(clothes[number : number + 1, :height, :width])
        assert row["code"] == code.ravel().tolist()
    with pytest.raises(ConfigError, match=r"b\.png has a code of .*write a \.parquet"):
        encode(folder, model, tmp_path / "codes.npy")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["codes.parquet", "images"]


def test_another_kind_of_file_is_refused(model: Path, clothes: Pixels, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"as \.npy or \.parquet"):
        encode(clothes[:5], model, tmp_path / "codes.txt")
    assert not list(tmp_path.iterdir())
