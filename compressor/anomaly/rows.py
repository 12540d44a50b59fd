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
from .requested import Requested
from .results import HEATMAP, SCHEMA
from .scorers import Seen


@dataclass(frozen=True)
class Scoring:
    """How images become rows; ``rows`` may run in any thread.

    requested: the scores, the first of which decides; calibration: of that one, (n,), ascending.
    heatmaps_above: the score above which an image gets a heat map, or None for none; error_scale:
    the error that its hottest colour stands for.
    """

    engine: Engine
    requested: Requested
    calibration: Scores
    heatmaps_above: float | None = None
    error_scale: float = 1.0

    def rows(self, images: Images) -> pa.Table:
        """A row for each image, in order; an unreadable one has its error and no score.

        Other scores have columns behind. With ``heatmaps_above`` a column HEATMAP, too: PNG
        files, null for those not above.
        """
        columns = np.full((len(self.requested.names), len(images.names)), np.nan)
        scores = columns[0]
        heatmaps: list[bytes | None] = [None] * len(scores)
        for group in images.groups:
            seen = Seen(self.engine, group.pixels)
            columns[:, group.positions] = list(self.requested.of(seen).values())
            for place in self._strange(scores[group.positions]):
                error_map = seen.scored["error_map"][place]
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
        for name, others in zip(self.requested.names[1:], columns[1:], strict=True):
            rows = rows.append_column(name, pa.array(others, mask=unreadable))
        if self.heatmaps_above is None:
            return rows
        return rows.append_column(HEATMAP, pa.array(heatmaps, pa.binary()))

    def _strange(self, scores: Scores) -> npt.NDArray[np.int64]:
        if self.heatmaps_above is None:
            return np.empty(0, np.int64)
        return np.flatnonzero(scores > self.heatmaps_above)
