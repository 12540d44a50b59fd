"""examples/plugin, installed as its own distribution and used through the command line."""

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

ROOT = Path(__file__).parents[2]
EXAMPLE = ROOT / "examples" / "plugin"


@pytest.fixture(scope="module")
def environment(tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    """An environment that has the example beside everything else."""
    folder = tmp_path_factory.mktemp("site")
    source = shutil.copytree(EXAMPLE, folder / "source")  # building leaves files beside it
    pip = [sys.executable, "-m", "pip", "install", "--quiet", "--no-deps", "--target", str(folder)]
    subprocess.run([*pip, str(source)], check=True, capture_output=True)
    return {**os.environ, "PYTHONPATH": str(folder)}


def test_it_is_discovered_trained_exported_and_used(
    environment: dict[str, str], clothes: Pixels, tmp_path: Path
) -> None:
    def compressor(*arguments: str) -> str:
        command = [sys.executable, "-m", "compressor.cli", *arguments]
        return subprocess.run(
            command, check=True, capture_output=True, text=True, env=environment, cwd=tmp_path
        ).stdout

    listed = {plugin["name"]: plugin for plugin in json.loads(compressor("plugins", "--json"))}
    assert listed["nested"]["distribution"] == "compressor-nested"
    assert listed["nested"]["status"] == "ok"
    np.save(tmp_path / "clothes.npy", clothes)
    compressor("train", "nested", "clothes.npy", "-o", "model", "--max-steps", "200")
    told = json.loads(compressor("compress", "clothes.npy", "-m", "model", "-o", "archive",
                                 "--measure", "--json"))  # fmt: skip
    assert told["images"] == 1000 and told["psnr"] > 14
    compressor("decompress", "archive", "-o", "out.npy")
    assert np.load(tmp_path / "out.npy").shape == (1000, 28, 28)
    compressor("score", "clothes.npy", "-m", "model", "-o", "results.parquet", "--fpr", "0.05")
    compressor("export", "model", "-o", "graphs")
    assert (tmp_path / "graphs" / "decoder.onnx").exists()

    # What it is for: the first elements carry more than the last ones.
    compressor("encode", "clothes.npy", "-m", "model", "-o", "codes.npy")
    spread = np.load(tmp_path / "codes.npy").std(0)
    assert spread[:4].min() > spread[-4:].max()


def test_any_number_of_first_elements_is_as_likely() -> None:
    import importlib.util

    import torch

    from compressor.spec import ImageSpec

    spec = importlib.util.spec_from_file_location("nested", EXAMPLE / "compressor_nested.py")
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    config = module.NestedConfig(hidden=8, latent=4)
    model = module.Nested(config, ImageSpec(height=2, width=2, channels=1))
    kept = (model.train().encode(torch.rand(4000, 1, 2, 2)).mean != 0).sum(1)
    counts = torch.bincount(kept, minlength=5)
    assert counts[0] == 0 and counts[1:].min() > 850


def test_its_own_test_passes(environment: dict[str, str], tmp_path: Path) -> None:
    subprocess.run(
        [
            sys.executable,
            "-m",
            "pytest",
            "-q",
            "-p",
            "no:cacheprovider",
            EXAMPLE / "test_plugin.py",
        ],
        check=True,
        env=environment,
        cwd=tmp_path,
    )


def test_the_walk_through_shows_the_example_as_it_is() -> None:
    text = (ROOT / "docs" / "plugins.md").read_text().partition("## Your own, step by step")[2]
    walk = text.partition("\n## ")[0]
    shown = re.findall(r"```(?:toml|python)\n(.*?)```", walk, re.DOTALL)
    files = "\n".join(path.read_text() for path in EXAMPLE.iterdir() if path.is_file())
    lines = [line for block in shown for line in block.splitlines() if line.strip()]
    assert len(shown) == 4 and len(lines) < 60
    missing = [line for line in lines if line not in files.splitlines()]
    assert not missing
