"""The report of a scoring job: the strangest images, read and rebuilt once more."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np

from ..data.images import Rows, Source
from ..engine.job import Job, fitting
from ..report.page import ScoredImage, ScoringReport, write_report
from ..spec import DataSpec, size_of
from .calibration import p_values
from .scoring import Scoring
from .tally import Tally

REPORTED = 60  # the strangest images, shown in a report


def write_scoring_report(
    path: Path,
    job: Job,
    scoring: Scoring,
    found: Tally,
    threshold: float,
    anomalies: int,
    force: bool,
) -> None:
    """An HTML page with the strangest images beside what the model makes of them."""
    kind = job.model.spec.kind
    scores, counts = found.scores()
    report = ScoringReport(
        title=f"{anomalies:,} of {found.images:,} {kind}s are anomalies",
        columns=getattr(job.model.spec, "columns", None),
        data=job.source.location,
        model=str(job.model.location),
        scorer=scoring.scorer,
        threshold=threshold,
        images=found.images,
        anomalies=anomalies,
        scores=scores,
        score_counts=counts,
        calibration_scores=scoring.calibration,
        worst=_strangest(job, scoring, found, threshold),
        unreadable=found.unreadable.first,
    )
    write_report(path, report, force)


def _strangest(job: Job, scoring: Scoring, found: Tally, threshold: float) -> list[ScoredImage]:
    shown = {}
    scores = {number: score for score, number in found.strangest}
    for number, name, pixels in _read_again(job.source, job.model.spec, sorted(scores)):
        answers = job.engine.score(pixels)
        codes = job.engine.encode(pixels)
        (reconstruction,) = job.engine.decode(codes, *size_of(pixels.shape[1:]))
        score, p_value = scores[number], None
        if len(scoring.calibration):
            p_value = float(p_values(scoring.calibration, np.array([score]))[0])
        shown[number] = ScoredImage(
            name,
            score,
            p_value,
            score > threshold,
            pixels[0],
            answers["error_map"][0],
            reconstruction,
        )
    return [shown[number] for _, number in found.strangest]


def _read_again(
    source: Source, spec: DataSpec, numbers: Sequence[int]
) -> Iterator[tuple[int, str, Rows]]:
    """The images of these numbers, ascending: number, name and pixels (1, ...)."""
    wanted = set(numbers)
    for chunk in source.chunks(1, numbers[0]) if numbers else ():
        if chunk.start in wanted:
            for images in chunk.load():
                for group in fitting(images, spec).groups:
                    yield chunk.start, images.names[0], group.pixels
        if chunk.start >= numbers[-1]:
            return
