"""Archives as PyTorch datasets: one with random access, and a shuffled stream to train on.

    from compressor.datasets import ArchiveDataset, ArchiveStream

    image = ArchiveDataset("clothes.archive")[41]
    loader = DataLoader(ArchiveStream("clothes.archive", seed=1), batch_size=64, num_workers=2)

An item is a tensor: an image as uint8 (C, H, W), a vector as float32 (D,), or, with ``codes``, its
code as int32 of the model's code shape. ``transform`` is applied to that tensor; with ``names`` an
item is a pair of the result and the image's name in its source. Images that a fallback codec stored
come like others, but have no code: with ``codes`` they count as lost.

Both datasets work with workers, forked or spawned, and can be pickled: each process makes ONNX
Runtime sessions of its own when it first needs them.
"""

from __future__ import annotations

import os
import zlib
from collections import Counter, defaultdict
from collections.abc import Callable, Iterator, Sequence
from functools import lru_cache
from itertools import islice
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from .archive.items import Integers
from .archive.pixels import decoded_images
from .archive.reader import Archive, Part
from .data.images import Group, Images
from .engine.engine import Engine
from .engine.pipeline import in_order
from .errors import ArchiveError, ConfigError, MissingDependency, install
from .files import refuse_elsewhere
from .log import log
from .model import Model

try:
    import torch
    from torch.utils.data import Dataset, IterableDataset, get_worker_info
except ImportError as error:
    raise MissingDependency(f"compressor.datasets needs PyTorch: run {install('train')}") from error

__all__ = ["ArchiveDataset", "ArchiveStream"]

Transform = Callable[[torch.Tensor], Any]
Row = npt.NDArray[Any]


class ArchiveDataset(Dataset[Any]):
    """The images of an archive in the order of its source, each by its number.

    Blocks, of up to 256 images, are the unit of reading. If images are asked for one by one, whole
    blocks are decoded and the last ``cached_blocks`` of them kept. A DataLoader asks for all images
    of a batch at once: of each block only those are decoded.

    ``model``: the model that made the archive, where that has none inside. ``device``: as of the
    verbs; by default the CPU, since forked workers cannot use a GPU.

    Raises ArchiveError if the archive cannot be read or an item's block, which it names, is
    damaged; ModelError and DeviceError.
    """

    def __init__(
        self,
        archive: str | Path,
        *,
        codes: bool = False,
        names: bool = False,
        transform: Transform | None = None,
        model: str | Path | None = None,
        device: str = "cpu",
        cached_blocks: int = 4,
    ) -> None:
        self._reader = _Reader(archive, model, codes, device, cached_blocks)
        self._form = _Form(names, transform)

    def __len__(self) -> int:
        return self._reader.count

    def __getitem__(self, index: int) -> Any:
        """Item ``index``; negative ones count from the end. Raises IndexError."""
        number, row = self._reader.place(index)
        block = int(self._reader.parts[number].items.block[row])
        return self._item(number, row, self._reader.block(number, block))

    def __getitems__(self, indices: Sequence[int]) -> list[Any]:
        """Several items; what a DataLoader calls for a batch."""
        places = [self._reader.place(index) for index in indices]
        rows: dict[int, set[int]] = defaultdict(set)
        for number, row in places:
            rows[number].add(row)
        loaded = {at: self._reader.load(at, np.array(sorted(rows[at]))) for at in rows}
        return [self._item(number, row, loaded[number]) for number, row in places]

    def _item(self, number: int, row: int, loaded: _Loaded) -> Any:
        name = self._reader.parts[number].items.path[row]
        if row in loaded.lost:
            raise ArchiveError(f"{self._reader.path}: {name} is {loaded.lost[row]}")
        return self._form(name, loaded.found[row])


class ArchiveStream(IterableDataset[Any]):
    """All images of an archive, each once an epoch, at the speed of decompress.

    Blocks come in an order that depends only on ``seed`` and epoch; images are shuffled among
    those of ``buffer_blocks`` blocks. Without ``shuffle`` they come in the order of the blocks,
    which is the source's where all images have one size and none a fallback codec. Each new
    iterator is the next epoch, from 0 on, and so in another order; the workers of a DataLoader
    agree on it. After ``set_epoch`` it is the epoch set, until another is.

    Each of ``world_size`` ranks, and each worker of its DataLoader, gets its own images; shares
    differ by one image at most. The length is the rank's share.

    Lost images are left out; a warning counts them block by block, in each epoch, and they count in
    the length. ``model`` and ``device`` are ArchiveDataset's.

    Raises ArchiveError if the archive cannot be read, ConfigError for impossible ranks and buffers,
    ModelError and DeviceError.
    """

    def __init__(
        self,
        archive: str | Path,
        *,
        shuffle: bool = True,
        seed: int = 0,
        rank: int = 0,
        world_size: int = 1,
        buffer_blocks: int = 8,
        codes: bool = False,
        names: bool = False,
        transform: Transform | None = None,
        model: str | Path | None = None,
        device: str = "cpu",
    ) -> None:
        if not 0 <= rank < world_size:
            raise ConfigError(
                f"rank={rank}, world_size={world_size}: ranks go from 0 to world_size - 1"
            )
        if buffer_blocks < 1:
            raise ConfigError(f"buffer_blocks={buffer_blocks}: give at least 1")
        self._reader = _Reader(archive, model, codes, device)
        self._form = _Form(names, transform)
        self._shuffle, self._seed, self._buffer = shuffle, seed, buffer_blocks
        self._share = _part_of(self._reader.count, rank, world_size)
        self._epochs = _Epochs()

    def __len__(self) -> int:
        return self._share.stop - self._share.start

    def set_epoch(self, epoch: int) -> None:
        """The number of the epoch of each iterator from now on. Raises ConfigError below 0."""
        if epoch < 0:
            raise ConfigError(f"set_epoch({epoch}): epochs count from 0")
        self._epochs.set(epoch)

    def __iter__(self) -> Iterator[Any]:
        worker, share, epoch = get_worker_info(), self._share, self._epochs.begin()
        if worker is not None:
            mine = _part_of(len(self), worker.id, worker.num_workers)
            share = range(share.start + mine.start, share.start + mine.stop)
        self._reader.opened()  # before several threads need it
        # A worker decodes in one thread, which overlaps its batching.
        loaded = in_order(
            lambda piece: (piece[0], self._reader.load(*piece)),
            self._pieces(epoch, share),
            workers=None if worker is None else 1,
        )
        order = _generator(self._seed, epoch, 1 + share.start)
        while blocks := list(islice(loaded, self._buffer)):
            items = []
            for number, block in blocks:
                self._warn_of_lost(block)
                items += [(number, row, pixels) for row, pixels in block.found.items()]
            for at in order.permutation(len(items)) if self._shuffle else range(len(items)):
                number, row, pixels = items[at]
                yield self._form(self._reader.parts[number].items.path[row], pixels)

    def _pieces(self, epoch: int, share: range) -> Iterator[tuple[int, Integers]]:
        """Each block with images in ``share`` of the epoch: its part, and their rows there."""
        blocks, counts = self._reader.blocks, self._reader.counts
        order = np.arange(len(blocks))
        if self._shuffle:
            order = _generator(self._seed, epoch, 0).permutation(len(blocks))
        ends = np.cumsum(counts[order])
        first = np.searchsorted(ends, share.start, side="right")
        for at, end in zip(order[first:].tolist(), ends[first:].tolist(), strict=True):
            before = end - int(counts[at])
            if before >= share.stop:
                return
            number, block = blocks[at].tolist()
            rows = self._reader.rows(number, block)
            yield number, rows[max(share.start - before, 0) : share.stop - before]

    def _warn_of_lost(self, block: _Loaded) -> None:
        for reason, count in Counter(block.lost.values()).items():
            log.warning(
                "%s: %d %ss %s; left out", self._reader.path, count, self._reader.kind, reason
            )


class _Epochs:
    """The numbers of epochs, in memory that all workers share, also those that outlive an epoch.

    A DataLoader calls nothing in its own process that could count them. Its workers of one
    iteration have a seed in common, and each counts its own iterators: the first to come with a
    new pair of these begins the next epoch, and the others find it by the pair. A slot is one
    number, a pair's checksum above an epoch, for it to be written at once.
    """

    SLOTS = 64  # of iterations that may overlap

    def __init__(self) -> None:
        self._set = torch.full((1,), -1, dtype=torch.int64)
        self._slots = torch.full((self.SLOTS,), -1, dtype=torch.int64)
        self._iterators = 0  # of this process
        self._share()

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__dict__.update(state)
        self._share()  # what comes out of a file is not shared

    def _share(self) -> None:
        for tensor in (self._set, self._slots):
            tensor.share_memory_()  # type: ignore[no-untyped-call]  # torch has no types

    def set(self, epoch: int) -> None:
        """From now on all iterators are of this one."""
        self._set.fill_(epoch)

    def begin(self) -> int:
        """The epoch of an iterator that begins now."""
        self._iterators += 1
        if (given := int(self._set)) >= 0:
            return given
        worker = get_worker_info()
        seed = os.getpid() if worker is None else worker.seed - worker.id
        tag = zlib.crc32(f"{seed} {self._iterators}".encode()) >> 1
        at = tag % self.SLOTS
        held = int(self._slots[at])
        if held >> 32 == tag:
            return held & 0xFFFFFFFF
        slots = self._slots.numpy()
        epoch = int((slots[slots >= 0] & 0xFFFFFFFF).max(initial=-1)) + 1
        self._slots[at] = tag << 32 | epoch
        return epoch


class _Form:
    """What an item looks like."""

    def __init__(self, names: bool, transform: Transform | None) -> None:
        self._names, self._transform = names, transform

    def __call__(self, name: str, row: Row) -> Any:
        # A copy: as a view the row would keep its block in memory.
        tensor = torch.from_numpy(row.copy())
        item = tensor if self._transform is None else self._transform(tensor)
        return (item, name) if self._names else item


class _Loaded(NamedTuple):
    """Images of a part by their row in its items: those found, and why the others are lost."""

    found: dict[int, Row]
    lost: dict[int, str]


class _Opened(NamedTuple):
    """What holds ONNX Runtime sessions: the engine, and perhaps the archive's prior."""

    archive: Archive
    engine: Engine | None  # none where codes are asked for
    process: int


class _Reader:
    """An archive and what decodes it, opened anew in each process.

    blocks: (B, 2), number in ``parts`` and block of each; counts: (B,), their images.
    """

    def __init__(
        self,
        path: str | Path,
        model: str | Path | None,
        codes: bool,
        device: str,
        cached_blocks: int = 0,
    ) -> None:
        refuse_elsewhere(path, model)
        self._arguments = (path, model, codes, device, cached_blocks)
        self.path = path
        self._model, self._codes, self._device = model, codes, device
        self._opened: _Opened | None = None
        archive = self.opened().archive
        self.kind = archive.model.spec.kind
        self.parts: list[Part] = [archive.part(at) for at in archive.part_numbers()]
        for sentence in archive.damage:
            log.warning("damage: %s", sentence)
        self._ends = np.cumsum([0, *(len(part.items) for part in self.parts)])
        self.count = int(self._ends[-1])
        per_part = [np.unique(part.items.block, return_counts=True) for part in self.parts]
        pairs = [(at, b) for at, (blocks, _) in enumerate(per_part) for b in blocks.tolist()]
        self.blocks = np.array(pairs, np.int64).reshape(-1, 2)
        self.counts = np.concatenate([np.zeros(0, np.int64), *(counts for _, counts in per_part)])
        self.block = lru_cache(cached_blocks)(self._load_block)

    def __reduce__(self) -> tuple[Any, ...]:
        return _Reader, self._arguments

    def place(self, index: int) -> tuple[int, int]:
        """The number of the part that holds image ``index``, and its row there."""
        at = index + self.count if index < 0 else index
        if not 0 <= at < self.count:
            raise IndexError(f"image {index} of {self.count} of {self.path}")
        number = int(np.searchsorted(self._ends, at, side="right")) - 1
        return number, at - int(self._ends[number])

    def rows(self, number: int, block: int) -> Integers:
        """The rows of a part's items that are in a block."""
        return np.flatnonzero(self.parts[number].items.block == block)

    def load(self, number: int, rows: Integers) -> _Loaded:
        """Images as (C, H, W), vectors, or codes; may run in any thread."""
        archive, engine, _ = self.opened()
        coded = archive.load(self.parts[number], rows)
        if engine is None:
            groups = [Group(group.positions, group.codes) for group in coded.groups]
            without = np.concatenate([np.zeros(0, np.int64), *(g.positions for g in coded.stored)])
            reason = "without a code: a fallback codec stored its pixels"
            missing = coded.missing | dict.fromkeys(without.tolist(), reason)
            images = Images(coded.names, groups, missing)
        else:
            images = decoded_images(coded, engine)
        by_row: dict[int, Row] = {}
        for group in images.groups:
            pixels = group.pixels
            if pixels.dtype == np.uint8:
                pixels = pixels.transpose(0, 3, 1, 2)
            by_row |= zip(rows[group.positions].tolist(), pixels, strict=True)
        lost = {int(rows[at]): reason for at, reason in images.unreadable.items()}
        return _Loaded({row: by_row[row] for row in sorted(by_row)}, lost)

    def _load_block(self, number: int, block: int) -> _Loaded:
        return self.load(number, self.rows(number, block))

    def opened(self) -> _Opened:
        """This process's own: sessions from before a fork must not be used."""
        if self._opened is None or self._opened.process != os.getpid():
            model = None if self._model is None else Model.open(self._model)
            archive = Archive.open(self.path, model)
            engine = None if self._codes else Engine(archive.model, self._device)
            self._opened = _Opened(archive, engine, os.getpid())
        return self._opened


def _part_of(count: int, number: int, of: int) -> range:
    """Part ``number`` of ``of`` parts of range(count), whose lengths differ by at most one."""
    return range(count * number // of, count * (number + 1) // of)


def _generator(*key: int) -> np.random.Generator:
    return np.random.default_rng(key)
