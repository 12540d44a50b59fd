"""Damaged, swapped and newer models, and what is none: refused in one clear line."""

from __future__ import annotations

import io
import shutil
import zipfile
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest

from compressor.data.images import Pixels

from .command_line import OUTPUTS, run
from .files import rehash, save, tree


def codes_of(archive: Path) -> dict[str, bytes | None]:
    return {name: content for name, content in tree(archive).items() if "blocks" in name}


def test_a_flipped_bit_in_a_model_is_refused_or_changes_nothing(
    copy: Path, data: Path, tmp_path: Path
) -> None:
    assert run("compress", data, "-m", copy, "-o", tmp_path / "good").code == 0
    expected = codes_of(tmp_path / "good")
    shutil.rmtree(tmp_path / "good")
    random = np.random.default_rng(1)
    refused = set()
    for file in sorted(copy.iterdir()):
        content = file.read_bytes()
        for position in random.integers(0, len(content), 3):
            flipped = bytearray(content)
            flipped[position] ^= 1 << random.integers(8)
            file.write_bytes(flipped)
            ran = run("compress", data, "-m", copy, "-o", tmp_path / "a")
            if ran.code:
                assert ran.code == 1 and ran.error
                assert "hash" in ran.error and "take a good copy" in ran.error
                assert {path.name for path in tmp_path.iterdir()} <= {"copy", ".a.partial"}
                refused.add(file.name)
            else:
                assert codes_of(tmp_path / "a") == expected
                shutil.rmtree(tmp_path / "a")
            assert run("verify", copy).code == 1, file
        file.write_bytes(content)
    needed = {"encoder.onnx", "decoder.onnx", "prior.bin", "manifest.json", "manifest.sha256"}
    assert refused == needed
    assert run("verify", copy).code == 0


@pytest.mark.parametrize(
    ("verb", "swapped"),
    [
        ("encode", "encoder.onnx"),
        ("compress", "encoder.onnx"),
        ("compress", "prior.bin"),
        ("score", "scorer.onnx"),
        ("score", "calibration.parquet"),
        ("calibrate", "scorer.onnx"),
        ("export", "decoder.onnx"),
    ],
)
def test_a_model_with_a_file_of_another_model_is_refused(
    verb: str,
    swapped: str,
    copy: Path,
    model: Path,
    tmp_path: Path,
    arguments: Callable[..., tuple[object, ...]],
) -> None:
    shutil.copy(model / swapped, copy / swapped)
    before = tree(tmp_path)
    output = tmp_path / OUTPUTS.get(verb, ["new"])[0]
    ran = run(*arguments(verb, output, model=copy))
    assert ran.code == 1
    assert f"{copy}/{swapped} does not have the hash in the manifest" in ran.error
    assert tree(tmp_path) == before
    assert run("verify", copy).code == 1


@pytest.mark.parametrize("verb", ["encode", "compress", "score", "calibrate", "export", "inspect"])
def test_a_model_from_a_newer_version_is_refused_with_what_to_do(
    verb: str, copy: Path, tmp_path: Path, arguments: Callable[..., tuple[object, ...]]
) -> None:
    rehash(copy, format_version=2)
    before = tree(tmp_path)
    output = tmp_path / OUTPUTS.get(verb, ["new"])[0]
    ran = run("inspect", copy) if verb == "inspect" else run(*arguments(verb, output, model=copy))
    assert ran.code == 1
    assert "has model format version 2;" in ran.error and "update compressor" in ran.error
    assert tree(tmp_path) == before


def test_a_zipped_model_with_names_that_lead_out_of_it_is_refused(
    dense_model: Path, data: Path, tmp_path: Path
) -> None:
    packed = tmp_path / "m.zip"
    with zipfile.ZipFile(packed, "w") as zipped:
        for file in dense_model.iterdir():
            zipped.write(file, file.name)
        zipped.writestr("../evil.txt", "x")
    ran = run("compress", data, "-m", packed, "-o", tmp_path / "a")
    assert ran.code == 1 and "'../evil.txt' is not the plain name of a file" in ran.error
    assert [path.name for path in tmp_path.iterdir()] == ["m.zip"]


@pytest.mark.parametrize("what", ["nothing", "text", "images", "results"])
def test_what_is_no_model_and_no_archive_is_said_to_be_none(
    what: str, tmp_path: Path, data: Path, clothes: Pixels
) -> None:
    path = tmp_path / "thing"
    if what == "text":
        path.write_text("a model, honestly")
    elif what == "images":
        save(path / "shirt.png", clothes[0])
    elif what == "results":
        pq.write_table(pq.read_table(io.BytesIO(_results())), path)
    for arguments in (
        ("compress", data, "-m", path, "-o", tmp_path / "new"),
        ("decompress", path, "-o", tmp_path / "new"),
        ("export", path, "-o", tmp_path / "new"),
        ("inspect", path),
        ("verify", path),
    ):
        ran = run(*arguments)
        assert ran.code == 1
        assert str(path) in (ran.error if ran.err else ran.out)
    assert not (tmp_path / "new").exists()


def _results() -> bytes:
    import pyarrow as pa

    buffer = io.BytesIO()
    pq.write_table(pa.table({"path": ["a"], "score": [1.0]}), buffer)
    return buffer.getvalue()
