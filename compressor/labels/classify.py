"""The verb ``classify``: which label each input has, and how probable it is."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa

from ..data.images import Data, Images
from ..engine.engine import Engine
from ..engine.job import JobOf
from ..errors import ConfigError
from ..files import refuse_elsewhere, refuse_existing, refuse_input
from ..log import log
from ..results import ResultsWriter, is_folder
from .classifier import Classifier
from .given import NONE, fingerprint_of, labels_of, listed

PROBABILITY_OF = "p_"  # in front of a label: its column


def classify(
    data: Data,
    model: str | Path,
    output: str | Path,
    *,
    probabilities: bool = False,
    labels: Any = None,
    device: str = "auto",
    csv_safe: bool = False,
    resume: bool = False,
    force: bool = False,
    progress: bool = False,
) -> dict[str, Any]:
    """Writes path, label, probability and error of every input of ``data``, one row each.

    ``output``: a file, .parquet or .csv, or a folder of Parquet parts, as score writes them;
    ``resume`` goes on with a job cut short. ``probabilities``: a column p_LABEL for each label.
    ``labels``: the true ones (given.py), to be compared with. ``csv_safe``: see score.

    Gives images, unreadable, labels (how many inputs got each), seconds, device; with ``labels``
    labelled (how many have a true one) and accuracy (the share of those that got it). Raises
    CompressorError.
    """
    refuse_elsewhere(data, model, labels, outputs=[output])
    is_folder(output)
    refuse_input(Path(output), data, model, labels)
    if csv_safe and Path(output).suffix != ".csv":
        raise ConfigError(f"csv_safe=True is for results in .csv, and the output is {output}")
    if not resume:
        refuse_existing(Path(output), force)
    job = JobOf("classify", data, Classifier.open(model), device)
    names = job.model.labels
    identity = {
        "source": job.fingerprint,
        "classifier": job.model.digest,
        "device": job.engine.device.name,
        "probabilities": str(probabilities),
        "labels": fingerprint_of(labels),
    }
    results = ResultsWriter(
        output,
        identity,
        job.source,
        job.model.spec.kind,
        force=force,
        resume=resume,
        csv_safe=csv_safe,
    )
    summary = results.finished()
    if summary is not None:
        log.info("%s is complete already; nothing was left to do", output)
        return summary
    with results:
        rows = _Rows(job.engine, names, probabilities)
        for _, table in job.run(rows.of, start=results.consumed, progress=progress):
            results.add(table)
        results.end()
        counted = _Counted(names, labels)
        for table in results.tables(["path", "label"]):
            counted.add(table)
        if not sum(counted.labels.values()):
            raise job.nothing()
        summary = {"labels": counted.labels, **counted.compared(), **job.summary()}
        summary |= {"images": sum(counted.labels.values()), "unreadable": counted.unreadable}
        results.write()
        results.publish(summary)
    return summary


@dataclass(frozen=True)
class _Rows:
    """How inputs become rows; ``of`` may run in any thread."""

    engine: Engine
    names: tuple[str, ...]
    probabilities: bool

    def of(self, images: Images) -> pa.Table:
        """A row for each input, in order; an unreadable one has its error alone."""
        answers = np.full((len(images.names), len(self.names)), np.nan, np.float32)
        for group in images.groups:
            answers[group.positions] = self.engine.classify(group.pixels)
        missing = np.isin(np.arange(len(answers)), list(images.unreadable))
        best = np.where(missing[:, None], 0, answers).argmax(1)
        probable = answers[np.arange(len(answers)), best].astype(np.float64)
        columns = {
            "path": pa.array(images.names, pa.string()),
            "label": pa.array(np.array(self.names, object)[best], pa.string(), mask=missing),
            "probability": pa.array(probable, mask=missing),
        }
        for number, name in enumerate(self.names if self.probabilities else ()):
            column = answers[:, number].astype(np.float64)
            columns[PROBABILITY_OF + name] = pa.array(column, mask=missing)
        errors = [images.unreadable.get(position) for position in range(len(answers))]
        return pa.table(columns | {"error": pa.array(errors, pa.string())})


class _Counted:
    """What a summary says of the rows; names are kept where they are compared with ``labels``."""

    def __init__(self, names: tuple[str, ...], labels: Any) -> None:
        self._names, self._labels = names, labels
        self._counts = Counter[str | None]()
        self._paths: list[str] = []
        self._found: list[str | None] = []

    def add(self, rows: pa.Table) -> None:
        found = rows["label"].to_pylist()
        self._counts.update(found)
        if self._labels is not None:
            self._paths += rows["path"].to_pylist()
            self._found += found

    @property
    def unreadable(self) -> int:
        return self._counts[None]

    @property
    def labels(self) -> dict[str, int]:
        """How many inputs got each label."""
        return {name: self._counts[name] for name in self._names}

    def compared(self) -> dict[str, Any]:
        """With the true labels of readable inputs; {} if none are given."""
        if self._labels is None:
            return {}
        count = len(self._paths)
        given = labels_of(self._labels, self._paths, np.arange(count), count)
        if strange := [name for name in given.names if name not in self._names]:
            log.warning("the classifier does not know the labels %s", listed(strange))
        pairs = [
            (given.names[number], label)
            for number, label in zip(given.of.tolist(), self._found, strict=True)
            if number != NONE and label is not None
        ]
        right = sum(true == label for true, label in pairs)
        return {"labelled": len(pairs), "accuracy": right / len(pairs) if pairs else None}
