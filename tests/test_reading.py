"""docs/reading.md: its examples run as they stand, one after the other."""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from compressor.data.images import Pixels
from compressor.engine.engine import Engine
from compressor.model import Model
from compressor.verbs import compress, decompress

ROOT = Path(__file__).parents[1]
COLUMNS = ("path", "block", "index", "height", "width", "channels")
MODEL = ROOT / "tests" / "golden" / "1" / "model"

ANSWERS = """
import json
print(json.dumps({
    "batches": len(loader), "batch": [str(batch.dtype), float(batch.max())],
    "item": [str(image.dtype), list(image.shape), name],
    "codes": str(codes[0].dtype),
    "sizes": sizes, "names": names,
    "streamed": [row["path"] for row in streamed],
    "stored": [numpy.asarray(stored[41]["image"]).tolist(), stored[41]["path"], len(stored)],
    "zarr": read.tolist(), "image": image.tolist(),
}))
"""


@pytest.fixture(scope="module")
def folder(clothes: Pixels, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The model and the archive that the examples are about."""
    path = tmp_path_factory.mktemp("reading")
    shutil.copytree(MODEL, path / "clothes")
    compress(clothes, MODEL, path / "clothes.archive")
    return path


def test_the_examples_of_reading_run(folder: Path) -> None:
    text = (ROOT / "docs" / "reading.md").read_text(encoding="utf-8")
    examples = re.findall(r"```python\n(.*?)```", text, re.DOTALL)
    assert len(examples) == 5
    code = "\n".join([*examples, "import numpy", ANSWERS])
    offline = {"HF_HUB_OFFLINE": "1", "HF_HOME": str(folder / "hf")}
    done = subprocess.run(
        [sys.executable, "-W", "error", "-c", code],
        cwd=folder,
        env=os.environ | offline,
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr
    answers = json.loads(done.stdout.splitlines()[-1])
    decompress(folder / "clothes.archive", folder / "out.npy")
    rebuilt = np.load(folder / "out.npy")
    every = [f"{number:05d}" for number in range(1000)]

    assert answers["batches"] == 16
    assert answers["batch"][0] == "torch.float32" and 0 < answers["batch"][1] <= 1
    assert answers["item"] == ["torch.uint8", [1, 28, 28], "00041"]
    np.testing.assert_array_equal(answers["image"], rebuilt[41:42])
    assert answers["codes"] == "torch.int32"
    assert answers["sizes"] == [[28, 28, 1000]]
    assert answers["names"] == every[256:512]
    assert answers["streamed"] == every
    assert answers["stored"][1:] == ["00041", 1000]
    np.testing.assert_array_equal(answers["stored"][0], rebuilt[41])
    engine, again = Engine(Model.open(MODEL)), rebuilt[100:110, ..., None]
    np.testing.assert_array_equal(
        answers["zarr"], engine.decode(engine.encode(again), 28, 28)[..., 0]
    )


@pytest.mark.parametrize("tool", ["duckdb", "pandas", "datasets"])
def test_items_are_read_as_plain_parquet(
    folder: Path, tool: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    file = folder / "clothes.archive" / "items" / "part-00000.parquet"
    if tool == "duckdb":
        import duckdb

        rows = duckdb.sql(
            f"SELECT {', '.join(COLUMNS)} FROM '{file}' WHERE path = '00300'"
        ).fetchall()
    elif tool == "pandas":
        import pandas

        table = pandas.read_parquet(file)
        rows = table.loc[table["path"] == "00300", list(COLUMNS)].to_numpy().tolist()
    else:
        import datasets

        loaded = datasets.load_dataset(
            "parquet", data_files=str(file), split="train", cache_dir=str(tmp_path)
        )
        rows = [[loaded[300][column] for column in COLUMNS]]
    assert [tuple(row) for row in rows] == [("00300", 1, 44, 28, 28, 1)]
