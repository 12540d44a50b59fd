"""Anomaly detectors with the methods of scikit-learn's and of PyOD's, for images and tables.

    from compressor.sklearn import AutoencoderDetector

    detector = AutoencoderDetector(settings={"latent": 4}, max_seconds=60).fit(normal)
    detector.predict(images)  # 1: normal, -1: an outlier, at most fpr of normal ones
    detector.save("model")  # for the command line: compressor score IMAGES -m model

Images are uint8 (N, H, W), or (N, H, W, C) with C of 1, 3 or 4; (N, D) of any numbers are vectors,
and so are tables whose columns have names. ``fit`` takes PyTorch, everything else does not.

The two libraries mean opposite things by the same names, so there are two classes:

                       AutoencoderDetector (scikit-learn)    PyODDetector (PyOD)
    score_samples      -score: higher is more normal
    decision_function  threshold_ - score: below 0: outlier  score: higher is stranger
    predict            -1: outlier, 1: normal                1: outlier, 0: normal
    threshold_         in both the score above which a row is an outlier, as ``score --fpr`` has it
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
from .errors import ConfigError, DataError, MissingDependency, UnreadableImage
from .model import Model, write_model
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
        "compressor.sklearn needs scikit-learn: run pip install 'compressor[sklearn]'"
    ) from error

__all__ = ["AutoencoderDetector", "PyODDetector"]

FEWEST = 3  # rows: one to train on, one to stop the training, one to calibrate


class _Detector(ClassNamePrefixFeaturesOutMixin, TransformerMixin, BaseEstimator):  # type: ignore[misc]
    """What both classes share: everything but the signs.

    ``model_``: the model, in memory; ``n_features_in_``, ``feature_names_in_``: of tables alone.

    Raises ValueError for what is wrong with X, as scikit-learn does, and else CompressorError.
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
        """plugin: the autoencoder's name, of ``compressor plugins``; settings: its settings and
        those of training, as ``--set`` takes them; max_steps, max_seconds: the budget of training;
        random_state: the seed. fpr: the share of normal rows above ``threshold_``, on average over
        calibrations, or with probability ``confidence``; scorer: which score, the model's first if
        None. These three and device, on which the model runs, may be changed after fit. verbose:
        progress of training on stderr.
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
        """A fitted detector of a model on disk, a folder or a zip. Raises ModelError, ConfigError.

        parameters: the class's; plugin, settings and random_state are the model's if not given.
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
        own = {
            "plugin": manifest.plugin.name,
            "settings": manifest.config | training,
            "random_state": manifest.training.get("seed", 0),
        }
        detector = cls(**own | parameters)
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
        write_model(Path(path), self.model_.contents(), force)

    def fit(self, X: Any, y: Any = None) -> Self:
        """Trains on some of the rows X; the others stop the training in time, and calibrate.

        Those that calibrate are a tenth, or as many as fpr takes, unless ``settings`` say how many.
        y is not looked at: X are normal rows, or mostly.
        """
        train = verbs.train  # first: without PyTorch this raises, and an earlier fit stays
        for name in ("n_features_in_", "feature_names_in_"):  # of an earlier fit
            self.__dict__.pop(name, None)
        rows = self._rows(X, first=True)
        columns = tuple(map(str, getattr(self, "feature_names_in_", ()))) or None
        settings = dict(self.settings or {})
        settings["calibration"] = self._calibration_share(len(rows), settings)
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
        """Of each row, float64 (N,): the chance of a normal one being as strange, or stranger.

        At most fpr just where the row is an outlier (with ``confidence`` there may be fewer). They
        are what ``scipy.stats.false_discovery_control`` takes.
        """
        scores = self._scores(X)
        return p_values(self._calibration(), scores)

    def transform(self, X: Any) -> npt.NDArray[np.int32]:
        """The codes f(x), int32 (N, K): flattened, where an image's code has three axes."""
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
        """Of ``count`` rows; raises ConfigError, before a training, if that will not be enough."""
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
                f"fpr={self.fpr:g}{sure} takes at least {needed} rows that are not trained on, and "
                f"{held} of these {count} can be held out for that: give more rows, or a larger fpr"
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
        """Raw, (N,), higher is stranger; infinity where the network's numbers overflow."""
        check_is_fitted(self)
        requested = Requested(self.model_, self.scorer)
        name = requested.names[0]
        return self._through(X, lambda engine, rows: requested.of(Seen(engine, rows))[name])

    def _through(self, X: Any, work: Callable[[Engine, Rows], Rows]) -> Rows:
        """``work`` of all rows, in pieces that fit memory, side by side."""
        check_is_fitted(self)
        rows, engine = self._rows(X), self._running.engine(self.device)
        size = chunk_size(self.model_.spec, ArraySource(rows))
        pieces = (rows[start : start + size] for start in range(0, len(rows), size))
        return np.concatenate(list(in_order(lambda piece: work(engine, piece), pieces)))

    def _rows(self, X: Any, first: bool = False) -> Rows:
        """X as graphs take it: uint8 (N, H, W, C) or float32 (N, D). Raises ValueError."""
        fewest = FEWEST if first else 1
        if getattr(X, "ndim", 2) > 2:
            rows = _images(X, fewest)
        else:
            with np.errstate(over="ignore"):  # what is infinite after it is refused
                rows = validate_data(
                    self, X, reset=first, dtype=np.float32, order="C", ensure_min_samples=fewest
                )
        if not first:
            try:
                self.model_.spec.check(rows.shape[1:])
            except UnreadableImage as error:
                raise ValueError(f"X: every row {error}") from error
        return rows


class AutoencoderDetector(OutlierMixin, _Detector):  # type: ignore[misc]
    """An autoencoder with the conventions of scikit-learn's outlier detectors.

    ``offset_``, which is -threshold_, is what decision_function takes off score_samples.
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

    ``decision_scores_``, float64 (N,), and ``labels_``, 0 or 1, are of the rows given to fit, which
    ``from_model`` has not seen. In place of PyOD's contamination, the share of outliers among those
    rows, there is fpr, the share of false alarms among normal ones.
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
        """p and 1 - p of the p-values, (N, 2): in [0, 1] and alike for all models, as PyOD's users
        of it want; a probability of being an outlier it is, as PyOD's, not."""
        p = self.p_values(X)
        return np.stack([p, 1 - p], 1)

    def _labels(self, scores: Scores) -> npt.NDArray[np.int64]:
        return (scores > self.threshold_).astype(np.int64)


class _Running:
    """The engine of a model in this process: sessions are not pickled, nor used after a fork."""

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


def _images(X: Any, fewest: int) -> Rows:
    """uint8 (N, H, W, C) of what has more than two axes. Raises ValueError."""
    images = np.asarray(X)
    if images.dtype != np.uint8:
        raise ValueError(
            f"images are uint8 (N, H, W) or (N, H, W, C), and X is {images.dtype} {images.shape}"
        )
    if len(images) < fewest:
        raise ValueError(f"X has {len(images)} image(s), and {fewest} are the fewest that do")
    try:
        shape = ArraySource(images).shape
    except DataError as error:
        raise ValueError(f"X: {error}") from error
    return images.reshape(len(images), *shape)


def _seed(random_state: Any) -> int:
    """An integer stays what it is, as ``--seed`` takes it."""
    if isinstance(random_state, int | np.integer):
        return int(random_state)
    return int(check_random_state(random_state).randint(2**31))
