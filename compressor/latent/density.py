"""A density over the codes of training inputs, to draw new codes from, in NumPy alone.

    c = mean + B y + T r e,  y = m_k + T F_k e',  k ~ weights,  e, e' ~ N(0, I),  T the temperature

and the code is c rounded half up. y is a mixture of Gaussians along the principal axes B of
training codes (fitted after the autoencoder: Ghosh et al. 2020), r what the other axes leave of
each number (factor analysis). Codes are integers, not multiplied by their steps: a unit of each
changes what is decoded by about as much as a unit of any other. How many Gaussians there are is
chosen by the likelihood of codes that none was fitted to.

density.npz, written without pickle, has float32 arrays; K numbers of a code, flattened in C order:

mean (K,), basis (K, D), residual (K,)                    B has orthonormal columns; D may be 0
weights (M,), means (M, D), factors (M, D, D)             F_k F_k^T is a covariance of y

Where codes z ~ N(0, I) decode to samples, the density is that: D = 0, M = 1, r = 1 / steps.
"""

from __future__ import annotations

import io
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from ..errors import ModelError
from ..untrusted import read_npz

Codes = npt.NDArray[np.int32]
Floats = npt.NDArray[np.floating[Any]]
Vectors = npt.NDArray[np.float64]

NAME = "density.npz"
MAX_CODES = 5000  # that it is learned from
MAX_LEARNED = 2**22  # numbers of these codes together
MAX_AXES = 64
MAX_NUMBERS = 2**18  # of basis, and of factors: one megabyte each
COMPONENTS = (1, 10, 30, 100)
CODES_PER_COMPONENT = 20  # at least
HELD_OUT = 5  # every fifth code
ROUNDS = 12  # of expectation maximisation at most
ROUNDED_OFF = 1e-6  # of the variances: what float32 is off
ROUNDING = 1 / 12  # the variance of the uniform noise of a rounded number
CODE_LIMIT = 2**24  # float32 counts integers without gaps up to here
MAX_COMPONENTS = 1 << 12  # of what is read


@dataclass(frozen=True)
class Density:
    """What density.npz holds, float64."""

    mean: Vectors
    basis: Vectors
    residual: Vectors
    weights: Vectors
    means: Vectors
    factors: Vectors

    @classmethod
    def normal(cls, steps: Floats) -> Density:
        """Of codes z / steps (K,) with z ~ N(0, I)."""
        return cls(
            mean=np.zeros(len(steps)),
            basis=np.zeros((len(steps), 0)),
            residual=1 / np.asarray(steps, np.float64),
            weights=np.ones(1),
            means=np.zeros((1, 0)),
            factors=np.zeros((1, 0, 0)),
        )

    @classmethod
    def gaussian(cls, mean: Vectors, root: Floats) -> Density:
        """N(mean, root root^T), of mean (K,) and root (K, K)."""
        numbers = len(mean)
        return cls(
            mean=mean,
            basis=np.eye(numbers),
            residual=np.zeros(numbers),
            weights=np.ones(1),
            means=np.zeros((1, numbers)),
            factors=np.asarray(root, np.float64)[None],
        )

    @classmethod
    def learn(cls, codes: Codes, seed: int) -> Density:
        """Of training codes int32 (n, *shape), n at least 1.

        Noise that undoes the rounding is added first, since a density of integers can grow without
        bound (Uria et al. 2013), and its variance is taken away again afterwards.
        """
        random = np.random.default_rng(seed)
        flat = codes.reshape(len(codes), -1)
        count = min(MAX_CODES, max(2, MAX_LEARNED // flat.shape[1]))
        values = flat[np.sort(random.permutation(len(flat))[:count])].astype(np.float32)
        mean = values.mean(0, dtype=np.float64)
        changes = (values != values[0]).any(0)
        values = values[:, changes] - mean[changes].astype(np.float32)
        basis = _principal_axes(values, _axes(*values.shape), random)
        along = values @ basis
        rest = values - along @ basis.T
        left_over = np.maximum(np.square(rest, dtype=np.float64).mean(0), 0)
        noise = random.uniform(-0.5, 0.5, values.shape).astype(np.float32)
        mixture = _chosen(along + noise @ basis, random)
        # The mixture's covariances have in them the noise, and what residual puts along the axes.
        counted_twice = (basis * (left_over + ROUNDING)[:, None]).T @ basis
        whole_basis, residual = np.zeros((len(mean), basis.shape[1])), np.zeros(len(mean))
        whole_basis[changes], residual[changes] = basis, np.sqrt(left_over)
        factors = _roots(mixture.covariances - counted_twice)
        return cls(mean, whole_basis, residual, mixture.weights, mixture.means, factors)

    @property
    def components(self) -> int:
        return len(self.weights)

    @property
    def axes(self) -> int:
        return int(self.basis.shape[1])

    def deviations(self) -> Vectors:
        """(K,) of the numbers of a code."""
        along = np.square(self.basis @ _roots(self._covariance())).sum(1)
        deviations: Vectors = np.sqrt(along + np.square(self.residual))
        return deviations

    def principal_axes(self) -> tuple[Vectors, Vectors]:
        """(K, D) orthonormal, those along which codes spread most first; and deviations (D,)."""
        variances, axes = np.linalg.eigh(self._covariance())
        return self.basis @ axes[:, ::-1], np.sqrt(np.maximum(variances[::-1], 0))

    def _covariance(self) -> Vectors:
        """Of y, (D, D)."""
        spread = self.means - self.weights @ self.means
        covariance: Vectors = np.einsum("m,mij,mkj->ik", self.weights, self.factors, self.factors)
        return covariance + (spread.T * self.weights) @ spread

    def centre(self) -> Vectors:
        """(K,): the mean of codes."""
        centre: Vectors = self.mean + self.basis @ (self.weights @ self.means)
        return centre

    def sample(self, count: int, random: np.random.Generator, temperature: float = 1.0) -> Codes:
        """Codes int32 (count, K)."""
        which = random.choice(self.components, count, p=self.weights)
        along = random.standard_normal((count, self.axes))
        for component in np.unique(which):
            rows = which == component
            spread = temperature * along[rows] @ self.factors[component].T
            along[rows] = self.means[component] + spread
        rest = random.standard_normal((count, len(self.mean))) * self.residual
        return rounded(self.mean + along @ self.basis.T + temperature * rest)

    def to_bytes(self) -> bytes:
        """density.npz."""
        buffer = io.BytesIO()
        arrays: dict[str, Any] = {
            name: array.astype(np.float32) for name, array in vars(self).items()
        }
        np.savez_compressed(buffer, **arrays)
        return buffer.getvalue()

    @classmethod
    def from_bytes(cls, content: bytes, numbers: int) -> Density:
        """Of codes of ``numbers`` numbers. Raises ModelError for anything that ``to_bytes`` does
        not write."""
        try:
            return cls._read(read_npz(content), numbers)
        except (KeyError, ValueError, TypeError) as error:
            raise ModelError(
                f"{NAME} is damaged: {error}; take a good copy of the model"
            ) from error

    @classmethod
    def _read(cls, arrays: dict[str, npt.NDArray[Any]], numbers: int) -> Density:
        fields = ("mean", "basis", "residual", "weights", "means", "factors")
        mean, basis, residual, weights, means, factors = (arrays[name] for name in fields)
        for array in (mean, basis, residual, weights, means, factors):
            if array.dtype.kind != "f" or not np.isfinite(array).all():
                raise ValueError("its arrays are not finite numbers")
        if basis.ndim != 2 or weights.ndim != 1 or not 1 <= len(weights) <= MAX_COMPONENTS:
            raise ValueError("its arrays do not fit together")
        axes, components = basis.shape[1], len(weights)
        if not mean.shape == residual.shape == basis.shape[:1] == (numbers,):
            raise ValueError("its arrays do not fit the model's codes")
        if means.shape != (components, axes) or factors.shape != (components, axes, axes):
            raise ValueError("its arrays do not fit together")
        if weights.min() < 0 or abs(weights.sum() - 1) > 1e-3:
            raise ValueError("its weights are no probabilities")
        arrays = {name: arrays[name].astype(np.float64) for name in fields}
        return cls(**arrays | {"weights": arrays["weights"] / arrays["weights"].sum()})


def rounded(values: Floats | Codes) -> Codes:
    """Half up, as encoder.onnx does it."""
    codes: Codes = np.clip(np.floor(values + 0.5), -CODE_LIMIT, CODE_LIMIT).astype(np.int32)
    return codes


def _axes(count: int, numbers: int) -> int:
    """How many principal axes of so many codes have a mixture."""
    return min(numbers, MAX_AXES, MAX_NUMBERS // max(1, numbers) or 1, count // 4 or 1)


def _principal_axes(
    values: npt.NDArray[np.float32], axes: int, random: np.random.Generator
) -> npt.NDArray[np.float32]:
    """(K, axes), of centred values (n, K), by subspace iteration (Halko et al. 2011)."""
    guess = random.standard_normal((values.shape[1], axes)).astype(np.float32)
    basis: npt.NDArray[np.float32] = np.linalg.qr(guess)[0]
    for _ in range(4 if axes < values.shape[1] else 0):
        basis = np.linalg.qr(values.T @ (values @ basis))[0]
    return basis


class _Mixture(NamedTuple):
    """weights (M,), means (M, D), covariances (M, D, D), float64."""

    weights: Vectors
    means: Vectors
    covariances: Vectors

    def log_likelihoods(self, values: Floats) -> Vectors:
        """Of values (n, D) and each component, its weight included: (n, M), but for a constant."""
        factors = np.linalg.inv(np.linalg.cholesky(self.covariances))
        logs = np.log(self.weights) + np.log(np.diagonal(factors, axis1=1, axis2=2)).sum(1)
        result = np.empty((len(values), len(self.weights)))
        for number, (mean, factor) in enumerate(zip(self.means, factors, strict=True)):
            scaled = (values - mean.astype(np.float32)) @ factor.T.astype(np.float32)
            result[:, number] = logs[number] - 0.5 * np.square(scaled).sum(1)
        return result


def _chosen(values: npt.NDArray[np.float32], random: np.random.Generator) -> _Mixture:
    """The mixture under which held-out values (n, D) are likeliest."""
    held_out = np.arange(len(values)) % HELD_OUT == HELD_OUT - 1
    fitted, judged = values[~held_out], values[held_out]
    best, likeliest = _fitted(fitted, 1, random), -np.inf
    if not len(judged):
        return best
    for components in _numbers_of_components(len(fitted), values.shape[1]):
        mixture = best if components == 1 else _fitted(fitted, components, random)
        likelihood = float(_log_sum(mixture.log_likelihoods(judged)).mean())
        if likelihood <= likeliest:
            break
        best, likeliest = mixture, likelihood
    return best


def _numbers_of_components(count: int, axes: int) -> Sequence[int]:
    most = min(count // CODES_PER_COMPONENT, MAX_NUMBERS // max(1, axes) ** 2)
    return [number for number in COMPONENTS if number == 1 or number <= most]


def _fitted(
    values: npt.NDArray[np.float32], components: int, random: np.random.Generator
) -> _Mixture:
    """By expectation maximisation, from k-means.

    Covariances are drawn to the one that all components have in common (Friedman 1989), which
    weighs as much as D values; so the covariance of the whole mixture stays that of the values.
    """
    axes = values.shape[1]
    shares = _k_means(values, components, random)
    before = -np.inf
    for _ in range(ROUNDS):
        sums = shares.sum(0, dtype=np.float64) + 1e-9
        means = (shares.T @ values) / sums[:, None]
        scatters = np.empty((components, axes, axes))
        for number in range(components):
            apart = values - means[number].astype(np.float32)
            scatters[number] = (apart * shares[:, number : number + 1]).T @ apart
        common = scatters.sum(0) / len(values)
        common += ROUNDED_OFF * (1 + np.trace(common)) * np.eye(axes)
        covariances = (scatters + axes * common) / (sums + axes)[:, None, None]
        mixture = _Mixture(sums / sums.sum(), means, covariances)
        logs = mixture.log_likelihoods(values)
        totals = _log_sum(logs)
        if components == 1 or totals.mean() < before + 1e-2:
            break
        before = totals.mean()
        shares = np.exp(logs - totals[:, None]).astype(np.float32)
    return mixture


def _k_means(
    values: npt.NDArray[np.float32], components: int, random: np.random.Generator
) -> npt.NDArray[np.float32]:
    """Which of the components each of values (n, D) belongs to: (n, components), 0 or 1."""
    centres: npt.NDArray[np.float32] = values[np.sort(random.permutation(len(values))[:components])]
    shares = np.empty((len(values), components), np.float32)
    for _ in range(5):
        squares = np.square(centres).sum(1) - 2 * values @ centres.T
        shares = np.eye(components, dtype=np.float32)[squares.argmin(1)]
        sums = shares.sum(0)[:, None]
        centres = np.where(sums > 0, shares.T @ values / np.maximum(sums, 1), centres)
    return shares


def _log_sum(logs: Vectors) -> Vectors:
    """log sum exp along the rows of (n, M)."""
    most = logs.max(1)
    total: Vectors = most + np.log(np.exp(logs - most[:, None]).sum(1))
    return total


def _roots(covariances: Vectors) -> Vectors:
    """F with F F^T = covariance, of each; what is below zero counts as zero."""
    variances, axes = np.linalg.eigh(covariances)
    roots: Vectors = axes * np.sqrt(np.maximum(variances, 0))[..., None, :]
    return roots
