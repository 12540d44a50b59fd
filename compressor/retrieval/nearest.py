"""The nearest of many vectors to others: exactly, by products of matrices, or in a few cells."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from typing import NamedTuple, Protocol

import numpy as np
import numpy.typing as npt

from .cells import CellNumbers, Cells
from .space import Vectors

Rows = npt.NDArray[np.int64]

QUERIES_AT_ONCE, ROWS_AT_ONCE = 256, 2048  # whose products lie in a cache
NUMBERS_AT_ONCE = 1 << 26  # of vectors that are put into the order of their cells: 256 MiB
ROUNDED_OFF = 1e-5  # of the lengths: what products of float32 may be off


class Found(NamedTuple):
    """The nearest of each query, nearest first: rows of the index and squared distances, both
    (queries, k)."""

    rows: Rows
    squares: npt.NDArray[np.float64]


class Parts(Protocol):
    """Vectors part by part; rows are numbered through all parts. ``counts``: the rows of each."""

    @property
    def counts(self) -> Sequence[int]: ...

    def vectors(self, part: int) -> Vectors: ...


def nearest(parts: Parts, queries: Vectors, k: int) -> Found:
    """The k nearest of each of queries (n, D), exactly; of equal ones the earlier rows.

    Reads the index once for all queries, a part at a time. Products of float32 say which rows may
    be among the nearest, and differences in float64 how far those are.
    """
    found, scratch = _nothing(parts, queries, k), _scratch()
    starts = np.cumsum([0, *parts.counts])
    for part in range(len(parts.counts)):
        vectors = parts.vectors(part)
        for block in _blocks(vectors, starts[part] + np.arange(len(vectors))):
            for first in range(0, len(queries), QUERIES_AT_ONCE):
                piece = slice(first, first + QUERIES_AT_ONCE)
                before = Found(found.rows[piece], found.squares[piece])
                better = _better(before, queries[piece], block, scratch)
                found.rows[piece], found.squares[piece] = better
    return found


def nearest_in_cells(
    parts: Parts, of_part: Callable[[int], CellNumbers], cells: Cells, queries: Vectors, k: int
) -> Found:
    """The k nearest of each of queries (n, D) among the rows in the cells that are nearest to it.

    of_part: the cell (n,) of each row of a part. A query with fewer than k rows there has the row
    -1, infinitely far, at the end.
    """
    found, scratch = _nothing(parts, queries, k), _scratch()
    probed = cells.nearest(queries).ravel()
    order = np.argsort(probed, kind="stable")
    asking = order // cells.probes  # the queries of each cell, one cell after the other
    ends = np.cumsum(np.bincount(probed, minlength=len(cells.centres)))
    for vectors, rows, stops in _by_cells(parts, of_part, ends > np.append(0, ends[:-1])):
        for cell in np.flatnonzero(stops > np.append(0, stops[:-1])).tolist():
            first_row, first_query = (
                int(edges[cell - 1]) if cell else 0 for edges in (stops, ends)
            )
            inside, asked = slice(first_row, stops[cell]), asking[first_query : ends[cell]]
            for block in _blocks(vectors[inside], rows[inside]):
                for first in range(0, len(asked), QUERIES_AT_ONCE):
                    some = asked[first : first + QUERIES_AT_ONCE]
                    before = Found(found.rows[some], found.squares[some])
                    better = _better(before, queries[some], block, scratch)
                    found.rows[some], found.squares[some] = better
    return found


def _by_cells(
    parts: Parts, of_part: Callable[[int], CellNumbers], wanted: npt.NDArray[np.bool_]
) -> Iterator[tuple[Vectors, Rows, Rows]]:
    """The rows of the cells (C,) that are wanted, of as many parts together as fit into memory:
    vectors (n, D) one cell after the other, their numbers (n,), and where each cell ends (C,)."""
    starts = np.cumsum([0, *parts.counts])
    first = 0
    while first < len(parts.counts):
        first_vectors = parts.vectors(first)
        most = starts[first] + max(1, NUMBERS_AT_ONCE // first_vectors.shape[1])
        stop = max(first + 1, int(np.searchsorted(starts, most, side="right")) - 1)
        of_row = np.concatenate([of_part(part) for part in range(first, stop)])
        rows = np.flatnonzero(wanted[of_row])
        rows = rows[np.argsort(of_row[rows], kind="stable")]
        places = np.full(len(of_row), -1)
        places[rows] = np.arange(len(rows))
        vectors = np.empty((len(rows), first_vectors.shape[1]), np.float32)
        for part in range(first, stop):
            to = places[starts[part] - starts[first] :][: parts.counts[part]]
            of_this = first_vectors if part == first else parts.vectors(part)
            vectors[to[to >= 0]] = of_this[to >= 0]
        sizes = np.bincount(of_row[rows], minlength=len(wanted))
        yield vectors, rows + starts[first], np.cumsum(sizes)
        first = stop


def _nothing(parts: Parts, queries: Vectors, k: int) -> Found:
    shape = len(queries), min(k, sum(parts.counts))
    return Found(np.full(shape, -1, np.int64), np.full(shape, np.inf))


def _scratch() -> Vectors:
    """Written to again and again: new memory costs more than the products that go into it."""
    return np.empty(QUERIES_AT_ONCE * ROWS_AT_ONCE, np.float32)


class _Block(NamedTuple):
    """Some vectors (n, D), their squared lengths (n,) and their numbers (n,) in the index."""

    vectors: Vectors
    sizes: Vectors
    rows: Rows


def _blocks(vectors: Vectors, rows: Rows) -> Iterator[_Block]:
    """Of vectors (n, D) with the numbers (n,) in the index."""
    for first in range(0, len(vectors), ROWS_AT_ONCE):
        block = vectors[first : first + ROWS_AT_ONCE]
        yield _Block(block, np.square(block).sum(1), rows[first : first + ROWS_AT_ONCE])


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
    limits = found.squares[:, -1]
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
    square = np.concatenate([found.squares[changed].ravel(), squares])
    row = np.concatenate([found.rows[changed].ravel(), block.rows[of_block]])
    order = np.lexsort((row, square, query))
    firsts = np.searchsorted(query[order], changed)[:, None] + np.arange(count)
    chosen = order[firsts]
    rows, distances = found.rows.copy(), found.squares.copy()
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


def neighbours(parts: Parts, limit: float) -> Iterator[tuple[int, Rows]]:
    """Every row with rows (n,) whose squared distance is at most ``limit``: it may come several
    times, and of two rows at least one has the other."""
    scratch = _scratch()
    starts = np.cumsum([0, *parts.counts])
    for one in range(len(parts.counts)):
        left = parts.vectors(one)
        for other in range(one, len(parts.counts)):
            right = left if other == one else parts.vectors(other)
            for block in _blocks(right, starts[other] + np.arange(len(right))):
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
                        yield int(starts[one]) + first + row, block.rows[found]
