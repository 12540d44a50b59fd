"""docs/latent.md: NumPy and ONNX Runtime are enough to sample, by the lines that stand there."""

from __future__ import annotations

import re
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np

from compressor.data.images import Pixels

DOC = Path(__file__).parents[2] / "docs" / "latent.md"


def test_the_lines_of_the_page_sample(model: Path, clothes: Pixels, tmp_path: Path) -> None:
    shutil.copytree(model, tmp_path / "clothes")
    (lines,) = re.findall(r"```python\n(.*?)```", DOC.read_text(encoding="utf-8"), re.DOTALL)
    script = lines.replace("n, temperature, random = 16,", "n, temperature, random = 200,")
    script += 'np.save("samples.npy", image)\nassert "compressor" not in __import__("sys").modules'
    done = subprocess.run(
        [sys.executable, "-c", script], cwd=tmp_path, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr
    samples = np.load(tmp_path / "samples.npy")
    assert samples.shape == (200, 28, 28, 1) and samples.dtype == np.uint8
    mean, deviation = clothes.mean(0), clothes.std(0)
    assert np.abs(samples.mean(0) - mean).mean() < 0.3 * deviation.mean()
    assert samples.std(0).mean() > 0.5 * deviation.mean()
