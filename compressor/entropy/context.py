"""The prior with context: what is known of a code chooses the tables of the rest.

The first pass has a factorised prior. For each later one a network of integers says where each
element is to be expected, in FRACTIONS of a unit, and how far it spreads, as one of LEVELS: a
location's whole part is subtracted, its fraction and the level choose the table.
"""

from __future__ import annotations

import math
import struct
from collections.abc import Callable, Iterator, Sequence

import numpy as np
import numpy.typing as npt

from ..errors import ModelError
from .passes import FRACTIONS, LEVELS, Pass, location_and_level, plan
from .prior import HEADER, MAGIC, Prior, Reader, check_codes, tables_to_bytes
from .tables import TOTAL, Codes, Integers, Stage, Table, Tables, table_of_counts

VERSION = 2
FARTHEST = 2000  # from its location: an integer that lies beyond escapes
PSEUDO = 16.0  # occurrences that a table has before any code is seen, as the logistic has them
SYMBOL_BITS = 8  # of a stored symbol of a table, about
MAX_PASSES = 64
_PASS = struct.Struct("<IIBBB")

# (the number of a later pass, float32 (N, inputs, h, w)) -> float32 (N, 2 channels, h', w')
Network = Callable[[int, npt.NDArray[np.float32]], npt.NDArray[np.float32]]


class ContextPrior(Tables):
    """``first`` codes the first of ``passes``; of the others' tables, ``chosen[level, fraction]``
    says which. ``network`` computes with integers alone, carried in float32."""

    def __init__(
        self,
        passes: Sequence[Pass],
        first: Prior,
        tables: Sequence[Table],
        chosen: Integers,
        network: Network,
    ) -> None:
        super().__init__([*tables, *first.tables])
        self.passes, self.first, self.network = list(passes), first, network
        self.own = Tables(tables)
        self.chosen = chosen

    @classmethod
    def learn(
        cls, codes: Codes, passes: Sequence[Pass], scales: Sequence[float], network: Network
    ) -> ContextPrior:
        """The prior of ``codes``: int32 (N, K) or (N, C, h, w). scales: of the logistic
        distribution that the network means by each level. Raises TrainingError without codes."""
        check_codes(codes)
        first = Prior.learn(np.ascontiguousarray(passes[0].of(codes)))
        counts = np.zeros((LEVELS, FRACTIONS, 2 * FARTHEST + 1), np.int64)
        width = counts.shape[2]
        images = max(1, (1 << 22) // max(1, codes[0].size))
        for start in range(0, len(codes), images):
            piece = codes[start : start + images]
            for number in range(1, len(passes)):
                values, shift, level, fraction = _expected(piece, passes, number, network)
                distance = values.astype(np.int64) - shift + FARTHEST
                inside = (distance >= 0) & (distance <= 2 * FARTHEST)
                places = (level * FRACTIONS + fraction) * width + distance
                counts += np.bincount(places[inside], minlength=counts.size).reshape(counts.shape)
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
        return cls(passes, first, tables, chosen, network)

    def stages(self, codes: Codes) -> Iterator[Stage]:
        """The first pass, then what its context tells of each other one."""
        check_codes(codes)
        wanted = self.passes[-1].stop
        if codes.shape[1] != wanted or (codes.ndim == 4) != (self.passes[0].step == 2):
            raise ModelError(
                f"the prior was learned on codes of {wanted} channels; it cannot code "
                f"{codes.shape[1:]}"
            )
        for stage in self.first.stages(self.passes[0].of(codes)):
            yield stage._replace(tables=stage.tables + len(self.own.tables))
        for number in range(1, len(self.passes)):
            values, shift, level, fraction = _expected(codes, self.passes, number, self.network)
            flat = len(values), math.prod(values.shape[1:])
            tables = self.chosen[level, fraction].reshape(flat).T
            yield Stage(values, tables, shift.reshape(flat).T)

    def to_bytes(self) -> bytes:
        """prior.bin, version 2; see FORMAT.md."""
        header = HEADER.pack(MAGIC, VERSION, len(self.first.shape), 0, len(self.passes))
        passes = b"".join(_PASS.pack(*which) for which in self.passes)
        count = np.array([len(self.own.tables)], "<u2").tobytes()
        chosen = self.chosen.astype("<u2").tobytes()
        return b"".join(
            [header, passes, count, chosen, tables_to_bytes(self.own), self.first.to_bytes()]
        )

    @classmethod
    def from_bytes(
        cls, content: bytes, network: Callable[[Sequence[Pass]], Network]
    ) -> ContextPrior:
        """Reads prior.bin; ``network`` makes the passes' network.

        Raises ModelError for anything that ``to_bytes`` does not write.
        """
        reader = Reader(content)
        magic, _, rank, zero, count = HEADER.unpack(reader.take(HEADER.size))
        if magic != MAGIC or rank not in (1, 3) or zero or not 2 <= count <= MAX_PASSES:
            raise ModelError("prior.bin has a damaged header; take a good copy of the model")
        passes = [Pass(*_PASS.unpack(reader.take(_PASS.size))) for _ in range(count)]
        (tables,) = reader.array("<u2", 1).tolist()
        chosen = reader.array("<u2", LEVELS * FRACTIONS).reshape(LEVELS, FRACTIONS)
        if not tables or chosen.max() >= tables:
            raise ModelError("prior.bin chooses tables that it does not have")
        own = reader.tables(tables)
        first = Prior.read(reader)
        reader.refuse_rest()
        if len(first.shape) != rank or not _in_order(passes, first.shape):
            raise ModelError("prior.bin has impossible passes; take a good copy of the model")
        return cls(passes, first, own, chosen, network(passes))


def _in_order(passes: Sequence[Pass], first: tuple[int, ...]) -> bool:
    """Whether the passes are what ``plan`` gives."""
    shape = (passes[-1].stop, 1, 1)[: len(first)]
    return 0 < passes[-1].stop <= 1 << 16 and passes == plan(shape) and passes[0].stop == first[0]


def _expected(
    codes: Codes, passes: Sequence[Pass], number: int, network: Network
) -> tuple[Codes, Codes, Codes, Codes]:
    """A later pass's elements of ``codes``, a view, and for each the location's whole part, the
    level and the fraction, int32 like them; of ``codes``, earlier passes alone are looked at."""
    which = passes[number]
    values = which.of(codes)
    if not values.size:
        empty = np.zeros(values.shape, np.int32)
        return values, empty, empty, empty
    images = codes.reshape(*codes.shape, 1, 1) if codes.ndim == 2 else codes
    known = images[:, : which.inputs].astype(np.float32) * which.known(*images.shape[2:])
    answer = network(number, known)
    if answer.shape[2:] != (values.shape[2:] or (1, 1)):
        raise ModelError("prior.onnx does not belong to prior.bin; take a good copy")
    location, level = location_and_level(answer)
    location = location.astype(np.int32).reshape(values.shape)
    whole = (location + FRACTIONS // 2) >> (FRACTIONS.bit_length() - 1)
    fraction = location - whole * FRACTIONS + FRACTIONS // 2
    level = np.clip(level, 0, LEVELS - 1).astype(np.int32).reshape(values.shape)
    return values, whole, level, fraction


def _table(counts: Integers, scale: float, fraction: int | None) -> Table:
    """Of distances -FARTHEST to FARTHEST that came so often, where the network means a logistic
    distribution of that scale around that fraction."""
    distance = np.arange(-FARTHEST, FARTHEST + 1)
    offset = 0.0 if fraction is None else (fraction - FRACTIONS // 2) / FRACTIONS
    edges = np.tanh((np.append(distance, FARTHEST + 1) - 0.5 - offset) / (2 * scale)) / 2
    weights = counts + PSEUDO * np.diff(edges)
    kept = weights > 1 / TOTAL * PSEUDO
    return table_of_counts(distance[kept], weights[kept])


def _bits(table: Table, counts: Integers) -> float:
    """Of distances that came so often, those beyond the table apart."""
    counts = np.pad(counts, 1)  # a table reaches one integer further
    start = table.low + FARTHEST + 1
    inside = counts[start : start + len(table.frequencies) - 1]
    bits = -np.log2(table.frequencies / TOTAL)
    escaped = counts.sum() - inside.sum()
    return float(inside @ bits[: len(inside)] + escaped * (bits[-1] + 32))
