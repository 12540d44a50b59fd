"""The report of a scoring job: the strangest images, read and rebuilt once more."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from ..data.images import Rows
from ..engine.job import Job
from ..report.page import ScoredImage, ScoringReport, write_report
from ..spec import size_of
from .calibration import p_values
from .drift import Drift
from .rows import Scoring
from .tally import Tally

REPORTED = 60  # the strangest images, shown in a report


@dataclass(frozen=True)
class Decided:
    """What a job's scores came to, for its report; promise and drift as in the summary."""

    threshold: float
    anomalies: int
    promise: str | None
    drift: Drift | None


def write_scoring_report(
    path: Path,
    job: Job,
    scoring: Scoring,
    totals: Tally,
    decided: Decided,
    force: bool,
) -> None:
    """An HTML page with the strangest images beside what the model makes of them."""
    kind = job.model.spec.kind
    scores, counts = totals.scores()
    report = ScoringReport(
        title=f"{decided.anomalies:,} of {totals.images:,} {kind}s are anomalies",
        columns=getattr(job.model.spec, "columns", None),
        data=job.source.location,
        model=str(job.model.location),
        scorer=scoring.requested.deciding,
        threshold=decided.threshold,
        images=totals.images,
        anomalies=decided.anomalies,
        scores=scores,
        score_counts=counts,
        calibration_scores=scoring.calibration,
        worst=_strangest(job, scoring, totals, decided.threshold),
        unreadable=totals.unreadable.first,
        unreadable_count=totals.unreadable.count,
        facts=[] if decided.promise is None else [("promise", decided.promise)],
        kind=kind,
        p_value_counts=totals.p_value_counts,
        drift=decided.drift.distance if decided.drift else None,
        drift_limit=decided.drift.limit if decided.drift else None,
    )
    write_report(path, report, force)


def _strangest(
    job: Job, scoring: Scoring, totals: Tally, threshold: float
) -> Iterator[ScoredImage]:
    """One at a time, in the order of the source: together large ones may not fit into memory."""
    scores = {number: score for score, number in totals.strangest}
    for number, name, pixels in _read_again(job, sorted(scores)):
        answers = job.engine.score(pixels)
        reconstruction = None
        if job.model.decodes:
            codes = job.engine.encode(pixels)
            (reconstruction,) = job.engine.decode(codes, *size_of(pixels.shape[1:]))
        score, p_value = scores[number], None
        if len(scoring.calibration):
            p_value = float(p_values(scoring.calibration, np.array([score]))[0])
        yield ScoredImage(
            name,
            score,
            p_value,
            score > threshold,
            pixels[0],
            answers["error_map"][0],
            reconstruction,
        )


def _read_again(job: Job, numbers: Sequence[int]) -> Iterator[tuple[int, str, Rows]]:
    """The images of these numbers, ascending: number, name and pixels (1, ...)."""
    wanted = set(numbers)
    for chunk in job.source.chunks(1, numbers[0]) if numbers else ():
        if chunk.start in wanted:
            for images in job.load(chunk):
                for group in images.groups:
                    yield chunk.start, images.names[0], group.pixels
        if chunk.start >= numbers[-1]:
            return
