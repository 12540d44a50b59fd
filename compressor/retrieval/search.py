"""The verb ``search``: the nearest of an index to each query, exactly, by products of matrices."""

from __future__ import annotations

import math
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from ..data.images import Data
from ..data.tables import refuse_table, table_file
from ..engine.job import Job
from ..errors import ConfigError, DataError
from ..files import refuse_elsewhere
from ..model import Model
from .index import DataVectors, Index
from .space import Vectors

SCHEMA = pa.schema(
    [
        ("query", pa.string()),
        ("rank", pa.int32()),
        ("path", pa.string()),
        ("distance", pa.float64()),
    ]
)
Rows = npt.NDArray[np.int64]

QUERIES_AT_ONCE, ROWS_AT_ONCE = 256, 2048  # whose products lie in a cache
ROUNDED_OFF = 1e-5  # of the lengths: what products of float32 may be off
SHOWN = 50  # of the rows found, in the summary


@dataclass(frozen=True)
class Found:
    """The nearest of each query, nearest first: rows of the index and distances, (queries, k)."""

    rows: Rows
    distances: npt.NDArray[np.float64]


def nearest(index: Index, queries: Vectors, k: int) -> Found:
    """The k nearest of each of queries (n, D), exactly; of equal ones the earlier rows.

    Reads the index once for all queries, a part at a time. Products of float32 say which rows may
    be among the nearest, and differences in float64 how far those are.
    """
    count = min(k, index.count)
    best = np.full((len(queries), count), np.inf)
    rows = np.full((len(queries), count), -1, np.int64)
    # Written to again and again: new memory costs more than the products that go into it.
    scratch = np.empty(QUERIES_AT_ONCE * ROWS_AT_ONCE, np.float32)
    start = 0
    for part in range(len(index.manifest.parts)):
        vectors = index.vectors(part)
        for block in _blocks(vectors, start):
            for first in range(0, len(queries), QUERIES_AT_ONCE):
                piece = slice(first, first + QUERIES_AT_ONCE)
                found = Found(rows[piece], best[piece])
                better = _better(found, queries[piece], block, scratch)
                rows[piece], best[piece] = better.rows, better.distances
        start += len(vectors)
    return Found(rows, index.space.distances(best))


class _Block(NamedTuple):
    """Rows of an index from number ``start`` on: vectors (n, D) and their squared lengths (n,)."""

    vectors: Vectors
    sizes: Vectors
    start: int


def _blocks(vectors: Vectors, start: int) -> Iterator[_Block]:
    """Of a part, whose first row has the number ``start``."""
    for first in range(0, len(vectors), ROWS_AT_ONCE):
        block = vectors[first : first + ROWS_AT_ONCE]
        yield _Block(block, np.square(block).sum(1), start + first)


def _scores(queries: Vectors, block: _Block, scratch: Vectors) -> tuple[Vectors, Vectors, Vectors]:
    """Squared distances (queries, rows) without the query's own length, in ``scratch``; that length
    (queries,), and how far such a square may be off."""
    shape = len(queries), len(block.vectors)
    scores = scratch[: math.prod(shape)].reshape(shape)
    np.matmul(-2 * queries, block.vectors.T, out=scores)
    scores += block.sizes
    own = np.square(queries).sum(1)
    return scores, own, ROUNDED_OFF * (own + block.sizes.max())


def _better(found: Found, queries: Vectors, block: _Block, scratch: Vectors) -> Found:
    """The nearest of those found before and of a block; distances are squares here."""
    count = found.rows.shape[1]
    scores, own, slack = _scores(queries, block, scratch)
    limits = found.distances[:, -1]
    if not np.isfinite(limits).all() and scores.shape[1] >= count:
        limits = np.minimum(limits, np.partition(scores, count - 1)[:, count - 1] + own)
    limits = (limits - own + slack).astype(np.float32)
    asked = np.flatnonzero(scores.min(1) <= limits)  # mostly few: nothing near is in the block
    if not len(asked):
        return found
    may_be = np.flatnonzero(scores[asked] <= limits[asked, None])
    of_asked, of_block = np.divmod(may_be, scores.shape[1])
    of_query = asked[of_asked]
    squares = _squares(queries, block.vectors, of_query, of_block)
    changed = np.unique(of_query)
    query = np.concatenate([np.repeat(changed, count), of_query])
    square = np.concatenate([found.distances[changed].ravel(), squares])
    row = np.concatenate([found.rows[changed].ravel(), block.start + of_block])
    order = np.lexsort((row, square, query))
    firsts = np.searchsorted(query[order], changed)[:, None] + np.arange(count)
    chosen = order[firsts]
    rows, distances = found.rows.copy(), found.distances.copy()
    rows[changed], distances[changed] = row[chosen], square[chosen]
    return Found(rows, distances)


def _squares(
    queries: Vectors, vectors: Vectors, of_query: Rows, of_vector: Rows
) -> npt.NDArray[np.float64]:
    """Squared distances (n,) of pairs, given by their rows, a few at a time."""
    squares = np.empty(len(of_query))
    for first in range(0, len(squares), ROWS_AT_ONCE):
        piece = slice(first, first + ROWS_AT_ONCE)
        some = queries[of_query[piece]].astype(np.float64)
        squares[piece] = np.square(some - vectors[of_vector[piece]]).sum(1)
    return squares


def neighbours(index: Index, threshold: float) -> Iterator[tuple[int, Rows]]:
    """Every row with rows (n,) at most ``threshold`` from it: it may come several times, and of two
    rows at least one has the other."""
    limit = index.space.squared(threshold)
    scratch = np.empty(QUERIES_AT_ONCE * ROWS_AT_ONCE, np.float32)
    starts = np.cumsum([0, *index.manifest.parts])
    for one in range(len(index.manifest.parts)):
        left = index.vectors(one)
        for other in range(one, len(index.manifest.parts)):
            right = left if other == one else index.vectors(other)
            for block in _blocks(right, int(starts[other])):
                for first in range(0, len(left), QUERIES_AT_ONCE):
                    asked = left[first : first + QUERIES_AT_ONCE]
                    scores, own, slack = _scores(asked, block, scratch)
                    near = scores <= (limit - own + slack)[:, None].astype(np.float32)
                    of_asked, of_block = np.nonzero(near)
                    squares = _squares(asked, block.vectors, of_asked, of_block)
                    of_asked, of_block = of_asked[squares <= limit], of_block[squares <= limit]
                    if not len(of_asked):
                        continue
                    rows, begins = np.unique(of_asked, return_index=True)
                    each = np.split(of_block, begins[1:])
                    for row, found in zip(rows.tolist(), each, strict=True):
                        yield int(starts[one]) + first + row, block.start + found


def search(
    index: str | Path,
    query: Data,
    *,
    k: int = 10,
    model: str | Path | None = None,
    output: str | Path | None = None,
    device: str = "auto",
    force: bool = False,
) -> dict[str, Any]:
    """The ``k`` nearest of ``index`` to each query: images or vectors, or "::N", the index's row N.

    ``model``: by default the encoder inside the index. ``output``: a .parquet or .csv with the
    columns query, rank (from 1), path and distance (1 - the cosine, or Euclidean).

    Gives images (of the index), queries, k, metric, found (the first of that table, as dicts),
    unreadable, seconds. Raises CompressorError.
    """
    refuse_elsewhere(index, query, model, outputs=[] if output is None else [output])
    started = time.monotonic()
    if k < 1:
        raise ConfigError(f"k={k}: at least one has to be asked for")
    target = None if output is None else Path(output)
    if target is not None:
        refuse_table("output", target, force, index, query)
    opened = Index.open(index)
    names, vectors, more = _asked(opened, query, model, device)
    found = nearest(opened, vectors, k)
    table = _table(opened, names, found)
    if target is not None:
        with table_file(target, SCHEMA, force) as file:
            file.write_table(table)
    return {
        "images": opened.count,
        "queries": len(names),
        "k": found.rows.shape[1],
        "metric": "cosine" if opened.space.cosine else "euclidean",
        "found": table.slice(0, SHOWN).to_pylist(),
        **more,
        "seconds": round(time.monotonic() - started, 3),
    }


def _asked(
    index: Index, query: Data, model: str | Path | None, device: str
) -> tuple[list[str], Vectors, dict[str, Any]]:
    """Names and vectors of the queries, and what the summary says of their source."""
    if isinstance(query, str) and query.startswith("::"):
        number = query.removeprefix("::")
        if not number.isdecimal() or int(number) >= index.count:
            raise DataError(f"{query}: rows of {index.path} are ::0 to ::{index.count - 1}")
        name, vector = _row(index, int(number))
        return [name], vector, {}
    if model is not None:
        index.refuse_other(Model.open(model))
    else:
        index.model()  # is it whole, and the one that it was?
    reader = DataVectors(Job("search", query, model or index.path / "model", device), index.space)
    names: list[str] = []
    vectors: list[Vectors] = []
    for more_names, more in reader.run(progress=False):
        names += more_names
        vectors += more
    return names, np.stack(vectors), reader.summary()


def _row(index: Index, number: int) -> tuple[str, Vectors]:
    for part, rows in enumerate(index.manifest.parts):
        if number < rows:
            return index.names(part)[number], index.vectors(part)[number : number + 1]
        number -= rows
    raise AssertionError(number)


def _table(index: Index, queries: list[str], found: Found) -> pa.Table:
    """As SCHEMA has it, the nearest of the first query first."""
    names: dict[int, str] = {}
    wanted = np.unique(found.rows)
    start = 0
    for part, rows in enumerate(index.manifest.parts):
        inside = wanted[(wanted >= start) & (wanted < start + rows)]
        if len(inside):
            of_part = index.names(part)
            names |= {int(row): of_part[row - start] for row in inside}
        start += rows
    count, k = found.rows.shape
    return pa.table(
        [
            pa.array([query for query in queries for _ in range(k)], pa.string()),
            pa.array(np.tile(np.arange(1, k + 1, dtype=np.int32), count)),
            pa.array([names[row] for row in found.rows.ravel().tolist()], pa.string()),
            pa.array(found.distances.ravel()),
        ],
        SCHEMA,
    )
