"""Bad images: each is named, or one clear line says why nothing can be done."""

from __future__ import annotations

import json
import tarfile
import zipfile
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest

from compressor.archive.blocks import CodedImages, CodeGroup
from compressor.archive.writer import ArchiveWriter, pack_images
from compressor.data.images import Pixels
from compressor.engine.engine import Engine
from compressor.model import Model

from .command_line import OUTPUTS, READERS, run
from .files import pixels_of, same, save, tree


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
    save(tmp_path / "images" / "rgb.png", clothes[[2, 3, 4], ..., 0].transpose(1, 2, 0))
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
        colours = clothes[number : number + 3, ..., 0].transpose(1, 2, 0)
        wrong = {"size": clothes[number, :20], "channels": colours}
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


def test_grey_in_colours_is_converted_without_loss_for_a_grey_model(
    model: Path, tmp_path: Path, clothes: Pixels
) -> None:
    opaque = np.full((28, 28, 1), 255, np.uint8)
    images, grey = tmp_path / "images", tmp_path / "grey"
    given = {
        "a.png": clothes[0],
        "b.png": clothes[1].repeat(3, axis=2),
        "c.png": np.concatenate([clothes[2].repeat(3, axis=2), opaque], axis=2),
    }
    for number, (name, image) in enumerate(given.items()):
        save(images / name, image)
        save(grey / name, clothes[number])
    archives = []
    for folder, converted in ((images, 2), (grey, 0)):
        archive = tmp_path / f"{folder.name}.archive"
        ran = run("compress", folder, "-m", model, "-o", archive, "--json")
        assert ran.code == 0 and json.loads(ran.out)["converted"] == converted
        run("decompress", archive, "-o", tmp_path / f"{folder.name}.parquet")
        archives.append(pixels_of(tmp_path / f"{folder.name}.parquet"))
    assert same(*archives)

    in_colours = clothes[:70].repeat(3, axis=3)
    np.save(tmp_path / "grey.npy", in_colours)
    ran = run("score", tmp_path / "grey.npy", "-m", model, "-o", tmp_path / "r.csv", "--json")
    assert ran.code == 0 and json.loads(ran.out)["converted"] == 70
    in_colours[:, 0, 0, 0] ^= 1
    np.save(tmp_path / "colours.npy", in_colours)
    ran = run("score", tmp_path / "colours.npy", "-m", model, "-o", tmp_path / "s.csv")
    assert ran.code == 1 and "every row has 3 channels, the model takes 1" in ran.error


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
    advice = "(or --set crop=N)" if other == "size" else "(or --channels grey, or --channels rgb)"
    assert advice in ran.error
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
