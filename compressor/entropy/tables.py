"""Integer probability tables: how often each of a range of integers occurs, out of 2**16.

The last symbol is ESCAPE: it says that an integer outside the range follows in full, so that no
integer is impossible and none is ever clipped.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from functools import cached_property
from typing import Any, NamedTuple

import constriction
import numpy as np
import numpy.typing as npt

Codes = npt.NDArray[np.int32]
Integers = npt.NDArray[np.int64]

TOTAL = 1 << 16  # the frequencies of a table sum to this
ESCAPE_BITS = 32  # an escaped integer in full
SMOOTHING = 0.5  # added to every count (Krichevsky & Trofimov 1981)
MAX_SYMBOLS = 4096  # of one table, ESCAPE included
INT32 = np.iinfo(np.int32)


class Table(NamedTuple):
    """``frequencies[i]`` belongs to the integer ``low + i``, the last one to ESCAPE."""

    low: int
    frequencies: Integers


class Stage(NamedTuple):
    """Elements of codes that are coded together, given the stages before them.

    values: K elements of N codes, or side information sent ahead of them, (N, ...), contiguous.
    tables: the number of each element's table, (K,) or, where it differs between codes, uint8
    (K, N). shift: what is subtracted first, 0 or (K, N).
    """

    values: Codes
    tables: npt.NDArray[Any]
    shift: Codes | int

    @property
    def columns(self) -> Codes:
        """The values, (K, N)."""
        return self.values.reshape(len(self.values), len(self.tables)).T


class Runs(NamedTuple):
    """The order in which a stage is coded: table by table, since each call of the coder costs time.

    order: places in (K, N), None if they come as they are. tables: the table of each run, (R,);
    lengths: how many symbols it has.
    """

    order: Integers | None
    tables: Integers
    lengths: Integers

    @classmethod
    def of(cls, stage: Stage) -> Runs:
        tables, images = stage.tables, len(stage.values)
        if not images:
            return cls(None, np.empty(0, np.int64), np.empty(0, np.int64))
        if tables.ndim == 1:
            starts = np.flatnonzero(np.diff(tables, prepend=-1))
            return cls(None, tables[starts], np.diff(starts, append=len(tables)) * images)
        numbers = tables.ravel()
        order = np.argsort(numbers, kind="stable")  # of bytes: by radix
        # A binary search for where each table begins: counting takes 40 times as long.
        used = np.arange(int(numbers[order[-1]]) + 1)
        starts = np.searchsorted(numbers, used.astype(numbers.dtype), sorter=order)
        lengths = np.diff(starts, append=len(numbers))
        used = used[lengths > 0]
        return cls(order, used, lengths[used])

    def spread(self, of_tables: npt.NDArray[Any]) -> npt.NDArray[Any]:
        """For each symbol the value that its table has in ``of_tables``."""
        return np.repeat(of_tables[self.tables], self.lengths)

    def places(self, symbols: Integers) -> Integers:
        """Places in (K, N), ascending, of symbols given by their places in this order."""
        return symbols if self.order is None else np.sort(self.order[symbols])


class Coded(NamedTuple):
    """A stage's ``symbols``, int32 (K N,), in the order in which they are coded; ``escaped``: the
    places in (K, N) of those that are ESCAPE."""

    stage: Stage
    runs: Runs
    symbols: Codes
    escaped: Integers


class Tables:
    """The tables that a prior codes with; its ``stages`` say which is used where."""

    def __init__(self, tables: Sequence[Table]) -> None:
        self.tables = tables
        self.lows = np.array([table.low for table in tables], np.int32)
        self.sizes = np.array([len(table.frequencies) for table in tables], np.int32)
        self.escape = self.sizes - 1  # the symbol

    def stages(self, codes: Codes, known: bool = True) -> Iterator[Stage]:
        """The stages of codes (N, *shape), in order.

        A stage depends only on the values of earlier ones: a decoder, for which the codes are not
        ``known``, fills in ``values`` before it asks for the next. Raises ModelError if there are
        no tables for ``shape``.
        """
        raise NotImplementedError  # priors implement it

    def coded(self, codes: Codes) -> list[Coded]:
        """The symbols of codes (N, *shape), stage by stage."""
        return [self._coded(stage) for stage in self.stages(codes)]

    def _coded(self, stage: Stage) -> Coded:
        runs = Runs.of(stage)
        symbols = np.ravel(stage.columns - stage.shift)
        if runs.order is not None:
            symbols = symbols.take(runs.order)
        # Differences wrap modulo 2**32: unsigned, anything outside the range lies above it.
        symbols -= runs.spread(self.lows)
        escape = runs.spread(self.escape)
        beyond = np.flatnonzero(symbols.view(np.uint32) >= escape.view(np.uint32))
        symbols[beyond] = escape[beyond]
        return Coded(stage, runs, symbols, runs.places(beyond))

    def ideal_bits(self, codes: Codes) -> float:
        """The sum of -log2 p over codes (N, *shape), escaped integers in full included."""
        return self.ideal_bits_of(self.coded(codes))

    def ideal_bits_of(self, stages: Iterable[Coded]) -> float:
        """The same for codes given as all their ``stages``."""
        first, bits = self._bits_of_symbols
        total = 0.0
        for _, runs, symbols, _ in stages:
            places = runs.spread(first)
            places += symbols
            for start in range(0, len(places), 1 << 20):  # bounds memory
                total += float(bits.take(places[start : start + (1 << 20)]).sum())
        return total

    def bits_of_each(self, codes: Codes) -> npt.NDArray[np.float64]:
        """``ideal_bits`` of each of codes (N, *shape): float64 (N,)."""
        first, bits = self._bits_of_symbols
        total = np.zeros(len(codes))
        for _, runs, symbols, _ in self.coded(codes):
            symbols += runs.spread(first)
            for start in range(0, len(symbols), 1 << 20):  # bounds memory
                part = slice(start, start + (1 << 20))
                places = (
                    np.arange(start, start + len(symbols[part]))
                    if runs.order is None
                    else runs.order[part]
                )
                of_symbols = bits.take(symbols[part])
                total += np.bincount(places % len(codes), of_symbols, len(codes))
        return total

    def escapes(self, codes: Codes) -> int:
        """How many elements of codes (N, *shape) lie outside the range of their table."""
        return sum(len(stage.escaped) for stage in self.coded(codes))

    @cached_property
    def _bits_of_symbols(self) -> tuple[Codes, npt.NDArray[np.float64]]:
        """Where each table starts in an array of the bits of all symbols of all tables."""
        ends = np.cumsum(self.sizes, dtype=np.int64)
        bits = -np.log2(np.concatenate([table.frequencies for table in self.tables]) / TOTAL)
        bits[ends - 1] += ESCAPE_BITS
        return (ends - self.sizes).astype(np.int32), bits

    @cached_property
    def entropy_models(self) -> list[Any]:
        """constriction's form of each table.

        With weights frequency * 2**8 - 1 constriction's free weight is an integer and its scale
        exactly 1: its cumulative table, of total 2**24, is then 2**8 times the frequencies'.
        """
        return [
            constriction.stream.model.Categorical(table.frequencies * 256.0 - 1.0, perfect=False)
            for table in self.tables
        ]


def learn_table(values: Codes) -> Table:
    """The table for ``values``, int32 (N,)."""
    return table_of_counts(*np.unique(values.astype(np.int64), return_counts=True))


def table_of_counts(
    values: Integers, counts: npt.NDArray[Any], smoothing: float = SMOOTHING
) -> Table:
    """The table for distinct, ascending values (n,) and how often each occurred, over the range of
    integers that gives the shortest code.

    smoothing: what is added to every symbol's count.

    The ranges tried leave out 0, 1, 2, 4, 8... of the outermost occurrences: a wide range spends
    probability on integers that never occur, a narrow one on escapes.
    """
    total = int(np.cumsum(counts)[-1])  # as below: floating-point sums depend on their order
    candidates = []
    for left_out in [0, *(1 << power for power in range((total - 1).bit_length())), total - 1]:
        low, high = _narrowest_range(values, counts, total - left_out)
        if high - low + 2 <= MAX_SYMBOLS:
            table, bits = _table_of_range(values, counts, low, high, smoothing)
            candidates.append((bits, table))
    return min(candidates, key=lambda candidate: candidate[0])[1]


def _narrowest_range(values: Integers, counts: npt.NDArray[Any], kept: float) -> tuple[int, int]:
    """The narrowest range with ``kept`` of the occurrences, and one integer more on each side:
    of those never seen, they are the likeliest."""
    upto = np.cumsum(counts)
    before = upto - counts
    last = np.searchsorted(upto, before + kept)
    possible = np.flatnonzero(last < len(values))
    best = possible[np.argmin(values[last[possible]] - values[possible])]
    low, high = int(values[best]) - 1, int(values[last[best]]) + 1
    return max(low, INT32.min), min(high, INT32.max)


def _table_of_range(
    values: Integers, counts: npt.NDArray[Any], low: int, high: int, smoothing: float
) -> tuple[Table, float]:
    """The table that covers low..high, and the bits of all values under it."""
    first, last = np.searchsorted(values, [low, high + 1])
    symbols = np.zeros(high - low + 2)
    symbols[values[first:last] - low] = counts[first:last]
    symbols[-1] = max(0, counts.sum() - symbols.sum())  # sums of floats may be a little off
    table = Table(low, to_frequencies(symbols, smoothing))
    bits = -np.log2(table.frequencies / TOTAL)
    bits[-1] += ESCAPE_BITS
    return table, float(symbols @ bits)


def to_frequencies(counts: npt.NDArray[Any], smoothing: float = SMOOTHING) -> Integers:
    """Frequencies >= 1 that sum to 2**16, from how often each symbol occurred, (n,).

    Frequencies keep 4 significant bits: that takes a third off the stored tables and adds about
    0.0003 bits to a symbol.
    """
    share = (counts + smoothing) / (counts + smoothing).sum()
    target = 1 + share * (TOTAL - len(counts))
    step = np.int64(1) << np.maximum(np.frexp(target)[1].astype(np.int64) - 4, 0)
    frequencies: Integers = np.floor(target / step).astype(np.int64) * step
    # What rounding down left over goes where a unit of frequency saves the most bits.
    gain = share * np.log1p(step / frequencies) / step
    order = np.argsort(-gain, kind="stable")
    raised = order[np.cumsum(step[order]) <= TOTAL - frequencies.sum()]
    frequencies[raised] += step[raised]
    frequencies[np.argmax(frequencies)] += TOTAL - frequencies.sum()
    return frequencies
