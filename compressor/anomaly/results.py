"""The rows of a scoring job: path, score, p_value, is_anomaly, error; other scores behind.

They are scored first, and decided when all scores are known.
"""

from __future__ import annotations

from collections.abc import Iterator

import pyarrow as pa
import pyarrow.compute as pc

from ..results import ResultsWriter

SCHEMA = pa.schema(
    [
        ("path", pa.string()),
        ("score", pa.float64()),
        ("p_value", pa.float64()),
        ("is_anomaly", pa.bool_()),
        ("error", pa.string()),
    ]
)
HEATMAP = "heatmap"  # a column of undecided rows: PNG files
HEATMAPS_AT_ONCE = 64


def decided(rows: pa.Table, threshold: float) -> pa.Table:
    """The rows with is_anomaly: whether the score is above ``threshold``, null without a score."""
    at = rows.schema.get_field_index("is_anomaly")
    return rows.set_column(at, "is_anomaly", pc.greater(rows["score"], threshold))


def decide(results: ResultsWriter, threshold: float) -> int:
    """Writes all rows with their decisions, not yet in view; gives the number of anomalies."""
    anomalies = 0

    def change(rows: pa.Table) -> pa.Table:
        nonlocal anomalies
        rows = decided(rows, threshold)
        anomalies += pc.sum(rows["is_anomaly"]).as_py() or 0
        return rows

    results.write(change, leave_out=[HEATMAP])
    return anomalies


def heatmaps(results: ResultsWriter, threshold: float) -> Iterator[tuple[str, bytes]]:
    """The names of the anomalies, and their PNG files."""
    for rows in results.tables(["path", "score", HEATMAP], HEATMAPS_AT_ONCE):
        strange = rows.filter(pc.greater(rows["score"], threshold))
        yield from zip(strange["path"].to_pylist(), strange[HEATMAP].to_pylist(), strict=True)
