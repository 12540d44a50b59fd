"""The data of a training: decoded once to a file, memory-mapped, split, drawn in seeded order."""

from __future__ import annotations

import json
import os
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from ..data.images import Source
from ..errors import DataError
from ..files import write_atomically
from ..spec import DataSpec, ImageSpec, VectorSpec
from .normalisation import mean_and_scale

Indices = npt.NDArray[np.int64]
MAX_HELD_OUT = 10_000  # rows in the validation split, and in the calibration split
CHUNK = 256
ELEMENTS_AT_ONCE = 2**18  # of what is run through a network outside of training steps


@dataclass(frozen=True)
class Dataset:
    """Decoded images or vectors in a file; unreadable: (name, reason) of those left out.

    shape: (H, W, C) of a uint8 image, or (D,) of a float32 vector, whose columns may have names.
    """

    file: Path
    count: int
    shape: tuple[int, ...]
    columns: tuple[str, ...] | None
    unreadable: list[tuple[str, str]]

    @cached_property
    def rows(self) -> npt.NDArray[Any]:
        """(count, *shape), uint8 or float32, memory-mapped."""
        dtype = np.uint8 if len(self.shape) == 3 else np.float32
        return np.memmap(self.file, dtype, "r", shape=(self.count, *self.shape))

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
        return {key: value for key, value in vars(self).items() if key != "rows"}


@dataclass(frozen=True)
class Split:
    """Positions of the rows that are trained on, that stop the training, and that calibrate."""

    training: Indices
    validation: Indices
    calibration: Indices


def load_dataset(source: Source, folder: Path) -> Dataset:
    """Decodes ``source`` into ``folder``, or maps what an earlier run decoded there.

    Raises DataError if nothing can be read or if sizes or channels differ.
    """
    file, record = folder / "rows.bin", folder / "rows.json"
    if not record.exists():
        _decode(source, file, record)
    told = json.loads(record.read_text())
    columns = None if told["columns"] is None else tuple(told["columns"])
    unreadable = [(name, reason) for name, reason in told["unreadable"]]
    return Dataset(file, told["count"], tuple(told["shape"]), columns, unreadable)


def _decode(source: Source, file: Path, record: Path) -> None:
    first: tuple[str, tuple[int, ...]] | None = None
    count, unreadable = 0, []
    with file.open("wb") as out:
        for chunk in source.chunks(CHUNK):
            images = chunk.load()
            unreadable += [(images.names[p], reason) for p, reason in images.unreadable.items()]
            for group in images.groups:
                name, shape = images.names[group.positions[0]], group.pixels.shape[1:]
                first = first or (name, shape)
                if shape != first[1]:
                    raise DataError(
                        f"training needs inputs of one size: {source.location}/{name} is "
                        f"{'x'.join(map(str, shape))}, {first[0]} is "
                        f"{'x'.join(map(str, first[1]))}"
                    )
                out.write(group.pixels.tobytes())
                count += len(group.pixels)
        out.flush()
        os.fsync(out.fileno())
    if first is None:
        reason = f"; the first: {unreadable[0][0]} {unreadable[0][1]}" if unreadable else ""
        raise DataError(f"nothing in {source.location} can be read{reason}")
    told = {
        "shape": first[1],
        "count": count,
        "columns": source.columns,
        "unreadable": unreadable,
    }
    write_atomically(record, json.dumps(told).encode())


def split_rows(count: int, validation: float, calibration: float, seed: int) -> Split:
    """Draws the three parts; they are disjoint and depend on the arguments alone."""
    order = _generator(seed, stream=0).permutation(count)
    held = [
        min(MAX_HELD_OUT, max(1, round(share * count))) if share else 0
        for share in (validation, calibration)
    ]
    if sum(held) >= count:
        raise DataError(
            f"{count} are too few to hold out {held[0]} for validation and {held[1]} for "
            "calibration; use more, or --set validation=0 --set calibration=0"
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
            self._order = _generator(self._seed, stream=1 + epoch).permutation(self._indices)
        return self._order[place * self._batch : (place + 1) * self._batch]


def _generator(seed: int, stream: int) -> np.random.Generator:
    return np.random.Generator(np.random.Philox(key=[seed, stream]))
