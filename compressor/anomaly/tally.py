"""What a job's rows come to: one pass over them, in memory that does not grow with their number."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass, field

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from ..data.images import Unreadable
from .calibration import Scores

COLUMNS = ("path", "score", "p_value", "error")  # what a tally reads
DIGITS = 42  # of a float64's 52 binary ones, left out: scores are told apart to 0.1%


@dataclass
class Tally:
    """images, unreadable: of the source; p_value_counts (n + 1,): how many images have the p-value
    (k + 1) / (n + 1); strangest: score and number in the source of at most ``keep`` images, the
    strangest first; scores: how many images there are by score, to 0.1%."""

    p_value_counts: npt.NDArray[np.int64]
    keep: int
    images: int = 0
    unreadable: Unreadable = field(default_factory=Unreadable)
    strangest: list[tuple[float, int]] = field(default_factory=list)
    _by_score: Counter[int] = field(default_factory=Counter)

    def scores(self) -> tuple[Scores, npt.NDArray[np.int64]]:
        """Scores, ascending, and how many images have each: exact counts of rounded scores.

        As many as there are steps of 0.1% between the least and the largest, whatever the number
        of images (after Masson, Rim & Lee 2019, DDSketch).
        """
        keys = np.array(sorted(self._by_score), np.int64)
        values = (keys << DIGITS).view(np.float64)
        counts = np.array([self._by_score[key] for key in keys.tolist()], np.int64)
        order = np.argsort(values)
        return values[order], counts[order]

    def add(self, rows: pa.Table) -> None:
        """rows: the next ones of the source, with the COLUMNS."""
        first = self.images + self.unreadable.count
        errors = rows.filter(pc.is_null(rows["score"]))
        more = zip(errors["path"].to_pylist(), errors["error"].to_pylist(), strict=True)
        self.unreadable = self.unreadable.plus(list(more))
        scores = rows["score"].to_numpy()  # NaN where there is none
        places = np.flatnonzero(~np.isnan(scores))
        scores = scores[places]
        self.images += len(places)
        size = len(self.p_value_counts)
        p = rows["p_value"].drop_null().to_numpy()
        ranks = np.rint(p * size).astype(np.int64) - 1
        self.p_value_counts += np.bincount(ranks, minlength=size)
        strangest = np.argsort(-scores, kind="stable")[: self.keep]
        new = zip(scores[strangest].tolist(), (first + places[strangest]).tolist(), strict=True)
        every = sorted([*self.strangest, *new], key=lambda image: (-image[0], image[1]))
        self.strangest = every[: self.keep]
        keys, counts = np.unique(scores.view(np.int64) >> DIGITS, return_counts=True)
        self._by_score.update(dict(zip(keys.tolist(), counts.tolist(), strict=True)))


def tally(tables: Iterable[pa.Table], calibration: int, keep: int) -> Tally:
    """Reads all rows. calibration: how many scores p-values are from; keep: see Tally."""
    totals = Tally(np.zeros(calibration + 1, np.int64), keep)
    for rows in tables:
        totals.add(rows)
    return totals
