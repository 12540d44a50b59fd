"""Folders of .tar and .npy files as one source."""

from __future__ import annotations

import io
import tarfile
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from compressor.data.images import Pixels
from compressor.data.sources import open_source
from compressor.errors import DataError

LENGTHS = [5, 1, 9, 4]


@pytest.fixture(params=["tar", "npy"])
def folder(tmp_path: Path, clothes: Pixels, request: pytest.FixtureRequest) -> Path:
    """19 images in four files, one of them in a folder of its own."""
    first = 0
    for number, length in enumerate(LENGTHS):
        path = tmp_path / ("b" if number == 2 else ".") / f"{number}.{request.param}"
        path.parent.mkdir(exist_ok=True)
        images = clothes[first : first + length]
        first += length
        if request.param == "npy":
            np.save(path, images)
            continue
        with tarfile.open(path, "w") as tar:
            for position, image in enumerate(images):
                file = io.BytesIO()
                Image.fromarray(image).save(file, "PNG")
                member = tarfile.TarInfo(f"{position:05d}.png")
                member.size = len(file.getvalue())
                tar.addfile(member, io.BytesIO(file.getvalue()))
    return tmp_path


def read(folder: Path, size: int, start: int = 0) -> tuple[list[str], Pixels]:
    names, pixels, expected = [], [], start
    for chunk in open_source(folder).chunks(size, start):
        assert chunk.start == expected and chunk.count <= size
        expected += chunk.count
        pieces = list(chunk.load())
        assert sum(len(images.names) for images in pieces) == chunk.count
        for images in pieces:
            names += images.names
            pixels += [group.pixels for group in images.groups]
    return names, np.concatenate(pixels) if pixels else np.empty(0, np.uint8)


@pytest.mark.parametrize("size", [1, 2, 4, 7, 19, 100])
def test_files_follow_each_other_and_chunks_do_not_end_with_them(
    folder: Path, clothes: Pixels, size: int
) -> None:
    order = [*range(6), *range(15, 19), *range(6, 15)]  # 0, 1, 3, b/2
    names, pixels = read(folder, size)
    assert np.array_equal(pixels[..., 0], clothes[order])
    suffix = next(folder.glob("0.*")).suffix
    assert len(set(names)) == 19 and names[5].startswith(f"1{suffix}/00000")
    assert names[-1].startswith(f"b/2{suffix}/00008")
    chunks = list(open_source(folder).chunks(size))
    assert [chunk.count for chunk in chunks[:-1]] == [size] * (len(chunks) - 1)
    for start in range(19):
        from_there = read(folder, size, start)
        assert from_there[0] == names[start:]
        assert np.array_equal(from_there[1], pixels[start:])


@pytest.mark.parametrize("start", [0, 3, 12])
def test_the_ends_of_files_are_known_when_they_have_been_passed(folder: Path, start: int) -> None:
    source = open_source(folder)
    for chunk in source.chunks(2, start):
        assert sum(shard.stop < chunk.start + chunk.count for shard in source.shards) == sum(
            stop < chunk.start + chunk.count for stop in (5, 6, 10, 19)
        )
    assert [shard.stop for shard in source.shards] == [5, 6, 10, 19]


def test_files_of_other_shapes_are_named(tmp_path: Path, clothes: Pixels) -> None:
    np.save(tmp_path / "a.npy", clothes[:3])
    np.save(tmp_path / "b.npy", clothes[:3, :20])
    with pytest.raises(DataError, match=r"b.npy has rows \(20, 28, 1\), .*a.npy has \(28, 28, 1\)"):
        open_source(tmp_path)
