"""Our own models, through the public verbs: train and score, with every score that a model has."""

from __future__ import annotations

import tempfile
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any
from unittest.mock import patch

import pyarrow.parquet as pq
from cells import Cell, name_of

from compressor import verbs
from compressor.engine.engine import Engine
from compressor.model import Model

from .metrics import Figures, Scores, auroc, with_pixels
from .pictures import enlarged, resized
from .tasks import NORMALS_ONLY, UNSUPERVISED, Sample, Task


@dataclass(frozen=True)
class Row:
    """A plugin with settings; images are resized to ``side``.

    steps: how long it trains, on tables, where most trainings stop early; None: as long as peers.
    judged: the score that goals are about; None: the model's default.
    """

    method: str
    plugin: str
    settings: Mapping[str, Any] = field(default_factory=dict)
    side: int | None = None
    steps: int | None = None
    judged: str | None = None


def our_cells(task: Task, models: Path, seconds: float) -> Iterator[Cell[Figures]]:
    """A model for each row; it stays in ``models``, for tasks with the same training."""
    for row in ROWS[task.data]:
        budget = {"seconds": seconds} if row.steps is None else {"steps": row.steps}
        trained = {
            "data": task.same_training,
            "method": row.method,
            "seed": task.seed,
            "digest": task.digest,
            "plugin": row.plugin,
            **budget,
            "side": row.side,
            "settings": dict(row.settings),
        }
        key = {**trained, "data": task.data, "part": task.part}
        yield Cell(key, partial(_measured, task, row, seconds, models / name_of(trained)))


def _measured(task: Task, row: Row, seconds: float, model: Path) -> Figures:
    sample = task.load()
    train, test = (resized(rows, row.side) for rows in (sample.train, sample.test))
    started = time.process_time()
    if not model.exists():
        model.parent.mkdir(exist_ok=True)
        # With one thread that is the time of a core of its own, whatever else the machine does.
        with patch("time.monotonic", time.process_time):
            verbs.train(
                row.plugin,
                train,
                model,
                settings=row.settings,
                max_steps=row.steps,
                max_seconds=seconds if row.steps is None else None,
                seed=task.seed,
                resume=True,
            )
    trained = time.process_time()
    described = verbs.inspect(model)
    scored(test, model, ["l2"])
    once = time.process_time()
    names = [scorer["name"] for scorer in described["scorers"]]
    scores = scored(test, model, [*names, "ensemble"])
    scores["auto"] = scores[
        max(described["separability"], key=described["separability"].__getitem__)
    ]
    training = described["training"]
    figures = Figures(
        auroc={name: auroc(sample.strange, found) for name, found in scores.items()},
        scorer=row.judged or names[0],
        images=len(test),
        train_seconds=trained - started,
        score_seconds=once - trained,
        facts={name: training[name] for name in ("parameters", "steps", "threads")},
    )
    if sample.masks is None:
        return figures
    return with_pixels(figures, sample, _maps(sample, test, model))


def scored(test: Any, model: Path, names: Sequence[str]) -> dict[str, Scores]:
    """Raw scores in the order of the rows, as ``score`` writes them: the first is its ``score``."""
    with tempfile.TemporaryDirectory() as folder:
        output = Path(folder) / "results.parquet"
        verbs.score(test, model, output, scorer=names, threshold=0.0, device="cpu")
        table = pq.read_table(output)
    first, *others = names
    return {first: table["score"].to_numpy(), **{n: table[n].to_numpy() for n in others}}


def _maps(sample: Sample, test: Any, model: Path) -> Scores:
    assert sample.masks is not None
    maps = Engine(Model.open(model), "cpu").score(test)["error_map"]
    return enlarged(maps, sample.masks.shape[1])


# The first row of a data set is the one that goals are about.
_DENSE = {"network": "dense", "hidden": [256, 64], "latent": 16, "patience": 1000}
_SMALL = (
    Row("gradients", "gradients", {"patience": 1000}, steps=500),
    Row("undercomplete", "undercomplete", _DENSE),
    Row("denoising, patches", "denoising", {**_DENSE, "noise": "patches"}),
)
_TABLE = (
    Row(
        "denoising, wide",
        "denoising",
        {"hidden": [256, 256], "latent": 128},
        steps=1000,
        judged="ensemble",
    ),
    Row("undercomplete", "undercomplete", steps=1000),
    Row("vae", "vae", steps=1000),
    Row("gan", "gan", steps=1000),
)
_DEEP = {"hidden": [16, 32, 64, 64], "latent": 16, "batch_size": 16, "patience": 1000}
_SURFACE = (
    Row("features", "features", {"batch_size": 16, "patience": 1000}, steps=120),
    Row("undercomplete", "undercomplete", _DEEP, side=128),
    Row("denoising, defects", "denoising", {**_DEEP, "noise": "defects"}, side=128),
)
ROWS: dict[str, tuple[Row, ...]] = {
    "mnist": _SMALL,
    "fashion-mnist": _SMALL,
    "cifar-10": _SMALL,
    "other data": _SMALL,
    "screw": _SURFACE,
    "magnetic tile": _SURFACE,
    NORMALS_ONLY: _TABLE,
    UNSUPERVISED: _TABLE,
}
