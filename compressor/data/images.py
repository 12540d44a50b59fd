"""The forms that data have in a job: undecoded in a Chunk, as arrays in Images.

Vectors are treated like images: a float32 (D,) takes the place of a uint8 (H, W, C).
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, NamedTuple, Protocol, TypeAlias

import numpy as np
import numpy.typing as npt
from pydantic import BaseModel, ConfigDict

Pixels = npt.NDArray[np.uint8]
Rows = npt.NDArray[Any]  # uint8 (n, H, W, C) or float32 (n, D)
# What verbs take and open_source opens: a path, or an object of Python, whose libraries need not be
# there.
Data: TypeAlias = Any

CHUNK_BYTES = 2**26  # of pixels that are decoded together
MAX_NAMED = 1000  # unreadable images that are remembered by name


@dataclass(frozen=True)
class Group:
    """Images of one size: ``pixels`` uint8 (n, H, W, C) and their ``positions`` (n,) in Images.

    For vectors ``pixels`` are float32 (n, D); ``rounded_off``: float64 (n, D), what the values that
    were read have beyond these; None where that is nothing.
    """

    positions: npt.NDArray[np.int64]
    pixels: Rows
    rounded_off: npt.NDArray[np.float64] | None = None


@dataclass(frozen=True)
class Images:
    """Decoded images, in the order of their source.

    ``names`` has every image, unreadable ones included; ``groups`` have the readable ones by size,
    each position in ``names`` at most once; ``unreadable`` maps the other positions to the reason.
    ``not_kept`` counts the images that have something beside their pixels: EXIF, ICC and so on.
    ``converted``: how many are in other channels than they came in, without loss.
    """

    names: list[str]
    groups: list[Group]
    unreadable: dict[int, str] = field(default_factory=dict)
    not_kept: Mapping[str, int] = field(default_factory=dict)
    converted: int = 0

    def without_first(self, count: int) -> Images:
        """All but the first ``count``."""
        groups = []
        for group in self.groups:
            kept = group.positions >= count
            if kept.any():
                lost = None if group.rounded_off is None else group.rounded_off[kept]
                groups.append(Group(group.positions[kept] - count, group.pixels[kept], lost))
        unreadable = {at - count: reason for at, reason in self.unreadable.items() if at >= count}
        return Images(self.names[count:], groups, unreadable, self.not_kept)


class Unreadable(BaseModel):
    """Images of a source that cannot be used: how many, and the first with their reasons."""

    model_config = ConfigDict(frozen=True)

    count: int = 0
    first: tuple[tuple[str, str], ...] = ()

    def plus(self, more: list[tuple[str, str]]) -> Unreadable:
        first = (*self.first, *more[: MAX_NAMED - len(self.first)]) if more else self.first
        return Unreadable(count=self.count + len(more), first=first)

    def summary(self) -> dict[str, Any]:
        """The keys of a verb's summary."""
        named = [f"{name}: {reason}" for name, reason in self.first]
        return {"unreadable": self.count, "unreadable_names": named}


@dataclass(frozen=True)
class Chunk:
    """Some consecutive images, not decoded yet: cheap to make; ``load`` may run in any thread.

    It yields them in order, in pieces of at most CHUNK_BYTES, or of one larger image; where all
    images are like the source's first, in one piece.
    """

    start: int
    count: int
    load: Callable[[], Iterator[Images]]


class Shard(NamedTuple):
    """One of several files that make up a dataset: images up to number ``stop`` of all."""

    name: str
    stop: int


class Source(Protocol):
    """A dataset that is read once, from front to end, in an order that never changes."""

    location: str

    @property
    def shape(self) -> tuple[int, ...] | None:
        """Every row's, (H, W, C) or (D,); None where rows may differ."""

    @property
    def columns(self) -> tuple[str, ...] | None:
        """The names of a vector's numbers; None where they have none."""

    @property
    def shards(self) -> Sequence[Shard]:
        """The dataset's files, as far as ``chunks`` has read; none if there is only one."""

    def count(self) -> int | None:
        """How many images there are; None where only reading to the end would tell."""

    def bytes_on_disk(self) -> int | None:
        """Of what is read, as it is stored; None of arrays in memory."""

    def fingerprint(self) -> str:
        """Changes when the images change (names, sizes, times of the files); reads no pixels."""

    def chunks(self, size: int, start: int = 0) -> Iterator[Chunk]:
        """Chunks of ``size`` images (the last may be shorter), from image ``start`` on."""


class Sink(Protocol):
    """Where decompressed images go: complete after a ``with`` block, absent after an error."""

    def write(self, names: list[str], pixels: list[Rows]) -> None:
        """Adds images, uint8 (H, W, C), or vectors, float32 (D,), in the order of the archive."""
