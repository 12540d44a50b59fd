"""Cells: which vectors of an index lie near the same centre, so that a search reads a few of them.

Each vector belongs to the nearest of some centres (Lloyd 1982), and a query is compared with those
of the cells whose centres are nearest to it (inverted lists: Jégou, Douze & Schmid 2011). How many
cells that takes is measured when they are made.
"""

from __future__ import annotations

import io
import math
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from ..errors import ArchiveError
from ..untrusted import read_npz
from .space import Vectors

Numbers = npt.NDArray[np.int64]
CellNumbers = npt.NDArray[np.uint16]

MIN_ROWS = 100_000  # of an index with cells: fewer are searched exactly in no time
ROWS_A_CELL = 1000  # about as many as are worth a product of matrices
MAX_CELLS = 1 << 12
SAMPLE_A_CELL = 64  # rows that a centre is learned from
ROUNDS = 10
WANTED, NEAREST, JUDGED = 0.985, 10, 256  # of the NEAREST of JUDGED rows, as queries
ROWS_AT_ONCE = 4096


@dataclass(frozen=True)
class Cells:
    """centres: float32 (C, D). probes: the cells that a query is compared with; recall: the share
    of the ten nearest that were in these, of rows that were looked at."""

    centres: Vectors
    probes: int
    recall: float

    @classmethod
    def learn(cls, sample: Vectors, rows: int) -> Cells:
        """For an index of so many rows, of which sample (n, D) are some from everywhere; a query is
        compared with all of them until ``probing`` says with how many."""
        count = min(MAX_CELLS, max(1, rows // ROWS_A_CELL), len(sample))
        random = np.random.default_rng(0)
        centres = sample[np.sort(random.permutation(len(sample))[:count])].copy()
        for _ in range(ROUNDS):
            of_row = cls(centres, count, 1.0).of(sample)
            sizes = np.bincount(of_row, minlength=count)
            filled = np.flatnonzero(sizes)  # an empty cell keeps its centre
            starts = np.cumsum(sizes)[filled] - sizes[filled]
            in_cells = sample[np.argsort(of_row, kind="stable")].astype(np.float64)
            centres[filled] = np.add.reduceat(in_cells, starts) / sizes[filled, None]
        return cls(centres, count, 1.0)

    def probing(self, queries: Vectors, cells: CellNumbers) -> Cells:
        """With as few cells as hold WANTED of the nearest rows of queries (n, D); ``cells`` (n, k):
        where these rows are."""
        ranks = np.argsort(np.argsort(self._squares(queries), 1), 1)  # of each cell, for each query
        needed = np.sort(np.take_along_axis(ranks, cells.astype(np.int64), 1), axis=None) + 1
        probes = int(needed[math.ceil(WANTED * len(needed)) - 1])
        return Cells(self.centres, probes, round(float((needed <= probes).mean()), 4))

    def of(self, vectors: Vectors) -> CellNumbers:
        """The cell (n,) of each of vectors (n, D)."""
        cells = np.empty(len(vectors), np.uint16)
        for first in range(0, len(vectors), ROWS_AT_ONCE):
            piece = slice(first, first + ROWS_AT_ONCE)
            cells[piece] = self._squares(vectors[piece]).argmin(1)
        return cells

    def nearest(self, queries: Vectors) -> Numbers:
        """The cells (n, probes) that queries (n, D) are compared with, in no order."""
        if self.probes == len(self.centres):
            return np.tile(np.arange(self.probes), (len(queries), 1))
        pieces = [
            np.argpartition(self._squares(queries[first : first + ROWS_AT_ONCE]), self.probes - 1)
            for first in range(0, len(queries), ROWS_AT_ONCE)
        ]
        return np.concatenate(pieces)[:, : self.probes]

    def _squares(self, vectors: Vectors) -> Vectors:
        """Squared distances to the centres (n, C), without the vectors' own lengths."""
        squares: Vectors = vectors @ (-2 * self.centres.T)
        squares += np.square(self.centres).sum(1)
        return squares

    def to_bytes(self) -> bytes:
        """cells.npz."""
        buffer = io.BytesIO()
        probes, recall = np.int64(self.probes), np.float64(self.recall)
        np.savez(buffer, centres=self.centres, probes=probes, recall=recall)
        return buffer.getvalue()

    @classmethod
    def from_bytes(cls, content: bytes, dimensions: int) -> Cells:
        """Raises ArchiveError for anything that ``to_bytes`` does not write."""
        try:
            arrays = read_npz(content)
            centres, probes = arrays["centres"], int(arrays["probes"])
            recall = float(arrays["recall"])
            if centres.dtype != np.float32 or centres.shape[1:] != (dimensions,):
                raise ValueError("its centres do not fit the vectors")
            if not 1 <= probes <= len(centres) <= MAX_CELLS or not np.isfinite(centres).all():
                raise ValueError("its numbers are impossible")
        except (KeyError, ValueError, TypeError) as error:
            raise ArchiveError(f"cells.npz is damaged: {error}") from error
        return cls(centres, probes, recall)
