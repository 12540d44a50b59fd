"""The verb ``classify``: which label each input has, and how probable it is."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
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
        counted = _Counted(names)
        for table in results.tables(["path", "label", "error"]):
            counted.add(table)
        if not sum(counted.labels.values()):
            raise job.nothing()
        summary = {"labels": counted.labels, **counted.compared(labels), **job.summary()}
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


@dataclass
class _Counted:
    """What a summary says of the rows."""

    names: tuple[str, ...]
    paths: list[str] = field(default_factory=list)
    found: list[npt.NDArray[np.int64]] = field(default_factory=list)

    def add(self, rows: pa.Table) -> None:
        numbers = {name: number for number, name in enumerate(self.names)}
        self.paths += rows["path"].to_pylist()
        found = [numbers.get(label, NONE) for label in rows["label"].to_pylist()]
        self.found.append(np.array(found, np.int64))

    @property
    def _found(self) -> npt.NDArray[np.int64]:
        return np.concatenate(self.found) if self.found else np.empty(0, np.int64)

    @property
    def unreadable(self) -> int:
        return int((self._found == NONE).sum())

    @property
    def labels(self) -> dict[str, int]:
        """How many inputs got each label."""
        counts = np.bincount(self._found[self._found != NONE], minlength=len(self.names))
        return dict(zip(self.names, counts.tolist(), strict=True))

    def compared(self, labels: Any) -> dict[str, Any]:
        """With the true labels of readable inputs; {} if none are given."""
        if labels is None:
            return {}
        count = len(self.paths)
        given = labels_of(labels, self.paths, np.arange(count), count)
        if strange := [name for name in given.names if name not in self.names]:
            log.warning("the classifier does not know the labels %s", listed(strange))
        true = given.numbered_as(self.names)
        asked = (true != NONE) & (self._found != NONE)
        right = int((true == self._found)[asked].sum())
        labelled = int(asked.sum())
        return {"labelled": labelled, "accuracy": right / labelled if labelled else None}
