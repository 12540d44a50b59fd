"""Codes to bytes and back: range asymmetric numeral systems (Duda 2013) over a prior's tables.

FORMAT.md beside the archive's reader states the decoder in integers alone.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import constriction
import numpy as np

from ..errors import ArchiveError
from .tables import Coded, Codes, Integers, Runs, Stage, Tables

_WORD = 4  # bytes
_AT_ONCE = 1 << 20  # symbols that are decoded at once
_HALF = constriction.stream.model.Uniform(1 << 16)  # of an escaped integer


def encode(codes: Codes, prior: Tables) -> bytes:
    """The payload, little-endian 32-bit words, of codes: int32 (N, *shape), N may be 0.

    Raises ModelError if the prior has no tables for ``shape``.
    """
    return encode_stages(prior.coded(codes), prior)


def encode_stages(stages: Sequence[Coded], prior: Tables) -> bytes:
    """The payload of codes, given as all their ``stages``."""
    coder = constriction.stream.stack.AnsCoder()
    # The coder is a stack: what comes out last goes in first.
    for stage, runs, symbols, escaped in reversed(stages):
        coder.encode_reverse(_halves(stage.columns[_places(escaped, stage)]), _HALF)
        for model, start, stop in reversed(_calls(runs, prior)):
            coder.encode_reverse(symbols[start:stop], model)
    return bytes(coder.get_compressed().astype("<u4").tobytes())


def decode(payload: bytes, count: int, shape: tuple[int, ...], prior: Tables) -> Codes:
    """The codes, int32 (count, *shape), of a payload.

    Time and memory depend on ``count`` and ``shape``, not on the payload. Most damage merely
    decodes to other codes, which only a checksum finds. Raises ArchiveError for damage that shows,
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
    for stage in stages:
        runs = Runs.of(stage)
        values = np.empty(int(runs.lengths.sum()), np.int32)
        beyond = [np.empty(0, np.int64)]
        for (model, start, stop), table in zip(_calls(runs, prior), runs.tables, strict=True):
            for first in range(start, stop, _AT_ONCE):  # bounds memory
                piece = values[first : min(first + _AT_ONCE, stop)]
                piece[:] = coder.decode(model, len(piece))
                places = np.flatnonzero(piece == prior.escape[table])
                if len(places):
                    beyond.append(places + first)
                piece += prior.lows[table]
        escaped = runs.places(np.concatenate(beyond))
        if runs.order is not None:
            values[runs.order] = values.copy()
        columns = stage.columns  # a view: what is written here is in the codes
        np.add(values.reshape(columns.shape), stage.shift, out=columns)
        columns[_places(escaped, stage)] = _join(coder.decode(_HALF, 2 * len(escaped)))
    if not coder.is_empty():
        raise ArchiveError("the entropy-coded payload is longer than its codes")
    return codes


def _calls(runs: Runs, prior: Tables) -> list[tuple[Any, int, int]]:
    """For each run constriction's form of its table, and where its symbols start and stop."""
    models, stops = prior.entropy_models, np.cumsum(runs.lengths)
    starts = stops - runs.lengths
    places = zip(runs.tables.tolist(), starts.tolist(), stops.tolist(), strict=True)
    return [(models[table], start, stop) for table, start, stop in places]


def _places(flat: Integers, stage: Stage) -> tuple[Integers, Integers]:
    """Element and code numbers of flat places in (K, N)."""
    return np.divmod(flat, max(1, len(stage.values)))


def _halves(integers: Codes) -> Codes:
    """Zigzag (0, -1, 1, -2... to 0, 1, 2, 3...), then the low and the high 16 bits of each."""
    zigzag = ((integers << 1) ^ (integers >> 31)).view(np.uint32)
    return np.stack([zigzag & 0xFFFF, zigzag >> 16], axis=-1).ravel().astype(np.int32)


def _join(halves: Codes) -> Codes:
    low, high = halves.reshape(-1, 2).T.astype(np.uint32)
    zigzag = low | high << 16
    return ((zigzag >> 1) ^ -(zigzag & 1)).view(np.int32)
