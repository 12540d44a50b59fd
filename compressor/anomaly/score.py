"""The verb ``score``: how strange each image is to a model, and which ones are anomalies."""

from __future__ import annotations

import heapq
import tempfile
from collections.abc import Iterable, Iterator
from contextlib import ExitStack
from dataclasses import dataclass, field, replace
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow.parquet as pq

from ..data.images import Images, Rows
from ..data.sinks import png_path
from ..engine.job import Job
from ..errors import ConfigError
from ..files import merging_folder, refuse_existing, refuse_input
from ..log import log
from ..report.heatmaps import save_heatmap
from ..report.page import ScoredImage, ScoringReport, write_report
from ..spec import size_of
from .calibration import Scores, benjamini_hochberg, p_values, threshold_for
from .drift import ANOMALIES, Drift, drift
from .results import Row, RowWriter, results_file

DEFAULT_FPR = 0.01
REPORTED = 60  # the strangest images, shown in a report


@dataclass(order=True)
class Strange:
    """An image that is stranger than most, with its pictures."""

    score: float
    name: str = field(compare=False)
    pixels: Rows = field(compare=False)
    error_map: npt.NDArray[np.float32] = field(compare=False)


Pictures = dict[int, tuple[Rows, npt.NDArray[np.float32]]]


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
    bound = _first_threshold(fpr, confidence, fdr, threshold, calibration)
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
            final = _fdr_threshold(scoring.p_value_counts, fdr, calibration)
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
        "guarantee": _guarantee(fpr, confidence, fdr, threshold),
        "drift": round(moved.distance, 4) if moved else None,
        "drift_limit": round(moved.limit, 4) if moved else None,
        **job.summary(),
    }


class Scoring:
    """The scores of one job, and the pictures that its heat maps and its report show.

    pictures_above: the score above which an image gets a heat map, or None for no heat maps;
    keep: how many of the strangest images the report shows.
    """

    def __init__(
        self,
        job: Job,
        scorer: str,
        calibration: Scores,
        pictures_above: float | None,
        keep: int,
    ) -> None:
        self.job, self.scorer, self.calibration = job, scorer, calibration
        self.pictures_above, self.keep = pictures_above, keep
        self.p_value_counts = np.zeros(len(calibration) + 1, np.int64)
        self.strangest: list[Strange] = []
        self.all_scores: list[Scores] = []  # for the report's histogram alone
        self._heatmaps: list[tuple[float, Path]] = []

    def rows(self, maps: Path | None, progress: bool) -> Iterator[list[Row]]:
        """Scores every chunk; yields its rows, without a decision."""
        for images, (scores, pictures) in self.job.run(self._score, progress=progress):
            yield self._rows(images, scores)
            if self.keep:
                self.all_scores.append(scores[~np.isnan(scores)])
            for position, (pixels, error_map) in sorted(pictures.items()):
                strange = Strange(scores[position], images.names[position], pixels, error_map)
                self._keep_pictures(strange, maps)

    def _score(self, images: Images) -> tuple[Scores, Pictures]:
        """Scores in the order of the names, NaN for unreadable ones; pictures by position."""
        scores = np.full(len(images.names), np.nan)
        pictures: Pictures = {}
        for group in images.groups:
            answers = self.job.engine.score(group.pixels)
            scores[group.positions] = answers[self.scorer]
            for place in self._wanted(scores[group.positions]):
                picture = group.pixels[place].copy(), answers["error_map"][place].copy()
                pictures[int(group.positions[place])] = picture
        return scores, pictures

    def _wanted(self, scores: Scores) -> npt.NDArray[np.int64]:
        """The places whose pictures may be shown: the strangest, and those above the threshold."""
        strangest = np.argsort(scores)[-self.keep :] if self.keep else np.empty(0, np.int64)
        if self.pictures_above is None:
            return strangest
        return np.union1d(strangest, np.flatnonzero(scores > self.pictures_above))

    def _rows(self, images: Images, scores: Scores) -> list[Row]:
        p: list[float | None] = [None] * len(scores)
        if len(self.calibration):
            values = p_values(self.calibration, scores)
            p = values.tolist()
            known = values[~np.isnan(scores)]
            places = np.rint(known * len(self.p_value_counts)).astype(np.int64) - 1
            self.p_value_counts += np.bincount(places, minlength=len(self.p_value_counts))
        return [
            Row(name, error=images.unreadable[position])
            if position in images.unreadable
            else Row(name, float(scores[position]), p[position])
            for position, name in enumerate(images.names)
        ]

    def _keep_pictures(self, strange: Strange, maps: Path | None) -> None:
        above = self.pictures_above
        if maps is not None and above is not None and strange.score > above:
            path = png_path(maps, strange.name)
            path.parent.mkdir(parents=True, exist_ok=True)
            save_heatmap(path, strange.pixels, strange.error_map, self.error_scale)
            self._heatmaps.append((strange.score, path))
        if len(self.strangest) < self.keep:
            heapq.heappush(self.strangest, strange)
        elif self.keep:
            heapq.heappushpop(self.strangest, strange)

    @cached_property
    def error_scale(self) -> float:
        """The error that the hottest colour stands for: twice the largest of normal images."""
        return 2 * float(self.job.model.golden()["error_map"].max()) or 1.0

    def write_report(self, path: Path, threshold: float, anomalies: int, force: bool) -> None:
        """An HTML page with the strangest images beside what the model makes of them."""
        worst, kind = [], self.job.model.spec.kind
        for strange in sorted(self.strangest, reverse=True):
            pixels = strange.pixels[None]
            codes = self.job.engine.encode(pixels)
            (reconstruction,) = self.job.engine.decode(codes, *size_of(pixels.shape[1:]))
            p_value = None
            if len(self.calibration):
                p_value = float(p_values(self.calibration, np.array([strange.score]))[0])
            worst.append(
                ScoredImage(
                    strange.name,
                    strange.score,
                    p_value,
                    strange.score > threshold,
                    strange.pixels,
                    strange.error_map,
                    reconstruction,
                )
            )
        report = ScoringReport(
            title=f"{anomalies:,} of {self.job.images:,} {kind}s are anomalies",
            columns=getattr(self.job.model.spec, "columns", None),
            data=self.job.source.location,
            model=str(self.job.model.location),
            scorer=self.scorer,
            threshold=threshold,
            images=self.job.images,
            anomalies=anomalies,
            scores=np.concatenate(self.all_scores),
            calibration_scores=self.calibration,
            worst=worst,
            unreadable=self.job.unreadable,
        )
        write_report(path, report, force)

    def drop_heatmaps(self, threshold: float) -> None:
        """Deletes the heat maps of images that turned out to be no anomalies."""
        for value, path in self._heatmaps:
            if value <= threshold:
                path.unlink()


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


def _guarantee(
    fpr: float | None, confidence: float | None, fdr: float | None, threshold: float | None
) -> str | None:
    """What is promised of normal data that are like the calibration's; None for a raw threshold."""
    if threshold is not None:
        return None
    if fdr is not None:
        return f"at most {fdr:g} of the alarms are false, on average"
    how_sure = "on average" if confidence is None else f"with probability at least {confidence:g}"
    rate = DEFAULT_FPR if fpr is None else fpr
    return f"at most {rate:g} of normal data are called anomalies, {how_sure} over calibrations"


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


def _first_threshold(
    fpr: float | None,
    confidence: float | None,
    fdr: float | None,
    threshold: float | None,
    calibration: Scores,
) -> float:
    if confidence is not None and fpr is None:
        raise ConfigError("--confidence is that --fpr holds: give both")
    if sum(value is not None for value in (fpr, fdr, threshold)) > 1:
        raise ConfigError("give one of --fpr, --fdr and --threshold")
    if threshold is not None:
        return threshold
    if not len(calibration):
        raise ConfigError(
            "the model has no calibration scores: give --threshold, or calibrate it with normal "
            "data (compressor calibrate MODEL DATA)"
        )
    if fdr is not None:
        if not 0 < fdr < 1:
            raise ConfigError(f"--fdr {fdr:g}: it must lie between 0 and 1")
        # No p-value can be below 1 / (n + 1), but many images together may still pass.
        return threshold_for(calibration, max(fdr, 1 / (len(calibration) + 1)))
    return threshold_for(calibration, DEFAULT_FPR if fpr is None else fpr, confidence)


def _fdr_threshold(counts: npt.NDArray[np.int64], fdr: float, calibration: Scores) -> float:
    largest = benjamini_hochberg(counts, fdr)
    if largest == 0:
        images, n = int(counts.sum()), len(calibration)
        if images * (1 / (n + 1)) > fdr:
            log.warning(
                "--fdr %g: with %d calibration scores nothing is rejected unless at least %d of "
                "these %d are the strangest of all; calibrate with more data",
                fdr,
                n,
                int(np.ceil(images / (n + 1) / fdr)),
                images,
            )
        return float("inf")
    return threshold_for(calibration, largest)
