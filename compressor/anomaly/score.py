"""The verb ``score``: how strange each image is to a model, and which ones are anomalies."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from ..data.images import Data
from ..data.sinks import PngNames
from ..engine.job import Job
from ..errors import ConfigError
from ..files import merging_folder, refuse_elsewhere, refuse_existing, refuse_input
from ..log import log
from ..results import ResultsWriter, is_folder
from .drift import MAX_ANOMALIES, Drift, drift
from .prometheus import write_metrics
from .report import REPORTED, Decided, write_scoring_report
from .requested import Requested
from .results import decide
from .results import heatmaps as heatmaps_of
from .rows import Scoring
from .tally import COLUMNS, tally
from .thresholds import Asked, fdr_threshold, first_threshold, guarantee


def score(
    data: Data,
    model: str | Path,
    output: str | Path,
    *,
    scorer: str | Sequence[str] | None = None,
    fpr: float | None = None,
    confidence: float | None = None,
    fdr: float | None = None,
    threshold: float | None = None,
    device: str = "auto",
    heatmaps: str | Path | None = None,
    report: str | Path | None = None,
    metrics: str | Path | None = None,
    csv_safe: bool = False,
    resume: bool = False,
    force: bool = False,
    progress: bool = False,
) -> dict[str, Any]:
    """Scores every image of ``data`` and writes the results.

    ``output`` is a file, .parquet or .csv, or a folder, a name without suffix or with / at its end:
    it gets one Parquet file for each shard of the data (each file, of a folder of Parquet, tar or
    .npy files; else each 16,384 images). ``resume`` goes on with a job cut short, after its last
    whole part.

    An image is an anomaly if its conformal p-value is at most ``fpr`` (0.01 where nothing is
    said), if Benjamini-Hochberg rejects it at ``fdr`` over the batch, or if its raw score is above
    ``threshold``. On average over calibrations at most ``fpr`` of normal images are anomalies so;
    with ``confidence`` at most ``fpr`` are with this very calibration, for at least that share of
    calibrations. ``scorer``: names, or one string with commas (requested.py): the first decides,
    the others have columns of their own. ``heatmaps``: a folder for the anomalies' error maps;
    ``report``: an HTML page; ``metrics``: a file .prom for Prometheus.
    ``csv_safe``: in a .csv, names and errors that spreadsheets would take for formulas begin with a
    quote.

    Gives images, unreadable, anomalies, scorer, threshold, guarantee, drift, drift_limit, seconds,
    device. ``drift``, from 0 to 1, is how far the scores are from the calibration's (null without
    them); above ``drift_limit`` a warning says so. Raises CompressorError.
    """
    refuse_elsewhere(data, model, outputs=[output, heatmaps, report, metrics])
    _refuse_outputs(output, heatmaps=heatmaps, report=report, metrics=metrics)
    for path in (output, heatmaps, report, metrics):
        if path is not None:
            refuse_input(Path(path), data, model)
    if csv_safe and Path(output).suffix != ".csv":
        raise ConfigError(f"csv_safe=True is for results in .csv, and the output is {output}")
    asked = Asked(fpr, confidence, fdr, threshold)
    pictures = Pictures(*(None if path is None else Path(path) for path in (heatmaps, report)))
    if not resume:
        for path in (Path(output), *pictures.paths):
            refuse_existing(path, force)
    job = Job("score", data, model, device)
    if heatmaps is not None and job.model.spec.kind != "image":
        raise ConfigError(
            f"heatmaps={heatmaps} is for images; the report shows a vector's worst columns"
        )
    requested = Requested(job.model, scorer)
    calibration = requested.calibration(requested.deciding)
    # Benjamini-Hochberg rejects no p-value above fdr, so fdr is a bound like fpr at first.
    bound = first_threshold(asked, calibration)
    scoring = Scoring(job.engine, requested, calibration)
    if heatmaps is not None:  # the hottest colour is twice the largest error of normal images
        scale = 2 * float(job.model.golden()["error_map"].max()) or 1.0
        scoring = replace(scoring, heatmaps_above=bound, error_scale=scale)
    identity = _identity(job, requested, asked, pictures)
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
    else:
        with results:
            for path in pictures.paths:
                refuse_existing(path, results.replaceable)
            _score_all(job, scoring, results, progress)
            summary = _finish(job, scoring, results, asked, bound, pictures)
    if metrics is not None:
        write_metrics(Path(metrics), summary)
    return summary


@dataclass(frozen=True)
class Pictures:
    """What a job shows beside its results: a folder of heat maps, and an HTML page."""

    heatmaps: Path | None
    report: Path | None

    @property
    def paths(self) -> list[Path]:
        """Those that are asked for."""
        return [path for path in (self.heatmaps, self.report) if path is not None]


def _identity(job: Job, requested: Requested, asked: Asked, pictures: Pictures) -> dict[str, str]:
    """What results are made from: another job cannot go on with them."""
    return {
        "source": job.fingerprint,
        "model": hashlib.sha256(job.model.manifest.model_dump_json().encode()).hexdigest(),
        "device": job.engine.device.name,
        "scorer": ",".join(requested.names),
        "fpr": str(asked.fpr),
        "confidence": str(asked.confidence),
        "fdr": str(asked.fdr),
        "threshold": str(asked.threshold),
        "heat maps": str(pictures.heatmaps is not None),
        "report": str(pictures.report is not None),
    }


def _score_all(job: Job, scoring: Scoring, results: ResultsWriter, progress: bool) -> None:
    """Scores what an earlier run has left."""
    if results.consumed:
        kind = job.model.spec.kind
        log.info("resuming: %d %ss are scored already", results.consumed, kind)
    for _, rows in job.run(scoring.rows, start=results.consumed, progress=progress):
        results.add(rows)
    results.end()


def _finish(
    job: Job,
    scoring: Scoring,
    results: ResultsWriter,
    asked: Asked,
    bound: float,
    pictures: Pictures,
) -> dict[str, Any]:
    """Decides, and writes results, heat maps and report; the job's summary."""
    calibration, kind = scoring.calibration, job.model.spec.kind
    totals = tally(results.tables(COLUMNS), len(calibration), REPORTED if pictures.report else 0)
    if not totals.images:
        raise job.nothing()
    if asked.fdr is not None:
        bound = fdr_threshold(totals.p_value_counts, asked.fdr, calibration)
    anomalies = decide(results, bound)
    if pictures.heatmaps is not None:
        _write_heatmaps(pictures.heatmaps, results, bound)
    moved = drift(calibration, totals.p_value_counts) if len(calibration) else None
    if moved and moved.distance > moved.limit:
        _warn_of(moved, f"{kind}s")
    promise = guarantee(asked)
    if pictures.report is not None:
        decided = Decided(bound, anomalies, promise, moved)
        write_scoring_report(pictures.report, job, scoring, totals, decided, results.replaceable)
    deciding, *others = scoring.requested.names
    summary = {
        "anomalies": anomalies,
        "scorer": deciding,
        "other_scorers": others,
        "threshold": bound if np.isfinite(bound) else None,
        "guarantee": promise,
        "drift": round(moved.distance, 4) if moved else None,
        "drift_limit": round(moved.limit, 4) if moved else None,
        **job.summary(),
        "images": totals.images,
        **totals.unreadable.summary(),
    }
    results.publish(summary)
    return summary


def _write_heatmaps(path: Path, results: ResultsWriter, bound: float) -> None:
    """Those of the anomalies."""
    with merging_folder(path, results.replaceable) as folder, PngNames(folder) as names:
        for image, png in heatmaps_of(results, bound):
            file = names.path(image)
            file.parent.mkdir(parents=True, exist_ok=True)
            file.write_bytes(png)


def _refuse_outputs(output: str | Path, **others: str | Path | None) -> None:
    """Raises ConfigError for outputs that are not results', or that are in each other's way."""
    folder = is_folder(output)
    target = Path(output).absolute().resolve()
    taken = {target}
    for setting, given in others.items():
        if given is None:
            continue
        path = Path(given).absolute().resolve()
        if path in taken:
            raise ConfigError(f"{setting}={given}: each output needs a place of its own")
        if folder and target in path.parents:
            raise ConfigError(f"{setting}={given}: give a place outside of the results in {output}")
        taken.add(path)
    metrics = others["metrics"]
    if metrics is not None and Path(metrics).suffix != ".prom":
        raise ConfigError(f"metrics={metrics}: node_exporter reads files *.prom; name it so")


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
        100 * MAX_ANOMALIES,
        100 * moved.limit,
        kind,
    )
