"""A model's latent space: codes as numbers z, what they decode to, and inputs brought into it."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np

from ..anomaly import normals
from ..anomaly.normals import Normals
from ..data.images import Data, Images, Rows, Unreadable
from ..engine.engine import Engine
from ..engine.job import Job
from ..errors import DataError, ModelError
from ..log import log
from ..model import Model
from ..spec import size_of
from .density import NAME, Codes, Density, Floats, Vectors, rounded

DRAWN_AT_ONCE = DECODED_AT_ONCE = 256
NUMBERS_AT_ONCE = 2**22


@dataclass(frozen=True)
class Average:
    """The mean code (*shape) of ``inputs`` inputs of a size, height and width."""

    name: str
    inputs: int
    code: Vectors
    size: tuple[int, int]
    unreadable: Unreadable


class Latents:
    """A model that decodes; raises ModelError for one that does not."""

    def __init__(self, model: Model, device: str) -> None:
        model.refuse_without_decoder()
        self.model, self.engine = model, Engine(model, device)
        log.info("device: %s", self.engine.device)
        self.shape = model.code.shape
        self.numbers = math.prod(self.shape)

    @classmethod
    def open(cls, location: str | Path, device: str) -> Latents:
        return cls(Model.open(location), device)

    @property
    def size(self) -> tuple[int, int]:
        """Height and width of what is decoded: the size trained on; 1 and D of vectors."""
        height, width = self.model.spec.shape[:2] if len(self.model.spec.shape) == 3 else (1, 0)
        return height, width or self.model.spec.elements

    @cached_property
    def steps(self) -> Vectors:
        """(K,): z = steps * code, flattened; of (C, h, w) each channel has its own."""
        steps = np.array(self.model.manifest.quantiser.get("steps", ()), np.float64)
        if len(steps) != self.shape[0] or not (steps > 0).all():
            raise ModelError(
                f"{self.model.location} does not say the steps of its codes: train it again"
            )
        return np.repeat(steps, self.numbers // len(steps))

    @cached_property
    def density(self) -> Density:
        """Over codes. Raises ModelError for a model that has nothing to learn one from."""
        return self._density_and_origin[0]

    @property
    def origin(self) -> str:
        """What the density is, for people."""
        return self._density_and_origin[1]

    @cached_property
    def _density_and_origin(self) -> tuple[Density, str]:
        model, files = self.model, self.model.manifest.files
        if model.manifest.generative:
            return Density.normal(self.steps), "N(0, I), the prior of the model"
        if NAME in files:
            density = Density.from_bytes(model.read(NAME), self.numbers)
            gaussians = f"a mixture of {density.components} Gaussians"
            if density.components == 1:
                gaussians = "a Gaussian"
            return density, f"{gaussians} of training codes ({NAME})"
        if normals.NAME in files:
            known = Normals.from_bytes(model.read(normals.NAME))
            if known.features.are_whole(self.shape):
                # |(c - mean) L|^2 is the squared Mahalanobis distance, so c = mean + L^-T e
                return (
                    Density.gaussian(known.codes.mean, np.linalg.inv(known.codes.factor).T),
                    f"a Gaussian of training codes ({normals.NAME}: the model is of an older "
                    f"version and has no {NAME})",
                )
        raise ModelError(
            f"{model.location} has no {NAME}, since an older version made it, and nothing else to "
            "draw codes from: train it again"
        )

    def draw(self, count: int, seed: int, temperature: float) -> Iterator[Codes]:
        """Codes int32 (n, *shape), ``count`` in all; the first are the same for every count."""
        random = np.random.default_rng(seed)
        at_once = max(1, min(DRAWN_AT_ONCE, NUMBERS_AT_ONCE // self.numbers))
        for start in range(0, count, at_once):
            codes = self.density.sample(at_once, random, temperature)
            yield codes[: count - start].reshape(-1, *self.shape)

    def normal(self, shape: tuple[int, ...]) -> tuple[Vectors, Vectors]:
        """The mean and the deviations of codes, of a shape: of (C, h, w) as trained on, else each
        channel's, broadcast."""
        centre, deviations = self.density.centre(), self.density.deviations()
        if shape != self.shape:
            channels = self.shape[0], -1
            centre = centre.reshape(channels).mean(1)[:, None, None]
            variances = np.square(deviations).reshape(channels).mean(1)
            deviations = np.sqrt(variances)[:, None, None]
            return np.broadcast_to(centre, shape), np.broadcast_to(deviations, shape)
        return centre.reshape(shape), deviations.reshape(shape)

    def decode(self, codes: Floats | Codes, size: tuple[int, int] | None = None) -> Rows:
        """(n, *shape), rounded here, of inputs of a size (default: that trained on) -> uint8
        (n, H, W, C) or float32 (n, D)."""
        size = self.size if size is None else size
        at_once = max(1, min(DECODED_AT_ONCE, NUMBERS_AT_ONCE // codes[0].size))
        pieces = [codes[start : start + at_once] for start in range(0, len(codes), at_once)]
        return np.concatenate([self.engine.decode(rounded(piece), *size) for piece in pieces])

    def average(self, verb: str, name: str, data: Data) -> Average:
        """The mean code of ``data``, which is called ``name`` in messages.

        Raises DataError if nothing in it fits the model, or its images differ in size.
        """
        job = Job(verb, data, self.model.location, self.engine)

        def work(images: Images) -> list[tuple[tuple[int, int], Vectors]]:
            sizes = [size_of(group.pixels.shape[1:]) for group in images.groups]
            codes = [job.engine.encode(group.pixels) for group in images.groups]
            return [(s, c.sum(0, dtype=np.float64)) for s, c in zip(sizes, codes, strict=True)]

        size: tuple[int, int] | None = None
        total: Any = 0
        for _, sums in job.run(work):
            for of_group, codes in sums:
                if size is not None and size != of_group:
                    sizes = " and ".join(f"{h}x{w}" for h, w in (size, of_group))
                    raise DataError(f"{name} has images of {sizes}: give images of one size")
                size, total = of_group, total + codes
        assert size is not None
        return Average(name, job.images, total / job.images, size, job.unreadable)


def unreadable(averages: Sequence[Average]) -> dict[str, Any]:
    """The keys of a verb's summary for what could not be read."""
    all_of_them = Unreadable()
    for average in averages:
        more = average.unreadable
        rest = more.count - len(more.first)
        all_of_them = all_of_them.plus(list(more.first))
        all_of_them = all_of_them.model_copy(update={"count": all_of_them.count + rest})
    return all_of_them.summary()


def refuse_different_sizes(averages: Sequence[Average]) -> None:
    """Raises DataError unless inputs have one size."""
    first = averages[0]
    for other in averages[1:]:
        if other.size != first.size:
            raise DataError(
                f"{other.name} is {other.size[0]}x{other.size[1]} and {first.name} "
                f"{first.size[0]}x{first.size[1]}: give images of one size"
            )
