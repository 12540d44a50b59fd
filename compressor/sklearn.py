"""Anomaly detectors with the methods of scikit-learn's and of PyOD's, for images and tables.

    from compressor.sklearn import AutoencoderDetector

    detector = AutoencoderDetector(settings={"latent": 4}, max_seconds=60).fit(normal)
    detector.predict(images)  # 1: normal, -1: an outlier, at most fpr of normal ones
    detector.save("model")  # for the command line: compressor score IMAGES -m model

Images are uint8 (N, H, W), or (N, H, W, C) with C of 1, 3 or 4; (N, D) of any numbers are vectors,
and so are tables with named columns. Only ``fit`` needs PyTorch.

The two libraries mean opposite things by the same names, so there are two classes:

                       AutoencoderDetector (scikit-learn)    PyODDetector (PyOD)
    score_samples      -score: higher is more normal
    decision_function  threshold_ - score: below 0: outlier  score: higher is stranger
    predict            -1: outlier, 1: normal                1: outlier, 0: normal
    threshold_         in both: the score above which a row is an outlier, as of ``score`` with fpr
"""

from __future__ import annotations

import os
import tempfile
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, Self

import numpy as np
import numpy.typing as npt

from . import verbs
from .anomaly.calibration import Scores, p_values, scores_needed, threshold_for
from .anomaly.requested import Requested
from .anomaly.scorers import Seen
from .data.arrays import ArraySource
from .data.images import Rows
from .engine.engine import Engine
from .engine.pipeline import chunk_size, in_order
from .errors import ConfigError, DataError, MissingDependency, UnreadableImage, install
from .model import Model
from .spec import size_of
from .training.settings import TrainingSettings

try:
    from sklearn.base import (
        BaseEstimator,
        ClassNamePrefixFeaturesOutMixin,
        OutlierMixin,
        TransformerMixin,
    )
    from sklearn.utils import check_random_state
    from sklearn.utils.validation import check_is_fitted, validate_data
except ImportError as error:
    raise MissingDependency(
        f"compressor.sklearn needs scikit-learn: run {install('sklearn')}"
    ) from error

__all__ = ["AutoencoderDetector", "PyODDetector"]

MIN_ROWS_TO_FIT = 3  # one to train on, one to stop the training, one to calibrate


class _Detector(ClassNamePrefixFeaturesOutMixin, TransformerMixin, BaseEstimator):  # type: ignore[misc]
    """What both classes share: all but signs and labels.

    ``model_``: the model, in memory; ``n_features_in_``, ``feature_names_in_``: only for tables.

    Raises ValueError where X is wrong, as scikit-learn does, and otherwise CompressorError.
    """

    def __init__(
        self,
        plugin: str = "undercomplete",
        *,
        settings: Mapping[str, Any] | None = None,
        scorer: str | None = None,
        fpr: float = 0.01,
        confidence: float | None = None,
        max_steps: int | None = None,
        max_seconds: float | None = None,
        random_state: Any = 0,
        device: str = "auto",
        verbose: bool = False,
    ) -> None:
        """plugin: the autoencoder's name, one of ``compressor plugins``; settings: the plugin's and
        training's, by name; max_steps, max_seconds: the budget of training; random_state: the seed.
        fpr: the share of normal rows above ``threshold_``, on average over calibrations, or at most
        with probability ``confidence``; scorer: which score, by default the model's. These three
        and device, on which the model runs, may be changed after fit. verbose: shows the progress
        of training on stderr.
        """
        self.plugin = plugin
        self.settings = settings
        self.scorer = scorer
        self.fpr = fpr
        self.confidence = confidence
        self.max_steps = max_steps
        self.max_seconds = max_seconds
        self.random_state = random_state
        self.device = device
        self.verbose = verbose

    @classmethod
    def from_model(cls, model: str | Path, **parameters: Any) -> Self:
        """A fitted detector from a model's folder or zip. Raises ModelError, ConfigError.

        parameters: the class's; plugin, settings and random_state are the model's by default.
        """
        opened = Model.open(model)
        manifest = opened.manifest
        if not manifest.scores:
            raise ConfigError(f"{model} only decodes an archive: it has no scorer")
        training = {
            name: value
            for name, value in manifest.training.get("settings", {}).items()
            if name in TrainingSettings.model_fields
            and value != TrainingSettings.model_fields[name].default
        }
        of_model = {
            "plugin": manifest.plugin.name,
            "settings": manifest.config | training,
            "random_state": manifest.training.get("seed", 0),
        }
        detector = cls(**of_model | parameters)
        detector._take(opened)
        if opened.spec.kind == "vector":
            detector.n_features_in_ = opened.spec.length
            if opened.spec.columns is not None:
                detector.feature_names_in_ = np.array(opened.spec.columns, object)
        return detector

    def save(self, path: str | Path, *, force: bool = False) -> None:
        """Writes the model as a folder, or as one zip if ``path`` ends in .zip, for every verb.

        Raises OutputError if ``path`` exists, unless ``force`` replaces a model there.
        """
        check_is_fitted(self)
        Model.write(Path(path), self.model_.contents(), force)

    def fit(self, X: Any, y: Any = None) -> Self:
        """Trains on most of the rows X; the others stop the training early, and calibrate.

        A tenth of them calibrate, or as many as fpr needs, unless ``settings`` has calibration. y
        is ignored: all or most of X must be normal. Raises DataError for columns whose values
        float32 cannot tell apart.
        """
        train = verbs.train  # first: without PyTorch this raises, and an earlier fit stays
        for name in ("n_features_in_", "feature_names_in_"):  # of an earlier fit
            self.__dict__.pop(name, None)
        rows = self._rows(X, first=True)
        columns = tuple(map(str, getattr(self, "feature_names_in_", ()))) or None
        settings = dict(self.settings or {})
        settings["calibration"] = self._calibration_share(len(rows), settings)
        exact = np.asarray(X)  # not float32 yet: the training says what that would lose
        if exact.ndim == 2 and exact.dtype.kind in "fiu" and exact.dtype.itemsize == 8:
            rows = exact
        with tempfile.TemporaryDirectory(prefix="compressor-") as folder:
            path = Path(folder) / "model"
            train(
                self.plugin,
                ArraySource(rows, columns=columns),
                path,
                settings=settings,
                max_steps=self.max_steps,
                max_seconds=self.max_seconds,
                seed=_seed(self.random_state),
                progress=self.verbose,
            )
            self._take(Model.open(path))
        return self

    @property
    def threshold_(self) -> float:
        """The score above which a row is an outlier, from calibration scores, fpr and confidence.

        Raises ConfigError where there are too few of them, or none.
        """
        check_is_fitted(self)
        return threshold_for(self._calibration(), self.fpr, self.confidence)

    def p_values(self, X: Any) -> Scores:
        """For each row, float64 (N,): the chance that a normal one is at least as strange.

        At most fpr exactly where the row is an outlier (with ``confidence`` outliers may be fewer).
        ``scipy.stats.false_discovery_control`` takes them.
        """
        scores = self._scores(X)
        return p_values(self._calibration(), scores)

    def transform(self, X: Any) -> npt.NDArray[np.int32]:
        """The codes f(x), int32 (N, K), flattened where an image's code has three axes."""
        codes = self._through(X, lambda engine, rows: engine.encode(rows))
        return codes.reshape(len(codes), -1)

    def inverse_transform(self, X: Any) -> Rows:
        """What codes (N, K) decode to, g(z): uint8 (N, H, W[, C]) or float32 (N, D)."""
        check_is_fitted(self)
        codes, shape = np.asarray(X), self.model_.code.shape
        if codes.ndim != 2 or codes.shape[1] != self._n_features_out:
            raise ValueError(f"codes are (N, {self._n_features_out}), and X is {codes.shape}")
        size = size_of(self.model_.spec.shape)
        codes = codes.astype(np.int32).reshape(-1, *shape)
        rows = self._running.engine(self.device).decode(codes, *size)
        return rows[..., 0] if rows.ndim == 4 and rows.shape[3] == 1 else rows

    @property
    def _n_features_out(self) -> int:
        return int(np.prod(self.model_.code.shape))

    def __sklearn_tags__(self) -> Any:
        tags = super().__sklearn_tags__()
        tags.input_tags.three_d_array = True
        tags.transformer_tags.preserves_dtype = []
        return tags

    def _take(self, model: Model) -> None:
        self.model_ = Model.from_files(model.contents())
        self._running = _Running(self.model_)

    def _calibration_share(self, count: int, settings: Mapping[str, Any]) -> Any:
        """The setting calibration for ``count`` rows; ConfigError if they are too few for fpr."""
        from .training.dataset import MAX_HELD_OUT  # needs PyTorch

        needed = scores_needed(self.fpr, self.confidence)
        share = settings.get("calibration")
        if share is None:
            usual = TrainingSettings.model_fields["calibration"].default
            share = max(usual, min(needed / count, 0.49))
        held = min(MAX_HELD_OUT, round(share * count)) if isinstance(share, int | float) else needed
        if held < needed:
            sure = "" if self.confidence is None else f" with confidence={self.confidence:g}"
            raise ConfigError(
                f"fpr={self.fpr:g}{sure} needs at least {needed} rows that are not trained on, and "
                f"{held} of these {count} can be held out: give more rows, or a larger fpr"
            )
        return share

    def _calibration(self) -> Scores:
        requested = Requested(self.model_, self.scorer)
        calibration = requested.calibration(requested.names[0])
        if not len(calibration):
            raise ConfigError(
                "the model has no calibration scores: calibrate it with normal data (compressor "
                "calibrate MODEL DATA)"
            )
        return calibration

    def _scores(self, X: Any) -> Scores:
        """Raw scores, (N,), higher is stranger; infinity where the network's numbers overflow."""
        check_is_fitted(self)
        requested = Requested(self.model_, self.scorer)
        name = requested.names[0]
        return self._through(X, lambda engine, rows: requested.of(Seen(engine, rows))[name])

    def _through(self, X: Any, work: Callable[[Engine, Rows], Rows]) -> Rows:
        """``work`` on all rows, in pieces that fit into memory, in parallel."""
        check_is_fitted(self)
        rows, engine = self._rows(X), self._running.engine(self.device)
        size = chunk_size(self.model_.spec, ArraySource(rows))
        pieces = (rows[start : start + size] for start in range(0, len(rows), size))
        return np.concatenate(list(in_order(lambda piece: work(engine, piece), pieces)))

    def _rows(self, X: Any, first: bool = False) -> Rows:
        """X as graphs take it: uint8 (N, H, W, C) or float32 (N, D). Raises ValueError."""
        min_rows = MIN_ROWS_TO_FIT if first else 1
        if getattr(X, "ndim", 2) > 2:
            rows = _images(X, min_rows)
        else:
            with np.errstate(over="ignore"):  # validate_data refuses infinity
                rows = validate_data(
                    self, X, reset=first, dtype=np.float32, order="C", ensure_min_samples=min_rows
                )
        if not first:
            try:
                self.model_.spec.check(rows.shape[1:])
            except UnreadableImage as error:
                raise ValueError(f"X: every row {error}") from error
        return rows


class AutoencoderDetector(OutlierMixin, _Detector):  # type: ignore[misc]
    """An autoencoder with the conventions of scikit-learn's outlier detectors.

    ``offset_``, which is -threshold_, is what decision_function subtracts from score_samples.
    """

    @property
    def offset_(self) -> float:
        """-threshold_."""
        return -self.threshold_

    def score_samples(self, X: Any) -> Scores:
        """Minus the raw score of each row, float64 (N,): lower is stranger."""
        return -self._scores(X)

    def decision_function(self, X: Any) -> Scores:
        """score_samples - offset_, float64 (N,): below 0 for outliers."""
        return self.score_samples(X) - self.offset_

    def predict(self, X: Any) -> npt.NDArray[np.int64]:
        """-1 for outliers, 1 for others, int64 (N,)."""
        return np.where(self._scores(X) > self.threshold_, -1, 1)


class PyODDetector(_Detector):
    """An autoencoder with the conventions of PyOD's detectors; needs no PyOD.

    ``decision_scores_``, float64 (N,), and ``labels_``, 0 or 1, are of the rows given to fit;
    detectors of ``from_model`` lack them. PyOD's contamination, the share of outliers among those
    rows, is replaced by fpr, the share of false alarms among normal rows.
    """

    def fit(self, X: Any, y: Any = None) -> Self:
        super().fit(X)
        self.decision_scores_ = self._scores(X)
        return self

    @property
    def labels_(self) -> npt.NDArray[np.int64]:
        """1 for outliers among the rows given to fit, 0 for others."""
        check_is_fitted(self, "decision_scores_")
        return self._labels(self.decision_scores_)

    def decision_function(self, X: Any) -> Scores:
        """The raw score of each row, float64 (N,): higher is stranger."""
        return self._scores(X)

    def predict(self, X: Any) -> npt.NDArray[np.int64]:
        """1 for outliers, 0 for others, int64 (N,)."""
        return self._labels(self._scores(X))

    def fit_predict(self, X: Any, y: Any = None) -> npt.NDArray[np.int64]:
        """``labels_`` of a fit."""
        return self.fit(X).labels_

    def predict_proba(self, X: Any) -> Scores:
        """p and 1 - p of the p-values, (N, 2): in [0, 1] and comparable between models, as PyOD's
        users expect; like PyOD's, not a probability of being an outlier."""
        p = self.p_values(X)
        return np.stack([p, 1 - p], 1)

    def _labels(self, scores: Scores) -> npt.NDArray[np.int64]:
        return (scores > self.threshold_).astype(np.int64)


class _Running:
    """A model's engine in this process: sessions are neither pickled nor used after a fork."""

    def __init__(self, model: Model) -> None:
        self._model = model
        self._made: tuple[tuple[str, int], Engine] | None = None

    def __reduce__(self) -> tuple[Any, ...]:
        return _Running, (self._model,)

    def engine(self, device: str) -> Engine:
        """Raises DeviceError."""
        key = device, os.getpid()
        if self._made is None or self._made[0] != key:
            self._made = key, Engine(self._model, device)
        return self._made[1]


def _images(X: Any, min_rows: int) -> Rows:
    """uint8 (N, H, W, C) from arrays of more than two axes. Raises ValueError."""
    images = np.asarray(X)
    if images.dtype != np.uint8:
        raise ValueError(
            f"images are uint8 (N, H, W) or (N, H, W, C), and X is {images.dtype} {images.shape}"
        )
    if len(images) < min_rows:
        raise ValueError(f"X has {len(images)} image(s); give at least {min_rows}")
    try:
        shape = ArraySource(images).shape
    except DataError as error:
        raise ValueError(f"X: {error}") from error
    return images.reshape(len(images), *shape)


def _seed(random_state: Any) -> int:
    """An integer stays as it is, as the seed that ``verbs.train`` takes."""
    if isinstance(random_state, int | np.integer):
        return int(random_state)
    return int(check_random_state(random_state).randint(2**31))
