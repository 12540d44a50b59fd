"""The verb ``duplicates``: groups of inputs that lie much nearer together than others do."""

from __future__ import annotations

import time
from collections import defaultdict
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa

from ..data.tables import refuse_table, table_file
from ..errors import ConfigError
from ..files import refuse_elsewhere
from .folder import Index
from .nearest import Rows, nearest, neighbours
from .search import SHOWN

SCHEMA = pa.schema([("group", pa.int64()), ("path", pa.string())])
NEAR = 0.1  # of the median distance to the nearest other input
SAMPLE = 1000  # of the rows, whose nearest others are looked at


def duplicates(
    index: str | Path,
    *,
    threshold: float | None = None,
    output: str | Path | None = None,
    force: bool = False,
) -> dict[str, Any]:
    """Groups of inputs of ``index``, each at most ``threshold`` from another one of its group.

    threshold: a distance as ``search`` gives it; by default a tenth of the median distance to the
    nearest other input. ``output``: a .parquet or .csv with the columns group and path.

    Gives images (of the index), threshold, groups (how many), duplicates (inputs beyond the first
    of each group), found (the first of that table, as dicts), seconds. Raises CompressorError.
    """
    refuse_elsewhere(index, outputs=[] if output is None else [output])
    started = time.monotonic()
    if threshold is not None and not 0 <= threshold < float("inf"):
        raise ConfigError(f"threshold={threshold}: a distance is 0 or more")
    target = None if output is None else Path(output)
    if target is not None:
        refuse_table("output", target, force, index)
    opened = Index.open(index)
    within = usual_distance(opened) * NEAR if threshold is None else threshold
    groups = _groups(opened.count, neighbours(opened, opened.space.squared(within)))
    names = [name for part in range(len(opened.manifest.parts)) for name in opened.names(part)]
    rows = [(number, names[row]) for number, group in enumerate(groups) for row in group]
    table = pa.table([[number for number, _ in rows], [name for _, name in rows]], SCHEMA)
    if target is not None:
        with table_file(target, SCHEMA, force) as file:
            file.write_table(table)
    return {
        "images": opened.count,
        "threshold": within,
        "groups": len(groups),
        "duplicates": sum(len(group) - 1 for group in groups),
        "found": table.slice(0, SHOWN).to_pylist(),
        "seconds": round(time.monotonic() - started, 3),
    }


def usual_distance(index: Index) -> float:
    """The median distance to the nearest other input, of rows from all over the index."""
    rows = np.unique(np.linspace(0, index.count - 1, min(SAMPLE, index.count)).astype(int))
    pieces = [index.vectors(part)[inside] for part, inside in index.parts_with(rows)]
    found = nearest(index, np.concatenate(pieces), 2)
    if found.rows.shape[1] < 2:
        return 0.0
    others = np.where(found.rows == rows[:, None], np.inf, found.squares).min(1)
    return float(np.median(index.space.distances(others)))


def _groups(count: int, near: Iterator[tuple[int, Rows]]) -> list[list[int]]:
    """The connected components of two rows and more, each ascending, by their first row."""
    parents = np.arange(count)  # of a component the first row is its own

    def roots(rows: Rows) -> Rows:
        while True:
            above = parents[rows]
            if np.array_equal(above, rows):
                return np.unique(rows)
            rows = above

    for row, others in near:
        joined = roots(np.append(others, row))
        parents[joined] = joined[0]
        parents[others] = joined[0]
        parents[row] = joined[0]
    members: dict[int, list[int]] = defaultdict(list)
    joining = np.flatnonzero(parents != np.arange(count))
    for number in joining.tolist():
        members[int(roots(np.array([number]))[0])].append(number)
    return [[first, *rows] for first, rows in sorted(members.items())]
