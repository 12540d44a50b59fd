"""What a job computes for each chunk: scores, p-values, heat maps. Decisions come later."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from ..data.images import Images
from ..engine.engine import Engine
from ..report.heatmaps import heatmap
from .calibration import Scores, p_values
from .results import HEATMAP, SCHEMA


@dataclass(frozen=True)
class Scoring:
    """How images become rows; ``rows`` may run in any thread.

    calibration: (n,), ascending. heatmaps_above: the score above which an image gets a heat map, or
    None for none; error_scale: the error that its hottest colour stands for.
    """

    engine: Engine
    scorer: str
    calibration: Scores
    heatmaps_above: float | None = None
    error_scale: float = 1.0

    def rows(self, images: Images) -> pa.Table:
        """A row for each image, in order; an unreadable one has its error and no score.

        With ``heatmaps_above`` a column HEATMAP, too: PNG files, null for those not above.
        """
        scores = np.full(len(images.names), np.nan)
        heatmaps: list[bytes | None] = [None] * len(scores)
        for group in images.groups:
            answers = self.engine.score(group.pixels)
            scores[group.positions] = answers[self.scorer]
            for place in self._strange(scores[group.positions]):
                error_map = answers["error_map"][place]
                picture = heatmap(group.pixels[place], error_map, self.error_scale)
                heatmaps[group.positions[place]] = picture
        unreadable = np.isin(np.arange(len(scores)), list(images.unreadable))
        p = p_values(self.calibration, scores)
        rows = pa.table(
            [
                images.names,
                pa.array(scores, mask=unreadable),
                pa.array(p, mask=unreadable | (not len(self.calibration))),
                pa.nulls(len(scores), pa.bool_()),
                [images.unreadable.get(position) for position in range(len(scores))],
            ],
            SCHEMA,
        )
        if self.heatmaps_above is None:
            return rows
        return rows.append_column(HEATMAP, pa.array(heatmaps, pa.binary()))

    def _strange(self, scores: Scores) -> npt.NDArray[np.int64]:
        if self.heatmaps_above is None:
            return np.empty(0, np.int64)
        return np.flatnonzero(scores > self.heatmaps_above)
