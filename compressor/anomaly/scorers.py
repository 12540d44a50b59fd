"""Every anomaly score behind one interface: a name, and a function of what a model says of inputs.

A ``Scorer`` takes inputs of one size and what the model makes of them, and gives raw, unclamped
float64 (N,), higher is stranger. ``Seen`` computes each thing when it is first read, so a job pays
for what its scores read and for nothing else. docs/anomaly.md has the formulas.

Each output of scorer.onnx is a score, and beside them:

top                   the mean of the worst 2% of error_map
gradient, hidden      of further.onnx
nap                   that of hidden_differences, as of a code: normals.py (Kim et al. 2020, eq. 5)
mahalanobis, knn      distances of the code: normals.py
codelength            bits that the archive spends on the code
codelength_over_webp  the same over the bits of lossless WebP (Serra et al. 2020, for lossy codes)
"""

from __future__ import annotations

import math
from collections.abc import Callable, Collection, Mapping, Sequence
from functools import cached_property, partial
from typing import Any, Protocol

import numpy as np
import numpy.typing as npt

from ..codecs.image_codecs import IMAGE_CODECS
from ..data.images import Pixels, Rows
from ..engine.engine import Engine, Graphs
from ..entropy.tables import Tables
from ..spec import DataSpec
from .calibration import Scores
from .normals import NAME, Normals

AT_ONCE, ELEMENTS_AT_ONCE = 256, 2**25  # inputs, and their numbers
WORST = 0.02  # of error_map, in top


class Scored(Graphs, Protocol):
    """What scores need of a model."""

    @property
    def files(self) -> Collection[str]: ...

    @property
    def graph_scores(self) -> Sequence[str]: ...

    @property
    def default_score(self) -> str | None: ...

    @property
    def further_scores(self) -> Sequence[str]: ...

    @property
    def prior(self) -> Tables: ...

    @property
    def spec(self) -> DataSpec: ...


class Seen:
    """Inputs of one size, (N, H, W, C) or (N, D), and what a model says of them."""

    def __init__(self, engine: Engine, pixels: Rows) -> None:
        self._engine, self.pixels = engine, pixels

    @cached_property
    def scored(self) -> Mapping[str, npt.NDArray[np.float32]]:
        """The outputs of scorer.onnx."""
        return self._engine.score(self.pixels)

    @cached_property
    def further(self) -> Mapping[str, npt.NDArray[np.float32]]:
        """The outputs of further.onnx."""
        return self._engine.further(self.pixels)

    @cached_property
    def codes(self) -> npt.NDArray[np.int32]:
        return self._engine.encode(self.pixels)


Scorer = Callable[[Seen], npt.NDArray[Any]]


def scorers(model: Scored) -> dict[str, Scorer]:
    """The scores that a model has, its default first."""
    by_name, default = _scorers(model), model.default_score
    return {default: by_name[default], **by_name} if default in by_name else by_name


def _scorers(model: Scored) -> dict[str, Scorer]:
    by_name: dict[str, Scorer] = {
        name: partial(_of_graph, name=name) for name in model.graph_scores
    }
    if not by_name:
        return {}
    by_name["top"] = _top
    by_name |= {name: partial(_of_further, name=name) for name in model.further_scores}
    if NAME in model.files:
        normals = Normals.from_bytes(model.read(NAME))
        if (hidden := normals.hidden) is not None:
            by_name["nap"] = lambda seen: hidden.distances(seen.further["hidden_differences"])
        by_name["mahalanobis"] = lambda seen: normals.mahalanobis(seen.codes)
        by_name["knn"] = lambda seen: normals.knn(seen.codes)
    if "prior.bin" not in model.files:
        return by_name
    by_name["codelength"] = lambda seen: model.prior.bits_of_each(seen.codes)
    if model.spec.kind == "image":
        by_name["codelength_over_webp"] = lambda seen: (
            model.prior.bits_of_each(seen.codes) / webp_bits(seen.pixels)
        )
    return by_name


def score_all(wanted: Mapping[str, Scorer], seen: Seen) -> dict[str, Scores]:
    """Each score of the inputs, float64 (N,); NaN becomes infinity."""
    with np.errstate(over="ignore", invalid="ignore"):  # of inputs far out
        answers = {name: np.asarray(scorer(seen), np.float64) for name, scorer in wanted.items()}
    return {name: np.where(np.isnan(s), np.inf, s) for name, s in answers.items()}


def score_rows(
    wanted: Mapping[str, Scorer], engine: Engine, rows: Rows, indices: npt.NDArray[np.int64]
) -> dict[str, Scores]:
    """Each score of the inputs ``rows[indices]``, a piece at a time; {} if there are none."""
    size = max(1, min(AT_ONCE, ELEMENTS_AT_ONCE // math.prod(rows.shape[1:])))
    pieces = [
        score_all(wanted, Seen(engine, rows[indices[start : start + size]]))
        for start in range(0, len(indices), size)
    ]
    return {name: np.concatenate([p[name] for p in pieces]) for name in (wanted if pieces else ())}


def _of_graph(seen: Seen, name: str) -> npt.NDArray[np.float32]:
    return seen.scored[name]


def _of_further(seen: Seen, name: str) -> npt.NDArray[np.float32]:
    return seen.further[name]


def _top(seen: Seen) -> Scores:
    errors = seen.scored["error_map"].reshape(len(seen.pixels), -1)
    worst = max(1, math.ceil(WORST * errors.shape[1]))
    scores: Scores = np.partition(errors, -worst, axis=1)[:, -worst:].mean(1, dtype=np.float64)
    return scores


def webp_bits(images: Pixels) -> Scores:
    """The bits of each image, uint8 (N, H, W, C), as a file of lossless WebP, or else of PNG."""
    return np.array([8.0 * len(_lossless(image)) for image in images])


def _lossless(image: Pixels) -> bytes:
    try:
        return IMAGE_CODECS["webp-lossless"].encode(image, 0)
    except (ValueError, OSError):  # more than 16,383 pixels a side
        return IMAGE_CODECS["png"].encode(image, 0)
