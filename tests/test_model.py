"""The model on disk: damage, swaps, newer versions, zips, and its own verification."""

from __future__ import annotations

import json
import pickle
import shutil
import zipfile
from pathlib import Path

import pytest

from compressor.errors import ModelError, OutputError
from compressor.manifests import FileEntry
from compressor.model import (
    DECODING,
    FORMAT_VERSION,
    Model,
    ModelManifest,
    PluginEntry,
    manifest_files,
)
from compressor.spec import CodeSpec, VectorSpec
from compressor.verbs import inspect, verify


@pytest.fixture
def copy(model: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(model, tmp_path / "copy"))


def test_a_model_has_what_the_design_lists(model: Path) -> None:
    names = {file.name for file in model.iterdir()}
    assert names == {
        "manifest.json",
        "manifest.sha256",
        "encoder.onnx",
        "decoder.onnx",
        "scorer.onnx",
        "further.onnx",
        "scores.npz",
        "density.npz",
        "prior.bin",
        "calibration.parquet",
        "weights.safetensors",
        "golden.npz",
        "training.csv",
        "MODEL_CARD.md",
    }
    assert verify(model)["ok"]
    facts = inspect(model)
    assert facts["kind"] == "model" and facts["plugin"]["name"] == "undercomplete"
    assert facts["quantiser"]["validation_codes"] == 100 * 98
    assert 0 <= facts["quantiser"]["validation_escapes"] < 98


def test_a_model_in_memory_is_the_one_on_disk(model: Path, tmp_path: Path) -> None:
    opened = Model.open(model)
    files = opened.contents()
    in_memory = pickle.loads(pickle.dumps(Model.from_files(files)))
    assert in_memory.manifest == opened.manifest and in_memory.digest == opened.digest
    assert in_memory.contents() == files == {f.name: f.read_bytes() for f in model.iterdir()}
    assert in_memory.check() == []
    Model.write(tmp_path / "model.zip", files, force=False)
    assert Model.open(tmp_path / "model.zip").contents() == files


def test_a_model_in_memory_is_checked_as_one_on_disk_is(model: Path) -> None:
    files = Model.open(model).contents()
    with pytest.raises(ModelError, match=r"no manifest\.json"):
        Model.from_files({})
    with pytest.raises(ModelError, match="altered or damaged"):
        Model.from_files(files | {"manifest.json": files["manifest.json"] + b" "})
    swapped = Model.from_files(files | {"encoder.onnx": files["decoder.onnx"]})
    with pytest.raises(ModelError, match=r"encoder\.onnx does not have the hash"):
        swapped.read("encoder.onnx")
    with pytest.raises(ModelError, match="save it"):
        swapped.write_calibration({})


def test_the_calibration_images_are_as_many_as_were_asked_for(model: Path) -> None:
    scores = Model.open(model).calibration("l2")
    assert len(scores) == 200 and (scores[1:] >= scores[:-1]).all()


@pytest.mark.parametrize("name", ["encoder.onnx", "prior.bin", "golden.npz", "manifest.json"])
def test_one_changed_byte_is_found(copy: Path, name: str) -> None:
    content = bytearray((copy / name).read_bytes())
    content[len(content) // 2] ^= 1
    (copy / name).write_bytes(content)
    report = verify(copy)
    assert not report["ok"] and name in report["problems"][0]


def test_a_changed_hash_file_is_found(copy: Path) -> None:
    (copy / "manifest.sha256").write_text("0" * 64 + "  manifest.json\n")
    assert not verify(copy)["ok"]


def test_a_file_too_many_is_found(copy: Path) -> None:
    (copy / "notes.txt").write_text("mine")
    assert "notes.txt does not belong" in verify(copy)["problems"][0]


def test_a_swapped_graph_is_refused(copy: Path, dense_model: Path) -> None:
    shutil.copy(dense_model / "decoder.onnx", copy / "decoder.onnx")
    with pytest.raises(ModelError, match=r"decoder.onnx .* altered, swapped or damaged"):
        Model.open(copy).read("decoder.onnx")


def test_a_graph_swapped_together_with_its_hash_is_found_by_verify(
    copy: Path, dense_model: Path, model: Path
) -> None:
    ours, theirs = Model.open(copy), Model.open(dense_model)
    files = {name: ours.read(name) for name in ours.manifest.files}
    files["scorer.onnx"] = theirs.read("scorer.onnx")
    entries = dict(ours.manifest.files) | {"scorer.onnx": theirs.manifest.files["scorer.onnx"]}
    manifest = ours.manifest.model_copy(update={"files": entries})
    Model.write(copy, files | manifest_files(manifest), force=True)
    assert "scorer.onnx gives other l2 than golden.npz" in verify(copy)["problems"]


def test_a_newer_format_version_is_refused_with_what_to_do(copy: Path) -> None:
    manifest = json.loads((copy / "manifest.json").read_text())
    manifest["format_version"] = FORMAT_VERSION + 1
    text = json.dumps(manifest).encode()
    import hashlib

    (copy / "manifest.json").write_bytes(text)
    (copy / "manifest.sha256").write_text(f"{hashlib.sha256(text).hexdigest()}  manifest.json\n")
    with pytest.raises(ModelError, match=r"format version 2; .* reads version 1: update"):
        Model.open(copy)


def test_what_is_no_model_is_said_to_be_none(tmp_path: Path, clothes: object) -> None:
    with pytest.raises(ModelError, match="there is no model"):
        Model.open(tmp_path / "nothing")
    with pytest.raises(ModelError, match="is not a model"):
        Model.open(tmp_path)


def test_a_zip_is_the_same_model(model: Path, tmp_path: Path) -> None:
    opened = Model.open(model)
    files = {name: opened.read(name) for name in opened.manifest.files}
    Model.write(tmp_path / "m.zip", files | manifest_files(opened.manifest), force=False)
    zipped = Model.open(tmp_path / "m.zip")
    assert zipped.digest == opened.digest and zipped.read("prior.bin") == opened.read("prior.bin")
    assert verify(tmp_path / "m.zip")["ok"]


def test_a_zip_with_names_that_leave_it_is_refused(model: Path, tmp_path: Path) -> None:
    with zipfile.ZipFile(tmp_path / "m.zip", "w") as archive:
        for file in model.iterdir():
            archive.write(file, file.name)
        archive.writestr("../evil.txt", "x")
    with pytest.raises(ModelError, match=r"'\.\./evil.txt' is not the plain name of a file"):
        Model.open(tmp_path / "m.zip")


def test_force_replaces_a_model_but_no_other_data(model: Path, copy: Path, tmp_path: Path) -> None:
    opened = Model.open(model)
    files = {"manifest.json": b"{}"}
    with pytest.raises(OutputError, match="exists; give force=True"):
        Model.write(copy, files, force=False)
    mine = tmp_path / "photos"
    mine.mkdir()
    (mine / "a.jpg").write_bytes(b"precious")
    with pytest.raises(OutputError, match="does not replace other data"):
        Model.write(mine, files, force=True)
    assert (mine / "a.jpg").read_bytes() == b"precious"
    Model.write(copy, files, force=True)
    assert [file.name for file in copy.iterdir()] == ["manifest.json"]
    del opened


def test_weights_are_embedded_compactly(model: Path, tmp_path: Path) -> None:
    opened = Model.open(model)
    opened.embed(tmp_path / "embedded")
    embedded = Model.open(tmp_path / "embedded")
    assert embedded.digest == opened.digest
    assert embedded.read("decoder.onnx") == opened.read("decoder.onnx")
    import safetensors.numpy

    weights = safetensors.numpy.load(opened.read("weights.safetensors"))
    decoder = sum(w.size for name, w in weights.items() if name.startswith("g."))
    packed = (tmp_path / "embedded" / "decoder.onnx.packed").stat().st_size
    assert packed < decoder + 2500  # the graph itself, and less than 8 bits a weight


def test_a_model_of_very_long_vectors_can_be_opened(tmp_path: Path) -> None:
    count = 400_000
    spec = VectorSpec(
        length=count,
        mean=(-0.0251839067786932,) * count,
        scale=(1.0 / 3,) * count,
        columns=tuple(f"gene {number}" for number in range(count)),
    )
    plugin = PluginEntry(name="any", distribution="any", version="1")
    files = dict.fromkeys(DECODING, FileEntry(size=0, sha256="0" * 64))
    manifest = ModelManifest(plugin=plugin, data=spec, code=CodeSpec(shape=(2,)), files=files)
    Model.write(tmp_path / "model", manifest_files(manifest), force=False)
    assert Model.open(tmp_path / "model").spec == spec
