"""A tally of rows: what a pass over them keeps, in bounded memory."""

from __future__ import annotations

import numpy as np
import pyarrow as pa

from compressor.anomaly.results import SCHEMA
from compressor.anomaly.tally import tally

N = 50  # calibration scores


def tables(scores: np.ndarray, ranks: np.ndarray) -> list[pa.Table]:
    """Rows in pieces of 1,000; each hundredth is unreadable."""
    missing = np.arange(len(scores)) % 100 == 7
    whole = pa.table(
        [
            [f"{number}.png" for number in range(len(scores))],
            pa.array(scores, mask=missing),
            pa.array((ranks + 1) / (N + 1), mask=missing),
            pa.nulls(len(scores), pa.bool_()),
            ["is damaged" if gone else None for gone in missing],
        ],
        SCHEMA,
    )
    return [whole.slice(start, 1000) for start in range(0, len(scores), 1000)]


def test_counts_and_the_strangest_are_those_of_all_rows() -> None:
    random = np.random.default_rng(0)
    scores, ranks = random.lognormal(size=5500), random.integers(0, N + 1, 5500)
    scores[[3, 4321]] = np.inf
    found = tally(tables(scores, ranks), N, keep=60)
    kept = np.arange(5500) % 100 != 7
    assert (found.images, found.unreadable.count) == (5445, 55)
    assert found.unreadable.first[1] == ("107.png", "is damaged")
    assert found.p_value_counts.tolist() == np.bincount(ranks[kept], minlength=N + 1).tolist()
    order = sorted(np.flatnonzero(kept), key=lambda number: (-scores[number], number))[:60]
    assert [number for _, number in found.strangest] == order
    assert [score for score, _ in found.strangest] == scores[order].tolist()


def test_scores_are_counted_to_a_thousandth_in_few_steps() -> None:
    scores = np.random.default_rng(1).lognormal(size=40_000) - 0.5
    found = tally(tables(scores, np.zeros(40_000, np.int64)), N, keep=0)
    values, counts = found.scores()
    assert counts.sum() == found.images and (np.diff(values) > 0).all()
    assert len(values) < 15_000
    exact = np.sort(scores[np.arange(40_000) % 100 != 7])
    again = np.repeat(values, counts)
    assert np.allclose(np.sort(again), exact, rtol=1e-3)
