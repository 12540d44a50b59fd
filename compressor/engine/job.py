"""A dataset going through a model: what encode, compress, score and calibrate share."""

from __future__ import annotations

import math
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import replace
from functools import cached_property
from itertools import chain
from pathlib import Path
from typing import Any, TypeVar

import numpy as np

from ..data.channels import in_channels
from ..data.decode import sizes_refused_by
from ..data.images import MAX_NAMED, Chunk, Data, Group, Images, Unreadable
from ..data.left_out import left_out, listed
from ..data.reading import refuse_changed
from ..data.rounding import REFUSED_FROM, named
from ..data.sources import open_source
from ..errors import DataError, UnreadableImage
from ..log import log
from ..model import Model
from ..progress import Progress
from ..spec import ImageSpec, VectorSpec
from .engine import Engine
from .pipeline import chunk_size, in_order

Result = TypeVar("Result")

MAX_WHOLE = 1 << 24  # pixels of an image that does not go through the graphs in tiles
ROWS_LOOKED_AT = 64  # of an array, before it is refused for its channels
MAX_SKIPPED_LOGGED = 20  # inputs that the log names; a table may have many more


class Job:
    """Opens model, source and engine; raises CompressorError before any work if one is unusable.

    chunk: images that are worked on together; images: how many are done; unreadable: the skipped;
    not_kept: how many have something beside their pixels, as EXIF; converted: how many are in other
    channels than they came in.
    """

    def __init__(self, verb: str, data: Data, model: str | Path, device: str | Engine) -> None:
        """device: a name, or an engine of the model that is there already."""
        self._verb, self._started = verb, time.monotonic()
        self.model = Model.open(model)
        self.source = open_source(data, getattr(self.model.spec, "columns", None))
        self._in_memory = not isinstance(data, str | Path)
        if not self._in_memory:
            self.fingerprint  # noqa: B018  (as the files are before the first is read)
        self._refuse_shape()
        self.engine = device if isinstance(device, Engine) else Engine(self.model, device)
        self.chunk = chunk_size(self.model.spec, self.source)
        self.images = 0
        self.unreadable = Unreadable()
        self.not_kept: Counter[str] = Counter()
        self.converted = 0
        self._rough: Any = 0  # (D,) rows of which float32 rounds off much, by column
        self._counting = threading.Lock()
        if self.engine is not device:
            log.info("device: %s", self.engine.device)

    @cached_property
    def fingerprint(self) -> str:
        """The source's, before it was read."""
        return self.source.fingerprint()

    def _refuse_shape(self) -> None:
        """Raises DataError if no row can fit the model, instead of skipping them one by one."""
        shape = self.source.shape
        reason = "" if shape is None else self._misfit(shape)
        if not reason:
            return
        # Rows of other channels may have grey or opaque alpha in them: the first ones tell.
        first = next(iter(self.source.chunks(ROWS_LOOKED_AT)), None)
        if first is None or any(rows.groups for rows in self.load(first)):
            return
        raise DataError(
            f"{self.source.location}: every row {reason}; give data like those that "
            f"{self.model.location} was trained on"
        )

    def run(
        self, work: Callable[[Images], Result], *, start: int = 0, progress: bool = False
    ) -> Iterator[tuple[Images, Result]]:
        """Yields each piece of each chunk and ``work(piece)``, in order, from image ``start`` on.

        ``work`` runs in several threads and sees only images that fit the model; the pieces that
        are yielded have names but no pixels. Raises DataError at the end if no image fitted, or if
        the source's files are not as they were.
        """

        def work_on(images: Images) -> tuple[Images, Result]:
            self._count_rough(images)
            return replace(images, groups=[]), work(images)

        def load_and_work(chunk: Chunk) -> list[tuple[Images, Result]]:
            done, results = start - chunk.start, []
            for images in self.load(chunk):  # a piece is freed before the next is decoded
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
        self.say_left_out()
        if not self._in_memory:
            refuse_changed(self.source, self.fingerprint)
        if not self.images and not start:
            raise self.nothing()
        self._warn_of_rough()

    def load(self, chunk: Chunk) -> Iterator[Images]:
        """The pieces of a chunk in the model's channels; those that do not fit are unreadable, and
        not even decoded where their size says so.

        Channels change without loss alone: grey is three equal channels, opaque alpha none.
        """
        spec = self.model.spec
        with sizes_refused_by(lambda height, width: self._misfit(spec.shape_of(height, width))):
            for images in chunk.load():
                yield self._fitting(images)

    def _fitting(self, images: Images) -> Images:
        groups, unreadable, converted = [], dict(images.unreadable), 0
        for group in images.groups:
            fitted, others = self._fitted(group)
            unreadable |= others
            if fitted is not None:
                groups.append(fitted)
                if fitted.pixels.shape[3:] != group.pixels.shape[3:]:
                    converted += len(fitted.positions)
        return replace(images, groups=groups, unreadable=unreadable, converted=converted)

    def _fitted(self, group: Group) -> tuple[Group | None, dict[int, str]]:
        """Those of a group that fit the model, and why the others do not."""
        pixels, positions, spec = group.pixels, group.positions, self.model.spec
        others: dict[int, str] = {}
        if isinstance(spec, ImageSpec) and pixels.ndim == 4 and pixels.shape[3] != spec.channels:
            pixels, fits = in_channels(pixels, spec.channels)
            reason = self._misfit(group.pixels.shape[1:])
            others = dict.fromkeys(positions[~fits].tolist(), reason)
            positions = positions[fits]
        if len(positions) and (reason := self._misfit(pixels.shape[1:])):
            return None, others | dict.fromkeys(positions.tolist(), reason)
        if pixels is group.pixels:
            return group, others
        return (Group(positions, pixels) if len(positions) else None), others

    def _misfit(self, shape: tuple[int, ...]) -> str:
        """Why an input of a shape does not fit the model; empty if it does."""
        try:
            self.model.spec.check(shape)
        except UnreadableImage as error:
            return str(error)
        code = self.model.code
        in_tiles = code.stride is None or code.halo is not None
        if not in_tiles and math.prod(shape[:2]) > MAX_WHOLE:
            return (
                f"is {shape[0]}x{shape[1]}: the model works on whole images alone, not in tiles, "
                f"and takes up to {MAX_WHOLE:,} pixels; cut it into smaller ones"
            )
        return ""

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

    def say_left_out(self) -> None:
        """Says in the log which other files the source holds, once it has been read."""
        if counts := left_out(self.source):
            log.warning("left out: %s", listed(counts))

    def skip(self, images: Images) -> None:
        """Notes the unreadable ones, names the first few in the log, and counts other things."""
        self.not_kept.update(images.not_kept)
        self.converted += images.converted
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
            "converted": self.converted,
            "left_out": left_out(self.source),
            "seconds": round(time.monotonic() - self._started, 3),
            "device": self.engine.device.name,
        }
