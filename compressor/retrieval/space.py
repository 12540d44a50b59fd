"""The space in which inputs are compared: which vector stands for a code, and how far two are.

vector = B^T (features of the code - mean), B the principal axes of training codes, each divided by
a power of its deviation: with the power 0 distances are those of codes, with 1 all axes count alike
(whitened). Vectors of length one are compared by the cosine.

Which power and whether the cosine is chosen without labels, by how reliable neighbours are: the
numbers of a code are split into two halves at random, and a space is good if the ten nearest of a
code by one half are those by the other. Noise has no such neighbours (split-half reliability:
Spearman 1910, Brown 1910).
"""

from __future__ import annotations

import io
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from ..anomaly.normals import NAME, Features, Normals
from ..errors import ArchiveError, ConfigError, ModelError
from ..model import Model
from ..untrusted import read_npz

Vectors = npt.NDArray[np.float32]
Floats = npt.NDArray[np.float64]

POWERS, METRICS = (0.0, 0.25, 0.5, 1.0), ("euclidean", "cosine")
SPACES = tuple((power, cosine) for power in POWERS for cosine in (False, True))
NEAREST = 10
QUERIES = 500  # of the codes, whose neighbours are looked at
SPLITS = 3
SMALLEST_DEVIATION = 1e-3  # of the largest one: smaller ones are noise of rounding
MAX_SIDE = 1 << 12  # numbers of a vector
MAX_GRID = 1 << 8


@dataclass(frozen=True)
class Space:
    """``features``: what of a code is compared; mean (K,), basis (K, D), float32; ``cosine``:
    whether vectors have the length one. ``reliability``: of the choice, from 0 to 1."""

    features: Features
    mean: Vectors
    basis: Vectors
    cosine: bool
    power: float
    reliability: float

    @classmethod
    def of(cls, model: Model, metric: str = "auto", whitening: float | None = None) -> Space:
        """The one chosen for a model by its training codes (scores.npz), or what is given of it.

        metric: "auto", "cosine" or "euclidean"; whitening: the power, from 0 to 1. Raises
        ConfigError for another value, and ModelError for a model made before 0.4.0, which has none.
        """
        if metric not in ("auto", *METRICS):
            raise ConfigError(f"metric={metric}: give auto, {' or '.join(METRICS)}")
        if whitening is not None and not 0 <= whitening <= 1:
            raise ConfigError(f"whitening={whitening}: it is a power from 0 to 1")
        if NAME not in model.manifest.files:
            raise ModelError(
                f"{model.location} has no {NAME}, from which the space of its codes is learned: "
                "train the model again with this version"
            )
        powers = POWERS if whitening is None else (whitening,)
        metrics = METRICS if metric == "auto" else (metric,)
        among = [(power, one == "cosine") for power in powers for one in metrics]
        return cls.learn(Normals.from_bytes(model.read(NAME)), among)

    @classmethod
    def learn(cls, normals: Normals, among: Sequence[tuple[float, bool]] = SPACES) -> Space:
        """The best of ``among``, powers and whether by the cosine, for training codes; the first
        where these tell nothing: codes as they are."""
        codes = normals.neighbours.astype(np.float64)
        judged = {(power, cosine): reliability(codes, power, cosine) for power, cosine in among}
        power, cosine = max(judged, key=judged.__getitem__)
        mean, basis = (array.astype(np.float32) for array in _axes(codes, power))
        reliable = round(judged[power, cosine], 4)
        return cls(normals.features, mean, basis, cosine, power, reliable)

    @property
    def dimensions(self) -> int:
        return int(self.basis.shape[1])

    @property
    def metric(self) -> str:
        """What ``distances`` gives: "cosine", 1 - the cosine, or "euclidean"."""
        return "cosine" if self.cosine else "euclidean"

    def vectors(self, codes: npt.NDArray[np.int32]) -> Vectors:
        """float32 (n, D) of codes int32 (n, *shape)."""
        centred = self.features.of(codes) - self.mean
        return self.scaled(centred @ self.basis).astype(np.float32)

    def scaled(self, vectors: Floats) -> Floats:
        """Vectors (n, D) made as long as this space has them: one, if the cosine counts."""
        return _scaled(vectors, self.cosine)

    def distances(self, squares: Floats) -> Floats:
        """What users see of squared distances: 1 - the cosine, or the Euclidean distance."""
        squares = np.maximum(squares, 0)
        return squares / 2 if self.cosine else np.sqrt(squares)

    def squared(self, distance: float) -> float:
        """The square that ``distances`` makes ``distance`` of."""
        return 2 * distance if self.cosine else distance**2

    def to_bytes(self) -> bytes:
        """space.npz."""
        buffer = io.BytesIO()
        np.savez_compressed(
            buffer,
            grid=np.int64(self.features.grid),
            elements=self.features.elements,
            mean=self.mean,
            basis=self.basis,
            cosine=np.int64(self.cosine),
            power=np.float64(self.power),
            reliability=np.float64(self.reliability),
        )
        return buffer.getvalue()

    @classmethod
    def from_bytes(cls, content: bytes) -> Space:
        """Raises ArchiveError for anything that ``to_bytes`` does not write."""
        try:
            return cls._read(read_npz(content))
        except (KeyError, ValueError, TypeError) as error:
            raise ArchiveError(f"space.npz is damaged: {error}") from error

    @classmethod
    def _read(cls, arrays: dict[str, npt.NDArray[Any]]) -> Space:
        if any(array.dtype.kind not in "fiu" for array in arrays.values()):
            raise ValueError("its arrays are not numbers")
        mean, basis = arrays["mean"].astype(np.float32), arrays["basis"].astype(np.float32)
        elements = arrays["elements"].astype(np.int64)
        if not (1 <= mean.size <= MAX_SIDE and mean.shape == elements.shape == (mean.size,)):
            raise ValueError("its arrays do not fit together")
        if basis.ndim != 2 or len(basis) != mean.size or not 1 <= basis.shape[1] <= MAX_SIDE:
            raise ValueError("its arrays do not fit together")
        if elements.min() < 0 or not 0 <= int(arrays["grid"]) <= MAX_GRID:
            raise ValueError("its grid is impossible")
        if not (np.isfinite(mean).all() and np.isfinite(basis).all()):
            raise ValueError("its numbers are not finite")
        features = Features(int(arrays["grid"]), elements)
        cosine, power = bool(arrays["cosine"]), float(arrays["power"])
        return cls(features, mean, basis, cosine, power, float(arrays["reliability"]))


def reliability(codes: Floats, power: float, cosine: bool) -> float:
    """The share of the NEAREST nearest codes by one half of the numbers that are so by the other.

    codes: (n, K). 0 where there are too few codes or numbers to tell.
    """
    count, numbers = codes.shape
    queries = min(QUERIES, count // 4)
    if numbers < 4 or count - queries <= NEAREST or not queries:
        return 0.0
    random = np.random.default_rng(0)
    shared = 0
    for _ in range(SPLITS):
        order = random.permutation(numbers)
        found = []
        for half in (order[: numbers // 2], order[numbers // 2 :]):
            mean, basis = _axes(codes[:, half], power)
            vectors = _scaled((codes[:, half] - mean) @ basis, cosine)
            base, asked = vectors[queries:], vectors[:queries]
            squares = np.square(base).sum(1) - 2 * asked @ base.T
            found.append(np.argpartition(squares, NEAREST, axis=1)[:, :NEAREST])
        shared += sum(len(np.intersect1d(*pair)) for pair in zip(*found, strict=True))
    return float(shared / (SPLITS * queries * NEAREST))


def _axes(codes: Floats, power: float) -> tuple[Floats, Floats]:
    """The mean (K,) of codes (n, K), and their principal axes (K, K), scaled."""
    mean = codes.mean(0)
    covariance = np.atleast_2d(np.cov(codes.T)) if len(codes) > 1 else np.eye(codes.shape[1])
    variances, axes = np.linalg.eigh(covariance)
    deviations = np.sqrt(np.maximum(variances, 0))
    least = SMALLEST_DEVIATION * deviations.max() or 1.0
    return mean, axes / np.maximum(deviations, least) ** power


def _scaled(vectors: Floats, cosine: bool) -> Floats:
    if not cosine:
        return vectors
    lengths = np.linalg.norm(vectors, axis=1, keepdims=True)
    scaled: Floats = vectors / np.maximum(lengths, 1e-12)
    return scaled
