"""compress and decompress, end to end: the engine's pixels come back under their names."""

from __future__ import annotations

import io
import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest
from PIL import Image

from compressor.archive import blocks
from compressor.data.images import Pixels
from compressor.engine.engine import Engine
from compressor.errors import ArchiveError, DataError
from compressor.model import Model
from compressor.verbs import compress, decompress, inspect, verify


@pytest.fixture(scope="module")
def rebuilt(dense_model: Path, clothes: Pixels) -> Pixels:
    """What the model makes of the clothes: g(f(x)), (1000, 28, 28, 1)."""
    engine = Engine(Model.open(dense_model))
    return engine.decode(engine.encode(clothes), 28, 28)


@pytest.fixture(scope="module")
def archive(dense_model: Path, clothes: Pixels, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """600 images in three blocks: do not change it."""
    path = tmp_path_factory.mktemp("archive") / "a"
    compress(clothes[:600], dense_model, path)
    return path


def contents(folder: Path) -> dict[str, bytes]:
    return {
        path.relative_to(folder).as_posix(): path.read_bytes()
        for path in folder.rglob("*")
        if path.is_file()
    }


# What comes back


def test_the_pixels_are_exactly_the_decoders(
    archive: Path, rebuilt: Pixels, tmp_path: Path
) -> None:
    summary = decompress(archive, tmp_path / "out.npy")
    assert summary.items() >= {"images": 600, "unreadable": 0, "damage": []}.items()
    np.testing.assert_array_equal(np.load(tmp_path / "out.npy"), rebuilt[:600, :, :, 0])


def test_every_kind_of_output_holds_the_same(
    archive: Path, rebuilt: Pixels, tmp_path: Path
) -> None:
    for name in ("png", "out.parquet"):
        assert decompress(archive, tmp_path / name)["images"] == 600
    names = [f"{number:05d}" for number in range(600)]
    table = pq.read_table(tmp_path / "out.parquet")
    assert table["path"].to_pylist() == names
    for name, row, expected in zip(names, table["image"].to_pylist(), rebuilt, strict=False):
        for png in (tmp_path / "png" / f"{name}.png", io.BytesIO(row["bytes"])):
            with Image.open(png) as image:
                np.testing.assert_array_equal(np.asarray(image), expected[:, :, 0])
    assert len(list((tmp_path / "png").iterdir())) == 600


def test_names_and_order_are_kept_around_an_image_that_cannot_be_read(
    dense_model: Path, clothes: Pixels, rebuilt: Pixels, tmp_path: Path
) -> None:
    folder = tmp_path / "images"
    # Another order than that of the pixels, and two names that differ in their suffix alone.
    names = ["a.bmp", "a.png", "deep/er/b.PNG", "deep/a.png", "ärmel/c d.tif", "z.png"]
    for name, image in zip(names, clothes[:, :, :, 0], strict=False):
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(image).save(folder / name)
    shutil.copy(folder / "z.png", folder / "deep" / "broken.png")
    with (folder / "deep" / "broken.png").open("r+b") as file:
        file.truncate(200)
    summary = compress(folder, dense_model, tmp_path / "a")
    assert (summary["images"], summary["unreadable"]) == (6, 1)
    assert summary["unreadable_names"] == ["deep/broken.png: is cut off"]

    assert decompress(tmp_path / "a", tmp_path / "out.parquet")["images"] == 6
    rows = pq.read_table(tmp_path / "out.parquet").to_pylist()
    assert [row["path"] for row in rows] == sorted(names)
    decompress(tmp_path / "a", tmp_path / "out")
    written = {name: name if name.lower().endswith(".png") else f"{name}.png" for name in names}
    found = {path.relative_to(tmp_path / "out").as_posix() for path in tmp_path.glob("out/**/*.*")}
    assert found == set(written.values())
    for name, expected in zip(names, rebuilt, strict=False):
        (row,) = [row for row in rows if row["path"] == name]
        for png in (tmp_path / "out" / written[name], io.BytesIO(row["image"]["bytes"])):
            with Image.open(png) as image:
                np.testing.assert_array_equal(np.asarray(image), expected[:, :, 0])


def test_only_decodes_what_it_needs(
    archive: Path, rebuilt: Pixels, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    unpacked, decoded = [], []
    unpack, decode = blocks.unpack, Engine.decode

    def counting_unpack(frame, prior, code):
        unpacked.append(frame)
        return unpack(frame, prior, code)

    def counting_decode(self, codes, height, width):
        decoded.append(len(codes))
        return decode(self, codes, height, width)

    monkeypatch.setattr(blocks, "unpack", counting_unpack)
    monkeypatch.setattr(Engine, "decode", counting_decode)
    summary = decompress(archive, tmp_path / "out.npy", only="0030[0-4]")
    assert summary["images"] == 5
    assert len(unpacked) == 1 and decoded == [5]
    np.testing.assert_array_equal(np.load(tmp_path / "out.npy"), rebuilt[300:305, :, :, 0])
    with pytest.raises(DataError, match=r"no image in .* has a name that matches 'x\*'"):
        decompress(archive, tmp_path / "none.npy", only="x*")
    assert len(unpacked) == 1 and [path.name for path in tmp_path.iterdir()] == ["out.npy"]


# What it costs


def test_the_payload_is_within_two_percent_of_the_ideal(
    dense_model: Path, clothes: Pixels, tmp_path: Path
) -> None:
    summary = compress(clothes, dense_model, tmp_path / "a")
    assert summary["ideal_bytes"] <= summary["payload_bytes"] <= 1.02 * summary["ideal_bytes"]
    model = Model.open(dense_model)
    codes = Engine(model).encode(clothes)
    assert summary["ideal_bytes"] == pytest.approx(model.prior.ideal_bits(codes) / 8, abs=1)


def test_the_psnr_is_that_of_the_pixels_that_come_back(
    dense_model: Path, clothes: Pixels, tmp_path: Path
) -> None:
    summary = compress(clothes, dense_model, tmp_path / "a", measure=True)
    decompress(tmp_path / "a", tmp_path / "out.npy")
    found = np.load(tmp_path / "out.npy")[..., None].astype(np.float64)
    psnr = 10 * np.log10(255**2 / np.square(clothes - found).mean())
    assert summary["psnr"] == pytest.approx(psnr, abs=1e-4)


def test_measuring_changes_no_byte(
    archive: Path, dense_model: Path, clothes: Pixels, tmp_path: Path
) -> None:
    compress(clothes[:600], dense_model, tmp_path / "a", measure=True)
    assert contents(tmp_path / "a") == contents(archive)


# A job that is killed

SLOW = """
import sys, time
from compressor.archive import compress as verb
from compressor.archive import writer
writer.PART_IMAGES = 256
pack = verb.pack_images
def slow(*images):
    time.sleep(0.1)
    return pack(*images)
verb.pack_images = slow
verb.compress(*sys.argv[1:])
"""


def test_a_killed_job_resumes_to_the_same_bytes(
    dense_model: Path, clothes: Pixels, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    data = tmp_path / "clothes.npy"
    np.save(data, np.concatenate([clothes, clothes[::-1]]))
    process = subprocess.Popen(
        [sys.executable, "-c", SLOW, *map(str, (data, dense_model, tmp_path / "a"))]
    )
    while not (tmp_path / ".a.partial" / "archive" / "items" / "part-00001.parquet").exists():
        assert process.poll() is None
        time.sleep(0.002)
    process.send_signal(signal.SIGKILL)
    assert process.wait() == -signal.SIGKILL
    assert sorted(os.listdir(tmp_path)) == [".a.partial", "clothes.npy"]  # noqa: PTH208

    monkeypatch.setattr("compressor.archive.writer.PART_IMAGES", 256)
    encoded = []
    encode = Engine.encode
    monkeypatch.setattr(
        Engine, "encode", lambda self, pixels: encoded.append(len(pixels)) or encode(self, pixels)
    )
    resumed = compress(data, dense_model, tmp_path / "a", resume=True)
    assert sum(encoded) < 2000
    whole = compress(data, dense_model, tmp_path / "whole")
    assert contents(tmp_path / "a") == contents(tmp_path / "whole")
    assert len(list((tmp_path / "a" / "blocks").glob("*.bin"))) == 8
    for key in ("images", "raw_bytes", "ideal_bytes", "payload_bytes", "archive_bytes"):
        assert resumed[key] == whole[key]
    assert sorted(os.listdir(tmp_path)) == ["a", "clothes.npy", "whole"]  # noqa: PTH208
    assert verify(tmp_path / "a")["ok"]


def test_the_psnr_of_a_resumed_job_covers_all_of_it(
    dense_model: Path, clothes: Pixels, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("compressor.archive.writer.PART_IMAGES", 256)
    whole = compress(clothes, dense_model, tmp_path / "whole", measure=True)
    encode, calls = Engine.encode, []

    def failing(self, pixels):
        calls.append(pixels)
        if len(calls) == 4:
            raise KeyboardInterrupt
        return encode(self, pixels)

    monkeypatch.setattr(Engine, "encode", failing)
    with pytest.raises(KeyboardInterrupt):
        compress(clothes, dense_model, tmp_path / "a", measure=True)
    assert list(tmp_path.glob(".a.partial/archive/items/*"))
    monkeypatch.setattr(Engine, "encode", encode)
    resumed = compress(clothes, dense_model, tmp_path / "a", measure=True, resume=True)
    assert resumed["psnr"] == whole["psnr"] and resumed["images"] == 1000


# The model inside


def test_a_damaged_model_inside_is_replaced_by_a_copy(
    archive: Path, dense_model: Path, rebuilt: Pixels, tmp_path: Path
) -> None:
    damaged = shutil.copytree(archive, tmp_path / "a")
    with (damaged / "model" / "decoder.onnx.packed").open("r+b") as file:
        file.seek(1000)
        file.write(b"damage")
    with pytest.raises(ArchiveError, match=r"model inside .* is damaged .*give the model"):
        decompress(damaged, tmp_path / "out.npy")
    summary = decompress(damaged, tmp_path / "out.npy", model=dense_model)
    assert summary["images"] == 600
    np.testing.assert_array_equal(np.load(tmp_path / "out.npy"), rebuilt[:600, :, :, 0])


def test_an_archive_without_its_model_asks_for_it(
    archive: Path, dense_model: Path, clothes: Pixels, rebuilt: Pixels, tmp_path: Path
) -> None:
    summary = compress(clothes[:600], dense_model, tmp_path / "a", embed=False)
    assert summary["model_bytes"] == 0
    assert not (tmp_path / "a" / "model").exists()
    told, of_whole = inspect(tmp_path / "a"), inspect(archive)
    assert told["model_digest"] == Model.open(dense_model).digest and told["code"] is None
    differing = {key for key in told if told[key] != of_whole[key]}
    assert differing == {"model_bytes", "code"} and told.keys() == of_whole.keys()
    with pytest.raises(ArchiveError, match=r"has no model inside; give the model"):
        decompress(tmp_path / "a", tmp_path / "out.npy")
    assert not verify(tmp_path / "a")["ok"] and verify(tmp_path / "a", dense_model)["ok"]
    decompress(tmp_path / "a", tmp_path / "out.npy", model=dense_model)
    np.testing.assert_array_equal(np.load(tmp_path / "out.npy"), rebuilt[:600, :, :, 0])
    decompress(tmp_path / "a", tmp_path / "inside.npy", model=archive / "model")
    np.testing.assert_array_equal(np.load(tmp_path / "inside.npy"), rebuilt[:600, :, :, 0])
