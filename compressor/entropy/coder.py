"""Codes to bytes and back: range asymmetric numeral systems (Duda 2013) over a prior's tables.

FORMAT.md beside the archive's reader states the decoder in integers alone.
"""

from __future__ import annotations

from collections.abc import Sequence

import constriction
import numpy as np

from ..errors import ArchiveError
from .tables import Codes, Integers, Stage, Tables

_WORD = 4  # bytes
_HALF = constriction.stream.model.Uniform(1 << 16)  # of an escaped integer


def encode(codes: Codes, prior: Tables) -> bytes:
    """The payload, little-endian 32-bit words, of codes: int32 (N, *shape), N may be 0.

    Raises ModelError if the prior has no tables for ``shape``.
    """
    return encode_stages(list(prior.stages(codes)), prior)


def encode_stages(stages: Sequence[Stage], prior: Tables) -> bytes:
    """The payload of codes of which the prior made all ``stages``."""
    coder = constriction.stream.stack.AnsCoder()
    models = prior.entropy_models
    # The coder is a stack: what is to come out last goes in first.
    for stage in reversed(stages):
        symbols = prior.symbols(stage)
        escaped = stage.columns[prior.escaped(stage, symbols)]
        coder.encode_reverse(_halves(escaped), _HALF)
        order, runs = _in_runs(stage)
        flat = symbols.ravel() if order is None else symbols.ravel()[order]
        for table, start, stop in reversed(runs):
            coder.encode_reverse(flat[start:stop], models[table])
    return bytes(coder.get_compressed().astype("<u4").tobytes())


def decode(payload: bytes, count: int, shape: tuple[int, ...], prior: Tables) -> Codes:
    """The codes, int32 (count, *shape), of a payload.

    The time and memory it takes follow from ``count`` and ``shape``, not from the payload. Most
    damage gives other codes: only a checksum finds it. Raises ArchiveError where it shows, and
    ModelError if the prior has no tables for ``shape``.
    """
    codes = np.zeros((count, *shape), np.int32)
    stages = prior.stages(codes, known=False)
    if len(payload) % _WORD:
        raise ArchiveError("the entropy-coded payload does not consist of whole words")
    try:
        coder = constriction.stream.stack.AnsCoder(np.frombuffer(payload, "<u4").astype(np.uint32))
    except ValueError as error:
        raise ArchiveError("the entropy-coded payload ends in a zero word") from error
    models = prior.entropy_models
    for stage in stages:
        order, runs = _in_runs(stage)
        decoded = [coder.decode(models[table], stop - start) for table, start, stop in runs]
        flat = np.concatenate([np.empty(0, np.int32), *decoded])
        if order is not None:
            flat[order] = flat.copy()
        symbols = flat.reshape(len(stage.tables), count)
        columns = symbols + stage.shift + prior.lows[stage.table_columns]
        escaped = prior.escaped(stage, symbols)
        columns[escaped] = _join(coder.decode(_HALF, 2 * int(np.count_nonzero(escaped))))
        stage.values[...] = columns.T.reshape(stage.values.shape)
    if not coder.is_empty():
        raise ArchiveError("the entropy-coded payload is longer than its codes")
    return codes


def _in_runs(stage: Stage) -> tuple[Integers | None, list[tuple[int, int, int]]]:
    """The order in which a stage's symbols come, None if as they are; and (table, start, stop) of
    neighbours that use one table: each call of the coder costs time."""
    tables, images = stage.tables, len(stage.values)
    order = None
    if tables.ndim == 2:
        # 16 bits are sorted by radix
        order, images = np.argsort(tables.ravel().astype(np.uint16), kind="stable"), 1
        tables = tables.ravel()[order]
    if not tables.size or not images:
        return order, []
    starts = np.concatenate([[0], np.flatnonzero(np.diff(tables)) + 1])
    stops = [*(starts[1:] * images).tolist(), len(tables) * images]
    return order, list(zip(tables[starts].tolist(), (starts * images).tolist(), stops, strict=True))


def _halves(integers: Codes) -> Codes:
    """Zigzag (0, -1, 1, -2... to 0, 1, 2, 3...), then the low and the high 16 bits of each."""
    zigzag = ((integers << 1) ^ (integers >> 31)).view(np.uint32)
    return np.stack([zigzag & 0xFFFF, zigzag >> 16], axis=-1).ravel().astype(np.int32)


def _join(halves: Codes) -> Codes:
    low, high = halves.reshape(-1, 2).T.astype(np.uint32)
    zigzag = low | high << 16
    return ((zigzag >> 1) ^ -(zigzag & 1)).view(np.int32)
