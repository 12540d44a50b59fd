"""The images of a training: decoded once to a file, memory-mapped, split, drawn in seeded order."""

from __future__ import annotations

import json
import os
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from ..data.images import Pixels, Source
from ..errors import DataError
from ..files import write_atomically
from ..spec import DataSpec, ImageSpec

Indices = npt.NDArray[np.int64]
MAX_HELD_OUT = 10_000  # images in the validation split, and in the calibration split
CHUNK = 256


@dataclass(frozen=True)
class TrainingImages:
    """Decoded images in a file; unreadable: (name, reason) of those left out."""

    file: Path
    count: int
    spec: DataSpec
    unreadable: list[tuple[str, str]]

    @cached_property
    def pixels(self) -> Pixels:
        """(N, H, W, C) uint8, memory-mapped."""
        return np.memmap(self.file, np.uint8, "r", shape=(self.count, *self.spec.shape))

    def __getstate__(self) -> dict[str, Any]:
        """For other processes: the file's path, not its content."""
        return {key: value for key, value in vars(self).items() if key != "pixels"}


@dataclass(frozen=True)
class Split:
    """Positions of the images that are trained on, that stop the training, and that calibrate."""

    training: Indices
    validation: Indices
    calibration: Indices


def load_images(source: Source, folder: Path) -> TrainingImages:
    """Decodes ``source`` into ``folder``, or maps what an earlier run decoded there.

    Raises DataError if no image can be read or if sizes or channels differ.
    """
    file, record = folder / "images.u8", folder / "images.json"
    if not record.exists():
        _decode(source, file, record)
    told = json.loads(record.read_text())
    spec = ImageSpec.model_validate(told["spec"])
    return TrainingImages(file, told["count"], spec, [(n, r) for n, r in told["unreadable"]])


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
                        f"training needs images of one size: {source.location}/{name} is "
                        f"{'x'.join(map(str, shape))}, {first[0]} is "
                        f"{'x'.join(map(str, first[1]))}"
                    )
                out.write(group.pixels.tobytes())
                count += len(group.pixels)
        out.flush()
        os.fsync(out.fileno())
    if first is None:
        reason = f"; the first: {unreadable[0][0]} {unreadable[0][1]}" if unreadable else ""
        raise DataError(f"no image in {source.location} can be read{reason}")
    height, width, channels = first[1]
    spec = {"height": height, "width": width, "channels": channels}
    told = {"spec": spec, "count": count, "unreadable": unreadable}
    write_atomically(record, json.dumps(told).encode())


def split_images(count: int, validation: float, calibration: float, seed: int) -> Split:
    """Draws the three parts; they are disjoint and depend on the arguments alone."""
    order = _generator(seed, stream=0).permutation(count)
    held = [
        min(MAX_HELD_OUT, max(1, round(share * count))) if share else 0
        for share in (validation, calibration)
    ]
    if sum(held) >= count:
        raise DataError(
            f"{count} images are too few to hold out {held[0]} for validation and {held[1]} for "
            "calibration; use more, or --set validation=0 --set calibration=0"
        )
    ends = np.cumsum(held)
    return Split(
        training=np.sort(order[ends[1] :]),
        validation=np.sort(order[: ends[0]]),
        calibration=np.sort(order[ends[0] : ends[1]]),
    )


class BatchOrder:
    """Which images each step sees: a function of the seed and the step alone."""

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
