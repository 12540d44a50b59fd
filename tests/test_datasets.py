"""Archives as PyTorch datasets: the pixels of decompress, each once, in whatever process."""

from __future__ import annotations

import logging
import os
import pickle
import shutil
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch.utils.data import DataLoader, Subset

from compressor.archive import blocks, writer
from compressor.archive.items import Index
from compressor.data.images import Pixels
from compressor.datasets import ArchiveDataset, ArchiveStream
from compressor.engine.engine import Engine
from compressor.entropy.prior import Prior
from compressor.errors import ArchiveError, ConfigError
from compressor.spec import CodeSpec
from compressor.verbs import compress, decompress, encode

GOLDEN = Path(__file__).parent / "golden"
MODEL = GOLDEN / "1" / "model"
NAMES = [f"{number:05d}" for number in range(600)]

# PyTorch warns where workers are more than cores, whatever the machine.
pytestmark = pytest.mark.filterwarnings("ignore:This DataLoader will create")


@pytest.fixture(scope="module")
def archive(clothes: Pixels, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """600 images in two parts of one and two blocks: do not change it."""
    path = tmp_path_factory.mktemp("archive") / "a"
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(writer, "PART_IMAGES", 512)
        compress(clothes[:600], MODEL, path)
    assert len(list((path / "blocks").glob("*.bin"))) == 2
    return path


@pytest.fixture(scope="module")
def rebuilt(archive: Path, tmp_path_factory: pytest.TempPathFactory) -> Pixels:
    """What decompress gives of it, (600, 28, 28)."""
    path = tmp_path_factory.mktemp("rebuilt") / "out.npy"
    decompress(archive, path)
    return np.load(path)


@pytest.fixture
def damaged(archive: Path, tmp_path: Path) -> Path:
    """A bit of the second block's payload is another one: images 256 to 511 are lost."""
    path = shutil.copytree(archive, tmp_path / "damaged")
    index = Index.from_bytes((path / "blocks" / "part-00000.parquet").read_bytes())
    frames = path / "blocks" / "part-00000.bin"
    content = bytearray(frames.read_bytes())
    content[index.offset[1] + blocks.HEADER_SIZE + 5] ^= 1
    frames.write_bytes(content)
    return path


class Work:
    """Counts blocks that are entropy-decoded and images that go through the decoder."""

    def __init__(self, patch: pytest.MonkeyPatch) -> None:
        self.blocks = self.images = 0
        unpack, decode = blocks.unpack, Engine.decode

        def unpacking(*arguments: Any) -> Any:
            self.blocks += 1
            return unpack(*arguments)

        def decoding(engine: Engine, codes: Any, *size: int) -> Any:
            self.images += len(codes)
            return decode(engine, codes, *size)

        patch.setattr(blocks, "unpack", unpacking)
        patch.setattr(Engine, "decode", decoding)


def names_of(batches: Any) -> list[str]:
    return [name for _, names in batches for name in names]


# Random access


def test_each_item_is_the_image_that_decompress_gives(archive: Path, rebuilt: Pixels) -> None:
    dataset = ArchiveDataset(archive)
    assert len(dataset) == 600
    for at in (0, 255, 256, 511, 512, 599, -1, -600):
        assert dataset[at].dtype == torch.uint8 and dataset[at].shape == (1, 28, 28)
        np.testing.assert_array_equal(dataset[at][0], rebuilt[at])
    for at in (600, -601):
        with pytest.raises(IndexError, match="600"):
            dataset[at]


def test_an_item_has_its_name_and_goes_through_the_transform(
    archive: Path, rebuilt: Pixels
) -> None:
    dataset = ArchiveDataset(archive, names=True, transform=lambda image: image.float() / 255)
    image, name = dataset[41]
    assert name == "00041"
    np.testing.assert_array_equal(image[0], np.float32(rebuilt[41]) / np.float32(255))


def test_codes_are_those_of_encode_and_need_no_decoder(
    archive: Path, clothes: Pixels, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    encode(clothes[:600], MODEL, tmp_path / "codes.npy")
    expected = np.load(tmp_path / "codes.npy")
    monkeypatch.delattr(Engine, "decode")
    dataset = ArchiveDataset(archive, codes=True)
    assert dataset[0].dtype == torch.int32
    np.testing.assert_array_equal(torch.stack([dataset[at] for at in range(600)]), expected)
    stream = ArchiveStream(archive, codes=True, shuffle=False)
    np.testing.assert_array_equal(torch.stack(list(stream)), expected)


def test_vectors_are_float32_rows() -> None:
    expected = np.load(GOLDEN / "1-vectors" / "decoded.npy")
    dataset = ArchiveDataset(GOLDEN / "1-vectors" / "archive")
    assert dataset[0].dtype == torch.float32 and dataset[0].shape == expected.shape[1:]
    np.testing.assert_allclose(torch.stack(list(dataset)), expected, atol=1e-3)


def test_images_of_fallback_codecs_come_like_others_but_have_no_code() -> None:
    pytest.importorskip("imagecodecs")
    path, expected = GOLDEN / "2-fallback" / "archive", np.load(GOLDEN / "2-fallback/decoded.npy")
    for items in (ArchiveDataset(path, names=True), ArchiveStream(path, names=True)):
        found = {int(name.partition(".")[0]): image[0].numpy() for image, name in items}
        assert sorted(found) == list(range(40))
        both = np.stack([found[at] for at in range(40)]).astype(int), expected.reshape(40, 28, 28)
        assert np.abs(both[0] - both[1]).max() <= 1
    codes = ArchiveDataset(path, codes=True)
    assert codes[6].dtype == torch.int32
    with pytest.raises(ArchiveError, match=r"07\.png is without a code: a fallback codec stored"):
        codes[7]
    assert len(list(ArchiveStream(path, codes=True))) == 28


def test_one_by_one_each_block_is_decoded_once(
    archive: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    dataset, work = ArchiveDataset(archive), Work(monkeypatch)
    for at in range(600):
        dataset[at]
    assert (work.blocks, work.images) == (3, 600)
    small = ArchiveDataset(archive, cached_blocks=1)
    work.blocks = 0
    for at in (0, 1, 300, 2):
        small[at]
    assert work.blocks == 3


def test_a_batch_decodes_only_its_own_images(
    archive: Path, rebuilt: Pixels, monkeypatch: pytest.MonkeyPatch
) -> None:
    dataset, work = ArchiveDataset(archive), Work(monkeypatch)
    wanted = [599, 3, 300, 3, 1]
    (batch,) = DataLoader(Subset(dataset, wanted), batch_size=5)
    np.testing.assert_array_equal(batch[:, 0], rebuilt[wanted])
    assert (work.blocks, work.images) == (3, 4)


def test_an_item_that_is_changed_in_place_stays_whole_in_the_dataset(
    archive: Path, rebuilt: Pixels
) -> None:
    dataset = ArchiveDataset(archive)
    dataset[7].zero_()
    np.testing.assert_array_equal(dataset[7][0], rebuilt[7])


def test_a_damaged_block_is_an_error_that_names_it(damaged: Path, rebuilt: Pixels) -> None:
    dataset = ArchiveDataset(damaged)
    np.testing.assert_array_equal(dataset[255][0], rebuilt[255])
    with pytest.raises(ArchiveError, match=r"damaged: 00256 is lost: block 1 of part 0 is damaged"):
        dataset[256]
    with pytest.raises(ArchiveError, match="00400 is lost: block 1 of part 0"):
        dataset.__getitems__([0, 400])


def test_an_archive_without_a_model_takes_the_one_that_made_it(
    clothes: Pixels, rebuilt: Pixels, tmp_path: Path
) -> None:
    compress(clothes[:10], MODEL, tmp_path / "a", embed=False)
    with pytest.raises(ArchiveError, match="has no model inside"):
        ArchiveDataset(tmp_path / "a")
    np.testing.assert_array_equal(ArchiveDataset(tmp_path / "a", model=MODEL)[9][0], rebuilt[9])
    with pytest.raises(ArchiveError, match="made with another model"):
        ArchiveStream(tmp_path / "a", model=GOLDEN / "1-discriminator" / "model")


# The stream


def test_every_image_comes_once_an_epoch_under_its_name(archive: Path, rebuilt: Pixels) -> None:
    stream = ArchiveStream(archive, names=True, seed=3)
    assert len(stream) == 600
    items = list(stream)
    assert sorted(name for _, name in items) == NAMES
    for image, name in items:
        np.testing.assert_array_equal(image[0], rebuilt[int(name)])


def test_the_order_is_a_function_of_seed_and_epoch(archive: Path) -> None:
    def order(seed: int, epoch: int) -> list[str]:
        stream = ArchiveStream(archive, names=True, codes=True, seed=seed)
        stream.set_epoch(epoch)
        return [name for _, name in stream]

    orders = [order(seed, epoch) for seed in (0, 1) for epoch in (0, 1)]
    assert len({tuple(names) for names in orders}) == 4
    assert orders[3] == order(1, 1)
    assert all(sorted(names) == NAMES for names in orders)


def test_images_are_shuffled_among_the_blocks_of_the_buffer_alone(archive: Path) -> None:
    def runs(buffer: int) -> int:
        """How often the next image is of another block."""
        stream = ArchiveStream(archive, names=True, codes=True, buffer_blocks=buffer)
        of_block = [int(name) // 256 for _, name in stream]
        return sum(a != b for a, b in pairwise(of_block))

    assert runs(1) == 2
    assert runs(3) > 200  # of 599, about 384 where all are mixed


def test_without_shuffling_the_order_is_that_of_the_source(archive: Path) -> None:
    stream = ArchiveStream(archive, names=True, codes=True, shuffle=False, buffer_blocks=1)
    assert [name for _, name in stream] == NAMES
    assert names_of(DataLoader(stream, batch_size=100, num_workers=1)) == NAMES


def test_images_of_several_sizes_come_once_each(clothes: Pixels, tmp_path: Path) -> None:
    from PIL import Image

    folder = tmp_path / "images"
    folder.mkdir()
    for number, image in enumerate(clothes[:30, :, :, 0]):
        Image.fromarray(image[: 28 if number % 3 else 20]).save(folder / f"{number:02d}.png")
    compress(folder, MODEL, tmp_path / "a")
    decompress(tmp_path / "a", tmp_path / "out")
    for items in (
        ArchiveStream(tmp_path / "a", names=True),
        ArchiveDataset(tmp_path / "a", names=True),
    ):
        found = {name: image for image, name in items}
        assert sorted(found) == sorted(path.name for path in folder.iterdir())
        for name, image in found.items():
            np.testing.assert_array_equal(image[0], Image.open(tmp_path / "out" / name))


@pytest.mark.parametrize("workers", [0, 1, 2, 5])
def test_ranks_and_workers_share_without_overlap(archive: Path, workers: int) -> None:
    found: list[str] = []
    lengths = []
    for rank in range(3):
        stream = ArchiveStream(archive, names=True, codes=True, seed=1, rank=rank, world_size=3)
        names = names_of(DataLoader(stream, batch_size=50, num_workers=workers))
        assert len(names) == len(stream)
        lengths.append(len(names))
        found += names
    assert lengths == [200, 200, 200]
    assert sorted(found) == NAMES


def test_shares_differ_by_one_image_at_most_and_may_be_empty(archive: Path) -> None:
    streams = [ArchiveStream(archive, codes=True, rank=r, world_size=7) for r in range(7)]
    lengths = [len(list(stream)) for stream in streams]
    assert lengths == [len(stream) for stream in streams]
    assert sum(lengths) == 600 and set(lengths) == {85, 86}
    empty = ArchiveStream(archive, codes=True, rank=0, world_size=601)
    assert len(empty) == 0 and list(empty) == []


@pytest.mark.parametrize("rank, world_size", [(-1, 2), (2, 2), (0, 0)])
def test_a_rank_that_cannot_be_is_refused(archive: Path, rank: int, world_size: int) -> None:
    with pytest.raises(ConfigError, match=f"rank={rank}, world_size={world_size}"):
        ArchiveStream(archive, rank=rank, world_size=world_size)
    with pytest.raises(ConfigError, match="buffer_blocks=0"):
        ArchiveStream(archive, buffer_blocks=0)


@pytest.mark.parametrize("persistent", [False, True])
@pytest.mark.parametrize("workers", [0, 2])
def test_each_iterator_is_the_next_epoch_and_workers_agree(
    archive: Path, workers: int, persistent: bool
) -> None:
    if persistent and not workers:
        pytest.skip("no workers outlive an epoch")
    stream = ArchiveStream(archive, names=True, codes=True)
    loader = DataLoader(stream, 50, num_workers=workers, persistent_workers=persistent)
    found = [names_of(loader) for _ in range(3)]
    assert len({tuple(names) for names in found}) == 3
    for epoch, names in enumerate(found):
        assert len(names) == len(set(names)) == len(stream)
        same = ArchiveStream(archive, names=True, codes=True)
        same.set_epoch(epoch)
        again = DataLoader(same, 50, num_workers=workers)
        assert names_of(again) == names == names_of(again)


def test_an_iteration_that_is_left_early_is_an_epoch(archive: Path) -> None:
    stream = ArchiveStream(archive, names=True, codes=True)
    loader = DataLoader(stream, 50, num_workers=2)
    for _ in loader:
        break
    names = names_of(loader)
    assert len(names) == len(set(names)) == len(stream)
    stream.set_epoch(1)
    assert names_of(loader) == names


def test_overlapping_iterations_have_epochs_of_their_own(archive: Path) -> None:
    stream = ArchiveStream(archive, names=True, codes=True)
    loader = DataLoader(stream, 50, num_workers=2)
    pairs = [(one[1], other[1]) for one, other in zip(loader, loader, strict=True)]
    for place in (0, 1):
        names = [name for pair in pairs for name in pair[place]]
        assert len(set(names)) == len(stream)
    assert [pair[0] for pair in pairs] != [pair[1] for pair in pairs]


def test_a_pickled_stream_goes_on_counting(archive: Path) -> None:
    stream = ArchiveStream(archive, names=True, codes=True)
    first = [name for _, name in stream]
    copied = pickle.loads(pickle.dumps(stream))
    names = names_of(DataLoader(copied, 50, num_workers=2))
    assert set(names) == set(first) and names != first
    stream.set_epoch(1)
    assert names_of(DataLoader(stream, 50, num_workers=2)) == names
    with pytest.raises(ConfigError, match="epochs count from 0"):
        stream.set_epoch(-1)


def test_set_epoch_reaches_workers_that_outlive_an_epoch(archive: Path) -> None:
    stream = ArchiveStream(archive, names=True, codes=True)
    loader = DataLoader(stream, batch_size=100, num_workers=1, persistent_workers=True)
    stream.set_epoch(0)
    first, again = names_of(loader), names_of(loader)
    stream.set_epoch(1)
    second = names_of(loader)
    assert first == again != second
    assert sorted(second) == NAMES


def test_what_is_lost_is_left_out_and_named_in_the_log(
    damaged: Path, rebuilt: Pixels, caplog: pytest.LogCaptureFixture
) -> None:
    stream = ArchiveStream(damaged, names=True)
    with caplog.at_level(logging.WARNING, "compressor"):
        items = list(stream)
    lost = [message for message in caplog.messages if "left out" in message]
    assert len(lost) == 1
    assert "damaged: 256 images lost: block 1 of part 0 is damaged" in lost[0]
    assert sorted(name for _, name in items) == NAMES[:256] + NAMES[512:]
    for image, name in items:
        np.testing.assert_array_equal(image[0], rebuilt[int(name)])


# Other processes


@pytest.mark.parametrize("method, workers", [("fork", 2), ("spawn", 1)])
def test_workers_decode_the_same(
    archive: Path, rebuilt: Pixels, method: str, workers: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    made, decode, parsed, unpack = Engine.__init__, Engine.decode, Prior.from_bytes, blocks.unpack

    def making(engine: Any, *arguments: Any) -> None:
        engine.process = os.getpid()
        made(engine, *arguments)

    def decoding(engine: Any, *arguments: Any) -> Any:
        assert engine.process == os.getpid(), "an engine came along in a fork"
        return decode(engine, *arguments)

    def parsing(content: bytes) -> Any:
        prior: Any = parsed(content)
        prior.process = os.getpid()
        return prior

    def unpacking(frame: bytes, prior: Any, code: CodeSpec) -> Any:
        assert prior.process == os.getpid(), "a prior, which may have a network, did"
        return unpack(frame, prior, code)

    monkeypatch.setattr(Engine, "__init__", making)
    monkeypatch.setattr(Engine, "decode", decoding)
    monkeypatch.setattr(Prior, "from_bytes", parsing)
    monkeypatch.setattr(blocks, "unpack", unpacking)
    dataset, stream = ArchiveDataset(archive, names=True), ArchiveStream(archive, names=True)
    dataset[0], next(iter(stream))  # so that the parent has sessions
    for data in (dataset, stream):
        loader = DataLoader(
            data, batch_size=64, num_workers=workers, multiprocessing_context=method
        )
        found = {
            name: image
            for images, names in loader
            for image, name in zip(images, names, strict=True)
        }
        assert sorted(found) == NAMES
        for name, image in found.items():
            np.testing.assert_array_equal(image[0], rebuilt[int(name)])


def test_a_pickled_dataset_is_small_and_reads_on(archive: Path, rebuilt: Pixels) -> None:
    dataset, stream = ArchiveDataset(archive), ArchiveStream(archive, shuffle=False)
    dataset[0], next(iter(stream))
    for data in (dataset, stream):
        content = pickle.dumps(data)
        assert len(content) < 2000
        np.testing.assert_array_equal(next(iter(pickle.loads(content)))[0], rebuilt[0])
