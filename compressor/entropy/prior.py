"""The factorised prior: integer probability tables, learned from codes and stored with the model.

Each code element has a table: see tables.py. FORMAT.md beside the archive's reader has the bytes.
"""

from __future__ import annotations

import lzma
import math
import struct
from collections.abc import Iterator

import numpy as np

from ..errors import ModelError, TrainingError
from .tables import INT32, MAX_SYMBOLS, TOTAL, Codes, Integers, Stage, Table, Tables, learn_table

MAX_TABLES = 1 << 20
MAX_ELEMENT_TABLES = 4096  # of codes (C, h, w): with more elements there is a table a channel

MAGIC = b"CPRI"
VERSION = 1
HEADER = struct.Struct("<4sBBBB")  # magic, version, dimensions of shape, per element, zero


class Prior(Tables):
    """Tables for codes (K,) or (C, h, w), and which of them each code element uses.

    ``shape`` is the shape learned on. ``tables`` are, in this order: one for each code element of
    ``shape`` if ``per_element``, then, for (C, h, w), one for each channel, which serve any other
    height and width.
    """

    def __init__(self, shape: tuple[int, ...], per_element: bool, tables: list[Table]) -> None:
        super().__init__(tables)
        self.shape = shape
        self.per_element = per_element

    @classmethod
    def learn(cls, codes: Codes) -> Prior:
        """The prior of ``codes``: int32 (N, K) or (N, C, h, w), N at least 1.

        Raises TrainingError if there are no codes, TypeError or ValueError for other arrays.
        """
        check_codes(codes)
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
        # Minimum description length (Rissanen 1978): tables must save more than they take.
        return min(by_channel, by_element, key=lambda prior: prior._description_bits(codes))

    def _description_bits(self, codes: Codes) -> float:
        return self.ideal_bits(codes) + 8 * len(lzma.compress(self.to_bytes()))

    def tables_for(self, shape: tuple[int, ...]) -> Codes:
        """Each code element's table number, int32 of ``shape``; ModelError if there is none."""
        if self.per_element and shape == self.shape:
            return np.arange(math.prod(shape), dtype=np.int32).reshape(shape)
        if len(shape) == len(self.shape) == 3 and shape[0] == self.shape[0]:
            first = math.prod(self.shape) if self.per_element else 0
            channels = np.arange(first, first + shape[0], dtype=np.int32)
            return np.broadcast_to(channels[:, None, None], shape)
        raise ModelError(f"the prior was learned on codes of {self.shape}; it cannot code {shape}")

    def stages(self, codes: Codes, known: bool = True) -> Iterator[Stage]:
        """All elements at once."""
        check_codes(codes)
        yield Stage(codes, self.tables_for(codes.shape[1:]).ravel(), 0)

    def to_bytes(self) -> bytes:
        """prior.bin; see FORMAT.md."""
        header = HEADER.pack(MAGIC, VERSION, len(self.shape), self.per_element, 0)
        return header + np.array(self.shape, "<u4").tobytes() + tables_to_bytes(self)

    @classmethod
    def from_bytes(cls, content: bytes) -> Prior:
        """Reads prior.bin; raises ModelError for anything that ``to_bytes`` does not write."""
        reader = Reader(content)
        prior = cls.read(reader)
        reader.refuse_rest()
        return prior

    @classmethod
    def read(cls, reader: Reader) -> Prior:
        """Takes a prior from the front of ``reader``."""
        magic, version, rank, per_element, zero = HEADER.unpack(reader.take(HEADER.size))
        if magic != MAGIC:
            raise ModelError("prior.bin holds no prior; take a good copy of the model")
        if version != VERSION:
            raise ModelError(
                f"prior.bin has version {version}, this compressor reads 1 and 2: update it"
            )
        if rank not in (1, 3) or per_element not in (0, 1) or zero or rank + per_element == 1:
            raise ModelError("prior.bin has a damaged header; take a good copy of the model")
        shape = tuple(int(size) for size in reader.array("<u4", rank))
        elements = math.prod(shape)
        count = elements * per_element + (shape[0] if rank == 3 else 0)
        if elements == 0 or count > MAX_TABLES:
            raise ModelError(f"prior.bin has the impossible code shape {shape}")
        return cls(shape, bool(per_element), reader.tables(count))


class Reader:
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

    def refuse_rest(self) -> None:
        if self.rest:
            raise ModelError(f"prior.bin has {self.rest} bytes too many")

    def tables(self, count: int) -> list[Table]:
        """As ``tables_to_bytes`` wrote them."""
        lows = self.array("<i4", count)
        sizes = self.array("<u2", count)
        if sizes.min() < 2 or sizes.max() > MAX_SYMBOLS:
            raise ModelError(f"prior.bin has a table without 2 to {MAX_SYMBOLS} symbols")
        if np.any(lows + sizes - 2 > INT32.max):
            raise ModelError("prior.bin has a table that leaves the 32-bit integers")
        frequencies = self.array("<u2", int(sizes.sum()))
        tables = np.split(frequencies, np.cumsum(sizes)[:-1])
        for number, table in enumerate(tables):
            if table.min() < 1 or table.sum() != TOTAL:
                raise ModelError(f"prior.bin: the frequencies of table {number} are impossible")
        return [Table(*pair) for pair in zip(lows.tolist(), tables, strict=True)]

    def array(self, dtype: str, count: int) -> Integers:
        return np.frombuffer(self.take(count * np.dtype(dtype).itemsize), dtype).astype(np.int64)


def tables_to_bytes(tables: Tables) -> bytes:
    """The lowest integers, the numbers of symbols, then all frequencies."""
    frequencies = np.concatenate([table.frequencies for table in tables.tables])
    parts = (tables.lows.astype("<i4"), tables.sizes.astype("<u2"), frequencies.astype("<u2"))
    return b"".join(part.tobytes() for part in parts)


def check_codes(codes: Codes) -> None:
    if codes.dtype != np.int32:
        raise TypeError(f"codes must be int32, not {codes.dtype}")
    if codes.ndim not in (2, 4):
        raise ValueError(f"codes must be (N, K) or (N, C, h, w), not {codes.shape}")
