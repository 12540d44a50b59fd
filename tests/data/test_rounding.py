"""What float32 loses of a column is known from the values that were read."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from compressor.data.images import Group
from compressor.data.rounding import Moments, Rounding
from compressor.data.sources import open_source

TIMES = 1.7e9 + np.random.default_rng(0).normal(0, 5, (500, 1))


def shares(values: Any) -> Any:
    rounding = Rounding(values.shape[1])
    for start in range(0, len(values), 64):
        for chunk in open_source(values[start : start + 64]).chunks(64):
            for group in next(chunk.load()).groups:
                rounding.add(group)
    return rounding.shares()


def test_moments_of_pieces_are_those_of_all() -> None:
    moments = Moments(1)
    for piece in np.split(TIMES, [1, 7, 300]):
        moments.add(piece)
    np.testing.assert_allclose(moments.mean, TIMES.mean(0), rtol=1e-15)
    np.testing.assert_allclose(moments.deviation, TIMES.std(0), rtol=1e-6)


@pytest.mark.parametrize("kind", ["csv", "parquet", "npy", "npz", "list.parquet"])
def test_what_is_read_is_what_is_stored_and_what_is_rounded_off(tmp_path: Path, kind: str) -> None:
    path = tmp_path / f"data.{kind}"
    if kind == "csv":
        np.savetxt(path, TIMES, "%.6f", header="t", comments="")
    elif kind == "parquet":
        pq.write_table(pa.table({"t": TIMES[:, 0]}), path)
    elif kind == "list.parquet":
        pq.write_table(pa.table({"t": list(TIMES)}), path)
    else:
        (np.save if kind == "npy" else np.savez)(path, TIMES)
    first = 0
    for chunk in open_source(path).chunks(200):
        loaded = next(chunk.load())
        loaded = loaded if first else loaded.without_first(50)
        (group,) = loaded.groups
        assert group.rounded_off is not None and group.pixels.dtype == np.float32
        expected = TIMES[first : first + 200][50 if first == 0 else 0 :]
        np.testing.assert_allclose(group.pixels + group.rounded_off, expected, atol=2e-6)
        first += 200


def test_types_that_float32_holds_lose_nothing() -> None:
    for dtype in ("f4", "f2", "i2", "?"):
        group: Group = next(next(open_source(np.ones((3, 2), dtype)).chunks(3)).load()).groups[0]
        assert group.rounded_off is None


def test_the_share_that_is_rounded_off_grows_with_the_offset() -> None:
    noise = np.random.default_rng(0).normal(size=(500, 1))
    near, far, gone = (shares(noise + offset)[0] for offset in (0, 5.2e6, 1.7e9))
    assert near < 1e-6 and 0.1 < far < 0.2 and gone > 0.9


@pytest.mark.parametrize("value", [0.1, 1.7e9 + 0.3, 1e300, 0.0])
def test_a_constant_column_loses_nothing(value: float) -> None:
    constant = np.full((100, 1), value)
    constant[::2] *= 1 + 1e-15  # rounding of float64
    assert shares(np.minimum(constant, 3e38)) == 0


def test_columns_over_many_magnitudes_lose_nothing() -> None:
    wild = 10 ** np.random.default_rng(0).uniform(-30, 30, (500, 1))
    wild[7] = 3e38
    assert shares(wild)[0] < 1e-6
