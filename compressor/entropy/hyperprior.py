"""The hyperprior: a few integers sent ahead of a code choose the table of each of its elements.

Ballé et al. 2018: side information v, coded with a factorised prior of its own, says where each
element is expected and how far it spreads. From v an integer network computes for each element a
location, in units of 1 / FRACTIONS, and one of LEVELS of spread. The location's whole part is
subtracted from the element; its fraction and the level choose the table.
"""

from __future__ import annotations

import math
import struct
from collections.abc import Callable, Iterator, Sequence
from typing import Protocol

import numpy as np
import numpy.typing as npt

from ..errors import ModelError
from .prior import HEADER, MAGIC, Prior, Reader, check_codes, tables_to_bytes
from .tables import TOTAL, Codes, Integers, Stage, Table, Tables, table_of_counts

VERSION = 2
LEVELS = 32  # of a distribution's scale
FRACTIONS = 8  # locations are multiples of 1 / FRACTIONS
SIDE_REACH = 4  # positions of a code, along each axis, that share one position of v
MIN_ELEMENTS = 32  # of a code: smaller ones have no side information
MAX_SIDE_VALUE = 127  # v lies between -127 and 127
MAX_DISTANCE = 2000  # of an element from its location: beyond it escapes
PSEUDO_COUNT = 64.0  # occurrences, spread as the logistic, that a table starts with
SYMBOL_BITS = 8  # what a symbol takes in a stored table, about
_CHANNELS = struct.Struct("<I")
Floats = npt.NDArray[np.float32]


class Networks(Protocol):
    """``side`` makes v of a code, and may round anyhow; ``expected`` reads v, and must be exact."""

    def side(self, codes: Floats) -> Floats:
        """v (N, c, h / SIDE_REACH, w / SIDE_REACH), sizes rounded up, of codes (N, C, h, w)."""

    def expected(self, side: Floats, height: int, width: int) -> Floats:
        """Locations, then levels, (N, 2 C, height, width), from v and a plane of ones."""


class HyperTables(Tables):
    """``first`` codes v; ``chosen[level, fraction]`` is the number of an element's table.

    For codes (K,) v is (c,); for codes (C, h, w) of any size (c, h / SIDE_REACH, w / SIDE_REACH).
    """

    def __init__(
        self,
        channels: int,
        first: Prior,
        tables: Sequence[Table],
        chosen: Integers,
        networks: Networks,
    ) -> None:
        super().__init__([*tables, *first.tables])
        self.channels, self.first, self.networks = channels, first, networks
        self.code_tables = Tables(tables)
        self.chosen = chosen
        self._chosen = chosen.astype(np.uint8).tobytes()

    @classmethod
    def learn(cls, codes: Codes, scales: Sequence[float], networks: Networks) -> HyperTables:
        """The prior of ``codes``: int32 (N, K) or (N, C, h, w). scales: the logistic
        distribution's scale at each level. Raises TrainingError without codes."""
        check_codes(codes)
        counts = np.zeros((LEVELS, FRACTIONS, 2 * MAX_DISTANCE + 1), np.int64)
        width = counts.shape[2]
        images = max(1, (1 << 22) // max(1, codes[0].size)) if len(codes) else 1
        sides = []
        for start in range(0, len(codes), images):
            piece = codes[start : start + images]
            sides.append(_side(piece, networks))
            shift, which = _expected(sides[-1], piece.shape, networks)
            distance = piece.astype(np.int64) - shift + MAX_DISTANCE
            inside = (distance >= 0) & (distance <= 2 * MAX_DISTANCE)
            places = which * np.int64(width) + distance
            counts += np.bincount(places[inside], minlength=counts.size).reshape(counts.shape)
        first = Prior.learn(np.concatenate(sides) if sides else codes)
        tables: list[Table] = []
        chosen = np.zeros((LEVELS, FRACTIONS), np.int64)
        for row, scale in enumerate(scales):
            by_fraction = [_table(counts[row, f], scale, f) for f in range(FRACTIONS)]
            shared = _table(counts[row].sum(0), scale, None)
            saved = sum(
                _bits(shared, counts[row, f]) - _bits(by_fraction[f], counts[row, f])
                for f in range(FRACTIONS)
            )
            symbols = sum(len(t.frequencies) for t in by_fraction) - len(shared.frequencies)
            several = saved > SYMBOL_BITS * symbols
            chosen[row] = len(tables) + (np.arange(FRACTIONS) if several else 0)
            tables += by_fraction if several else [shared]
        return cls(codes.shape[1], first, tables, chosen, networks)

    def stages(self, codes: Codes, known: bool = True) -> Iterator[Stage]:
        """v, then the codes with the tables that v chooses."""
        check_codes(codes)
        if codes.shape[1] != self.channels or codes.ndim != len(self.first.shape) + 1:
            raise ModelError(
                f"the prior was learned on codes of {self.channels} channels; it cannot code "
                f"{codes.shape[1:]}"
            )
        if known:
            side = _side(codes, self.networks)
        else:
            side = np.zeros(side_shape(codes.shape, self.first.shape[0]), np.int32)
        for stage in self.first.stages(side):
            yield stage._replace(tables=stage.tables + len(self.code_tables.tables))
        shift, which = _expected(side, codes.shape, self.networks)
        flat = len(codes), math.prod(codes.shape[1:])
        # Bytes: looking up and sorting them takes half as long as other integers.
        tables = np.frombuffer(which.reshape(flat).T.tobytes().translate(self._chosen), np.uint8)
        yield Stage(codes, tables.reshape(flat[::-1]), shift.reshape(flat).T)

    def to_bytes(self) -> bytes:
        """prior.bin, version 2; see FORMAT.md."""
        header = HEADER.pack(MAGIC, VERSION, len(self.first.shape), 0, 0)
        count = np.array([len(self.code_tables.tables)], "<u2").tobytes()
        return b"".join(
            [
                header,
                _CHANNELS.pack(self.channels),
                count,
                self.chosen.astype("<u2").tobytes(),
                tables_to_bytes(self.code_tables),
                self.first.to_bytes(),
            ]
        )

    @classmethod
    def from_bytes(
        cls, content: bytes, networks: Callable[[int, int, int], Networks]
    ) -> HyperTables:
        """Reads prior.bin; ``networks`` takes the channels of codes and of v, and how many
        positions of codes along each axis share one of v.

        Raises ModelError for anything that ``to_bytes`` does not write.
        """
        reader = Reader(content)
        magic, _, rank, *zeros = HEADER.unpack(reader.take(HEADER.size))
        if magic != MAGIC or rank not in (1, 3) or any(zeros):
            raise ModelError("prior.bin has a damaged header; take a good copy of the model")
        (channels,) = _CHANNELS.unpack(reader.take(_CHANNELS.size))
        (tables,) = reader.array("<u2", 1).tolist()
        chosen = reader.array("<u2", LEVELS * FRACTIONS).reshape(LEVELS, FRACTIONS)
        if not 1 <= tables <= chosen.size or chosen.max() >= tables:
            raise ModelError("prior.bin chooses tables that it does not have")
        code_tables = reader.tables(tables)
        first = Prior.read(reader)
        reader.refuse_rest()
        if len(first.shape) != rank or first.shape[0] != _channels_of_side(channels):
            raise ModelError("prior.bin contradicts itself; take a good copy of the model")
        made = networks(channels, first.shape[0], SIDE_REACH if rank == 3 else 1)
        return cls(channels, first, code_tables, chosen, made)


def side_channels(shape: tuple[int, ...]) -> int:
    """Channels of v for codes (K,) or (C, h, w); 0 for small codes, where v would not pay."""
    return _channels_of_side(shape[0]) if math.prod(shape) >= MIN_ELEMENTS else 0


def _channels_of_side(channels: int) -> int:
    return max(4, channels // 4)


def side_shape(codes: tuple[int, ...], channels: int) -> tuple[int, ...]:
    """The shape of v for codes of shape (N, K) or (N, C, h, w)."""
    return codes[0], channels, *(-(-size // SIDE_REACH) for size in codes[2:])


def _side(codes: Codes, networks: Networks) -> Codes:
    images = codes.reshape(*codes.shape, 1, 1) if codes.ndim == 2 else codes
    side = networks.side(images.astype(np.float32)).astype(np.int32)
    return np.ascontiguousarray(side.reshape(side.shape[: codes.ndim]))


def _expected(
    side: Codes, shape: tuple[int, ...], networks: Networks
) -> tuple[Codes, npt.NDArray[np.uint8]]:
    """For each element of codes of ``shape`` the location's whole part, and the number of its
    distribution: level * FRACTIONS + fraction."""
    images = side.reshape(*side.shape, 1, 1) if side.ndim == 2 else side
    ones = np.ones_like(images[:, :1])
    side_and_ones = np.concatenate([images, ones], 1).astype(np.float32)
    integers = networks.expected(side_and_ones, *(shape[2:] or (1, 1)))
    # In place, and in bytes where they suffice: memory limits the speed, and all codes pass here.
    location = integers[:, : shape[1]].reshape(shape).astype(np.int32)
    location += FRACTIONS // 2
    which = integers[:, shape[1] :].reshape(shape).clip(0, LEVELS - 1).astype(np.uint8)
    which *= FRACTIONS
    which |= location.astype(np.uint8) & np.uint8(FRACTIONS - 1)
    location >>= FRACTIONS.bit_length() - 1
    return location, which


def _table(counts: Integers, scale: float, fraction: int | None) -> Table:
    """The table for distances -MAX_DISTANCE to MAX_DISTANCE, which occur ``counts`` times, where
    the network expects a logistic distribution of this scale around this fraction."""
    distance = np.arange(-MAX_DISTANCE, MAX_DISTANCE + 1)
    offset = 0.0 if fraction is None else (fraction - FRACTIONS // 2) / FRACTIONS
    edges = np.tanh((np.append(distance, MAX_DISTANCE + 1) - 0.5 - offset) / (2 * scale)) / 2
    weights = counts + PSEUDO_COUNT * np.diff(edges)
    kept = weights > 1 / TOTAL * PSEUDO_COUNT
    return table_of_counts(distance[kept], weights[kept], smoothing=0.0)


def _bits(table: Table, counts: Integers) -> float:
    """The bits of distances that occur ``counts`` times; those outside the table escape."""
    counts = np.pad(counts, 1)  # a table may reach one integer beyond MAX_DISTANCE
    start = table.low + MAX_DISTANCE + 1
    inside = counts[start : start + len(table.frequencies) - 1]
    bits = -np.log2(table.frequencies / TOTAL)
    escaped = counts.sum() - inside.sum()
    return float(inside @ bits[: len(inside)] + escaped * (bits[-1] + 32))
