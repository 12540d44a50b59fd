"""Real images from the bundled sample, and sources read to their ends."""

from __future__ import annotations

import io
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from compressor.data.images import Images, Pixels, Source

SAMPLE = Path(__file__).parents[2] / "examples" / "data" / "fashion_mnist.npz"


@pytest.fixture(scope="session")
def clothes() -> Pixels:
    """(100, 28, 28) uint8."""
    with np.load(SAMPLE) as sample:
        return np.array(sample["test"][:100])


@pytest.fixture(scope="session")
def photo(clothes: Pixels) -> Pixels:
    """(84, 140, 3) uint8: three sheets of clothes as the colours of one image."""
    sheet = clothes[:45].reshape(3, 15, 28, 28)
    return sheet.reshape(3, 3, 5, 28, 28).transpose(1, 3, 2, 4, 0).reshape(84, 140, 3).copy()


@pytest.fixture(scope="session")
def png() -> Callable[[Pixels], bytes]:
    def encode(pixels: Pixels) -> bytes:
        file = io.BytesIO()
        Image.fromarray(pixels).save(file, "PNG")
        return file.getvalue()

    return encode


class Read:
    """All rows of a source: names, pixels by position (None if unreadable), reasons."""

    def __init__(self, source: Source, size: int = 7, start: int = 0) -> None:
        self.names: list[str] = []
        self.pixels: list[Pixels | None] = []
        self.unreadable: dict[int, str] = {}
        self.chunks: list[Images] = []
        sizes = []
        for chunk in list(source.chunks(size, start)):
            assert chunk.start == start + len(self.names)
            (images,) = chunk.load()
            assert len(images.names) == chunk.count
            pixels: dict[int, Pixels] = {}
            for group in images.groups:
                kind = group.pixels.dtype, group.pixels.ndim
                assert kind in ((np.uint8, 4), (np.float32, 2))
                assert len(group.positions) == len(group.pixels)
                assert not pixels.keys() & set(group.positions.tolist())
                pixels |= zip(group.positions.tolist(), group.pixels, strict=True)
            assert pixels.keys() | images.unreadable.keys() == set(range(chunk.count))
            assert not pixels.keys() & images.unreadable.keys()
            self.unreadable |= {
                chunk.start + position: reason for position, reason in images.unreadable.items()
            }
            self.names += images.names
            self.pixels += [pixels.get(position) for position in range(chunk.count)]
            self.chunks.append(images)
            sizes.append(chunk.count)
        assert all(count == size for count in sizes[:-1]) and all(sizes)
        assert source.count() in (None, start + len(self.names))


@pytest.fixture(scope="session")
def read() -> type[Read]:
    return Read
