"""The file for Prometheus, read by its own client's parser."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from prometheus_client.parser import text_string_to_metric_families

from compressor.anomaly.prometheus import write_metrics
from compressor.data.images import Pixels
from compressor.errors import ConfigError
from compressor.verbs import score

MODEL = Path(__file__).parents[1] / "golden" / "1" / "model"


def test_prometheus_reads_what_the_summary_says(clothes: Pixels, tmp_path: Path) -> None:
    path = tmp_path / "node" / "clothes.prom"
    for images in (clothes[:40], clothes[:50]):  # every run writes the file anew
        summary = score(images, MODEL, tmp_path / "r.parquet", metrics=path, force=True)
    families = {f.name: f for f in text_string_to_metric_families(path.read_text())}
    values = {}
    for name, family in families.items():
        (sample,) = family.samples
        assert family.type == "gauge" and family.documentation
        assert sample.labels == {"task": "clothes"}
        values[name.removeprefix("compressor_score_")] = sample.value
    ended = values.pop("end_timestamp_seconds")
    assert 0 <= path.stat().st_mtime - ended < 60
    assert values == {
        "images": 50,
        "unreadable_images": 0,
        "anomalies": summary["anomalies"],
        "threshold": summary["threshold"],
        "drift": summary["drift"],
        "drift_limit": summary["drift_limit"],
        "duration_seconds": summary["seconds"],
    }
    assert list(path.parent.iterdir()) == [path]


def test_what_has_no_value_has_no_sample_and_names_are_escaped(tmp_path: Path) -> None:
    summary = dict.fromkeys(("images", "unreadable", "anomalies", "drift", "drift_limit"), 1)
    path = tmp_path / 'of "parts".prom'
    write_metrics(path, summary | {"threshold": None, "seconds": 0.5}, now=12.0)
    families = list(text_string_to_metric_families(path.read_text()))
    assert "compressor_score_threshold" not in {family.name for family in families}
    assert {s.labels["task"] for f in families for s in f.samples} == {'of "parts"'}


def test_a_file_that_the_collector_would_not_read_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"metrics=.*m.txt: node_exporter reads files \*.prom"):
        score(np.zeros((1, 28, 28), np.uint8), MODEL, tmp_path / "r", metrics=tmp_path / "m.txt")
