"""k nearest neighbours and principal components, on pixels or on a table's columns."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from functools import partial
from importlib.metadata import version
from typing import Any

import numpy as np
from cells import Cell
from sklearn.decomposition import PCA
from sklearn.neighbors import NearestNeighbors
from sklearn.preprocessing import MinMaxScaler, StandardScaler

from .metrics import Figures, Scores, auroc, with_pixels
from .tasks import Rows, Sample, Task

NEIGHBOURS = 5  # PyOD's and ADBench's
VARIANCE = 0.95
KNN, KNN_MIN_MAX, PCA_ERROR = "kNN", "kNN, min-max", "PCA"


def classic_cells(task: Task) -> Iterator[Cell[Figures]]:
    key = {
        "data": task.data,
        "part": task.part,
        "seed": task.seed,
        "digest": task.digest,
        "scikit-learn": version("scikit-learn"),
    }
    methods: dict[str, tuple[Callable[[Sample], Figures], dict[str, Any]]] = {
        KNN: (partial(knn, scaler=StandardScaler), {"neighbours": NEIGHBOURS}),
        PCA_ERROR: (components, {"variance": VARIANCE}),
    }
    if task.data.startswith("adbench"):
        min_max = partial(knn, scaler=MinMaxScaler)
        methods[KNN_MIN_MAX] = min_max, {"neighbours": NEIGHBOURS}
    for name, (measure, setting) in methods.items():
        yield Cell({**key, "method": name, **setting}, partial(_measured, task, measure))


def _measured(task: Task, measure: Callable[[Sample], Figures]) -> Figures:
    return measure(task.load())


def as_vectors(sample: Sample, scaler: Any = StandardScaler) -> tuple[Rows, Rows]:
    """Training and test rows (N, D): pixels in [0, 1], or columns scaled by the training rows."""
    if sample.train.dtype == np.uint8:
        flat = [rows.reshape(len(rows), -1) for rows in (sample.train, sample.test)]
        return flat[0].astype(np.float32) / 255, flat[1].astype(np.float32) / 255
    scaling = scaler().fit(sample.train)
    return scaling.transform(sample.train), scaling.transform(sample.test)


def knn(sample: Sample, scaler: Any) -> Figures:
    """The Euclidean distance to the k-th nearest row trained on; none is its own neighbour."""
    started = time.process_time()
    train, test = as_vectors(sample, scaler)
    search = NearestNeighbors(n_neighbors=NEIGHBOURS).fit(train)
    fitted = time.process_time()
    distances, _ = search.kneighbors(None if sample.test is sample.train else test)
    return _figures(sample, {"distance": distances[:, -1]}, started, fitted)


def components(sample: Sample) -> Figures:
    """The squared error of the fewest components that keep the share VARIANCE of the variance."""
    started = time.process_time()
    train, test = as_vectors(sample)
    pca = PCA(VARIANCE, svd_solver="full").fit(train)
    fitted = time.process_time()
    errors = np.square(test - pca.inverse_transform(pca.transform(test)))
    facts = {"components": int(pca.n_components_)}
    figures = _figures(sample, {"error": errors.mean(1)}, started, fitted, facts)
    if sample.masks is None:
        return figures
    maps = errors.reshape(sample.test.shape).mean(3)
    return with_pixels(figures, sample, maps)


def _figures(
    sample: Sample,
    scores: dict[str, Scores],
    started: float,
    fitted: float,
    facts: dict[str, Any] | None = None,
) -> Figures:
    (name,) = scores
    return Figures(
        auroc={name: auroc(sample.strange, scores[name])},
        scorer=name,
        images=len(sample.test),
        train_seconds=fitted - started,
        score_seconds=time.process_time() - fitted,
        facts=facts or {},
    )
