"""Files of every released format version are readable for ever: add folders, never change one."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest

from compressor.verbs import decompress, encode, inspect, score, verify

VERSIONS = sorted((Path(__file__).parent / "golden").iterdir())
CLOTHES = Path(__file__).parent.parent / "examples" / "data" / "fashion_mnist.npz"


@pytest.mark.parametrize("golden", VERSIONS, ids=lambda folder: folder.name)
def test_models_and_archives_of_every_version_are_read(golden: Path, tmp_path: Path) -> None:
    assert verify(golden / "archive")["ok"] and verify(golden / "model")["ok"]
    assert inspect(golden / "archive")["images"] == 40
    decompress(golden / "archive", tmp_path / "images.npy")
    images, expected = np.load(tmp_path / "images.npy"), np.load(golden / "images.npy")
    assert np.abs(images.astype(int) - expected).max() <= 1

    clothes = np.load(CLOTHES)["test"][:40]
    encode(clothes, golden / "model", tmp_path / "codes.npy")
    codes, expected = np.load(tmp_path / "codes.npy"), np.load(golden / "codes.npy")
    assert np.mean(codes != expected) < 0.01 and np.abs(codes - expected).max() <= 1
    score(clothes, golden / "model", tmp_path / "results.parquet")
    found, rows = (pq.read_table(f / "results.parquet")["score"] for f in (tmp_path, golden))
    np.testing.assert_allclose(found.to_numpy(), rows.to_numpy(), rtol=1e-4)
