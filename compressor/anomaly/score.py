"""The verb ``score``: how strange each image is to a model, and which ones are anomalies."""

from __future__ import annotations

import tempfile
from collections.abc import Iterable, Iterator
from contextlib import ExitStack
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq

from ..data.images import Rows
from ..engine.job import Job
from ..errors import ConfigError
from ..files import merging_folder, refuse_existing, refuse_input
from ..log import log
from .decisions import fdr_threshold, first_threshold, guarantee
from .drift import ANOMALIES, Drift, drift
from .results import Row, RowWriter, results_file
from .scoring import Scoring

REPORTED = 60  # the strangest images, shown in a report


def score(
    data: str | Path | Rows,
    model: str | Path,
    output: str | Path,
    *,
    scorer: str | None = None,
    fpr: float | None = None,
    confidence: float | None = None,
    fdr: float | None = None,
    threshold: float | None = None,
    device: str = "auto",
    heatmaps: str | Path | None = None,
    report: str | Path | None = None,
    force: bool = False,
    progress: bool = False,
) -> dict[str, Any]:
    """Scores every image of ``data`` and writes the results (Parquet, or CSV by the name).

    An image is an anomaly if its conformal p-value is at most ``fpr`` (0.01 where nothing is
    said), if Benjamini-Hochberg rejects it at ``fdr`` over the batch, or if its raw score is above
    ``threshold``. On average over calibrations at most ``fpr`` of normal images are anomalies so;
    with ``confidence`` at most ``fpr`` are with this very calibration, for at least that share of
    calibrations. ``heatmaps``: a folder for the anomalies' error maps; ``report``: an HTML page.

    Gives images, unreadable, anomalies, scorer, threshold, guarantee, drift, drift_limit, seconds,
    device. ``drift``, from 0 to 1, is how far the scores are from the calibration's (null without
    them); above ``drift_limit`` a warning says so. Raises CompressorError.
    """
    output = Path(output)
    if output.suffix not in (".parquet", ".csv"):
        raise ConfigError(f"-o {output}: results are written as .parquet or .csv")
    given = [Path(path).absolute() for path in (output, heatmaps, report) if path is not None]
    if len(set(given)) < len(given):
        raise ConfigError(f"{output}: results, heat maps and report need different outputs")
    if threshold is not None and not np.isfinite(threshold):
        raise ConfigError(f"--threshold {threshold}: it must be a finite number")
    for path in (output, heatmaps, report):
        if path is not None:
            refuse_input(Path(path), data, model)
            refuse_existing(Path(path), force)
    job = Job("score", data, model, device)
    if heatmaps is not None and job.model.spec.kind != "image":
        raise ConfigError("--heatmaps is for images; the report shows a vector's worst columns")
    names = job.model.manifest.scores
    if not names:
        raise ConfigError(f"{model} only decodes an archive: it has no scorer")
    name = scorer or names[0]
    if name not in names:
        raise ConfigError(f"the model has no score {name!r}; it has {', '.join(names)}")
    calibration = job.model.calibration(name)
    # Benjamini-Hochberg rejects no p-value above fdr, so fdr is a bound like fpr at first.
    bound = first_threshold(fpr, confidence, fdr, threshold, calibration)
    keep = REPORTED if report else 0
    scoring = Scoring(job, name, calibration, bound if heatmaps else None, keep)
    with ExitStack() as outputs:
        rows = outputs.enter_context(results_file(output, force))
        maps = outputs.enter_context(merging_folder(Path(heatmaps), force)) if heatmaps else None
        scored = scoring.rows(maps, progress)
        if fdr is None:
            final = bound
            anomalies = _write(rows, scored, final)
        else:
            spill = Path(outputs.enter_context(tempfile.TemporaryDirectory())) / "spill.parquet"
            with results_file(spill, force=False) as spilled:
                _write(spilled, scored, bound)
            final = fdr_threshold(scoring.p_value_counts, fdr, calibration)
            anomalies = _write(rows, _read(spill), final)
        if maps:
            scoring.drop_heatmaps(final)
        if report:
            scoring.write_report(Path(report), final, anomalies, force)
    counts = scoring.p_value_counts  # none, if no image could be read
    moved = drift(calibration, counts) if len(calibration) and counts.any() else None
    if moved and moved.distance > moved.limit:
        _warn_of(moved, f"{job.model.spec.kind}s")
    return {
        "anomalies": anomalies,
        "scorer": name,
        "threshold": final if np.isfinite(final) else None,
        "guarantee": guarantee(fpr, confidence, fdr, threshold),
        "drift": round(moved.distance, 4) if moved else None,
        "drift_limit": round(moved.limit, 4) if moved else None,
        **job.summary(),
    }


def _write(writer: RowWriter, batches: Iterable[list[Row]], threshold: float) -> int:
    """Writes rows with their decisions; gives the number of anomalies."""
    anomalies = 0
    for rows in batches:
        decided = [
            row if row.score is None else replace(row, is_anomaly=row.score > threshold)
            for row in rows
        ]
        anomalies += sum(bool(row.is_anomaly) for row in decided)
        writer.write(decided)
    return anomalies


def _read(path: Path) -> Iterator[list[Row]]:
    with pq.ParquetFile(path) as file:
        for batch in file.iter_batches():
            yield [Row(**values) for values in batch.to_pylist()]


def _warn_of(moved: Drift, kind: str) -> None:
    log.warning(
        "drift: %.0f%% of these %s score above %.4g, but %.0f%% of the calibration's: chance "
        "and up to %.0f%% anomalies explain no more than %.0f points. Unless more are anomalies, "
        "p-values and rates of false alarms do not hold: calibrate with normal %s as they are now "
        "(compressor calibrate MODEL DATA)",
        100 * moved.batch,
        kind,
        moved.score,
        100 * moved.calibration,
        100 * ANOMALIES,
        100 * moved.limit,
        kind,
    )
