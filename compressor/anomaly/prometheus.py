"""What a scoring job came to, for Prometheus: a file for node_exporter's textfile collector.

The text format is version 0.0.4 of Prometheus's "Exposition formats". One file has one task, which
is the file's name: the collector refuses two files with the same series.
"""

from __future__ import annotations

import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from ..files import write_atomically

# metric, key of the summary, help; a key without a value has no sample
GAUGES = (
    ("images", "images", "Inputs scored by the last job that ended."),
    ("unreadable_images", "unreadable", "Inputs that the last job could not read."),
    ("anomalies", "anomalies", "Inputs that the last job called anomalies."),
    ("threshold", "threshold", "The raw score above which inputs were anomalies."),
    ("drift", "drift", "Distance of the scores from the calibration, 0 to 1."),
    ("drift_limit", "drift_limit", "The distance above which the job warns of drift."),
    ("duration_seconds", "seconds", "How long the last run took."),
)


def write_metrics(path: Path, summary: Mapping[str, Any], now: float | None = None) -> None:
    """Writes ``path`` anew, as a whole; raises OutputError. now: seconds since 1970."""
    ended = "When the last job ended, in seconds since 1970."
    samples = [("end_timestamp_seconds", time.time() if now is None else now, ended)]
    samples += [(name, summary[key], text) for name, key, text in GAUGES]
    labels = f'task="{_escaped(path.stem)}"'
    lines = []
    for name, value, text in samples:
        if value is not None:
            metric = f"compressor_score_{name}"
            lines += [f"# HELP {metric} {text}", f"# TYPE {metric} gauge"]
            lines.append(f"{metric}{{{labels}}} {value!r}")
    path.absolute().parent.mkdir(parents=True, exist_ok=True)
    write_atomically(path, ("\n".join(lines) + "\n").encode())


def _escaped(text: str) -> str:
    return text.replace("\\", r"\\").replace("\n", r"\n").replace('"', r"\"")
