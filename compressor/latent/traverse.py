"""The verb ``traverse``: what each latent does, and which measurable attribute it goes with.

A latent is a number of the code, which goes from -3 to 3 deviations of training codes about their
mean, while the others stay. Where codes are (C, h, w) a number is of one place alone: there latents
are the principal axes of training codes, or, where none are known, channels as a whole.
"""

from __future__ import annotations

import math
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from ..data.images import Data, Images, Pixels, Rows
from ..engine.job import Job
from ..errors import ConfigError, DataError
from ..files import refuse_elsewhere
from ..log import log
from ..report.pictures import sheet
from ..spec import VectorSpec
from .attributes import BUILT_IN, best, chance_level, measured, names_of, read_table, spearman
from .density import Codes, Vectors
from .latents import Average, Latents, unreadable
from .pictures import Output, grid, side_of

DEVIATIONS = np.arange(-3.0, 4.0)
MAX_LATENTS = 16  # that are shown
MAX_CORRELATED = 256  # that attributes are looked for in
NUMBERS, AXES, CHANNELS = "numbers of the code", "principal axes of codes", "channels of the code"
SIDE = 20  # of the grid of a code of two numbers
MIN_INPUTS = 10  # that have all attributes
AT_ONCE = 2**22  # numbers of codes that are made at once

Floats = npt.NDArray[np.float64]
Numbers = npt.NDArray[np.int64]


def traverse(
    model: str | Path,
    image: Data | None = None,
    *,
    data: Data | None = None,
    attributes: str | Path | None = None,
    output: str | Path | None = None,
    device: str = "auto",
    force: bool = False,
    progress: bool = False,
) -> dict[str, Any]:
    """Moves each latent from -3 to 3 deviations, and correlates latents with attributes of data.

    image: where the others stay, by default at their mean. output: a .png with a row a latent, or
    of a code of two numbers a grid of both; or, as for ``sample``, the images or vectors. data:
    images whose attributes are measured (attributes.py); with ``attributes``, a .csv or .parquet
    with a column path and one for each of your own attributes, these are taken instead.

    Gives latents (how many there are), kind (what they are), shown (the most active ones, with the
    mean change of a pixel, 0 to 255, or of a number, between -3 and 3), density (what mean and
    deviations are from); with data also correlation ("Spearman"), measured (inputs that have all
    attributes), chance (what the largest |correlation| of an attribute exceeds by chance once in
    twenty times), attributes (which latent carries which), correlations (of the latents shown),
    images, unreadable; seconds, device. Raises CompressorError.
    """
    places = [place for place in (image, data, attributes) if place is not None]
    refuse_elsewhere(model, *places, outputs=[] if output is None else [output])
    started = time.monotonic()
    if attributes is not None and data is None:
        raise ConfigError(f"attributes={attributes} are of inputs: give these, too, as data=DATA")
    latents = Latents.open(model, device)
    if data is not None and attributes is None and isinstance(latents.model.spec, VectorSpec):
        raise ConfigError(
            f"{latents.model.location} takes vectors, of which nothing is measured by itself: give "
            "attributes=FILE.csv"
        )
    target = Output(output, force, latents.model.spec, model, *places)
    at = None if image is None else latents.average("traverse", str(image), image)
    moved = _Moved(latents, at)
    changes = moved.changes()
    order = np.argsort(-changes, kind="stable")
    shown = order[:MAX_LATENTS]
    of_data: dict[str, Any] = {}
    if data is not None:
        job = Job("traverse", data, model, latents.engine)
        found = _Correlations.learn(job, moved, order[:MAX_CORRELATED], attributes, progress)
        of_data = {**found.summary(shown), **job.summary()}
    if output is not None and moved.is_plane:
        points = moved.plane()
        target.write([f"{point:03}" for point in range(len(points))], points, lambda: grid(points))
    elif output is not None:
        rows = np.concatenate([moved.decoded(latent, DEVIATIONS) for latent in shown])
        titles = [f"latent-{latent}_{way:+.0f}" for latent in shown for way in DEVIATIONS]
        carried = names_of(of_data.get("attributes", []))
        target.write(titles, rows, lambda: _picture(shown, rows, carried))
    if len(changes) > len(shown):
        log.info("the %d most active of %s latents are shown", len(shown), f"{len(changes):,}")
    return {
        "latents": len(changes),
        "kind": moved.kind,
        "shown": [
            {"latent": latent, "change": round(float(changes[latent]), 4)}
            for latent in shown.tolist()
        ],
        "density": latents.origin,
        **({} if at is None or data is not None else unreadable([at])),
        **of_data,
        "seconds": round(time.monotonic() - started, 3),
        "device": latents.engine.device.name,
    }


class _Moved:
    """Codes in which one latent is elsewhere, decoded.

    A latent is a direction d of the code, with |d| = 1, and a deviation s along it. Where it is
    moved to t deviations, the code is base + (t s - (base - mean) . d) d.
    """

    def __init__(self, latents: Latents, at: Average | None) -> None:
        """at: where the others stay; None: at the mean of training codes."""
        shape = latents.shape if at is None else at.code.shape
        self._latents, self._shape = latents, shape
        self._mean, deviations = latents.normal(shape)
        self._base = self._mean if at is None else at.code
        self._size = latents.size if at is None else at.size
        self._axes: Vectors | None = None  # (K, D)
        self.is_plane = shape == (2,)
        if len(shape) == 1:
            self.kind, self._deviations = NUMBERS, deviations
        elif shape == latents.shape and latents.density.axes:
            self._axes, self._deviations = latents.density.principal_axes()
            self.kind = AXES
        else:
            self.kind, places = CHANNELS, math.prod(shape[1:])
            self._deviations = deviations.reshape(len(deviations), -1).mean(1) * math.sqrt(places)

    def _direction(self, latent: int) -> Vectors:
        """(*shape)"""
        direction = np.zeros(self._shape)
        if self._axes is not None:
            direction += self._axes[:, latent].reshape(self._shape)
        else:
            direction[latent] = 1 / math.sqrt(math.prod(self._shape[1:]))
        return direction

    def values(self, codes: Codes, numbers: Numbers) -> Floats:
        """(n, L): where the latents of those numbers are in codes (n, *shape of any size)."""
        if self._axes is not None:
            return codes.reshape(len(codes), -1).astype(np.float64) @ self._axes[:, numbers]
        flat = codes if codes.ndim == 2 else codes.mean((2, 3))
        return flat[:, numbers].astype(np.float64)

    def _codes(self, latent: int, ways: Vectors) -> Vectors:
        """(n, *shape), of ways (n,) in deviations."""
        direction = self._direction(latent)
        at = ((self._base - self._mean) * direction).sum()
        codes: Vectors = self._base + np.multiply.outer(
            ways * self._deviations[latent] - at, direction
        )
        return codes

    def decoded(self, latent: int, ways: Vectors) -> Rows:
        return self._latents.decode(self._codes(latent, ways), self._size)

    def changes(self) -> Vectors:
        """(L,): how much a latent changes what is decoded, a mean over pixels or numbers."""
        ends = DEVIATIONS[[0, -1]]
        changes = np.empty(len(self._deviations))
        at_once = max(1, AT_ONCE // self._base.size)
        for start in range(0, len(changes), at_once):
            some = range(start, min(start + at_once, len(changes)))
            codes = np.concatenate([self._codes(latent, ends) for latent in some])
            rows = self._latents.decode(codes, self._size)
            apart = np.abs(rows[0::2].astype(np.float64) - rows[1::2])
            changes[start : start + len(some)] = apart.reshape(len(some), -1).mean(1)
        return changes

    def plane(self) -> Rows:
        """Of a code of two numbers: a grid, the first going to the right, the second upwards."""
        ways = np.linspace(DEVIATIONS[0], DEVIATIONS[-1], SIDE)
        up, right = np.meshgrid(ways[::-1], ways, indexing="ij")
        points = np.stack([right.ravel(), up.ravel()], axis=1)
        return self._latents.decode(self._mean + points * self._deviations, self._size)


class _Correlations:
    """Of latents, by their ``numbers`` (L,), with attributes, by their ``names``."""

    def __init__(
        self, numbers: Numbers, names: tuple[str, ...], latents: Floats, attributes: Floats
    ) -> None:
        """latents (n, L), attributes (n, A); rows with an attribute that is NaN do not count."""
        known = np.isfinite(attributes).all(1)
        if known.sum() < MIN_INPUTS:
            raise DataError(
                f"{known.sum()} inputs have all of the attributes {', '.join(names)}: at least "
                f"{MIN_INPUTS} are needed to say which latent goes with which"
            )
        self._numbers, self._names, self._inputs = numbers, names, int(known.sum())
        self._values = spearman(latents[known], attributes[known])

    @classmethod
    def learn(
        cls,
        job: Job,
        moved: _Moved,
        numbers: Numbers,
        attributes: str | Path | None,
        progress: bool,
    ) -> _Correlations:
        """Of all inputs of a job; attributes: a table of them, else those that are BUILT_IN."""
        columns, own = (BUILT_IN, None) if attributes is None else read_table(attributes)

        def work(images: Images) -> list[tuple[Floats, Floats]]:
            results = []
            for group in images.groups:
                latents = moved.values(job.engine.encode(group.pixels), numbers)
                if own is None:
                    values = measured(group.pixels)
                else:
                    names = [images.names[place] for place in group.positions.tolist()]
                    values = np.stack([own.get(n, np.full(len(columns), np.nan)) for n in names])
                results.append((latents, values))
            return results

        pieces = [piece for _, found in job.run(work, progress=progress) for piece in found]
        latents, values = (np.concatenate(arrays) for arrays in zip(*pieces, strict=True))
        if own is not None and np.isnan(values).all():
            raise DataError(
                f"{attributes} has none of the inputs of {job.source.location}: its column path "
                f"has names as {next(iter(own), '(none)')!r}, which must be those of the inputs"
            )
        return cls(numbers, columns, latents, values)

    def summary(self, shown: Numbers) -> dict[str, Any]:
        chance = chance_level(self._inputs, len(self._numbers))
        places = [int(np.flatnonzero(self._numbers == latent)[0]) for latent in shown]
        return {
            "correlation": "Spearman",
            "measured": self._inputs,
            "chance": round(chance, 4),
            "attributes": best(self._names, self._values, chance, self._numbers),
            "correlations": [
                {"latent": int(self._numbers[place])}
                | {
                    n: round(float(v), 3)
                    for n, v in zip(self._names, self._values[place], strict=True)
                }
                for place in places
            ],
        }


def _picture(shown: Numbers, rows: Rows, carried: Mapping[int, str]) -> Pixels:
    """A row for each latent, with what it goes with under its number."""
    count = len(DEVIATIONS)
    titles = [f"{latent}  {carried.get(latent, '')}".strip() for latent in shown.tolist()]
    return sheet(
        [rows[start : start + count] for start in range(0, len(rows), count)],
        row_names=titles,
        column_names=[f"{way:+.0f}" if way else "0" for way in DEVIATIONS],
        side=side_of(count),
    )
