"""Codes to bytes and back: range asymmetric numeral systems (Duda 2013) over a prior's tables.

FORMAT.md beside the archive's reader states the decoder in integers alone.
"""

from __future__ import annotations

import constriction
import numpy as np

from ..errors import ArchiveError
from .prior import Codes, Integers, Prior

_WORD = 4  # bytes
_HALF = constriction.stream.model.Uniform(1 << 16)  # of an escaped integer


def encode(codes: Codes, prior: Prior) -> bytes:
    """The payload, little-endian 32-bit words, of codes: int32 (N, *shape), N may be 0.

    Raises ModelError if the prior has no tables for ``shape``.
    """
    tables, symbols = prior.symbols(codes)
    escaped = codes.reshape(len(codes), len(tables)).T[symbols == prior.sizes[tables, None] - 1]
    coder = constriction.stream.stack.AnsCoder()
    # The coder is a stack: what is to come out last goes in first.
    coder.encode_reverse(_halves(escaped), _HALF)
    models = prior.entropy_models
    for table, start, stop in reversed(_runs(tables)):
        coder.encode_reverse(symbols[start:stop].ravel(), models[table])
    return bytes(coder.get_compressed().astype("<u4").tobytes())


def decode(payload: bytes, count: int, shape: tuple[int, ...], prior: Prior) -> Codes:
    """The codes, int32 (count, *shape), of a payload.

    The time and memory it takes follow from ``count`` and ``shape``, not from the payload. Most
    damage gives other codes: only a checksum finds it. Raises ArchiveError where it shows, and
    ModelError if the prior has no tables for ``shape``.
    """
    tables = prior.tables_for(shape).ravel()
    if len(payload) % _WORD:
        raise ArchiveError("the entropy-coded payload does not consist of whole words")
    try:
        coder = constriction.stream.stack.AnsCoder(np.frombuffer(payload, "<u4").astype(np.uint32))
    except ValueError as error:
        raise ArchiveError("the entropy-coded payload ends in a zero word") from error
    models = prior.entropy_models
    runs = [
        coder.decode(models[table], (stop - start) * count) for table, start, stop in _runs(tables)
    ]
    symbols = np.concatenate(runs).reshape(len(tables), count)
    columns = symbols + prior.lows[tables, None]
    escaped = symbols == prior.sizes[tables, None] - 1
    columns[escaped] = _join(coder.decode(_HALF, 2 * int(np.count_nonzero(escaped))))
    if not coder.is_empty():
        raise ArchiveError("the entropy-coded payload is longer than its codes")
    return np.ascontiguousarray(columns.T).reshape(count, *shape)


def _runs(tables: Integers) -> list[tuple[int, int, int]]:
    """(table, start, stop) of neighbours that use one table: each call of the coder costs time."""
    starts = np.concatenate([[0], np.flatnonzero(np.diff(tables)) + 1])
    stops = [*starts[1:].tolist(), len(tables)]
    return list(zip(tables[starts].tolist(), starts.tolist(), stops, strict=True))


def _halves(integers: Codes) -> Codes:
    """Zigzag (0, -1, 1, -2... to 0, 1, 2, 3...), then the low and the high 16 bits of each."""
    zigzag = ((integers << 1) ^ (integers >> 31)).view(np.uint32)
    return np.stack([zigzag & 0xFFFF, zigzag >> 16], axis=-1).ravel().astype(np.int32)


def _join(halves: Codes) -> Codes:
    low, high = halves.reshape(-1, 2).T.astype(np.uint32)
    zigzag = low | high << 16
    return ((zigzag >> 1) ^ -(zigzag & 1)).view(np.int32)
