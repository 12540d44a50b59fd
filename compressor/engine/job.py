"""A dataset going through a model: what encode, compress, score and calibrate share."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from functools import cached_property
from itertools import chain
from pathlib import Path
from typing import Any, TypeVar

from ..data.images import MAX_NAMED, Chunk, Images, Rows, Unreadable
from ..data.reading import refuse_changed
from ..data.sources import open_source
from ..errors import DataError, UnreadableImage
from ..log import log
from ..model import Model
from ..progress import Progress
from ..spec import DataSpec
from .engine import Engine
from .pipeline import chunk_size, in_order

Result = TypeVar("Result")

MAX_SKIPPED_LOGGED = 20  # inputs that the log names; a table may have many more


class Job:
    """Opens model, source and engine; raises CompressorError before any work if one is unusable.

    chunk: images that are worked on together; images: how many are done; unreadable: the skipped.
    """

    def __init__(self, verb: str, data: str | Path | Rows, model: str | Path, device: str) -> None:
        self._verb, self._started = verb, time.monotonic()
        self.model = Model.open(model)
        self.source = open_source(data, getattr(self.model.spec, "columns", None))
        self._in_memory = not isinstance(data, str | Path)
        if not self._in_memory:
            self.fingerprint  # noqa: B018  (as the files are before the first is read)
        self._refuse_shape()
        self.engine = Engine(self.model, device)
        self.chunk = chunk_size(self.model.spec, self.source)
        self.images = 0
        self.unreadable = Unreadable()
        log.info("device: %s", self.engine.device)

    @cached_property
    def fingerprint(self) -> str:
        """The source's, before it was read."""
        return self.source.fingerprint()

    def _refuse_shape(self) -> None:
        """Raises DataError if no row can fit the model, instead of skipping them one by one."""
        if self.source.shape is not None:
            try:
                self.model.spec.check(self.source.shape)
            except UnreadableImage as error:
                raise DataError(
                    f"{self.source.location}: every row {error}; give data like those that "
                    f"{self.model.location} was trained on"
                ) from error

    def run(
        self, work: Callable[[Images], Result], *, start: int = 0, progress: bool = False
    ) -> Iterator[tuple[Images, Result]]:
        """Yields each piece of each chunk and ``work(piece)``, in order, from image ``start`` on.

        ``work`` runs in several threads and sees only images that fit the model; the pieces that
        are yielded have names but no pixels. Raises DataError at the end if no image fitted, or if
        the source's files are not as they were.
        """

        def work_on(loaded: Images) -> tuple[Images, Result]:
            images = fitting(loaded, self.model.spec)
            return Images(images.names, [], images.unreadable), work(images)

        def load_and_work(chunk: Chunk) -> list[tuple[Images, Result]]:
            done, results = start - chunk.start, []
            for images in chunk.load():  # a piece is freed before the next is decoded
                if len(images.names) > done:
                    results.append(work_on(images.without_first(done) if done > 0 else images))
                done -= len(images.names)
            return results

        # From a chunk's first image on, so that pieces end where they did in the earlier run.
        chunks = self.source.chunks(self.chunk, start - start % self.chunk)
        with Progress(self._verb, self.source.count(), start=start, shown=progress) as bar:
            for images, result in chain.from_iterable(in_order(load_and_work, chunks)):
                self.skip(images)
                self.images += len(images.names) - len(images.unreadable)
                yield images, result
                bar.update(start + self.images + self.unreadable.count)
        if not self._in_memory:
            refuse_changed(self.source, self.fingerprint)
        if not self.images and not start:
            raise self.nothing()

    def nothing(self) -> DataError:
        """The error for data without a usable image."""
        first = self.unreadable.first[:1]
        reason = f"; the first: {' '.join(first[0])}" if first else ""
        kind = self.model.spec.kind
        return DataError(f"no {kind} in {self.source.location} can be used{reason}")

    def skip(self, images: Images) -> None:
        """Notes the unreadable ones, and names the first few in the log."""
        before = self.unreadable.count
        more = [(images.names[at], reason) for at, reason in sorted(images.unreadable.items())]
        self.unreadable = self.unreadable.plus(more)
        for name, reason in more[: max(0, MAX_SKIPPED_LOGGED - before)]:
            log.warning("skipped %s: %s", name, reason)
        if before <= MAX_SKIPPED_LOGGED < self.unreadable.count:
            log.warning("skipped more; the summary names the first %s", f"{MAX_NAMED:,}")

    def summary(self) -> dict[str, Any]:
        """The keys that every verb's summary ends with."""
        return {
            "images": self.images,
            **self.unreadable.summary(),
            "seconds": round(time.monotonic() - self._started, 3),
            "device": self.engine.device.name,
        }


def fitting(images: Images, spec: DataSpec) -> Images:
    """The same images; those that do not fit the model become unreadable."""
    groups, unreadable = [], dict(images.unreadable)
    for group in images.groups:
        try:
            spec.check(group.pixels.shape[1:])
        except UnreadableImage as error:
            unreadable |= {int(position): str(error) for position in group.positions}
        else:
            groups.append(group)
    return Images(images.names, groups, unreadable)
