"""Where normal inputs lie: what distances to them are measured with, learned once, in NumPy alone.

scores.npz, written without pickle, has float32 arrays, beside ``grid`` and ``elements``:

code_mean (K,), code_factor (K (K + 1) / 2,)    of the features of training codes
nap_mean (D,), nap_factor (D (D + 1) / 2,)      of hidden_differences of training inputs, if any
neighbours (M, K)                               features of training codes, as they are
grid () int64                                   codes (C, h, w) are averaged to (C, grid, grid)
elements (K,) int64                             which of the flattened numbers are features

A factor is the lower triangle L, row by row, of L L^T = the inverse of a covariance: the squared
Mahalanobis distance of v is |(v - mean) L|^2. Features are integer codes, not multiplied by their
steps: a unit of each changes what is decoded by about as much as a unit of any other.
"""

from __future__ import annotations

import io
import math
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from ..errors import ModelError
from ..untrusted import read_npz

Floats = npt.NDArray[np.floating[Any]]
Vectors = npt.NDArray[np.float64]

NAME = "scores.npz"
MAX_FEATURES = 256  # of a code
MAX_NUMBERS = 2**18  # of all neighbours together: one megabyte
MAX_NEIGHBOURS = 4096
MAX_DIMENSIONS = 1 << 13  # of a mean that is read: its factor takes half a gigabyte
LEARNED_FROM = 4096  # inputs that means and covariances are taken of
NEAREST = 5
ROWS_AT_ONCE = 256


@dataclass(frozen=True)
class Gaussian:
    """mean (D,) and the lower triangular factor (D, D) of the inverse covariance, float64."""

    mean: Vectors
    factor: Vectors

    @classmethod
    def learn(cls, values: Floats) -> Gaussian:
        """Of values (n, D), n at least 1, with shrinkage, so that it always has an inverse.

        Ledoit & Wolf 2004: towards a multiple of the identity, of columns that were scaled to the
        deviation 1. One that never changed is taken to change by as little as shrinkage allows.
        """
        mean, deviation = values.mean(0, dtype=np.float64), values.std(0, dtype=np.float64)
        deviation[deviation <= 1e-6 * np.abs(mean) + 1e-12] = 1.0
        scaled = (values - mean) / deviation
        n, dimensions = scaled.shape
        covariance = scaled.T @ scaled / n
        size = float(np.trace(covariance)) / dimensions or 1.0
        distance = float(np.square(covariance - size * np.eye(dimensions)).sum())
        # sum_k |x_k x_k^T - S|^2 = sum_k |x_k|^4 - n |S|^2
        noise = float(np.square(np.square(scaled).sum(1)).sum() - n * np.square(covariance).sum())
        # At least a little, or a column that never changed leaves no inverse.
        shrinkage = float(np.clip(noise / n**2 / distance, 1e-3, 1)) if distance > 0 else 1.0
        covariance *= 1 - shrinkage
        covariance += shrinkage * size * np.eye(dimensions)
        factor = np.linalg.cholesky(np.linalg.inv(covariance))
        return cls(mean, factor / deviation[:, None])

    def distances(self, values: Floats) -> Vectors:
        """The squared Mahalanobis distance of each of values (n, D)."""
        if values.shape[1] != len(self.mean):
            raise ModelError(f"{NAME} does not fit the model; take a good copy of the model")
        distances: Vectors = np.square((values - self.mean) @ self.factor).sum(1)
        return distances


@dataclass(frozen=True)
class Features:
    """What of a code (K,) or (C, h, w) is compared: averages on a grid, and of these a choice."""

    grid: int  # 0 for codes (K,)
    elements: npt.NDArray[np.int64]

    @classmethod
    def learn(cls, codes: npt.NDArray[np.int32]) -> Features:
        """The finest grid with at most MAX_FEATURES numbers; then those that vary most."""
        grid = 0
        if codes.ndim == 4:
            fitting = [g for g in (8, 4, 2, 1) if codes.shape[1] * g**2 <= MAX_FEATURES]
            grid = min([*fitting[:1], max(1, min(codes.shape[2:]))]) if fitting else 1
        every = _flat(codes, grid)
        order = np.argsort(-every.var(0), kind="stable")[:MAX_FEATURES]
        return cls(grid, np.sort(order))

    def are_whole(self, shape: tuple[int, ...]) -> bool:
        """Whether these are the codes of a shape as they are, flattened."""
        as_they_are = len(shape) == 1 or shape[1:] == (self.grid, self.grid)
        return as_they_are and np.array_equal(self.elements, np.arange(math.prod(shape)))

    def of(self, codes: npt.NDArray[np.int32]) -> Vectors:
        """float64 (n, K) of codes int32 (n, *shape)."""
        flat = _flat(codes, self.grid)
        if len(self.elements) and self.elements.max() >= flat.shape[1]:
            raise ModelError(f"{NAME} does not fit the model; take a good copy of the model")
        return flat[:, self.elements]


def _flat(codes: npt.NDArray[np.int32], grid: int) -> Vectors:
    if codes.ndim == 4:
        down, across = (_averages(side, grid) for side in codes.shape[2:])
        return np.asarray(down @ codes @ across.T).reshape(len(codes), -1)
    return codes.astype(np.float64)


def _averages(side: int, grid: int) -> Vectors:
    """(grid, side): rows that take the mean over one of ``grid`` stretches of a side each."""
    starts = np.arange(grid) * side // grid
    stops = np.maximum(-(-(np.arange(grid) + 1) * side // grid), starts + 1)
    places = np.arange(side)
    inside = (places >= starts[:, None]) & (places < stops[:, None])
    averages: Vectors = inside / inside.sum(1, keepdims=True)
    return averages


@dataclass(frozen=True)
class Normals:
    """What scores.npz holds; a part is None where the model has none of it."""

    features: Features
    codes: Gaussian
    neighbours: npt.NDArray[np.float32]
    hidden: Gaussian | None

    @classmethod
    def learn(cls, codes: npt.NDArray[np.int32], differences: Floats | None, seed: int) -> Normals:
        """From training inputs: codes int32 (n, *shape), hidden_differences (m, D)."""
        features = Features.learn(codes[:: -(-len(codes) // LEARNED_FROM)])
        vectors = features.of(codes[:: -(-len(codes) // LEARNED_FROM)])
        most = max(NEAREST, min(MAX_NEIGHBOURS, MAX_NUMBERS // vectors.shape[1]))
        drawn = np.random.default_rng(seed).permutation(len(codes))[:most]
        return cls(
            features,
            Gaussian.learn(vectors),
            features.of(codes[np.sort(drawn)]).astype(np.float32),
            None if differences is None else Gaussian.learn(differences),
        )

    def mahalanobis(self, codes: npt.NDArray[np.int32]) -> Vectors:
        return self.codes.distances(self.features.of(codes))

    def knn(self, codes: npt.NDArray[np.int32]) -> Vectors:
        """The mean distance to the NEAREST nearest codes (Angiulli & Pizzuti 2002)."""
        points = self.neighbours.astype(np.float64)
        sizes, nearest = np.square(points).sum(1), min(NEAREST, len(points))
        distances = []
        vectors = self.features.of(codes)
        for start in range(0, len(vectors), ROWS_AT_ONCE):
            piece = vectors[start : start + ROWS_AT_ONCE]
            squares = np.square(piece).sum(1)[:, None] + sizes - 2 * piece @ points.T
            least = np.partition(squares, nearest - 1, axis=1)[:, :nearest]
            distances.append(np.sqrt(np.maximum(least, 0)).mean(1))
        return np.concatenate(distances) if distances else np.empty(0)

    def to_bytes(self) -> bytes:
        """scores.npz."""
        arrays: dict[str, Any] = {
            "grid": np.int64(self.features.grid),
            "elements": self.features.elements,
            "neighbours": self.neighbours,
        }
        for name, gaussian in (("code", self.codes), ("nap", self.hidden)):
            if gaussian is None:
                continue
            triangle = gaussian.factor[np.tril_indices(len(gaussian.mean))]
            arrays[f"{name}_mean"] = gaussian.mean.astype(np.float32)
            arrays[f"{name}_factor"] = triangle.astype(np.float32)
        buffer = io.BytesIO()
        np.savez_compressed(buffer, **arrays)
        return buffer.getvalue()

    @classmethod
    def from_bytes(cls, content: bytes) -> Normals:
        """Raises ModelError for anything that ``to_bytes`` does not write."""
        try:
            return cls._read(read_npz(content))
        except (KeyError, ValueError, TypeError) as error:
            raise ModelError(
                f"{NAME} is damaged: {error}; take a good copy of the model"
            ) from error

    @classmethod
    def _read(cls, arrays: dict[str, npt.NDArray[Any]]) -> Normals:
        if any(array.dtype.kind not in "fiu" for array in arrays.values()):
            raise ValueError("its arrays are not numbers")
        gaussians = []
        has_hidden = "nap_mean" in arrays or "nap_factor" in arrays
        for name in ("code", "nap") if has_hidden else ("code",):
            mean, triangle = arrays[f"{name}_mean"], arrays[f"{name}_factor"]
            size = mean.size
            # Before a square is made of it: a long mean alone would fill the memory.
            if (
                mean.ndim != 1
                or size > MAX_DIMENSIONS
                or triangle.shape != (size * (size + 1) // 2,)
            ):
                raise ValueError("its arrays do not fit together")
            factor = np.zeros((size, size))
            factor[np.tril_indices(size)] = triangle
            gaussians.append(Gaussian(mean.astype(np.float64), factor))
        if arrays["grid"].shape != () or not 0 <= arrays["grid"] <= MAX_FEATURES:
            raise ValueError("its grid is impossible")
        features = Features(int(arrays["grid"]), arrays["elements"].astype(np.int64))
        neighbours = arrays["neighbours"].astype(np.float32)
        if neighbours.ndim != 2 or not len(neighbours) or features.elements.ndim != 1:
            raise ValueError("its arrays do not fit together")
        if neighbours.shape[1:] != features.elements.shape or np.any(features.elements < 0):
            raise ValueError("its arrays do not fit together")
        codes, *hidden = gaussians
        if features.elements.shape != codes.mean.shape:
            raise ValueError("its arrays do not fit together")
        return cls(features, codes, neighbours, hidden[0] if hidden else None)
