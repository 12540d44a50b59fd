"""Files of every released format version are readable for ever: add folders, never change one.

1                 images, compressor 0.1
1-vectors         vectors, compressor 0.2
1-discriminator   images, a VAE with a discriminator's scores, compressor 0.2
2-fallback        images, some of them by every codec of version 2 of archives, with the model of 1
2-hyperprior      images, a codec with a halo and a hyperprior, compressor 0.3
3                 images, a codec like that one's, every score that it has, compressor 0.4
3-scores          images, a VAE with a discriminator's scores and all others, compressor 0.4
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest

from compressor.archive.blocks import MAGICS
from compressor.verbs import decompress, encode, inspect, report, score, verify

VERSIONS = sorted((Path(__file__).parent / "golden").iterdir())
MODELS = [folder for folder in VERSIONS if (folder / "model").exists()]


@pytest.mark.parametrize("golden", VERSIONS, ids=lambda folder: folder.name)
def test_archives_of_every_version_are_read(golden: Path, tmp_path: Path) -> None:
    assert verify(golden / "archive")["ok"]
    assert inspect(golden / "archive")["images"] == 40
    decompress(golden / "archive", tmp_path / "decoded.npy")
    decoded, expected = np.load(tmp_path / "decoded.npy"), np.load(golden / "decoded.npy")
    assert decoded.dtype == expected.dtype
    near = 1 if decoded.dtype == np.uint8 else 1e-3
    assert np.abs(decoded.astype(float) - expected).max() <= near


def test_all_codecs_are_in_the_golden_files() -> None:
    found = {golden.name: inspect(golden / "archive")["codecs"] for golden in VERSIONS}
    fallback = {"model": 28, **dict.fromkeys(list(MAGICS)[1:5], 2), "png": 4}
    assert found.pop("2-fallback") == fallback
    assert all(codecs == {"model": 40} for codecs in found.values())


@pytest.mark.parametrize("golden", MODELS, ids=lambda folder: folder.name)
def test_models_of_every_version_are_read(golden: Path, tmp_path: Path) -> None:
    assert verify(golden / "model")["ok"]
    inputs = np.load(golden / "input.npy")
    encode(inputs, golden / "model", tmp_path / "codes.npy")
    codes, expected = np.load(tmp_path / "codes.npy"), np.load(golden / "codes.npy")
    assert np.mean(codes != expected) < 0.01 and np.abs(codes - expected).max() <= 1
    expected = pq.read_table(golden / "results.parquet").drop(["path", "p_value", "error"])
    first, _, *further = expected.column_names  # score, is_anomaly
    score(inputs, golden / "model", tmp_path / "results.parquet", scorer=["l2", *further])
    found = pq.read_table(tmp_path / "results.parquet")
    np.testing.assert_allclose(found[first], expected[first], rtol=1e-4)
    for name in further:  # a code that is another integer, another WebP: a little of each
        np.testing.assert_allclose(found[name], expected[name], rtol=0.02, atol=0.02, err_msg=name)
    report(golden / "model", inputs, tmp_path / "page.html")
