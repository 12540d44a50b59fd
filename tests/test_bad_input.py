"""Bad input, full disks, interruptions: one clear line, nothing half-written, nothing lost."""

from __future__ import annotations

import contextlib
import hashlib
import io
import json
import os
import resource
import shutil
import signal
import subprocess
import sys
import tarfile
import zipfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, NamedTuple
from unittest import mock

import numpy as np
import pyarrow.parquet as pq
import pytest
from compressor.cli import main
from PIL import Image

from compressor.archive.blocks import CodedImages, CodeGroup
from compressor.archive.writer import ArchiveWriter, pack_images
from compressor.data.images import Pixels
from compressor.data.sources import open_source
from compressor.engine.engine import Engine
from compressor.model import Model
from compressor.progress import Progress

AS_ROOT = os.name == "posix" and os.geteuid() == 0
READERS = ("train", "encode", "compress", "score", "calibrate")  # of images
WRITERS = ("train", "export", "encode", "compress", "decompress", "score")  # of a new output
OUTPUTS = {
    "train": ["m", "m.zip"],
    "export": ["graphs"],
    "encode": ["codes.npy", "codes.parquet"],
    "compress": ["a"],
    "decompress": ["out", "out.npy", "out.parquet"],
    "score": ["r.parquet", "r.csv"],
}
EACH_OUTPUT = [(verb, name) for verb in WRITERS for name in OUTPUTS[verb]]


class Ran(NamedTuple):
    code: int
    out: str
    err: str

    @property
    def error(self) -> str:
        """The one line that says what went wrong: the last one on stderr, and the only one."""
        lines = self.err.splitlines()
        assert [line for line in lines if line.startswith("Error: ")] == lines[-1:], self.err
        assert "Traceback" not in self.out + self.err
        assert "fault in compressor" not in lines[-1]
        return lines[-1]


def run(*arguments: object) -> Ran:
    """Runs the command line in this process."""
    out, err = io.StringIO(), io.StringIO()
    argv, handler = ["compressor", *map(str, arguments)], signal.getsignal(signal.SIGTERM)
    code: Any = 0
    with (
        mock.patch.object(sys, "argv", argv),
        contextlib.redirect_stdout(out),
        contextlib.redirect_stderr(err),
    ):
        try:
            main()
        except SystemExit as end:
            code = end.code or 0
        finally:
            signal.signal(signal.SIGTERM, handler)
    return Ran(code, out.getvalue(), err.getvalue())


def tree(folder: Path) -> dict[str, bytes | None]:
    """Everything below a folder, hidden files too; None for folders."""
    return {
        path.relative_to(folder).as_posix(): path.read_bytes() if path.is_file() else None
        for path in folder.rglob("*")
    }


def pixels_of(path: Path) -> dict[str, Pixels]:
    """The images in an output of decompress, by name."""
    found = {}
    for chunk in open_source(path).chunks(1000):
        images = chunk.load()
        assert not images.unreadable
        for group in images.groups:
            for position, pixels in zip(group.positions, group.pixels, strict=True):
                found[images.names[position]] = pixels
    return found


def same(found: dict[str, Pixels], expected: dict[str, Pixels]) -> bool:
    return found.keys() == expected.keys() and all(
        np.array_equal(found[name], expected[name]) for name in expected
    )


def save(path: Path, pixels: Pixels) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(pixels[:, :, 0] if pixels.shape[2] == 1 else pixels).save(path)


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory, clothes: Pixels) -> Path:
    """1,000 images."""
    path = tmp_path_factory.mktemp("data") / "clothes.npy"
    np.save(path, clothes)
    return path


@pytest.fixture(scope="module")
def archive(tmp_path_factory: pytest.TempPathFactory, clothes: Pixels, dense_model: Path) -> Path:
    """200 images: do not change it."""
    folder = tmp_path_factory.mktemp("archive")
    np.save(folder / "clothes.npy", clothes[:200])
    ran = run("compress", folder / "clothes.npy", "-m", dense_model, "-o", folder / "a")
    assert ran.code == 0
    return folder / "a"


@pytest.fixture(scope="module")
def rebuilt(dense_model: Path, clothes: Pixels) -> dict[str, Pixels]:
    """What decompressing the archive gives."""
    engine = Engine(Model.open(dense_model))
    pixels = engine.decode(engine.encode(clothes[:200]), 28, 28)
    return {f"{number:05d}": image for number, image in enumerate(pixels)}


@pytest.fixture
def copy(dense_model: Path, tmp_path: Path) -> Path:
    """A model to damage."""
    return shutil.copytree(dense_model, tmp_path / "copy")


@pytest.fixture
def arguments(data: Path, archive: Path, dense_model: Path) -> Callable[..., tuple[object, ...]]:
    """The arguments of a verb that would end well."""

    def of(
        verb: str, output: Path, images: Path = data, model: Path = dense_model
    ) -> tuple[object, ...]:
        options = {
            "train": ("undercomplete", images, "--set", "network=dense", "--max-steps", "1"),
            "export": (model,),
            "encode": (images, "-m", model),
            "compress": (images, "-m", model),
            "decompress": (archive,),
            "score": (images, "-m", model, "--fpr", "0.1"),
            "calibrate": (model, images),
        }[verb]
        return (verb, *options, *(() if verb == "calibrate" else ("-o", output)))

    return of


@pytest.fixture
def quick_end(monkeypatch: pytest.MonkeyPatch, dense_model: Path) -> None:
    """Trainings do without the export, which takes seconds: their model is a card alone."""
    manifest = Model.open(dense_model).manifest
    files = {"MODEL_CARD.md": bytes(100_000)}
    monkeypatch.setattr("compressor.training.train.bundle", lambda *_: (dict(files), manifest))
    monkeypatch.setattr("compressor.training.bundle.export_graphs", lambda *_: {})


# Images


@pytest.fixture
def folder(tmp_path: Path, clothes: Pixels) -> Path:
    """20 images, number 5 corrupt, number 11 cut off."""
    folder = tmp_path / "images"
    for number, image in enumerate(clothes[:20]):
        save(folder / f"{number:02d}.png", image)
    content = bytearray((folder / "05.png").read_bytes())
    content[len(content) // 2] ^= 1
    (folder / "05.png").write_bytes(content)
    with (folder / "11.png").open("r+b") as file:
        file.truncate(100)
    return folder


@pytest.mark.parametrize("verb", ["encode", "compress", "score", "train"])
def test_corrupt_images_are_skipped_and_named(
    verb: str,
    folder: Path,
    tmp_path: Path,
    clothes: Pixels,
    dense_model: Path,
    arguments: Callable[..., tuple[object, ...]],
    quick_end: None,
) -> None:
    output = tmp_path / OUTPUTS[verb][-1]
    ran = run(*arguments(verb, output, folder), "--json")
    assert ran.code == 4
    told = json.loads(ran.out)
    assert told["unreadable"] == 2 and told["images"] == 18
    first, second = told["unreadable_names"]
    assert "05.png: is damaged: a checksum does not match" in first
    assert "11.png: is cut off" in second
    assert "Error" not in ran.err
    assert {path.name for path in tmp_path.iterdir()} == {"images", output.name}

    readable = [f"{number:02d}.png" for number in range(20) if number not in (5, 11)]
    expected = clothes[[number for number in range(20) if number not in (5, 11)]]
    engine = Engine(Model.open(dense_model))
    if verb == "compress":
        assert run("decompress", output, "-o", tmp_path / "out.parquet").code == 0
        pixels = engine.decode(engine.encode(expected), 28, 28)
        found = pixels_of(tmp_path / "out.parquet")
        assert same(found, dict(zip(readable, pixels, strict=True)))
        assert list(found) == readable
    elif verb == "encode":
        assert pq.read_table(output)["path"].to_pylist() == readable
    elif verb == "score":
        scores = engine.score(expected)["l2"].tolist()
        lines = output.read_text().splitlines()[1:]
        assert [float(line.split(",")[1]) for line in lines if line.split(",")[1]] == scores


@pytest.mark.parametrize("verb", READERS)
def test_an_empty_folder_is_refused(
    verb: str, tmp_path: Path, copy: Path, arguments: Callable[..., tuple[object, ...]]
) -> None:
    empty = tmp_path / "empty"
    empty.mkdir()
    before = tree(tmp_path)
    ran = run(*arguments(verb, tmp_path / OUTPUTS.get(verb, ["-"])[0], empty, copy))
    assert ran.code == 1 and "empty holds no images" in ran.error
    assert tree(tmp_path) == before


@pytest.mark.parametrize("verb", ["encode", "compress", "score"])
def test_images_that_do_not_fit_a_model_of_fixed_size_are_skipped_and_named(
    verb: str, tmp_path: Path, clothes: Pixels, arguments: Callable[..., tuple[object, ...]]
) -> None:
    save(tmp_path / "images" / "fits.png", clothes[0])
    save(tmp_path / "images" / "low.png", clothes[1, :14])
    save(tmp_path / "images" / "rgb.png", clothes[2].repeat(3, axis=2))
    output = tmp_path / OUTPUTS[verb][0]
    ran = run(*arguments(verb, output, tmp_path / "images"), "--json")
    assert ran.code == 4
    told = json.loads(ran.out)
    assert told["images"] == 1
    assert told["unreadable_names"] == [
        "low.png: is 14x28, the model takes 28x28 only",
        "rgb.png: has 3 channels, the model takes 1",
    ]


@pytest.mark.parametrize("misfit", ["size", "channels", "corrupt"])
@pytest.mark.parametrize("verb", ["encode", "compress", "score", "calibrate"])
def test_images_of_which_none_can_be_used_are_an_error(
    verb: str,
    misfit: str,
    tmp_path: Path,
    clothes: Pixels,
    copy: Path,
    arguments: Callable[..., tuple[object, ...]],
) -> None:
    images = tmp_path / "images"
    for number in range(3):
        wrong = {"size": clothes[number, :20], "channels": clothes[number].repeat(3, axis=2)}
        save(images / f"{number}.png", wrong.get(misfit, clothes[number]))
        if misfit == "corrupt":
            (images / f"{number}.png").write_bytes(b"\x89PNG")
    before = tree(tmp_path)
    for name in OUTPUTS.get(verb, [""]):
        ran = run(*arguments(verb, tmp_path / name, images, copy))
        assert ran.code == 1
        assert "no image in" in ran.error and "the first: 0.png" in ran.error
        assert tree(tmp_path) == before


@pytest.fixture
def of_any_size(tmp_path: Path, clothes: Pixels) -> dict[str, Pixels]:
    """Images that nobody trains on, in the folder ``any``, by name."""
    random = np.random.default_rng(0)
    found = {
        "black.png": np.zeros((28, 28, 1), np.uint8),
        "noise.png": random.integers(0, 256, (61, 35, 1), np.uint8),
        "odd.png": clothes[0, 1:, 3:],
        "pixel.png": clothes[1, 14:15, 14:15],
        "thin.png": clothes[2, :, 14:15],
        "white.png": np.full((29, 31, 1), 255, np.uint8),
        "wide.png": np.concatenate([*clothes, *clothes], axis=1)[:, :20_000],
    }
    for name, image in found.items():
        save(tmp_path / "any" / name, image)
    return found


def test_a_fully_convolutional_model_takes_images_of_any_size(
    of_any_size: dict[str, Pixels], model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("compressor.engine.tiles.MAX_PIXELS", 2**17)  # the wide one has more
    folder, engine = tmp_path / "any", Engine(Model.open(model))
    assert run("compress", folder, "-m", model, "-o", tmp_path / "a", "--measure").code == 0
    assert run("verify", tmp_path / "a").code == 0
    assert run("decompress", tmp_path / "a", "-o", tmp_path / "out").code == 0
    expected = {
        name: engine.decode(engine.encode(image[None]), *image.shape[:2])[0]
        for name, image in of_any_size.items()
    }
    assert same(pixels_of(tmp_path / "out"), expected)

    ran = run("score", folder, "-m", model, "-o", tmp_path / "r.csv", "--threshold", "1", "--json")
    assert ran.code == 0 and json.loads(ran.out)["images"] == 7
    lines = (tmp_path / "r.csv").read_text().splitlines()[1:]
    scores = {line.split(",")[0]: float(line.split(",")[1]) for line in lines}
    assert all(0 <= score < 1 for score in scores.values())
    assert scores["noise.png"] > scores["odd.png"] > 0


def test_images_without_pixels_are_refused(model: Path, tmp_path: Path, clothes: Pixels) -> None:
    for name, empty in (("high", clothes[:3, :0]), ("wide", clothes[:3, :, :0])):
        np.save(tmp_path / f"{name}.npy", empty)
        before = tree(tmp_path)
        ran = run("compress", tmp_path / f"{name}.npy", "-m", model, "-o", tmp_path / "a")
        size = "0, 28" if name == "high" else "28, 0"
        assert ran.code == 1
        assert f"{name}.npy is uint8 (3, {size}, 1)" in ran.error and "no length 0" in ran.error
        assert tree(tmp_path) == before


def test_an_alpha_channel_that_a_model_does_not_take_is_named(
    model: Path, tmp_path: Path, clothes: Pixels
) -> None:
    save(tmp_path / "images" / "a.png", clothes[0])
    save(tmp_path / "images" / "b.png", clothes[1].repeat(4, axis=2))
    ran = run("compress", tmp_path / "images", "-m", model, "-o", tmp_path / "a", "--json")
    assert ran.code == 4
    told = json.loads(ran.out)["unreadable_names"]
    assert told == ["b.png: has 4 channels with alpha, the model takes 1"]


def test_codes_far_outside_of_the_tables_come_back_as_they_are(
    model: Path, tmp_path: Path, clothes: Pixels
) -> None:
    opened = Model.open(model)
    engine = Engine(opened)
    codes = engine.encode(clothes[:3])
    codes[0], codes[1, :, ::2] = 2**24, -(2**24)
    images = CodedImages(["0", "1", "2"], [CodeGroup(np.arange(3), 28, 28, codes)], {})
    with ArchiveWriter(tmp_path / "a", opened, {"source": "far"}) as writer:
        writer.add(pack_images(images, opened.prior))
    assert run("verify", tmp_path / "a").code == 0
    assert run("decompress", tmp_path / "a", "-o", tmp_path / "out.npy").code == 0
    np.testing.assert_array_equal(
        np.load(tmp_path / "out.npy"), engine.decode(codes, 28, 28)[..., 0]
    )


@pytest.mark.parametrize("other", ["size", "channels"])
def test_training_on_images_of_several_shapes_names_two(
    other: str, tmp_path: Path, clothes: Pixels, arguments: Callable[..., tuple[object, ...]]
) -> None:
    images = tmp_path / "images"
    save(images / "a.png", clothes[0])
    save(images / "b.png", clothes[1, :20] if other == "size" else clothes[1].repeat(3, axis=2))
    before = tree(tmp_path)
    ran = run(*arguments("train", tmp_path / "m", images))
    assert ran.code == 1
    shape = "20x28x1" if other == "size" else "28x28x3"
    assert f"b.png is {shape}" in ran.error and "a.png is 28x28x1" in ran.error
    assert tree(tmp_path) == before  # nor a training folder, which would be in the way


def test_training_that_fails_before_its_first_step_can_be_repeated(
    tmp_path: Path, data: Path, quick_end: None
) -> None:
    arguments = ("train", "gan", data, "-o", tmp_path / "m", "--max-steps", "2")
    ran = run(*arguments, "--set", "hidden=[4, 4, 4]")
    assert ran.code == 2 and "is not divisible by 8" in ran.error
    assert run(*arguments, "--set", "hidden=[4]").code == 0


@pytest.mark.parametrize("kind", ["zip", "tar"])
@pytest.mark.parametrize("verb", READERS)
def test_a_packed_folder_with_names_that_lead_out_of_it_is_refused(
    verb: str,
    kind: str,
    tmp_path: Path,
    clothes: Pixels,
    copy: Path,
    arguments: Callable[..., tuple[object, ...]],
) -> None:
    save(tmp_path / "shirt.png", clothes[0])
    packed = tmp_path / f"images.{kind}"
    if kind == "zip":
        with zipfile.ZipFile(packed, "w") as zipped:
            for name in ("shirt.png", "../evil.png"):
                zipped.write(tmp_path / "shirt.png", name)
    else:
        with tarfile.open(packed, "w") as tar:
            for name in ("shirt.png", "../evil.png"):
                tar.add(tmp_path / "shirt.png", name)
    before = tree(tmp_path)
    ran = run(*arguments(verb, tmp_path / OUTPUTS.get(verb, ["-"])[0], packed, copy))
    assert ran.code == 1
    assert "'../evil.png', which leads out of a folder" in ran.error
    assert tree(tmp_path) == before
    assert not (tmp_path.parent / "evil.png").exists()


def test_a_tar_that_is_cut_off_leaves_nothing(
    tmp_path: Path, clothes: Pixels, arguments: Callable[..., tuple[object, ...]]
) -> None:
    packed = tmp_path / "images.tar"
    with tarfile.open(packed, "w") as tar:
        for number, image in enumerate(clothes[:300]):
            save(tmp_path / "one.png", image)
            tar.add(tmp_path / "one.png", f"{number:03d}.png")
    with packed.open("r+b") as file:
        file.truncate(packed.stat().st_size * 9 // 10 // 512 * 512 - 200)
    before = tree(tmp_path)
    for verb in ("encode", "compress", "score"):
        ran = run(*arguments(verb, tmp_path / OUTPUTS[verb][0], packed))
        assert ran.code == 1 and "cut off" in ran.error
        assert tree(tmp_path) == before


# Archives


def cut_lengths(size: int) -> list[int]:
    return sorted({0, 1, size // 3, size * 2 // 3, size - 1})


def decompress_damaged(damaged: Path, where: str, output: Path, rebuilt: dict[str, Pixels]) -> None:
    """Right pixels under their names, or a name with the reason, or an error: nothing else."""
    ran = run("decompress", damaged, "-o", output, "--json")
    if ran.code == 1:
        assert where.startswith(("model/", "blocks/part-00000.bin")), ran.err
        assert not output.exists() and ran.error
        return
    told = json.loads(ran.out)
    if ran.code == 0:  # of the model, what is not content: an end of xz, a name beside a hash
        assert where.startswith("model/")
    else:
        assert ran.code == 4 and (told["damage"] or told["unreadable"])
    found = pixels_of(output)
    output.unlink()
    lost = {line.partition(": ")[0] for line in told["unreadable_names"]}
    assert len(found) == told["images"] and len(lost) == told["unreadable"]
    if where.startswith("items/"):  # the names are gone, and said to be: the order is not
        assert all(name.startswith("damaged-00000/") for name in found)
        found = dict(zip(rebuilt, found.values(), strict=True))
    expected = {name: pixels for name, pixels in rebuilt.items() if name not in lost}
    assert same(found, expected)


@pytest.mark.parametrize("damage", ["cut", "flip", "gone"])
def test_damage_in_any_file_of_an_archive_never_gives_wrong_pixels(
    damage: str, archive: Path, rebuilt: dict[str, Pixels], tmp_path: Path
) -> None:
    damaged = shutil.copytree(archive, tmp_path / "a")
    random = np.random.default_rng(0)
    for file in sorted(path for path in damaged.rglob("*") if path.is_file()):
        where = file.relative_to(damaged).as_posix()
        content = file.read_bytes()
        if damage == "cut":
            changed = [content[:length] for length in cut_lengths(len(content))]
        elif damage == "flip":
            changed = []
            for position in random.integers(0, len(content), 6):
                flipped = bytearray(content)
                flipped[position] ^= 1 << random.integers(8)
                changed.append(bytes(flipped))
        else:
            changed = [b""]
        for new in changed:
            file.unlink() if damage == "gone" else file.write_bytes(new)
            decompress_damaged(damaged, where, tmp_path / "out.parquet", rebuilt)
            ran = run("verify", damaged, "--json")
            assert ran.code == 1 and json.loads(ran.out)["problems"]
        file.write_bytes(content)
    assert run("verify", damaged).code == 0
    assert [path.name for path in tmp_path.iterdir()] == ["a"]


def test_a_name_in_an_archive_never_leads_out_of_the_output(
    dense_model: Path, clothes: Pixels, tmp_path: Path
) -> None:
    model = Model.open(dense_model)
    codes = Engine(model).encode(clothes[:2])
    images = CodedImages(["shirt.png", "../evil.png"], [CodeGroup(np.arange(2), 28, 28, codes)], {})
    with ArchiveWriter(tmp_path / "a", model, {"source": "hostile"}) as writer:
        writer.add(pack_images(images, model.prior))
    before = tree(tmp_path)
    ran = run("decompress", tmp_path / "a", "-o", tmp_path / "out")
    assert ran.code == 1 and "'../evil.png' has a name that leads out" in ran.error
    assert tree(tmp_path) == before
    assert run("decompress", tmp_path / "a", "-o", tmp_path / "out.npy").code == 0


# Models


def rehash(folder: Path, **changes: object) -> None:
    """Changes a manifest, and makes its hash right."""
    data = json.loads((folder / "manifest.json").read_text()) | changes
    text = json.dumps(data).encode()
    (folder / "manifest.json").write_bytes(text)
    line = f"{hashlib.sha256(text).hexdigest()}  manifest.json\n"
    (folder / "manifest.sha256").write_text(line)


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


def test_an_archive_from_a_newer_version_is_refused_with_what_to_do(
    archive: Path, tmp_path: Path
) -> None:
    newer = shutil.copytree(archive, tmp_path / "a")
    rehash(newer, format_version=3)
    for arguments in (("decompress", newer, "-o", tmp_path / "out"), ("inspect", newer)):
        ran = run(*arguments)
        assert ran.code == 1
        assert "has archive format version 3;" in ran.error and "update compressor" in ran.error
    assert [path.name for path in tmp_path.iterdir()] == ["a"]
    ran = run("verify", newer)
    assert ran.code == 1 and "update compressor" in ran.out + ran.err


def test_a_zipped_model_with_names_that_lead_out_of_it_is_refused(
    dense_model: Path, data: Path, tmp_path: Path
) -> None:
    packed = tmp_path / "m.zip"
    with zipfile.ZipFile(packed, "w") as zipped:
        for file in dense_model.iterdir():
            zipped.write(file, file.name)
        zipped.writestr("../evil.txt", "x")
    ran = run("compress", data, "-m", packed, "-o", tmp_path / "a")
    assert ran.code == 1 and "'../evil.txt' is not a plain file" in ran.error
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


# Outputs


@pytest.mark.parametrize(("verb", "name"), EACH_OUTPUT)
@pytest.mark.parametrize("kind", ["file", "folder", "link"])
def test_an_output_that_exists_is_refused(
    verb: str,
    name: str,
    kind: str,
    tmp_path: Path,
    arguments: Callable[..., tuple[object, ...]],
) -> None:
    output = tmp_path / name
    if kind == "file":
        output.write_bytes(b"mine")
    elif kind == "folder":
        output.mkdir()
        (output / "mine").write_bytes(b"mine")
    else:
        output.symlink_to("nowhere")
    before = tree(tmp_path)
    ran = run(*arguments(verb, output))
    assert ran.code == 1 and f"{output} exists" in ran.error and "--force" in ran.error
    assert tree(tmp_path) == before


@pytest.mark.parametrize("option", ["--heatmaps", "--report"])
def test_a_second_output_that_exists_is_refused(
    option: str, tmp_path: Path, arguments: Callable[..., tuple[object, ...]]
) -> None:
    (tmp_path / "there").write_bytes(b"mine")
    ran = run(*arguments("score", tmp_path / "r.parquet"), option, tmp_path / "there")
    assert ran.code == 1 and "there exists" in ran.error
    assert tree(tmp_path) == {"there": b"mine"}


@pytest.mark.parametrize(
    ("verb", "options"),
    [
        ("train", ["-o"]),
        ("compress", ["-o"]),
        ("decompress", ["-o"]),
        ("export", ["-o"]),
        ("score", ["-o", "r.parquet", "--heatmaps"]),
    ],
)
def test_force_never_takes_a_folder_of_other_data(
    verb: str,
    options: list[str],
    tmp_path: Path,
    clothes: Pixels,
    arguments: Callable[..., tuple[object, ...]],
    quick_end: None,
) -> None:
    save(tmp_path / "photos" / "precious.png", clothes[0])
    precious = tree(tmp_path)
    *given, _, _ = arguments(verb, tmp_path / "x")
    options = [str(tmp_path / o) if o == "r.parquet" else o for o in options]
    run(*given, *options, tmp_path / "photos", "--force")
    assert precious.items() <= tree(tmp_path).items()


def test_two_outputs_of_one_name_are_refused(
    tmp_path: Path, arguments: Callable[..., tuple[object, ...]]
) -> None:
    for option in ("--heatmaps", "--report"):
        output = tmp_path / "r.parquet"
        ran = run(*arguments("score", output), option, output)
        assert ran.code in (1, 2) and ran.error
        assert not tree(tmp_path)


@pytest.mark.parametrize("suffix", [".txt", ".json", ""])
def test_results_are_of_a_kind_that_can_be_read_again(
    suffix: str, tmp_path: Path, arguments: Callable[..., tuple[object, ...]]
) -> None:
    """Parquet under another name is what ``inspect`` and people do not look for."""
    ran = run(*arguments("score", tmp_path / f"results{suffix}"))
    assert ran.code == 2 and ".parquet" in ran.error and ".csv" in ran.error
    assert not tree(tmp_path)


@pytest.mark.parametrize("where", ["below a file", "/proc"])
@pytest.mark.parametrize(("verb", "name"), EACH_OUTPUT)
def test_an_output_that_cannot_be_written_is_an_error_even_for_root(
    verb: str,
    name: str,
    where: str,
    tmp_path: Path,
    arguments: Callable[..., tuple[object, ...]],
) -> None:
    if where == "below a file":
        (tmp_path / "file").write_bytes(b"mine")
        output = tmp_path / "file" / "deep" / name
    elif Path("/proc/self").exists():
        output = Path("/proc") / name
    else:
        pytest.skip("there is no /proc")
    before = tree(tmp_path)
    ran = run(*arguments(verb, output))
    assert ran.code == 1
    assert f"cannot write {output.parent}" in ran.error and "choose another output" in ran.error
    assert tree(tmp_path) == before


@pytest.mark.skipif(AS_ROOT, reason="root may write everywhere")
@pytest.mark.parametrize(("verb", "name"), EACH_OUTPUT)
def test_an_output_without_permission_is_an_error(
    verb: str, name: str, tmp_path: Path, arguments: Callable[..., tuple[object, ...]]
) -> None:
    (tmp_path / "locked").mkdir(mode=0o555)
    ran = run(*arguments(verb, tmp_path / "locked" / name))
    assert ran.code == 1 and "no permission to write there" in ran.error
    assert not list((tmp_path / "locked").iterdir())


# Full disks


@pytest.mark.parametrize(
    ("verb", "name", "limit"),
    [
        ("train", "m", 100_000),
        ("encode", "codes.npy", 4096),
        ("encode", "codes.parquet", 2048),
        ("compress", "a", 1024),
        ("decompress", "out", 256),
        ("decompress", "out.npy", 4096),
        ("decompress", "out.parquet", 4096),
        ("score", "r.parquet", 1024),
        ("score", "r.csv", 1024),
    ],
)
def test_a_file_that_cannot_grow_is_one_error_and_leaves_nothing(
    verb: str,
    name: str,
    limit: int,
    tmp_path: Path,
    arguments: Callable[..., tuple[object, ...]],
) -> None:
    command = [sys.executable, "-c", "from compressor.cli import main; main()"]
    done = subprocess.run(
        [*command, *map(str, arguments(verb, tmp_path / name))],
        capture_output=True,
        text=True,
        preexec_fn=lambda: resource.setrlimit(resource.RLIMIT_FSIZE, (limit, limit)),
    )
    ran = Ran(done.returncode, done.stdout, done.stderr)
    assert ran.code == 1 and not ran.out
    assert f"cannot write {tmp_path}" in ran.error
    assert "the file would be larger than the system allows" in ran.error
    check_what_is_left(verb, tmp_path)


def check_what_is_left(verb: str, folder: Path) -> None:
    """Nothing, or what --resume takes: a checkpoint, or finished parts in a hidden folder."""
    left = tree(folder)
    if verb == "train" and left:
        assert all(path.partition("/")[0] == "m.training" for path in left)
        assert "m.training/checkpoint.pt" in left
        assert not [path for path in left if "partial" in path]
    elif verb == "compress" and left:
        assert all(path.partition("/")[0] == ".a.partial" for path in left)
        assert ".a.partial/archive/items/part-00000.parquet" in left
    else:
        assert not left


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Callable[[int], Path]]:
    """A file system of so many KiB, mounted for the test."""
    folder = tmp_path / "disk"
    folder.mkdir()
    mounted = []

    def mount(kibibytes: int) -> Path:
        if not AS_ROOT or sys.platform != "linux":
            pytest.skip("mounting a file system takes root on Linux")
        options = ["-t", "tmpfs", "-o", f"size={kibibytes}k", "tmpfs", str(folder)]
        done = subprocess.run(["mount", *options], capture_output=True, text=True)
        if done.returncode:
            pytest.skip(f"no file system can be mounted here: {done.stderr.strip()}")
        mounted.append(folder)
        return folder

    yield mount
    for path in mounted:
        subprocess.run(["umount", str(path)], check=True)


@pytest.mark.parametrize(
    ("verb", "name", "kibibytes"),
    [
        ("train", "m", 100),  # the decoded images
        ("train", "m", 1000),  # the first checkpoint
        ("export", "graphs", 64),
        ("encode", "codes.npy", 4),
        ("encode", "codes.parquet", 4),
        ("compress", "a", 8),
        ("compress", "a", 32),
        ("decompress", "out", 64),
        ("decompress", "out.npy", 64),
        ("decompress", "out.parquet", 32),
        ("score", "r.parquet", 4),
        ("score", "r.csv", 4),
    ],
)
def test_a_full_disk_is_one_error_and_leaves_nothing(
    verb: str,
    name: str,
    kibibytes: int,
    small_disk: Callable[[int], Path],
    arguments: Callable[..., tuple[object, ...]],
    quick_end: None,
) -> None:
    disk = small_disk(kibibytes)
    ran = run(*arguments(verb, disk / name))
    assert ran.code == 1 and not ran.out
    assert f"cannot write {disk}" in ran.error and "the disk is full" in ran.error
    check_what_is_left(verb, disk)


def test_a_model_for_which_the_disk_has_no_room_can_be_had_with_resume(
    small_disk: Callable[[int], Path],
    clothes: Pixels,
    tmp_path: Path,
    quick_end: None,
) -> None:
    disk, data = small_disk(1000), tmp_path / "clothes.npy"
    np.save(data, clothes[:200])
    (disk / "other").write_bytes(bytes(600_000))
    settings = ("--set", "network=dense", "--set", "hidden=[]", "--set", "latent=1")
    train = ("train", "undercomplete", data, "-o", disk / "m", "--max-steps", "2", *settings)
    with (disk / "other").open("ab") as file:  # leaves room for the training, not for the model
        file.write(bytes(130_000))
    ran = run(*train)
    assert ran.code == 1 and "the disk is full" in ran.error
    assert {path.name for path in disk.iterdir()} == {"other", "m.training"}
    assert (disk / "m.training" / "checkpoint.pt").exists()
    (disk / "other").unlink()
    assert run(*train, "--resume").code == 0
    assert [path.name for path in disk.iterdir()] == ["m"]


def test_a_full_disk_while_calibrating_leaves_the_model_as_it_was(
    small_disk: Callable[[int], Path], model: Path, clothes: Pixels, tmp_path: Path
) -> None:
    size = sum(file.stat().st_size for file in model.iterdir())
    disk = small_disk(size * 3 // 2 // 1024)
    shutil.copytree(model, disk / "m")
    np.save(tmp_path / "images.npy", clothes[:50])
    with contextlib.suppress(OSError), (disk / "filler").open("wb", buffering=0) as file:
        while True:
            file.write(bytes(4096))
    before = tree(disk)
    ran = run("calibrate", disk / "m", tmp_path / "images.npy")
    assert ran.code == 1 and "the disk is full" in ran.error
    assert tree(disk) == before


def test_heat_maps_and_a_report_without_room_leave_nothing(
    small_disk: Callable[[int], Path], arguments: Callable[..., tuple[object, ...]]
) -> None:
    disk = small_disk(64)
    score = (*arguments("score", disk / "r.parquet")[:-4], "--threshold", "0", "-o")
    for option in ("--heatmaps", "--report"):
        ran = run(*score, disk / "r.parquet", option, disk / "more")
        assert ran.code == 1 and "the disk is full" in ran.error
        assert not tree(disk)


# Interruptions


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM], ids=["ctrl-c", "kill"])
@pytest.mark.parametrize(
    ("verb", "name"),
    [
        ("train", "m"),
        ("encode", "codes.npy"),
        ("compress", "a"),
        ("decompress", "out"),
        ("decompress", "out.npy"),
        ("decompress", "out.parquet"),
        ("score", "r.parquet"),
        ("calibrate", "-"),
    ],
)
def test_an_interrupted_job_leaves_nothing_under_the_final_name(
    verb: str,
    name: str,
    number: signal.Signals,
    tmp_path: Path,
    copy: Path,
    arguments: Callable[..., tuple[object, ...]],
    quick_end: None,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    before = tree(tmp_path)
    monkeypatch.setattr(Progress, "update", lambda *_, **__: signal.raise_signal(number))
    given = arguments(verb, tmp_path / name, model=copy)
    ran = run(*given, *(("--set", "hidden=[]") if verb == "train" else ()))
    assert ran.code == 1 and not ran.out
    assert "interrupted" in ran.error
    left = {path: content for path, content in tree(tmp_path).items() if path not in before}
    assert all(verb == "train" and path.startswith("m.training") for path in left)
    assert before.items() <= tree(tmp_path).items()
