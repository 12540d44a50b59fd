"""compress --min-psnr and --measurements: no image comes back worse than was asked for."""

from __future__ import annotations

import json
import re
import shutil
import sys
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow.csv
import pyarrow.parquet as pq
import pytest
from PIL import Image

from compressor.archive.blocks import scan
from compressor.archive.reader import Archive
from compressor.codecs import image_codecs, quality
from compressor.data.images import Pixels
from compressor.engine.engine import Engine
from compressor.errors import ConfigError, MissingDependency, OutputError
from compressor.model import Model
from compressor.verbs import compress, decompress, inspect, verify

DB = 11.0  # what the small model reaches for most clothes and for no letter


@pytest.fixture(scope="module")
def mixed(clothes: Pixels, letters: Pixels) -> Pixels:
    """400 clothes, and among them 150 letters, noise and images of one grey level."""
    noise = np.random.default_rng(0).integers(0, 256, (20, 28, 28, 1), np.uint8)
    plain = np.stack([np.full((28, 28, 1), level, np.uint8) for level in (0, 1, 128, 255)])
    images = np.concatenate([clothes[:400], letters[:150], noise, plain])
    return images[np.random.default_rng(1).permutation(len(images))]


@pytest.fixture(scope="module")
def rebuilt(dense_model: Path, mixed: Pixels) -> Pixels:
    engine = Engine(Model.open(dense_model))
    return engine.decode(engine.encode(mixed), 28, 28)


@pytest.fixture(scope="module")
def bad(mixed: Pixels, rebuilt: Pixels) -> npt.NDArray[np.bool_]:
    """Which of them the model rebuilds worse than DB."""
    return decibels(mixed, rebuilt) < DB


@pytest.fixture(scope="module")
def archive(dense_model: Path, mixed: Pixels, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Stored as WebP without loss where the model fails: do not change it."""
    path = tmp_path_factory.mktemp("archive") / "a"
    compress(mixed, dense_model, path, min_psnr=DB)
    return path


def decibels(original: Pixels, back: Pixels) -> npt.NDArray[np.float64]:
    errors = np.square(original.astype(float) - back).mean((1, 2, 3))
    with np.errstate(divide="ignore"):
        found: npt.NDArray[np.float64] = 10 * np.log10(255**2 / errors)
    return found


def contents(folder: Path) -> dict[str, bytes]:
    return {
        path.relative_to(folder).as_posix(): path.read_bytes()
        for path in folder.rglob("*")
        if path.is_file()
    }


def restored(archive: Path, tmp_path: Path) -> Pixels:
    decompress(archive, tmp_path / "restored.npy", force=True)
    return np.load(tmp_path / "restored.npy")[..., None]  # type: ignore[no-any-return]


# What comes back


@pytest.mark.parametrize("fallback", ["webp-lossless", "webp", "jpegxl-lossless", "jpegxl"])
@pytest.mark.parametrize("min_psnr", [DB, 35.0])
def test_every_image_that_comes_back_has_the_psnr(
    dense_model: Path,
    mixed: Pixels,
    rebuilt: Pixels,
    tmp_path: Path,
    fallback: str,
    min_psnr: float,
) -> None:
    some, model_makes = mixed[:120], rebuilt[:120]
    archive = tmp_path / "a"
    told = compress(some, dense_model, archive, min_psnr=min_psnr, fallback=fallback)
    back = restored(archive, tmp_path)
    assert np.all(decibels(some, back) >= min_psnr)
    good = decibels(some, model_makes) >= min_psnr
    np.testing.assert_array_equal(back[good], model_makes[good])
    assert told["fallback_images"] == np.sum(~good) > 10
    if fallback.endswith("-lossless"):
        np.testing.assert_array_equal(back[~good], some[~good])
    assert verify(archive)["ok"]


def test_images_that_the_model_knows_stay_with_it(
    archive: Path, mixed: Pixels, rebuilt: Pixels, bad: npt.NDArray[np.bool_], tmp_path: Path
) -> None:
    assert 150 < bad.sum() < 450
    back = restored(archive, tmp_path)
    np.testing.assert_array_equal(back, np.where(bad[:, None, None, None], mixed, rebuilt))
    told = inspect(archive)["codecs"]
    assert told == {"model": np.sum(~bad), "webp-lossless": bad.sum()}
    items = pq.read_table(archive / "items" / "part-00000.parquet")
    expected = np.where(bad, "webp-lossless", "model")
    assert items["codec"].to_pylist() == expected.tolist()


def test_a_psnr_that_all_images_have_changes_no_byte_but_the_archives_id(
    dense_model: Path, clothes: Pixels, tmp_path: Path
) -> None:
    told = compress(clothes[:50], dense_model, tmp_path / "a", min_psnr=3)
    other = compress(clothes[:50], dense_model, tmp_path / "b")
    assert told["payload_bytes"] == other["payload_bytes"]
    assert (told["fallback_images"], told["fallback_bytes"]) == (0, 0)
    for name in ("a", "b"):
        items = pq.read_table(tmp_path / name / "items" / "part-00000.parquet")
        assert set(items["codec"].to_pylist()) == {"model"}
        ids = {header.archive for _, header in scan(tmp_path / name / "blocks" / "part-00000.bin")}
        assert ids == {json.loads((tmp_path / name / "manifest.json").read_text())["id"]}
    assert contents(tmp_path / "a" / "model") == contents(tmp_path / "b" / "model")


def test_a_model_that_no_image_needs_is_not_inside(
    dense_model: Path, clothes: Pixels, tmp_path: Path
) -> None:
    archive = tmp_path / "a"
    told = compress(clothes[:50], dense_model, archive, min_psnr=90)
    assert told["fallback_images"] == 50 and told["model_bytes"] < 3000
    inside = sorted(path.name for path in (archive / "model").iterdir())
    assert inside == ["manifest.json", "manifest.sha256"]
    assert verify(archive)["ok"] and inspect(archive)["images"] == 50
    np.testing.assert_array_equal(restored(archive, tmp_path), clothes[:50])
    (archive / "manifest.json").unlink()
    np.testing.assert_array_equal(restored(archive, tmp_path), clothes[:50])


def test_codes_without_their_model_are_lost_by_name(archive: Path, tmp_path: Path) -> None:
    broken = shutil.copytree(archive, tmp_path / "broken")
    for path in (broken / "model").glob("*.packed"):
        path.unlink()
    told = decompress(broken, tmp_path / "out.npy")
    assert told["images"] == inspect(archive)["codecs"]["webp-lossless"]
    assert "needs the model, which is damaged" in told["unreadable_names"][0]


def test_the_payload_is_that_of_the_codes_and_of_the_fallback(
    dense_model: Path, mixed: Pixels, bad: npt.NDArray[np.bool_], tmp_path: Path
) -> None:
    told = compress(mixed, dense_model, tmp_path / "a", min_psnr=DB)
    headers = [header for _, header in scan(tmp_path / "a" / "blocks" / "part-00000.bin")]
    lengths = {
        kind: sum(header.length for header in headers if (header.codec == "model") == kind)
        for kind in (True, False)
    }
    assert told["fallback_bytes"] == lengths[False]
    assert told["payload_bytes"] == lengths[True] + lengths[False]
    assert told["fallback_images"] == bad.sum()
    assert told["ideal_bytes"] <= lengths[True] <= 1.05 * told["ideal_bytes"]
    parts = told["model_bytes"] + told["items_bytes"] + told["payload_bytes"]
    assert parts < told["archive_bytes"] < parts + 5000
    assert told["raw_bytes"] == mixed.size


def test_images_of_several_sizes_come_back(mixed: Pixels, tmp_path: Path) -> None:
    model = Path(__file__).parents[1] / "golden" / "1" / "model"
    for number, image in enumerate(mixed[:60]):
        height, width = [(28, 28), (24, 28), (28, 20)][number % 3]
        path = tmp_path / "in" / f"{number:02d}.png"
        path.parent.mkdir(exist_ok=True)
        Image.fromarray(image[:height, :width, 0]).save(path)
    told = compress(tmp_path / "in", model, tmp_path / "a", min_psnr=15)
    assert 0 < told["fallback_images"] < 60
    decompress(tmp_path / "a", tmp_path / "out")
    for path in (tmp_path / "in").iterdir():
        one, other = (np.asarray(Image.open(f)) for f in (path, tmp_path / "out" / path.name))
        assert one.shape == other.shape
        assert decibels(one[None, ..., None], other[None, ..., None])[0] >= 15
    assert verify(tmp_path / "a")["ok"]


def test_one_image_is_read_without_other_blocks(
    archive: Path,
    mixed: Pixels,
    bad: npt.NDArray[np.bool_],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    opened = []
    content = Archive.content
    monkeypatch.setattr(
        Archive,
        "content",
        lambda self, part, block: opened.append(block) or content(self, part, block),
    )
    row = int(np.flatnonzero(bad)[-1])
    decompress(archive, tmp_path / "one.npy", only=f"{row:05d}")
    assert len(opened) == 1
    np.testing.assert_array_equal(np.load(tmp_path / "one.npy")[0], mixed[row, :, :, 0])


# Damage


def test_without_index_items_and_manifest_every_image_is_still_there(
    archive: Path, mixed: Pixels, rebuilt: Pixels, bad: npt.NDArray[np.bool_], tmp_path: Path
) -> None:
    expected = np.where(bad[:, None, None, None], mixed, rebuilt)
    copy = shutil.copytree(archive, tmp_path / "a")
    (copy / "blocks" / "part-00000.parquet").unlink()
    np.testing.assert_array_equal(restored(copy, tmp_path), expected)
    (copy / "items" / "part-00000.parquet").unlink()
    (copy / "manifest.json").unlink()
    back = restored(copy, tmp_path)
    assert sorted(map(bytes, back)) == sorted(map(bytes, expected))
    assert inspect(copy)["codecs"] == inspect(archive)["codecs"]
    assert not verify(copy)["ok"]


def test_damage_to_a_fallback_block_costs_its_images_alone(
    archive: Path, mixed: Pixels, tmp_path: Path
) -> None:
    copy = shutil.copytree(archive, tmp_path / "a")
    frames = copy / "blocks" / "part-00000.bin"
    offset, header = next((at, h) for at, h in scan(frames) if h.codec != "model")
    content = bytearray(frames.read_bytes())
    content[offset + 36 + header.length // 2] ^= 1
    frames.write_bytes(content)
    told = decompress(copy, tmp_path / "out.npy")
    assert told["unreadable"] == header.images and told["images"] == len(mixed) - header.images
    assert "is damaged: its payload does not have its checksum" in told["unreadable_names"][0]
    assert any("payload does not have its checksum" in line for line in verify(copy)["problems"])


def test_without_imagecodecs_an_archive_says_what_it_needs(
    dense_model: Path, mixed: Pixels, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    compress(mixed[:40], dense_model, tmp_path / "a", min_psnr=DB, fallback="jpegxl-lossless")
    monkeypatch.setitem(sys.modules, "imagecodecs", None)
    image_codecs.imagecodecs.cache_clear()
    for verb in (
        lambda: decompress(tmp_path / "a", tmp_path / "o"),
        lambda: verify(tmp_path / "a"),
    ):
        with pytest.raises(MissingDependency, match=r"pip install '\.\[jpegxl\]'"):
            verb()
    assert [path.name for path in tmp_path.iterdir()] == ["a"]
    assert inspect(tmp_path / "a")["codecs"]["jpegxl-lossless"] > 0
    image_codecs.imagecodecs.cache_clear()


# What is measured


@pytest.mark.parametrize("suffix", ["parquet", "csv"])
def test_measurements_are_those_of_the_pixels_that_come_back(
    dense_model: Path,
    mixed: Pixels,
    bad: npt.NDArray[np.bool_],
    tmp_path: Path,
    suffix: str,
) -> None:
    path = tmp_path / f"m.{suffix}"
    told = compress(mixed, dense_model, tmp_path / "a", min_psnr=DB, measurements=path)
    table = pq.read_table(path) if suffix == "parquet" else pyarrow.csv.read_csv(path)
    assert table.column_names == ["path", "psnr", "ssim", "codec"]
    back = restored(tmp_path / "a", tmp_path)
    found = table["psnr"].to_numpy()
    np.testing.assert_allclose(found, decibels(mixed, back))
    assert [int(name) for name in table["path"].to_pylist()] == list(range(len(mixed)))
    assert table["codec"].to_pylist() == np.where(bad, "webp-lossless", "model").tolist()
    similarity = table["ssim"].to_numpy()
    np.testing.assert_allclose(similarity, quality.ssim(mixed, back))
    error = np.square(mixed.astype(float) - back).mean()
    assert told["psnr"] == pytest.approx(10 * np.log10(255**2 / error), abs=1e-4)
    assert told["psnr_mean"] == pytest.approx(found[np.isfinite(found)].mean(), abs=1e-4)
    assert told["psnr_min"] == pytest.approx(found.min(), abs=1e-4) and found.min() >= DB
    assert told["exact_images"] == np.isinf(found).sum() >= bad.sum()
    assert told["ssim"] == pytest.approx(similarity.mean(), abs=1e-6)
    assert told["ssim_min"] == pytest.approx(similarity.min(), abs=1e-6)
    json.dumps(told, allow_nan=False)


def test_measuring_changes_no_byte_of_the_archive(
    archive: Path, dense_model: Path, mixed: Pixels, tmp_path: Path
) -> None:
    compress(mixed, dense_model, tmp_path / "a", min_psnr=DB, measure=True)
    assert contents(tmp_path / "a") == contents(archive)


def test_a_resumed_job_ends_the_same_and_measures_all_of_it(
    dense_model: Path, mixed: Pixels, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("compressor.archive.writer.PART_IMAGES", 256)

    def run(name: str, **options: object) -> dict[str, object]:
        return compress(
            mixed,
            dense_model,
            tmp_path / name,
            min_psnr=DB,
            measurements=tmp_path / f"{name}.parquet",
            **options,
        )

    whole, encode, calls = run("whole"), Engine.encode, []

    def failing(self, pixels):
        calls.append(pixels)
        if len(calls) == 3:
            raise KeyboardInterrupt
        return encode(self, pixels)

    monkeypatch.setattr(Engine, "encode", failing)
    with pytest.raises(KeyboardInterrupt):
        run("a")
    assert list(tmp_path.glob(".a.partial/archive/items/*"))
    assert not list(tmp_path.glob("*a.parquet*"))
    monkeypatch.setattr(Engine, "encode", encode)
    for changes in ({"min_psnr": 20.0}, {"min_psnr": DB, "fallback": "webp"}, {}):
        with pytest.raises(OutputError, match=r"had another .*(fallback|min-psnr); start anew"):
            compress(mixed, dense_model, tmp_path / "a", resume=True, **changes)
    resumed = run("a", resume=True)
    assert contents(tmp_path / "a") == contents(tmp_path / "whole")
    assert (tmp_path / "a.parquet").read_bytes() == (tmp_path / "whole.parquet").read_bytes()
    del resumed["seconds"], whole["seconds"]
    assert resumed == whole
    assert verify(tmp_path / "a")["ok"]


def test_without_scikit_image_psnr_is_measured_alone(
    dense_model: Path,
    clothes: Pixels,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    def run(name: str) -> dict[str, Any]:
        table = tmp_path / f"{name}.parquet"
        return compress(clothes[:9], dense_model, tmp_path / name, measure=True, measurements=table)

    whole = run("whole")
    monkeypatch.setitem(sys.modules, "skimage.metrics", None)
    quality.structural_similarity.cache_clear()
    alone = run("alone")
    assert alone["psnr"] == whole["psnr"] and alone["psnr_min"] == whole["psnr_min"]
    assert alone["ssim"] is None and alone["ssim_min"] is None and whole["ssim"] > 0
    lines = [r.getMessage() for r in caplog.records if "scikit-image" in r.getMessage()]
    assert len(lines) == 1 and "pip install '.[measure]' in compressor's checkout" in lines[0]
    table = pq.read_table(tmp_path / "alone.parquet")
    assert table["ssim"].null_count == 9 and table["psnr"].null_count == 0


# What is refused


def test_a_fallback_without_a_psnr_is_refused(
    dense_model: Path, clothes: Pixels, tmp_path: Path
) -> None:
    with pytest.raises(ConfigError, match=r"fallback=webp.* stores images below min_psnr"):
        compress(clothes, dense_model, tmp_path / "a", fallback="webp")


def test_vectors_are_refused(tmp_path: Path) -> None:
    golden = Path(__file__).parents[1] / "golden" / "1-vectors"
    rows = np.load(golden / "input.npy")
    for option, value in (("min_psnr", 30), ("measurements", tmp_path / "m.csv")):
        words = f"{option}={value} is for images; these are vectors: leave it out"
        with pytest.raises(ConfigError, match=re.escape(words)):
            compress(rows, golden / "model", tmp_path / "a", **{option: value})
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("name", ["m.txt", "m", "a/m.csv", "a"])
def test_measurements_of_another_kind_or_inside_of_the_archive_are_refused(
    dense_model: Path, clothes: Pixels, tmp_path: Path, name: str
) -> None:
    with pytest.raises(ConfigError, match="measurements="):
        compress(clothes, dense_model, tmp_path / "a", measurements=tmp_path / name)
    assert not list(tmp_path.iterdir())


def test_measurements_that_exist_are_replaced_only_with_force(
    dense_model: Path, clothes: Pixels, tmp_path: Path
) -> None:
    path = tmp_path / "m.csv"
    path.write_text("mine")
    with pytest.raises(OutputError, match="give force=True"):
        compress(clothes[:9], dense_model, tmp_path / "a", measurements=path)
    assert path.read_text() == "mine" and not (tmp_path / "a").exists()
    compress(clothes[:9], dense_model, tmp_path / "a", measurements=path, force=True)
    assert len(path.read_text().splitlines()) == 10
