"""A dataset going through a model: what encode, compress, score and calibrate share."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator
from itertools import chain
from pathlib import Path
from typing import Any, TypeVar

import numpy as np

from ..data.images import MAX_NAMED, Chunk, Data, Images, Unreadable
from ..data.rounding import REFUSED_FROM, named
from ..data.sources import open_source
from ..errors import DataError, UnreadableImage
from ..log import log
from ..model import Model
from ..progress import Progress
from ..spec import DataSpec, VectorSpec
from .engine import Engine
from .pipeline import chunk_size, in_order

Result = TypeVar("Result")

MAX_SKIPPED_LOGGED = 20  # inputs that the log names; a table may have many more


class Job:
    """Opens model, source and engine; raises CompressorError before any work if one is unusable.

    chunk: images that are worked on together; images: how many are done; unreadable: the skipped.
    """

    def __init__(self, verb: str, data: Data, model: str | Path, device: str) -> None:
        self._verb, self._started = verb, time.monotonic()
        self.model = Model.open(model)
        self.source = open_source(data, getattr(self.model.spec, "columns", None))
        self._refuse_shape()
        self.engine = Engine(self.model, device)
        self.chunk = chunk_size(self.model.spec, self.source)
        self.images = 0
        self.unreadable = Unreadable()
        self._rough: Any = 0  # (D,) rows of which float32 rounds off much, by column
        self._counting = threading.Lock()
        log.info("device: %s", self.engine.device)

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
        are yielded have names but no pixels. Raises DataError at the end if no image fitted.
        """

        def work_on(loaded: Images) -> tuple[Images, Result]:
            images = fitting(loaded, self.model.spec)
            self._count_rough(images)
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
        if not self.images and not start:
            raise self.nothing()
        self._warn_of_rough()

    def _count_rough(self, images: Images) -> None:
        spec = self.model.spec
        if not isinstance(spec, VectorSpec) or not any(spec.mean):  # not standardised
            return
        for group in images.groups:
            if group.rounded_off is not None:
                large = REFUSED_FROM * np.array(spec.scale)
                rough = (np.abs(group.rounded_off) > large).sum(0)
                with self._counting:
                    self._rough = self._rough + rough

    def _warn_of_rough(self) -> None:
        columns = np.flatnonzero(2 * np.atleast_1d(self._rough) > self.images)
        if len(columns):
            log.warning(
                "%s: float32 rounds off most of what matters to the model in %s: the numbers are "
                "larger there than those that it was trained on, or an offset has to be "
                "subtracted before both training and this",
                self.source.location,
                named(getattr(self.model.spec, "columns", None), columns),
            )

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
