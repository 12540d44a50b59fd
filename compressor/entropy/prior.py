"""The prior: integer probability tables, learned from codes and stored with the model.

Each code element has a table. A table gives consecutive integers frequencies out of 2**16, and
one more to ESCAPE, its last symbol, which says that another integer follows in full: no integer
is impossible, none is ever clipped. FORMAT.md beside the archive's reader has the bytes.
"""

from __future__ import annotations

import lzma
import math
import struct
from functools import cached_property
from typing import Any, NamedTuple

import constriction
import numpy as np
import numpy.typing as npt

from ..errors import ModelError, TrainingError

Codes = npt.NDArray[np.int32]
Integers = npt.NDArray[np.int64]

TOTAL = 1 << 16  # the frequencies of a table sum to this
ESCAPE_BITS = 32  # an escaped integer in full
MAX_SYMBOLS = 4096  # of one table, ESCAPE included
MAX_TABLES = 1 << 20
MAX_ELEMENT_TABLES = 4096
INT32 = np.iinfo(np.int32)

_MAGIC = b"CPRI"
_VERSION = 1
_HEADER = struct.Struct("<4sBBBB")  # magic, version, dimensions of shape, per element, zero


class Table(NamedTuple):
    """``frequencies[i]`` belongs to the integer ``low + i``, the last one to ESCAPE."""

    low: int
    frequencies: Integers


class Prior:
    """Tables for codes (K,) or (C, h, w), and which of them each code element uses.

    ``shape`` is the shape learned on. ``tables`` are, in this order: one per code element of
    ``shape`` if ``per_element``, then, for (C, h, w), one per channel, which serve every other
    height and width.
    """

    def __init__(self, shape: tuple[int, ...], per_element: bool, tables: list[Table]) -> None:
        self.shape = shape
        self.per_element = per_element
        self.tables = tables
        self.lows = np.array([table.low for table in tables], np.int32)
        self.sizes = np.array([len(table.frequencies) for table in tables], np.int32)

    @classmethod
    def learn(cls, codes: Codes) -> Prior:
        """The prior of ``codes``: int32 (N, K) or (N, C, h, w), N at least 1.

        Raises TrainingError if there are no codes, TypeError or ValueError for other arrays.
        """
        _check(codes)
        count, *dimensions = codes.shape
        shape = tuple(dimensions)
        if count == 0 or 0 in shape:
            raise TrainingError("the prior cannot be learned: there are no training codes")
        if len(shape) == 1 and shape[0] > MAX_TABLES:
            raise TrainingError(f"codes have {shape[0]} elements; a prior takes {MAX_TABLES}")
        elements = math.prod(shape)
        per_element = (learn_table(column) for column in codes.reshape(count, elements).T)
        if len(shape) == 1:
            return cls(shape, True, list(per_element))
        channels = [learn_table(codes[:, channel].ravel()) for channel in range(shape[0])]
        by_channel = cls(shape, False, channels)
        if elements > MAX_ELEMENT_TABLES:
            return by_channel
        by_element = cls(shape, True, [*per_element, *channels])
        # Minimum description length (Rissanen 1978): tables pay for their own bytes, or go.
        return min(by_channel, by_element, key=lambda prior: prior._description_bits(codes))

    def _description_bits(self, codes: Codes) -> float:
        return self.ideal_bits(codes) + 8 * len(lzma.compress(self.to_bytes()))

    def tables_for(self, shape: tuple[int, ...]) -> Integers:
        """Each code element's table number, int64 of ``shape``; ModelError if there is none."""
        if self.per_element and shape == self.shape:
            return np.arange(math.prod(shape)).reshape(shape)
        if len(shape) == len(self.shape) == 3 and shape[0] == self.shape[0]:
            first = math.prod(self.shape) if self.per_element else 0
            return np.broadcast_to(np.arange(first, first + shape[0])[:, None, None], shape)
        raise ModelError(f"the prior was learned on codes of {self.shape}; it cannot code {shape}")

    def symbols(self, codes: Codes) -> tuple[Integers, Codes]:
        """Each element's table, (K,), and the symbols, int32 (K, N), of codes (N, *shape)."""
        _check(codes)
        tables = self.tables_for(codes.shape[1:]).ravel()
        columns = codes.reshape(len(codes), len(tables)).T
        # Differences wrap modulo 2**32: whatever is not in the table's range ends above it.
        distance = (columns - self.lows[tables, None]).view(np.uint32)
        escape = (self.sizes[tables, None] - 1).astype(np.uint32)
        return tables, np.ascontiguousarray(np.minimum(distance, escape)).view(np.int32)

    def ideal_bits(self, codes: Codes) -> float:
        """The sum of -log2 p over codes (N, *shape), escaped integers in full included."""
        tables, symbols = self.symbols(codes)
        first, bits = self._bits_of_symbols
        rows = max(1, (1 << 20) // max(1, len(codes)))  # bounds memory
        slabs = range(0, len(tables), rows)
        counts = np.zeros(len(bits), np.int64)
        for at in slabs:
            counts += np.bincount(
                (first[tables[at : at + rows], None] + symbols[at : at + rows]).ravel(),
                minlength=len(bits),
            )
        return float(counts @ bits)

    @cached_property
    def _bits_of_symbols(self) -> tuple[Codes, npt.NDArray[np.float64]]:
        """Where each table starts in an array of the bits of all symbols of all tables."""
        ends = np.cumsum(self.sizes, dtype=np.int64)
        bits = -np.log2(np.concatenate([table.frequencies for table in self.tables]) / TOTAL)
        bits[ends - 1] += ESCAPE_BITS
        return (ends - self.sizes).astype(np.int32), bits

    def escapes(self, codes: Codes) -> int:
        """How many elements of codes (N, *shape) lie outside the range of their table."""
        tables, symbols = self.symbols(codes)
        return int(np.count_nonzero(symbols == self.sizes[tables, None] - 1))

    @cached_property
    def entropy_models(self) -> list[Any]:
        """constriction's form of each table.

        With weights frequency * 2**8 - 1 its free weight is an integer and its scale exactly 1:
        its cumulative table of total 2**24 is then 2**8 times that of the frequencies.
        """
        return [
            constriction.stream.model.Categorical(table.frequencies * 256.0 - 1.0, perfect=False)
            for table in self.tables
        ]

    def to_bytes(self) -> bytes:
        """prior.bin; see FORMAT.md."""
        header = _HEADER.pack(_MAGIC, _VERSION, len(self.shape), self.per_element, 0)
        frequencies = np.concatenate([table.frequencies for table in self.tables])
        return b"".join(
            [
                header,
                np.array(self.shape, "<u4").tobytes(),
                self.lows.astype("<i4").tobytes(),
                self.sizes.astype("<u2").tobytes(),
                frequencies.astype("<u2").tobytes(),
            ]
        )

    @classmethod
    def from_bytes(cls, content: bytes) -> Prior:
        """Reads prior.bin; raises ModelError for anything that ``to_bytes`` does not write."""
        reader = _Reader(content)
        magic, version, rank, per_element, zero = _HEADER.unpack(reader.take(_HEADER.size))
        if magic != _MAGIC:
            raise ModelError("prior.bin holds no prior; take a good copy of the model")
        if version != _VERSION:
            raise ModelError(
                f"prior.bin has version {version}, this compressor reads {_VERSION}: update it"
            )
        if rank not in (1, 3) or per_element not in (0, 1) or zero or rank + per_element == 1:
            raise ModelError("prior.bin has a damaged header; take a good copy of the model")
        shape = tuple(int(size) for size in reader.array("<u4", rank))
        elements = math.prod(shape)
        count = elements * per_element + (shape[0] if rank == 3 else 0)
        if elements == 0 or count > MAX_TABLES:
            raise ModelError(f"prior.bin has the impossible code shape {shape}")
        lows = reader.array("<i4", count)
        sizes = reader.array("<u2", count)
        if sizes.min() < 2 or sizes.max() > MAX_SYMBOLS:
            raise ModelError(f"prior.bin has a table without 2 to {MAX_SYMBOLS} symbols")
        if np.any(lows + sizes - 2 > INT32.max):
            raise ModelError("prior.bin has a table that leaves the 32-bit integers")
        frequencies = reader.array("<u2", int(sizes.sum()))
        if reader.rest:
            raise ModelError(f"prior.bin has {reader.rest} bytes too many")
        tables = np.split(frequencies, np.cumsum(sizes)[:-1])
        for number, table in enumerate(tables):
            if table.min() < 1 or table.sum() != TOTAL:
                raise ModelError(f"prior.bin: the frequencies of table {number} are impossible")
        pairs = zip(lows.tolist(), tables, strict=True)
        return cls(shape, bool(per_element), [Table(*pair) for pair in pairs])


class _Reader:
    """Takes bytes from the front; ModelError where there are too few."""

    def __init__(self, content: bytes) -> None:
        self._content = content
        self._position = 0

    @property
    def rest(self) -> int:
        return len(self._content) - self._position

    def take(self, size: int) -> bytes:
        if size > self.rest:
            raise ModelError("prior.bin is cut short; take a good copy of the model")
        self._position += size
        return self._content[self._position - size : self._position]

    def array(self, dtype: str, count: int) -> Integers:
        return np.frombuffer(self.take(count * np.dtype(dtype).itemsize), dtype).astype(np.int64)


def learn_table(values: npt.NDArray[np.int32]) -> Table:
    """The table for ``values``, int32 (N,): of some ranges, the one whose code is the shortest.

    Tried are ranges without 0, 1, 2, 4, 8... of the outermost values: a wide range spends
    probability on integers that never come, a narrow one on escapes.
    """
    ordered = np.sort(values).astype(np.int64)
    most = len(ordered) - 1
    candidates = []
    for left_out in [0, *(1 << power for power in range(most.bit_length())), most]:
        low, high = _narrowest_range(ordered, len(ordered) - left_out)
        if high - low + 2 <= MAX_SYMBOLS:
            table, bits = _table_of_range(ordered, low, high)
            candidates.append((bits + ESCAPE_BITS * left_out, table))
    return min(candidates, key=lambda candidate: candidate[0])[1]


def _narrowest_range(ordered: Integers, kept: int) -> tuple[int, int]:
    """The narrowest range of ``kept`` of the sorted values, and one integer more on each side:
    what lies just outside is the likeliest to come."""
    start = int(np.argmin(ordered[kept - 1 :] - ordered[: len(ordered) - kept + 1]))
    low, high = int(ordered[start]) - 1, int(ordered[start + kept - 1]) + 1
    return max(low, INT32.min), min(high, INT32.max)


def _table_of_range(ordered: Integers, low: int, high: int) -> tuple[Table, float]:
    """The table that covers low..high, and the bits of the sorted values' symbols under it."""
    first, last = np.searchsorted(ordered, [low, high + 1])
    counts = np.bincount(ordered[first:last] - low, minlength=high - low + 2)
    counts[-1] = len(ordered) - (last - first)
    table = Table(low, to_frequencies(counts))
    return table, float(counts @ -np.log2(table.frequencies / TOTAL))


def to_frequencies(counts: Integers) -> Integers:
    """Frequencies >= 1 that sum to 2**16, from how often each symbol came, int64 (n,).

    Counts are smoothed by 1/2 (Krichevsky & Trofimov 1981). Frequencies keep 4 significant bits:
    that takes a third off the stored tables and adds about 0.0003 bits to a symbol.
    """
    share = (counts + 0.5) / (counts + 0.5).sum()
    target = 1 + share * (TOTAL - len(counts))
    step = np.int64(1) << np.maximum(np.frexp(target)[1].astype(np.int64) - 4, 0)
    frequencies: Integers = np.floor(target / step).astype(np.int64) * step
    # What rounding down left goes where it saves the most bits for each unit of frequency.
    gain = share * np.log1p(step / frequencies) / step
    order = np.argsort(-gain, kind="stable")
    raised = order[np.cumsum(step[order]) <= TOTAL - frequencies.sum()]
    frequencies[raised] += step[raised]
    frequencies[np.argmax(frequencies)] += TOTAL - frequencies.sum()
    return frequencies


def _check(codes: Codes) -> None:
    if codes.dtype != np.int32:
        raise TypeError(f"codes must be int32, not {codes.dtype}")
    if codes.ndim not in (2, 4):
        raise ValueError(f"codes must be (N, K) or (N, C, h, w), not {codes.shape}")
