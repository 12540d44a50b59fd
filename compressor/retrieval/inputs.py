"""What becomes vectors: images or vectors that are encoded here, or the codes of an archive."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import numpy.typing as npt

from ..archive.reader import Archive, Segment
from ..data.images import Images, Pixels, Rows
from ..engine.engine import Engine
from ..engine.job import Job
from ..engine.pipeline import in_order
from ..errors import ArchiveError
from ..log import log
from ..model import Model
from ..progress import Progress
from ..report.pictures import shrunk
from .space import Space, Vectors

PICTURE_SIDE = 224  # of what is kept of images to be shown


@dataclass(frozen=True)
class Piece:
    """Some consecutive inputs of a source: ``count`` of them, without the unreadable ones.

    Of the others: positions among all, names, a vector float32 (D,) each, and of the first few
    small pictures where those were asked for. ``unreadable``: names and reasons.
    """

    count: int
    positions: list[int]
    names: list[str]
    vectors: list[Vectors]
    unreadable: list[tuple[str, str]]
    pictures: list[Pixels] = field(default_factory=list)


class DataVectors:
    """Of images or vectors that are encoded here. ``kept``: pictures of a piece."""

    def __init__(self, job: Job, space: Space, kept: int = 0) -> None:
        self._job, self._space, self._kept = job, space, kept

    def identity(self) -> dict[str, str]:
        """What an index of these is made of, for a job that goes on."""
        return {"source": self._job.fingerprint, "images in a chunk": str(self._job.chunk)}

    def run(self, start: int = 0, progress: bool = False) -> Iterator[Piece]:
        """From input ``start`` on. Raises DataError if there is none that fits."""

        def work(images: Images) -> Piece:
            codes = [(group.positions, self._encoded(group.pixels)) for group in images.groups]
            first = sorted(
                (int(at), pixels)
                for group in images.groups
                for at, pixels in zip(group.positions[: self._kept], group.pixels, strict=False)
            )[: self._kept]
            pictures = [shrunk(pixels, PICTURE_SIDE) for _, pixels in first]
            return _piece(images.names, codes, images.unreadable, pictures)

        for _, piece in self._job.run(work, start=start, progress=progress):
            yield piece

    def _encoded(self, pixels: Rows) -> Vectors:
        return self._space.vectors(self._job.engine.encode(pixels))

    def summary(self) -> dict[str, Any]:
        summary = self._job.summary()
        return {name: summary[name] for name in summary if name not in ("images", "seconds")}


class ArchiveVectors:
    """Of an archive's codes; what a fallback stored is encoded here."""

    def __init__(self, archive: Archive, model: Model, device: str, space: Space) -> None:
        self._archive, self._space = archive, space
        self._engine = Engine(model, device)

    def identity(self) -> dict[str, str]:
        archive = self._archive
        return {"source": f"archive {archive.id} of {archive.count}, {len(archive.damage)} damages"}

    def run(self, start: int = 0, progress: bool = False) -> Iterator[Piece]:
        """From image ``start`` on, where a piece began. Raises ArchiveError if all are lost."""
        done, lost, first = start, 0, ""
        with Progress("index", self._archive.count, start=start, shown=progress) as bar:
            for piece in in_order(self._load, self._segments(start)):
                done += piece.count
                bar.update(done)
                lost += len(piece.unreadable)
                first = first or "; ".join(": ".join(pair) for pair in piece.unreadable[:1])
                yield piece
        for sentence in self._archive.damage:
            log.warning("damage: %s", sentence)
        if not start and lost == done:
            raise ArchiveError(f"every image of {self._archive.path} is lost; {first}")

    def _segments(self, start: int) -> Iterator[Segment]:
        place = 0
        for segment in self._archive.segments():
            if place >= start:
                yield segment
            place += segment.count

    def _load(self, segment: Segment) -> Piece:
        coded = segment.load()
        codes = [(group.positions, group.codes) for group in coded.groups]
        codes += [(group.positions, self._engine.encode(group.pixels)) for group in coded.stored]
        vectors = [(positions, self._space.vectors(of_group)) for positions, of_group in codes]
        return _piece(coded.names, vectors, coded.missing)

    def summary(self) -> dict[str, Any]:
        return {"damage": self._archive.damage, "device": self._engine.device.name}


def _piece(
    names: list[str],
    vectors: list[tuple[npt.NDArray[np.int64], Vectors]],
    missing: Mapping[int, str],
    pictures: Sequence[Pixels] = (),
) -> Piece:
    """Of vectors with their positions among ``names``."""
    by_position: dict[int, Vectors] = {}
    for positions, of_group in vectors:
        by_position |= zip(positions.tolist(), of_group, strict=True)
    places = sorted(by_position)
    return Piece(
        len(names),
        places,
        [names[place] for place in places],
        [by_position[place] for place in places],
        [(names[at], reason) for at, reason in sorted(missing.items())],
        list(pictures),
    )
