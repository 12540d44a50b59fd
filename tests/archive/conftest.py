from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pytest

from compressor.archive.blocks import CodedImages, CodeGroup
from compressor.archive.writer import ArchiveWriter, pack_images
from compressor.entropy.prior import Prior
from compressor.manifests import file_entries
from compressor.model import Model, ModelManifest, PluginEntry, manifest_files
from compressor.spec import CodeSpec, ImageSpec

SAMPLE = Path(__file__).parents[2] / "examples" / "data" / "fashion_mnist.npz"
Pixels = npt.NDArray[np.uint8]
Coder = Callable[[Pixels], npt.NDArray[np.int32]]


def coarse_codes(images: Pixels) -> npt.NDArray[np.int32]:
    """Brightness and slopes of each 7x7 cell, in place of an encoder: (N, 3, h / 7, w / 7)."""
    n, height, width = images.shape
    cells = images.reshape(n, height // 7, 7, width // 7, 7).astype(np.int32)
    brightness = cells.mean((2, 4)) // 10
    down = cells[:, :, 4:].mean((2, 4)) // 16 - cells[:, :, :3].mean((2, 4)) // 16
    right = cells[..., 4:].mean((2, 4)) // 16 - cells[..., :3].mean((2, 4)) // 16
    return np.stack([brightness, down, right], 1).astype(np.int32)


@pytest.fixture(scope="session")
def images() -> Pixels:
    """2000 real images (2000, 28, 28)."""
    with np.load(SAMPLE) as sample:
        return sample["train"][:2000]


@pytest.fixture(scope="session")
def model(images: Pixels, tmp_path_factory: pytest.TempPathFactory) -> Model:
    """A model that takes any size that 7 divides; its decoder is never run here."""
    return make_model(tmp_path_factory.mktemp("model"), coarse_codes(images[:100]), b"decoder")


def graph_named(producer: bytes) -> bytes:
    """The bytes of an ONNX graph of one operator, written by ``producer``."""
    return b"\x12" + bytes([len(producer)]) + producer + b"\x3a\x08\x0a\x06\x22\x04Relu"


def make_model(folder: Path, codes: npt.NDArray[np.int32], decoder: bytes) -> Model:
    contents = {
        "decoder.onnx": graph_named(decoder * 9),
        "prior.bin": Prior.learn(codes).to_bytes(),
    }
    manifest = ModelManifest(
        plugin=PluginEntry(name="coarse", distribution="tests", version="1"),
        config={"cell": 7},
        data=ImageSpec(height=28, width=28, channels=1, stride=7),
        code=CodeSpec(shape=codes.shape[1:], stride=7),
        files=file_entries(contents),
    )
    for name, content in {**contents, **manifest_files(manifest)}.items():
        (folder / name).write_bytes(content)
    return Model.open(folder)


@pytest.fixture
def other_model(images: Pixels, tmp_path: Path) -> Model:
    """The same prior, another decoder: only the digest can tell it from ``model``."""
    (tmp_path / "other").mkdir()
    return make_model(tmp_path / "other", coarse_codes(images[:100]), b"another")


@pytest.fixture(scope="session")
def mixed(images: Pixels) -> dict[str, npt.NDArray[np.int32]]:
    """Codes of 700 images of three sizes, sizes mixed, by name."""
    sizes = [(28, 28), (14, 28), (28, 21)]
    return {
        f"clothes/{number:05d}.png": coarse_codes(image[None, :height, :width])[0]
        for number, image in enumerate(images[:700])
        for height, width in [sizes[number % 7 % 3]]
    }


@pytest.fixture(scope="session")
def chunks() -> Callable[..., Iterator[CodedImages]]:
    return chunks_of


def chunks_of(
    images: dict[str, npt.NDArray[np.int32]],
    size: int = 256,
    unreadable: tuple[str, ...] = (),
    start: int = 0,
) -> Iterator[CodedImages]:
    """What an engine makes of a source: chunks of images, in groups by size."""
    names = list(images)
    for first in range(start, len(names), size):
        chunk = names[first : first + size]
        missing = {at: "is broken" for at, name in enumerate(chunk) if name in unreadable}
        by_shape: dict[tuple[int, ...], list[int]] = {}
        for at, name in enumerate(chunk):
            if at not in missing:
                by_shape.setdefault(images[name].shape, []).append(at)
        groups = [
            CodeGroup(
                np.array(positions),
                7 * shape[1],
                7 * shape[2],
                np.stack([images[chunk[at]] for at in positions]),
            )
            for shape, positions in by_shape.items()
        ]
        yield CodedImages(chunk, groups, missing)


@pytest.fixture(scope="session")
def write(model: Model) -> Callable[..., ArchiveWriter]:
    def write_archive(
        path: Path,
        images: dict[str, npt.NDArray[np.int32]],
        *,
        unreadable: tuple[str, ...] = (),
        size: int = 256,
        source: str = "test",
        **options: bool,
    ) -> ArchiveWriter:
        with ArchiveWriter(path, model, {"source": source}, **options) as writer:
            for chunk in chunks_of(images, size, unreadable, writer.consumed):
                writer.add(pack_images(chunk, model.prior))
        return writer

    return write_archive


@pytest.fixture(scope="session")
def read() -> Callable[..., tuple[dict[str, npt.NDArray[np.int32]], dict[str, str]]]:
    """Names with codes, in order, and lost names with reasons."""

    def read_archive(archive, only=None):
        codes, lost = {}, {}
        for segment in archive.segments(only):
            loaded = segment.load()
            assert segment.count == len(loaded.names)
            at = {
                int(position): group.codes[row]
                for group in loaded.groups
                for row, position in enumerate(group.positions)
            }
            assert sorted([*at, *loaded.missing]) == list(range(segment.count))
            lost |= {loaded.names[position]: why for position, why in loaded.missing.items()}
            codes |= {loaded.names[position]: at[position] for position in sorted(at)}
        return codes, lost

    return read_archive


@pytest.fixture(scope="session")
def same() -> Callable[..., bool]:
    def equal(found, expected):
        return list(found) == list(expected) and all(
            np.array_equal(found[name], expected[name]) for name in expected
        )

    return equal
