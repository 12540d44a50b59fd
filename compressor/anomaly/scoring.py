"""What a job computes for each chunk: scores, p-values and the pictures that show them."""

from __future__ import annotations

import heapq
from collections.abc import Iterator
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path

import numpy as np
import numpy.typing as npt

from ..data.images import Images, Rows
from ..data.sinks import png_path
from ..engine.job import Job
from ..report.heatmaps import save_heatmap
from ..report.page import ScoredImage, ScoringReport, write_report
from ..spec import size_of
from .calibration import Scores, p_values
from .results import Row


@dataclass(order=True)
class Strange:
    """An image that is stranger than most, with its pictures."""

    score: float
    name: str = field(compare=False)
    pixels: Rows = field(compare=False)
    error_map: npt.NDArray[np.float32] = field(compare=False)


Pictures = dict[int, tuple[Rows, npt.NDArray[np.float32]]]


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
