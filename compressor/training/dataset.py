"""The data of a training: decoded once to a file, memory-mapped, split, drawn in seeded order."""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cached_property
from itertools import chain
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.parquet as pq

from ..data.channels import as_asked, in_channels
from ..data.images import Images, Pixels, Rows, Source
from ..data.left_out import left_out, listed
from ..data.rounding import REFUSED_FROM, WARNED_FROM, Rounding
from ..errors import ConfigError, DataError
from ..files import write_atomically
from ..log import log
from ..normalisation import mean_and_scale
from ..spec import DataSpec, ImageSpec, VectorSpec

Indices = npt.NDArray[np.int64]
MAX_HELD_OUT = 10_000  # rows in the validation split, and in the calibration split
CHUNK = 256
LARGE_CHUNK = 4  # of images that are to be cropped, which may be photographs
ELEMENTS_AT_ONCE = 2**18  # of what is run through a network outside of training steps
_CHANNELS_WANTED = "number of channels (or channels=grey, or channels=rgb)"
NAMES = "names.parquet"
NAMES_AT_ONCE = 2**16
CROPS = 2**62  # streams of random numbers from here on place crops; those below order the rows


@dataclass(frozen=True)
class Dataset:
    """Decoded images or vectors in a file; unreadable: (name, reason) of those that are not there.

    shape: (H, W, C) of a uint8 image, or (D,) of a float32 vector, whose columns may have names.
    sizes: int64 (count, 2), the heights and widths of images that are cropped to ``shape``; None
    where all rows have that shape. left_out: the other files of the source, by suffix. read: how
    many inputs the source has, unreadable ones included.
    """

    file: Path
    count: int
    shape: tuple[int, ...]
    columns: tuple[str, ...] | None
    unreadable: list[tuple[str, str]]
    sizes: npt.NDArray[np.int64] | None = None
    left_out: Mapping[str, int] = field(default_factory=dict)
    read: int = 0

    @cached_property
    def names(self) -> tuple[list[str], Indices]:
        """What the source calls the rows, and their places in it."""
        table = pq.read_table(self.file.with_name(NAMES))
        return table["name"].to_pylist(), table["position"].to_numpy()

    @cached_property
    def rows(self) -> Any:
        """(count, *shape), uint8 or float32, memory-mapped: the middles of images to be cropped."""
        if self.sizes is not None:
            return Crops(self.file, self.sizes, self.shape)
        dtype = np.uint8 if len(self.shape) == 3 else np.float32
        return np.memmap(self.file, dtype, "r", shape=(self.count, *self.shape))

    def drawn(self, indices: Indices, seed: int, step: int) -> Rows:
        """The rows that a step trains on, (n, *shape): crops from places that the step draws."""
        if self.sizes is None:
            rows: Rows = self.rows[indices]
            return rows
        places = seeded(seed, CROPS + step).random((len(indices), 2))
        crops: Rows = self.rows.at(indices, places)
        return crops

    def spec(self, training: Indices, standardise: bool) -> DataSpec:
        """What a model of these data takes; vectors are standardised by the rows ``training``."""
        if len(self.shape) == 3:
            height, width, channels = self.shape
            return ImageSpec.model_validate(
                {"height": height, "width": width, "channels": channels}
            )
        (length,) = self.shape
        mean, scale = (0.0,) * length, (1.0,) * length
        if standardise:
            mean, scale = mean_and_scale(self.rows, training)
        return VectorSpec(length=length, mean=mean, scale=scale, columns=self.columns)

    def __getstate__(self) -> dict[str, Any]:
        """For other processes: the file's path, not its content."""
        return {key: value for key, value in vars(self).items() if key not in ("rows", "names")}


class Crops:
    """Images of several sizes, one after the other in a file, of which crops of one size are read.

    ``crops[indices]`` are the middles of images, uint8 (n, *shape).
    """

    def __init__(self, file: Path, sizes: npt.NDArray[np.int64], shape: tuple[int, ...]) -> None:
        self._bytes = np.memmap(file, np.uint8, "r")
        self._sizes, self.shape = sizes, (len(sizes), *shape)
        self._ends = np.cumsum(sizes.prod(1) * shape[2])

    def __getitem__(self, indices: Indices) -> Pixels:
        return self.at(indices, np.full((len(indices), 2), 0.5))

    def at(self, indices: Indices, places: npt.NDArray[np.float64]) -> Pixels:
        """Crops of images ``indices``; places: (n, 2) in [0, 1), down and across; 0.5: middle."""
        _, height, width, channels = self.shape
        crops = np.empty((len(indices), height, width, channels), np.uint8)
        corners = (places * (self._sizes[indices] - (height, width) + 1)).astype(np.int64)
        for crop, index, (top, left) in zip(crops, indices, corners, strict=True):
            h, w = self._sizes[index]
            end = self._ends[index]
            image = self._bytes[end - h * w * channels : end].reshape(h, w, channels)
            crop[:] = image[top : top + height, left : left + width]
        return crops


@dataclass(frozen=True)
class Split:
    """Positions of the rows that are trained on, that stop the training, and that calibrate."""

    training: Indices
    validation: Indices
    calibration: Indices


def load_dataset(
    source: Source, folder: Path, crop: int | None = None, channels: str = "auto"
) -> Dataset:
    """Decodes ``source`` into ``folder``, or maps what an earlier run decoded there.

    ``channels``: "grey" or "rgb" converts images, those with alpha that is not opaque are left out
    as unreadable; "auto" leaves them as they are. With ``crop``, rows are crops of so many pixels a
    side, and smaller images are left out as unreadable. Raises DataError if nothing can be read, if
    channels differ, or, without ``crop``, sizes, or for columns of vectors whose values float32
    cannot tell apart; and ConfigError if vectors are to be cropped or converted.
    """
    file, record, sizes = folder / "rows.bin", folder / "rows.json", folder / "sizes.npy"
    if not record.exists():
        _decode(source, file, record, sizes, crop, channels)
    facts = json.loads(record.read_text())
    columns = None if facts["columns"] is None else tuple(facts["columns"])
    unreadable = [(name, reason) for name, reason in facts["unreadable"]]
    shape, others = tuple(facts["shape"]), facts.get("left_out", {})
    if crop is not None:
        shape = (crop, crop, shape[2])
    loaded = None if crop is None else np.load(sizes)
    read = facts.get("read", 0)  # not in those that an earlier version decoded
    return Dataset(file, facts["count"], shape, columns, unreadable, loaded, others, read)


def _decode(
    source: Source, file: Path, record: Path, sizes: Path, crop: int | None, channels: str
) -> None:
    first: tuple[str, tuple[int, ...]] | None = None
    unreadable: list[tuple[str, str]] = []
    shapes: list[tuple[int, ...]] = []
    free = 0 if crop is None else 2  # dimensions that may differ from input to input
    grey = channels == "auto"  # as long as all images are
    rounding: Rounding | None = None
    read = 0
    with file.open("wb") as out, _Names(file.with_name(NAMES)) as names:
        chunks = source.chunks(CHUNK if crop is None else LARGE_CHUNK)
        for images in chain.from_iterable(chunk.load() for chunk in chunks):
            if channels != "auto":
                _refuse_vectors(images, f"channels={channels}")
                images = as_asked(images, channels)
            elif crop is not None:
                _refuse_vectors(images, f"crop={crop}")
            unreadable += [(images.names[p], reason) for p, reason in images.unreadable.items()]
            for group in images.groups:
                name, shape = images.names[group.positions[0]], group.pixels.shape[1:]
                first = first or (name, shape)
                if shape[free:] != first[1][free:]:
                    other_channels = len(shape) == 3 and shape[2] != first[1][2]
                    wanted = _CHANNELS_WANTED if other_channels else "size (or crop=N)"
                    raise DataError(
                        f"training needs inputs of one {wanted}: {source.location}/{name} is "
                        f"{'x'.join(map(str, shape))}, {first[0]} is "
                        f"{'x'.join(map(str, first[1]))}"
                    )
                if crop is not None and min(shape[:2]) < crop:
                    reason = f"is {shape[0]}x{shape[1]}, smaller than crop={crop}"
                    unreadable += [(images.names[p], reason) for p in group.positions]
                    continue
                grey = grey and len(shape) == 3 and shape[2] != 1
                grey = grey and bool(in_channels(group.pixels, 1)[1].all())
                if len(shape) == 1:
                    rounding = rounding or Rounding(shape[0])
                    rounding.add(group)
                out.write(group.pixels.tobytes())
                names.add([(images.names[p], read + p) for p in group.positions.tolist()])
                shapes += [shape[:2]] * len(group.pixels)
            read += len(images.names)
        out.flush()
        os.fsync(out.fileno())
    if others := left_out(source):
        log.warning("left out: %s", listed(others))
    if grey and shapes:
        log.warning(
            "all images are grey, but stored as colours: channels=grey trains on one channel"
        )
    if first is None or not shapes:
        reason = f"; the first: {unreadable[0][0]} {unreadable[0][1]}" if unreadable else ""
        raise DataError(f"nothing in {source.location} can be read{reason}")
    if rounding is not None:
        _refuse_rounded(source, rounding)
    facts = {
        "shape": first[1],
        "count": len(shapes),
        "columns": source.columns,
        "unreadable": unreadable,
        "left_out": left_out(source),
        "read": read,
    }
    if crop is not None:
        np.save(sizes, np.array(shapes, np.int64))
    write_atomically(record, json.dumps(facts).encode())


class _Names:
    """Writes the names of rows, and their places in the source, some at a time."""

    def __init__(self, path: Path) -> None:
        self._schema = pa.schema([("name", pa.string()), ("position", pa.int64())])
        self._writer = pq.ParquetWriter(path, self._schema, compression="zstd")
        self._rows: list[tuple[str, int]] = []

    def __enter__(self) -> _Names:
        return self

    def add(self, rows: list[tuple[str, int]]) -> None:
        self._rows += rows
        if len(self._rows) >= NAMES_AT_ONCE:
            self._flush()

    def _flush(self) -> None:
        names, positions = zip(*self._rows, strict=True) if self._rows else ((), ())
        self._writer.write_table(pa.table([names, positions], self._schema))
        self._rows = []

    def __exit__(self, kind: object, error: object, trace: object) -> None:
        if kind is None:
            self._flush()
        self._writer.close()


def _refuse_vectors(images: Images, setting: str) -> None:
    if any(group.pixels.ndim != 4 for group in images.groups):
        raise ConfigError(f"{setting} is for images; these data are vectors")


def _refuse_rounded(source: Source, rounding: Rounding) -> None:
    """Raises DataError for columns that float32 makes useless; warns of those that it makes rough.

    Rows are float32 from here on, in the graphs and in archives, too.
    """
    shares = rounding.shares()
    if len(lost := np.flatnonzero(shares > REFUSED_FROM)):
        raise DataError(f"{source.location}: {rounding.sentence(source.columns, lost)}")
    if len(rough := np.flatnonzero(shares > WARNED_FROM)):
        log.warning("%s: in part, %s", source.location, rounding.sentence(source.columns, rough))


def split_rows(count: int, validation: float, calibration: float, seed: int) -> Split:
    """Draws the three parts; they are disjoint and depend on the arguments alone."""
    order = seeded(seed, stream=0).permutation(count)
    held = [
        min(MAX_HELD_OUT, max(1, round(share * count))) if share else 0
        for share in (validation, calibration)
    ]
    if sum(held) >= count:
        raise DataError(
            f"{count} are too few to hold out {held[0]} for validation and {held[1]} for "
            "calibration; use more, or validation=0 and calibration=0"
        )
    ends = np.cumsum(held)
    return Split(
        training=np.sort(order[ends[1] :]),
        validation=np.sort(order[: ends[0]]),
        calibration=np.sort(order[ends[0] : ends[1]]),
    )


def pieces(indices: Indices, spec: DataSpec) -> list[Indices]:
    """``indices`` in pieces that fit memory."""
    size = min(1024, max(1, ELEMENTS_AT_ONCE // spec.elements))
    return [indices[start : start + size] for start in range(0, len(indices), size)]


class BatchOrder:
    """Which rows each step sees: a function of the seed and the step alone."""

    def __init__(self, indices: Indices, batch_size: int, seed: int) -> None:
        self._indices, self._seed = indices, seed
        self._batch = min(batch_size, len(indices))
        self.steps_per_epoch = len(indices) // self._batch
        self._epoch, self._order = -1, indices

    def batch(self, step: int) -> Indices:
        epoch, place = divmod(step, self.steps_per_epoch)
        if epoch != self._epoch:
            self._epoch = epoch
            self._order = seeded(self._seed, stream=1 + epoch).permutation(self._indices)
        return self._order[place * self._batch : (place + 1) * self._batch]


def seeded(seed: int, stream: int) -> np.random.Generator:
    return np.random.Generator(np.random.Philox(key=[seed, stream]))
