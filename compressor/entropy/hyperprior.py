"""The hyperprior: a few integers sent ahead of a code choose the table of each of its elements.

Ballé et al. 2018: side information v, coded with a factorised prior of its own, tells where each
element is to be expected and how far it spreads. What a network of integers makes of v is a
location, in FRACTIONS of a unit, and one of LEVELS of spread: a location's whole part is
subtracted, its fraction and the level choose the table.
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
FRACTIONS = 8  # of the unit, in which its location is given
REACH = 4  # positions of a code, along each side, that share a position of v
SMALLEST = 32  # elements of a code that has side information
LARGEST_SIDE = 127  # of v, and -127 the least
FARTHEST = 2000  # from its location: an integer that lies beyond escapes
PSEUDO = 64.0  # occurrences that a table has before any code is seen, as the logistic has them
SYMBOL_BITS = 8  # of a stored symbol of a table, about
_CHANNELS = struct.Struct("<I")
Floats = npt.NDArray[np.float32]


class Networks(Protocol):
    """What makes v of a code, which may round as it likes; and what v tells, which may not."""

    def side(self, codes: Floats) -> Floats:
        """v (N, c, h / REACH, w / REACH), rounded up, of codes (N, C, h, w)."""

    def expected(self, side: Floats, height: int, width: int) -> Floats:
        """Of v and a plane of ones: locations, then levels, (N, 2 C, height, width)."""


class HyperTables(Tables):
    """``first`` codes v; of the codes' own tables, ``chosen[level, fraction]`` says which.

    For codes (K,) v is (c,); for codes (C, h, w) of any size (c, h / REACH, w / REACH).
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
        self.own = Tables(tables)
        self.chosen = chosen
        self._chosen = chosen.astype(np.uint8).tobytes()

    @classmethod
    def learn(cls, codes: Codes, scales: Sequence[float], networks: Networks) -> HyperTables:
        """The prior of ``codes``: int32 (N, K) or (N, C, h, w). scales: of the logistic
        distribution that the network means by each level. Raises TrainingError without codes."""
        check_codes(codes)
        counts = np.zeros((LEVELS, FRACTIONS, 2 * FARTHEST + 1), np.int64)
        width = counts.shape[2]
        images = max(1, (1 << 22) // max(1, codes[0].size)) if len(codes) else 1
        sides = []
        for start in range(0, len(codes), images):
            piece = codes[start : start + images]
            sides.append(_side(piece, networks))
            shift, which = _expected(sides[-1], piece.shape, networks)
            distance = piece.astype(np.int64) - shift + FARTHEST
            inside = (distance >= 0) & (distance <= 2 * FARTHEST)
            places = which * np.int64(width) + distance
            counts += np.bincount(places[inside], minlength=counts.size).reshape(counts.shape)
        first = Prior.learn(np.concatenate(sides) if sides else codes)
        tables: list[Table] = []
        chosen = np.zeros((LEVELS, FRACTIONS), np.int64)
        for row, scale in enumerate(scales):
            own = [_table(counts[row, f], scale, f) for f in range(FRACTIONS)]
            alike = _table(counts[row].sum(0), scale, None)
            saved = sum(
                _bits(alike, counts[row, f]) - _bits(own[f], counts[row, f])
                for f in range(FRACTIONS)
            )
            symbols = sum(len(t.frequencies) for t in own) - len(alike.frequencies)
            several = saved > SYMBOL_BITS * symbols
            chosen[row] = len(tables) + (np.arange(FRACTIONS) if several else 0)
            tables += own if several else [alike]
        return cls(codes.shape[1], first, tables, chosen, networks)

    def stages(self, codes: Codes, known: bool = True) -> Iterator[Stage]:
        """v, then the codes by what it tells."""
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
            yield stage._replace(tables=stage.tables + len(self.own.tables))
        shift, which = _expected(side, codes.shape, self.networks)
        flat = len(codes), math.prod(codes.shape[1:])
        # Bytes: to look up and to sort them takes half as long as with any other integers.
        tables = np.frombuffer(which.reshape(flat).T.tobytes().translate(self._chosen), np.uint8)
        yield Stage(codes, tables.reshape(flat[::-1]), shift.reshape(flat).T)

    def to_bytes(self) -> bytes:
        """prior.bin, version 2; see FORMAT.md."""
        header = HEADER.pack(MAGIC, VERSION, len(self.first.shape), 0, 0)
        count = np.array([len(self.own.tables)], "<u2").tobytes()
        return b"".join(
            [
                header,
                _CHANNELS.pack(self.channels),
                count,
                self.chosen.astype("<u2").tobytes(),
                tables_to_bytes(self.own),
                self.first.to_bytes(),
            ]
        )

    @classmethod
    def from_bytes(
        cls, content: bytes, networks: Callable[[int, int, int], Networks]
    ) -> HyperTables:
        """Reads prior.bin; ``networks`` makes them for so many channels of codes, of v, and
        positions of codes that share one of v, along each side.

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
        own = reader.tables(tables)
        first = Prior.read(reader)
        reader.refuse_rest()
        if len(first.shape) != rank or first.shape[0] != _channels_of_side(channels):
            raise ModelError("prior.bin contradicts itself; take a good copy of the model")
        made = networks(channels, first.shape[0], REACH if rank == 3 else 1)
        return cls(channels, first, own, chosen, made)


def side_channels(shape: tuple[int, ...]) -> int:
    """Channels of v for codes (K,) or (C, h, w); 0 for small codes, where v would not pay."""
    return _channels_of_side(shape[0]) if math.prod(shape) >= SMALLEST else 0


def _channels_of_side(channels: int) -> int:
    return max(4, channels // 4)


def side_shape(codes: tuple[int, ...], channels: int) -> tuple[int, ...]:
    """The shape of v for codes of shape (N, K) or (N, C, h, w)."""
    return codes[0], channels, *(-(-size // REACH) for size in codes[2:])


def _side(codes: Codes, networks: Networks) -> Codes:
    images = codes.reshape(*codes.shape, 1, 1) if codes.ndim == 2 else codes
    side = networks.side(images.astype(np.float32)).astype(np.int32)
    return np.ascontiguousarray(side.reshape(side.shape[: codes.ndim]))


def _expected(
    side: Codes, shape: tuple[int, ...], networks: Networks
) -> tuple[Codes, npt.NDArray[np.uint8]]:
    """For each element of codes of ``shape`` the location's whole part, and which distribution it
    is of: level * FRACTIONS + fraction."""
    images = side.reshape(*side.shape, 1, 1) if side.ndim == 2 else side
    ones = np.ones_like(images[:, :1])
    side_and_ones = np.concatenate([images, ones], 1).astype(np.float32)
    integers = networks.expected(side_and_ones, *(shape[2:] or (1, 1)))
    # In place and in bytes where these do: memory is what this waits for, and all codes pass it.
    location = integers[:, : shape[1]].reshape(shape).astype(np.int32)
    location += FRACTIONS // 2
    which = integers[:, shape[1] :].reshape(shape).clip(0, LEVELS - 1).astype(np.uint8)
    which *= FRACTIONS
    which |= location.astype(np.uint8) & np.uint8(FRACTIONS - 1)
    location >>= FRACTIONS.bit_length() - 1
    return location, which


def _table(counts: Integers, scale: float, fraction: int | None) -> Table:
    """Of distances -FARTHEST to FARTHEST that came so often, where the network means a logistic
    distribution of that scale around that fraction."""
    distance = np.arange(-FARTHEST, FARTHEST + 1)
    offset = 0.0 if fraction is None else (fraction - FRACTIONS // 2) / FRACTIONS
    edges = np.tanh((np.append(distance, FARTHEST + 1) - 0.5 - offset) / (2 * scale)) / 2
    weights = counts + PSEUDO * np.diff(edges)
    kept = weights > 1 / TOTAL * PSEUDO
    return table_of_counts(distance[kept], weights[kept], smoothing=0.0)


def _bits(table: Table, counts: Integers) -> float:
    """Of distances that came so often, those beyond the table apart."""
    counts = np.pad(counts, 1)  # a table reaches one integer further
    start = table.low + FARTHEST + 1
    inside = counts[start : start + len(table.frequencies) - 1]
    bits = -np.log2(table.frequencies / TOTAL)
    escaped = counts.sum() - inside.sum()
    return float(inside @ bits[: len(inside)] + escaped * (bits[-1] + 32))
