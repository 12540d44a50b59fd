"""Using a model needs no torch, onnx or lightning; help is quick and imports neither half."""

from __future__ import annotations

import json
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest

from compressor.data.images import Pixels

MAKING = ("torch", "onnx", "onnxscript", "lightning", "lightning_fabric", "yaml")

BLOCKED = f"""
import sys
class Block:
    def find_spec(self, name, path=None, target=None):
        if name.partition('.')[0] in {MAKING!r}:
            raise ModuleNotFoundError(f'{{name}} is blocked', name=name)
sys.meta_path.insert(0, Block())
for name in {MAKING!r}:
    assert name not in sys.modules
"""


def run(code: str, *arguments: object) -> str:
    command = [sys.executable, "-c", code, *map(str, arguments)]
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_every_using_verb_runs_without_torch(model: Path, tmp_path: Path, clothes: Pixels) -> None:
    np.save(tmp_path / "images.npy", clothes[:300])
    copy = tmp_path / "model"
    import shutil

    shutil.copytree(model, copy)
    code = (
        BLOCKED
        + """
from pathlib import Path
from compressor import verbs
from compressor.errors import MissingDependency
folder = Path(sys.argv[1])
data, model, archive = folder / "images.npy", folder / "model", folder / "archive"
verbs.plugins()
verbs.encode(data, model, folder / "codes.npy")
verbs.compress(data, model, archive, measure=True, min_psnr=14, fallback="jpegxl")
assert verbs.inspect(archive)["codecs"].keys() > {"model"}
verbs.decompress(archive, folder / "out.npy")
verbs.decompress(archive, folder / "out", only="0000*")
verbs.score(data, model, folder / "r.parquet", heatmaps=folder / "maps", report=folder / "r.html")
verbs.calibrate(model, data)
verbs.report(model, data, folder / "model.html")
verbs.sample(model, n=4, output=folder / "samples.npy", sheet=folder / "samples.png")
verbs.interpolate(model, data, data, steps=2)
verbs.arithmetic(model, f"{data} - {data}", output=folder / "sum.png")
verbs.traverse(model, data=data)
for path in (model, archive, folder / "r.parquet"):
    verbs.inspect(path)
assert verbs.verify(model)["ok"] and verbs.verify(archive)["ok"]
try:
    verbs.train("undercomplete", data, folder / "m")
except MissingDependency as error:
    print(error)
"""
    )
    assert "compressor[train]" in run(code, tmp_path)
    assert np.load(tmp_path / "out.npy").shape == (300, 28, 28)


def test_what_reads_archives_for_other_code_names_the_extra_that_it_needs() -> None:
    code = (
        BLOCKED.replace(repr(MAKING), repr((*MAKING, "zarr", "sklearn")))
        + """
import importlib
from compressor.errors import MissingDependency
for module in ("compressor.datasets", "compressor.zarr", "compressor.sklearn"):
    try:
        importlib.import_module(module)
    except MissingDependency as error:
        print(error)
"""
    )
    assert run(code).splitlines() == [
        f"compressor.{needs}: run pip install '.[{extra}]' in compressor's checkout"
        for needs, extra in (
            ("datasets needs PyTorch", "train"),
            ("zarr needs Zarr", "zarr"),
            ("sklearn needs scikit-learn", "sklearn"),
        )
    ]


@pytest.mark.parametrize(
    "left", ["sys.modules['onnxruntime'] = None", "sys.modules['onnxruntime'] = type(sys)('left')"]
)
def test_without_onnx_runtime_each_verb_says_what_to_install(
    model: Path, tmp_path: Path, left: str
) -> None:
    code = f"""
import sys
{left}
from compressor.cli import main
main()
"""
    npy, out = tmp_path / "a.npy", tmp_path / "out"
    np.save(npy, np.zeros((3, 28, 28), np.uint8))
    jobs: list[tuple[object, ...]] = [
        ("encode", npy, "-m", model, "-o", tmp_path / "codes.npy"),
        ("score", npy, "-m", model, "-o", tmp_path / "r.csv"),
        ("compress", npy, "-m", model, "-o", out),
        ("decompress", tmp_path, "-o", out),
        ("verify", model),
        ("train", "undercomplete", npy, "-o", out),
    ]
    for job in jobs:
        command = [sys.executable, "-c", code, *map(str, job)]
        done = subprocess.run(command, capture_output=True, text=True, cwd=tmp_path)
        assert done.returncode == 1, done.stderr
        (line,) = done.stderr.splitlines()
        assert line.startswith("Error: ONNX Runtime is not installed, or only a part of it is")
    assert [path.name for path in tmp_path.iterdir()] == ["a.npy"]


def test_detectors_judge_without_torch_and_say_what_fit_needs(model: Path) -> None:
    code = (
        BLOCKED
        + """
import numpy as np
import pytest
from compressor.errors import MissingDependency
from compressor.sklearn import AutoencoderDetector
detector = AutoencoderDetector.from_model(sys.argv[1])
images = np.zeros((9, 28, 28), np.uint8)
assert detector.predict(images).shape == detector.p_values(images).shape == (9,)
try:
    detector.fit(images)
except MissingDependency as error:
    print(error)
"""
    )
    assert "compressor[train]" in run(code, model)


def test_help_imports_neither_torch_nor_onnxruntime() -> None:
    code = """
import sys, json
sys.argv = ["compressor", "--help"]
from compressor.cli import main
try:
    main()
except SystemExit:
    pass
print("\\n" + json.dumps(sorted(sys.modules)))
"""
    modules = json.loads(run(code).splitlines()[-1])
    for heavy in ("torch", "onnxruntime", "numpy", "pyarrow", "pydantic", "PIL", "yaml"):
        assert heavy not in modules


def test_help_is_nearly_as_quick_as_an_empty_group() -> None:
    empty = "import click\n@click.group()\ndef g(): ...\ng(['--help'])"
    ours = (
        "import sys\nsys.argv = ['compressor', '--help']\nfrom compressor.cli import main\nmain()"
    )

    def seconds(code: str) -> float:
        started = time.perf_counter()
        subprocess.run([sys.executable, "-c", code], capture_output=True)
        return time.perf_counter() - started

    pairs = [(seconds(ours), seconds(empty)) for _ in range(7)]
    assert min(a for a, _ in pairs) < 1.7 * min(b for _, b in pairs)
