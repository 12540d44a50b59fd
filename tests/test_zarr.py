"""The Zarr codec: what the engine makes of images comes back, chunk by chunk, or an error does."""

from __future__ import annotations

import json
import multiprocessing
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import zarr

import compressor.zarr
from compressor.archive.blocks import HEADER_SIZE, Header
from compressor.data.images import Pixels
from compressor.engine.engine import Engine
from compressor.errors import ArchiveError, ConfigError, ModelError
from compressor.model import Model
from compressor.verbs import compress
from compressor.zarr import AutoencoderCodec, use_model

GOLDEN = Path(__file__).parent / "golden"
MODEL, OTHER = GOLDEN / "1" / "model", GOLDEN / "1-discriminator" / "model"


@pytest.fixture(autouse=True)
def forgotten() -> Iterator[None]:
    """Models that a test made known are known to no other one."""
    yield
    compressor.zarr._moved.clear()
    compressor.zarr._opened.cache_clear()


@pytest.fixture(scope="module")
def rebuilt(clothes: Pixels) -> Callable[[Pixels], Pixels]:
    """What the model makes of images: g(f(x)), uint8 (N, 28, 28, 1)."""
    engine = Engine(Model.open(MODEL))
    return lambda images: engine.decode(engine.encode(images), 28, 28)


def create(path: Path, shape: tuple[int, ...], chunk: int, **options: Any) -> zarr.Array[Any]:
    settings = {"serializer": AutoencoderCodec(MODEL), "compressors": None, "dtype": "uint8"}
    settings["chunks"] = (chunk, *shape[1:])
    return zarr.create_array(path, shape=shape, **{**settings, **options})


def chunk_file(path: Path, number: int) -> Path:
    (file,) = path.glob(f"c/{number}/*/*/*") if (path / "c").exists() else ()
    return file


def test_a_group_gives_back_what_the_model_makes_of_its_images(
    clothes: Pixels, rebuilt: Callable[[Pixels], Pixels], tmp_path: Path
) -> None:
    group = zarr.create_group(tmp_path / "g.zarr")
    written = group.create_array(
        "clothes",
        shape=(300, 28, 28, 1),
        chunks=(256, 28, 28, 1),
        dtype="uint8",
        serializer=AutoencoderCodec(MODEL),
        compressors=None,
    )
    written[:] = clothes[:300]
    expected = rebuilt(clothes[:300])
    array = zarr.open_group(tmp_path / "g.zarr", mode="r")["clothes"]
    np.testing.assert_array_equal(array[:], expected)
    np.testing.assert_array_equal(array[250:260], expected[250:260])
    np.testing.assert_array_equal(array[299, 3:9, ::2, 0], expected[299, 3:9, ::2, 0])
    np.testing.assert_array_equal(array.oindex[[1, 299]], expected[[1, 299]])
    stored = [file for file in (tmp_path / "g.zarr").glob("clothes/c/**/*") if file.is_file()]
    assert len(stored) == 2
    assert sum(file.stat().st_size for file in stored) < clothes[:300].size / 10


def test_images_of_grey_need_no_axis_of_channels(
    clothes: Pixels, rebuilt: Callable[[Pixels], Pixels], tmp_path: Path
) -> None:
    array = create(tmp_path / "a", (20, 28, 28), 8)
    array[:] = clothes[:20, :, :, 0]
    np.testing.assert_array_equal(array[:], rebuilt(clothes[:20])[..., 0])


def test_chunks_of_more_images_than_a_frame_takes(
    clothes: Pixels, rebuilt: Callable[[Pixels], Pixels], tmp_path: Path
) -> None:
    array = create(tmp_path / "a", (600, 28, 28, 1), 600)
    array[:] = clothes[:600]
    np.testing.assert_array_equal(array[:], rebuilt(clothes[:600]))


def test_the_padding_of_the_last_chunk_costs_nothing(clothes: Pixels, tmp_path: Path) -> None:
    for name, chunk in (("padded", 256), ("whole", 44)):
        create(tmp_path / name, (44, 28, 28, 1), chunk)[:] = clothes[:44]
    padded, whole = (chunk_file(tmp_path / name, 0) for name in ("padded", "whole"))
    assert padded.read_bytes() == whole.read_bytes()


@pytest.mark.parametrize("fill", [0, 7, 255])
def test_what_was_never_written_is_exactly_the_fill_value(
    clothes: Pixels, rebuilt: Callable[[Pixels], Pixels], tmp_path: Path, fill: int
) -> None:
    array = create(tmp_path / "a", (100, 28, 28, 1), 32, fill_value=fill)
    array[5:9] = clothes[:4]
    array[20:64] = clothes[4:48]
    array[99] = np.full((28, 28, 1), fill, np.uint8)
    expected = np.full(array.shape, fill, np.uint8)
    expected[5:9] = rebuilt(rebuilt(clothes[:4]))  # its chunk was written twice
    expected[20:64] = rebuilt(clothes[4:48])
    np.testing.assert_array_equal(array[:], expected)
    assert not (tmp_path / "a" / "c" / "3").exists()


def test_a_chunk_of_the_fill_value_may_be_written(tmp_path: Path) -> None:
    array = create(tmp_path / "a", (8, 28, 28, 1), 8, config={"write_empty_chunks": True})
    array[:] = np.zeros(array.shape, np.uint8)
    assert chunk_file(tmp_path / "a", 0).exists()
    assert not array[:].any()


def test_it_goes_into_shards_and_under_compressors(
    clothes: Pixels, rebuilt: Callable[[Pixels], Pixels], tmp_path: Path
) -> None:
    options = {"shards": (64, 28, 28, 1), "compressors": zarr.codecs.GzipCodec()}
    array = create(tmp_path / "a", (100, 28, 28, 1), 16, **options)
    array[:] = clothes[:100]
    np.testing.assert_array_equal(array[:], rebuilt(clothes[:100]))


def test_chunks_may_be_tiles_of_larger_images(
    clothes: Pixels, rebuilt: Callable[[Pixels], Pixels], tmp_path: Path
) -> None:
    array = create(tmp_path / "a", (5, 56, 56, 1), 4, chunks=(4, 28, 28, 1))
    tiles = clothes[:20].reshape(5, 2, 2, 28, 28)
    array[:] = tiles.swapaxes(2, 3).reshape(5, 56, 56, 1)
    found = array[:].reshape(5, 2, 28, 2, 28).swapaxes(2, 3).reshape(20, 28, 28, 1)
    np.testing.assert_array_equal(found, rebuilt(clothes[:20]))


# The model


def test_another_model_is_refused(clothes: Pixels, tmp_path: Path) -> None:
    model = shutil.copytree(MODEL, tmp_path / "model")
    array = create(tmp_path / "a", (4, 28, 28, 1), 4, serializer=AutoencoderCodec(model))
    array[:] = clothes[:4]
    shutil.rmtree(model)
    shutil.copytree(OTHER, model)
    compressor.zarr._opened.cache_clear()
    array = zarr.open_array(tmp_path / "a")
    for using in (lambda: array[:], lambda: array.__setitem__(0, clothes[0])):
        with pytest.raises(ModelError, match="not the model that the array was written with"):
            using()


def test_a_model_that_moved_is_found_by_its_digest(
    clothes: Pixels, rebuilt: Callable[[Pixels], Pixels], tmp_path: Path
) -> None:
    model = shutil.copytree(MODEL, tmp_path / "model")
    array = create(tmp_path / "a", (4, 28, 28, 1), 4, serializer=AutoencoderCodec(model))
    array[:] = clothes[:4]
    model.rename(tmp_path / "moved")
    compressor.zarr._opened.cache_clear()
    array = zarr.open_array(tmp_path / "a")
    assert array.shape == (4, 28, 28, 1)  # metadata need no model
    with pytest.raises(ModelError, match=r"there is no model at .*/model; .*use_model"):
        array[:]
    assert use_model(tmp_path / "moved") == Model.open(MODEL).digest
    np.testing.assert_array_equal(array[:], rebuilt(clothes[:4]))


def test_the_model_inside_an_archive_reads_but_does_not_write(
    clothes: Pixels, rebuilt: Callable[[Pixels], Pixels], tmp_path: Path
) -> None:
    create(tmp_path / "a", (4, 28, 28, 1), 4)[:] = clothes[:4]
    compress(clothes[:4], MODEL, tmp_path / "archive")
    use_model(tmp_path / "archive" / "model")
    array = zarr.open_array(tmp_path / "a")
    np.testing.assert_array_equal(array[:], rebuilt(clothes[:4]))
    with pytest.raises(ModelError, match=r"has no encoder\.onnx"):
        array[:] = clothes[:4]
    np.testing.assert_array_equal(array[:], rebuilt(clothes[:4]))


@pytest.mark.parametrize(
    "shape, options, message",
    [
        ((8, 28, 28, 3), {}, "has 3 channels, the model takes 1"),
        ((8, 28), {}, "takes \\(n, H, W, C\\)"),
        ((8, 28, 28, 1), {"dtype": "float32"}, "stores uint8, not float32"),
    ],
)
def test_an_array_that_cannot_hold_such_images_is_refused(
    tmp_path: Path, shape: tuple[int, ...], options: dict[str, Any], message: str
) -> None:
    with pytest.raises(ConfigError, match=message):
        create(tmp_path / "a", shape, 8, **options)
    assert not list(tmp_path.glob("a/**/zarr.json"))


def test_a_model_of_vectors_is_refused(tmp_path: Path) -> None:
    codec = AutoencoderCodec(GOLDEN / "1-vectors" / "model")
    with pytest.raises(ConfigError, match="is a model of vectors"):
        create(tmp_path / "a", (8, 28, 28, 1), 8, serializer=codec)


def test_settings_it_does_not_know_are_refused(clothes: Pixels, tmp_path: Path) -> None:
    create(tmp_path / "a", (4, 28, 28, 1), 4)[:] = clothes[:4]
    file = tmp_path / "a" / "zarr.json"
    text = json.loads(file.read_text())
    text["codecs"][0]["configuration"]["quality"] = 90
    file.write_text(json.dumps(text))
    with pytest.raises(ConfigError, match="model and digest"):
        zarr.open_array(tmp_path / "a")


# Damage


@pytest.mark.parametrize("at", range(0, 120, 7))
def test_no_changed_byte_gives_other_pixels(clothes: Pixels, tmp_path: Path, at: int) -> None:
    array = create(tmp_path / "a", (8, 28, 28, 1), 8)
    array[:] = clothes[:8]
    file = chunk_file(tmp_path / "a", 0)
    content = bytearray(file.read_bytes())
    content[at % len(content)] ^= 0x10
    file.write_bytes(content)
    with pytest.raises(ArchiveError, match="chunk"):
        array[:]


def test_a_chunk_that_is_cut_short_is_refused(clothes: Pixels, tmp_path: Path) -> None:
    array = create(tmp_path / "a", (8, 28, 28, 1), 8)
    array[:] = clothes[:8]
    file = chunk_file(tmp_path / "a", 0)
    content = file.read_bytes()
    for size in (1, HEADER_SIZE - 1, HEADER_SIZE, len(content) - 4):
        file.write_bytes(content[:size])
        with pytest.raises(ArchiveError, match="chunk"):
            array[:]


def test_a_frame_that_leaves_the_chunk_is_refused(clothes: Pixels, tmp_path: Path) -> None:
    array = create(tmp_path / "a", (8, 28, 28, 1), 8)
    array[:] = clothes[:8]
    file = chunk_file(tmp_path / "a", 0)
    content = file.read_bytes()
    header = Header.parse(content)
    assert header is not None
    file.write_bytes(header._replace(number=1).to_bytes() + content[HEADER_SIZE:])
    with pytest.raises(ArchiveError, match="does not have what the array's metadata says"):
        array[:]


# Other processes


def test_a_fresh_process_finds_the_codec_without_importing_compressor(
    clothes: Pixels, rebuilt: Callable[[Pixels], Pixels], tmp_path: Path
) -> None:
    create(tmp_path / "a", (30, 28, 28, 1), 16)[:] = clothes[:30]
    code = """
import sys, numpy, zarr
assert "compressor" not in sys.modules
numpy.save(sys.argv[2], zarr.open_array(sys.argv[1], mode="r")[:])
assert "torch" not in sys.modules and "onnx" not in sys.modules
"""
    command = [sys.executable, "-c", code, tmp_path / "a", tmp_path / "out.npy"]
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    np.testing.assert_array_equal(np.load(tmp_path / "out.npy"), rebuilt(clothes[:30]))


def opened_in_a_fork(path: Path) -> bool:
    """Whether a session of the parent is at hand in its child."""
    return compressor.zarr._opened.cache_info().currsize > 0


def test_a_fork_makes_its_own_sessions(clothes: Pixels, tmp_path: Path) -> None:
    create(tmp_path / "a", (4, 28, 28, 1), 4)[:] = clothes[:4]
    assert opened_in_a_fork(tmp_path)  # here, in the parent, there is one
    with multiprocessing.get_context("fork").Pool(1) as pool:
        assert not pool.apply(opened_in_a_fork, (tmp_path,))
