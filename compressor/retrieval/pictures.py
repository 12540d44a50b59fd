"""Pictures of an index's rows, read again from where they came, or from where they are now."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from ..archive.pixels import decoded_images
from ..archive.reader import Archive
from ..data.images import Data, Images, Pixels
from ..data.sources import open_source
from ..engine.engine import Engine
from ..errors import ArchiveError, CompressorError, ConfigError
from ..files import refuse_elsewhere
from ..model import Model
from ..report.pictures import shrunk
from .folder import Index, IndexSource
from .index import is_archive
from .inputs import PICTURE_SIDE


class _Wanted(NamedTuple):
    """A row of the index: its name, and which of its source's inputs it is."""

    row: int
    name: str
    number: int


class Pictures:
    """Where pictures of an index's rows come from.

    data: where the inputs are now, in place of what the index says; model: to decode an archive
    that has none inside. Raises ConfigError for an index of vectors, and if no place is known.
    """

    def __init__(
        self, index: Index, data: Data | None, model: str | Path | None, device: str
    ) -> None:
        refuse_elsewhere(data)
        kind = index.model().spec.kind
        if kind != "image":
            raise ConfigError(f"{index.path} is of {kind}s, which have no pictures to show")
        if data is None and not any(source.place for source in index.manifest.sources):
            raise ConfigError(
                f"{index.path} was made of arrays in memory, which it does not hold: give data, "
                "the place where its images are"
            )
        self._index, self._data, self._model, self._device = index, data, model, device

    def of(self, rows: npt.NDArray[np.int64]) -> dict[int, Pixels]:
        """Small pictures uint8 (H, W, C) of the rows (n,) that are still there, by their numbers.

        Raises ConfigError if none is.
        """
        pictures: dict[int, Pixels] = {}
        problem = ""
        for source, wanted in self._by_source(np.unique(rows)):
            place = source.location(self._index.path) if self._data is None else self._data
            if place is None:
                continue
            try:
                pictures |= self._read(place, wanted)
            except CompressorError as error:
                problem = problem or f"; {error}"
        if not pictures:
            given = self._data if isinstance(self._data, str | Path) else "the data given"
            place = "its sources" if self._data is None else given
            raise ConfigError(
                f"of what was found nothing is in {place}{problem}: give data, the place where "
                f"the images of {self._index.path} are"
            )
        return pictures

    def _by_source(
        self, rows: npt.NDArray[np.int64]
    ) -> Iterator[tuple[IndexSource, list[_Wanted]]]:
        """The rows, ascending, by what they were made of."""
        sources = self._index.manifest.sources
        of_part = [source for source in sources for _ in range(source.parts)]
        starts = np.cumsum([0, *self._index.manifest.parts])
        by_source: dict[int, list[_Wanted]] = {}
        for part, inside in self._index.parts_with(rows):
            names, numbers = self._index.names(part), self._index.numbers(part)
            by_source.setdefault(id(of_part[part]), []).extend(
                _Wanted(int(starts[part]) + row, names[row], int(numbers[row]))
                for row in inside.tolist()
            )
        for source in sources:
            if id(source) in by_source:
                yield source, by_source[id(source)]

    def _read(self, place: Data, wanted: list[_Wanted]) -> dict[int, Pixels]:
        """Of one source; an input that has another name there is another one."""
        read = self._of_archive if is_archive(place) else _of_data
        pictures: dict[int, Pixels] = {}
        for asked, images in read(place, sorted(wanted, key=lambda one: one.number)):
            for group in images.groups:
                for at, pixels in zip(group.positions.tolist(), group.pixels, strict=True):
                    if images.names[at] == asked[at].name and pixels.ndim == 3:
                        pictures[asked[at].row] = shrunk(pixels, PICTURE_SIDE)
        return pictures

    def _of_archive(
        self, place: str | Path, wanted: list[_Wanted]
    ) -> Iterator[tuple[list[_Wanted], Images]]:
        """Decodes what is wanted alone, and the other images of the same blocks."""
        model = None if self._model is None else Model.open(self._model)
        archive = Archive.open(place, model)
        if archive.model.digest != self._index.manifest.model:
            raise ArchiveError(f"{place} was made with another model than {self._index.path}")
        engine, start = Engine(archive.model, self._device), 0
        for number in archive.part_numbers():
            part = archive.part(number)
            stop = start + len(part.items)
            inside = [one for one in wanted if start <= one.number < stop]
            if inside:
                coded = archive.load(part, np.array([one.number - start for one in inside]))
                yield inside, decoded_images(coded, engine)
            start = stop


def _of_data(place: Data, wanted: list[_Wanted]) -> Iterator[tuple[list[_Wanted], Images]]:
    by_number = {one.number: one for one in wanted}
    for chunk in open_source(place).chunks(1, wanted[0].number):
        if chunk.start in by_number:
            for images in chunk.load():
                yield [by_number[chunk.start]], images
        if chunk.start >= wanted[-1].number:
            return
