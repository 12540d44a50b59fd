"""A model's latent space: codes as numbers z, what they decode to, and inputs brought into it."""

from __future__ import annotations

import math
from collections.abc import Iterator
from functools import cached_property
from pathlib import Path

import numpy as np

from ..anomaly import normals
from ..anomaly.normals import Normals
from ..data.images import Rows
from ..engine.engine import Engine
from ..errors import ModelError
from ..model import Model
from .density import NAME, Codes, Density, Vectors, rounded

DRAWN_AT_ONCE = 256
NUMBERS_AT_ONCE = 2**22


class Latents:
    """A model that decodes; raises ModelError for one that does not."""

    def __init__(self, model: Model, device: str) -> None:
        model.refuse_without_decoder()
        self.model, self.engine = model, Engine(model, device)
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

    def decode(self, codes: Codes) -> Rows:
        """int32 (n, *shape) -> uint8 (n, H, W, C) or float32 (n, D)."""
        return self.engine.decode(codes, *self.size)

    def codes(self, z: Vectors) -> Codes:
        """z (n, K) -> int32 (n, *shape)."""
        return rounded(z / self.steps).reshape(-1, *self.shape)
