"""A file as an archive's model stores it: weights entropy-coded, the rest by xz.

The weights of a graph are float32 numbers in fixed point (training/weights.py): for each column of
a tensor a power of two, times integers. The integers of each tensor are coded with one table
(entropy/tables.py). Where they are large, their low bits look random and are stored as they are
(Golomb 1966). Lossless for any content; archive/FORMAT.md has the bytes.
"""

from __future__ import annotations

import lzma
import math
import struct
from collections.abc import Iterator, Sequence
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from .entropy.coder import decode, encode
from .entropy.prior import Reader, tables_to_bytes
from .entropy.tables import MAX_SYMBOLS, Codes, Integers, Stage, Table, Tables, learn_table
from .errors import CompressorError
from .onnx_bytes import fields
from .untrusted import most_unpacked

HEADER = struct.Struct("<III")  # bytes of the xz stream, bytes of the payload, tensors
TENSOR = struct.Struct("<IIIIB")  # first byte, rows, columns, numbers in a cell, low bits
MIN_WEIGHTS_FOR_TABLE = 64  # in a tensor: with fewer a table costs more than it saves
MAX_WEIGHTS = 1 << 26  # in a file: a damaged one takes this much memory before damage shows
MAX_EXACT_INTEGER = 1 << 24  # up to here float32 holds every integer
SPLIT_ABOVE_MAGNITUDE = 8  # low bits are split off until the mean of |integer| is at most this
XZ = {"id": lzma.FILTER_LZMA2, "preset": 9 | lzma.PRESET_EXTREME, "lc": 0, "lp": 2, "pb": 2}
MAX_LOW_BITS = 24  # of an integer, which is at most MAX_EXACT_INTEGER
PIECE = 1 << 20  # numbers that are put together at once
MAX_XZ_MEMORY = 1 << 28  # bytes that unpacking may take, whatever a stream asks for
MAX_DICTIONARY = 1 << 26  # bytes: the preset's; one so large takes 40 ms to set up


class Span(NamedTuple):
    """float32 numbers in a file: (rows, columns, cell) of them, from a byte ``start`` on."""

    start: int
    rows: int
    columns: int
    cell: int

    @property
    def size(self) -> int:
        return self.rows * self.columns * self.cell


class Weights(NamedTuple):
    """A span as integers (rows, columns, cell) times 2^exponents, (columns, 1)."""

    span: Span
    integers: Codes
    exponents: Integers
    low_bits: int


class TensorTables(Tables):
    """One table for each tensor; codes (1, n) are the numbers of all tensors in a row."""

    def __init__(self, tables: Sequence[Table], counts: Sequence[int]) -> None:
        super().__init__(tables)
        self.counts = counts

    def stages(self, codes: Codes, known: bool = True) -> Iterator[Stage]:
        # int32: as many as there are numbers, which may be 2^26.
        yield Stage(codes, np.repeat(np.arange(len(self.tables), dtype=np.int32), self.counts), 0)


def pack(content: bytes) -> bytes:
    """``content``, smaller; ``unpack`` restores it."""
    tensors = [weights for spans in _tensors(content) if (weights := _weights(content, spans))]
    if sum(tensor.span.size for tensor in tensors) > MAX_WEIGHTS:
        tensors = []
    high = [(tensor.integers >> tensor.low_bits).ravel() for tensor in tensors]
    prior = TensorTables([learn_table(values) for values in high], [v.size for v in high])
    payload = encode(np.concatenate(high)[None], prior) if tensors else b""
    rest, end = [], 0
    for tensor in tensors:
        rest.append(content[end : tensor.span.start])
        end = tensor.span.start + 4 * tensor.span.size
    parts = [
        *(TENSOR.pack(*tensor.span, tensor.low_bits) for tensor in tensors),
        *(tensor.exponents.astype("<i2").tobytes() for tensor in tensors),
        tables_to_bytes(prior) if tensors else b"",
        *rest,
        content[end:],
    ]
    stream = _xz(b"".join(parts))
    header = HEADER.pack(len(stream), len(payload), len(tensors))
    return header + stream + payload + b"".join(_low(tensor) for tensor in tensors)


def _xz(content: bytes) -> bytes:
    filters = {**XZ, "dict_size": min(MAX_DICTIONARY, max(1 << 12, len(content)))}
    return lzma.compress(content, lzma.FORMAT_XZ, lzma.CHECK_CRC32, filters=[filters])


def unpack(packed: bytes, size: int) -> bytes:
    """The content, of ``size`` bytes; b"" for anything that ``pack`` does not write."""
    try:
        return _unpacked(packed, size)
    except (CompressorError, lzma.LZMAError, EOFError, struct.error, ValueError):
        return b""


def _unpacked(packed: bytes, size: int) -> bytes:
    length, of_payload, count = HEADER.unpack_from(packed)
    stream, at = packed[HEADER.size :][:length], HEADER.size + length
    payload, low = packed[at:][:of_payload], packed[at + of_payload :]
    if 4 * MIN_WEIGHTS_FOR_TABLE * count > size:
        raise ValueError("more tensors than the size has room for")
    limit = 2 * size + count * (TENSOR.size + 6 + 2 * MAX_SYMBOLS)
    limit = min(limit, most_unpacked(len(stream)))
    xz = lzma.LZMADecompressor(lzma.FORMAT_XZ, MAX_XZ_MEMORY)
    reader = Reader(xz.decompress(stream, limit + 1))
    if not count:
        return reader.take(reader.rest)
    tensors = [TENSOR.unpack(reader.take(TENSOR.size)) for _ in range(count)]
    spans = [Span(*fields) for *fields, _ in tensors]
    if any(bits > MAX_LOW_BITS for *_, bits in tensors):
        raise ValueError("more low bits than the integers have")
    if (numbers := sum(span.size for span in spans)) > min(size // 4, MAX_WEIGHTS):
        raise ValueError("more numbers than the size has room for")
    exponents = [reader.array("<i2", span.columns) for span in spans]
    prior = TensorTables(reader.tables(count), [span.size for span in spans])
    (high,) = decode(payload, 1, (numbers,), prior)
    content, done = bytearray(), 0
    for (*_, bits), span, powers in zip(tensors, spans, exponents, strict=True):
        content += reader.take(max(0, span.start - len(content)))
        bytes_of_low = -(-bits * span.size // 8)
        if bytes_of_low > len(low):
            raise ValueError("fewer low bits than the tensors have")
        of_tensor, done = high[done : done + span.size], done + span.size
        # In pieces, whose low bits begin with whole bytes: integers and bits take much memory.
        for start in range(0, span.size, PIECE):
            values = of_tensor[start : start + PIECE].astype(np.int64)
            if bits:
                bits_of_piece = low[bits * start // 8 : -(-bits * (start + len(values)) // 8)]
                values = values << bits | _from_bits(bits_of_piece, bits, len(values))
            columns = np.arange(start, start + len(values)) // span.cell % span.columns
            content += _floats(values, powers[columns]).tobytes()
        low = low[bytes_of_low:]
    return bytes(content) + reader.take(reader.rest)


def _low(tensor: Weights) -> bytes:
    """The low bits of a tensor's integers, the highest of each first, padded to a whole byte."""
    places = np.arange(tensor.low_bits - 1, -1, -1)
    return np.packbits(tensor.integers.reshape(-1, 1) >> places & 1).tobytes()


def _from_bits(packed: bytes, bits: int, count: int) -> Integers:
    flat = np.unpackbits(np.frombuffer(packed, np.uint8), count=bits * count)
    return flat.reshape(count, bits).astype(np.int64) @ (1 << np.arange(bits - 1, -1, -1))


def _floats(integers: npt.NDArray[Any], exponents: npt.NDArray[Any]) -> npt.NDArray[np.float32]:
    with np.errstate(over="ignore"):  # happens in damaged files
        floats: npt.NDArray[np.float32] = np.ldexp(integers.astype(np.float64), exponents).astype(
            "<f4"
        )
    return floats


def _weights(content: bytes, spans: Sequence[Span]) -> Weights | None:
    """A tensor by whichever of its spans gives the smallest integers; None if none does."""
    candidates = [weights for span in spans if (weights := _in_fixed_point(content, span))]
    return min(candidates, key=lambda weights: np.abs(weights.integers).sum(), default=None)


def _in_fixed_point(content: bytes, span: Span) -> Weights | None:
    """None unless all numbers are small integers times powers of two and come back unchanged."""
    stored = content[span.start : span.start + 4 * span.size]
    values = np.frombuffer(stored, "<f4").astype(np.float64).reshape(span[1:])
    if not np.isfinite(values).all():
        return None
    mantissas, powers = np.frexp(values)
    whole = np.ldexp(mantissas, 24).astype(np.int64)
    lowest = powers - 24 + np.frexp((whole & -whole).astype(np.float64))[1] - 1
    ends = np.where(whole == 0, np.iinfo(np.int16).max, lowest).min((0, 2))
    exponents = np.where(ends == np.iinfo(np.int16).max, 0, ends)[:, None]
    integers = np.ldexp(values, -exponents)
    if np.abs(integers).max() > MAX_EXACT_INTEGER:
        return None
    integers = integers.astype(np.int32)
    if _floats(integers, exponents).tobytes() != stored:  # -0.0
        return None
    magnitude = max(1, float(np.abs(integers).mean()))
    low_bits = max(0, math.ceil(math.log2(magnitude / SPLIT_ABOVE_MAGNITUDE)))
    return Weights(span, integers, exponents, low_bits)


def _tensors(content: bytes) -> Iterator[list[Span]]:
    """The float32 tensors of an ONNX graph, each with columns along its second axis and its first.

    Reads only as much of the format as it needs: a message is a sequence of numbered fields
    (Protocol Buffers' wire format). In a ModelProto field 7 is the graph, whose fields 5 are the
    tensors; in a tensor field 1 has the dimensions, 2 the type, 9 the numbers. Any other content
    has no tensors.
    """
    try:
        for graph in _fields(content, 0, len(content), 7):
            for tensor in _fields(content, *graph, 5):
                dimensions = [size for size, _ in _fields(content, *tensor, 1)]
                ((kind, _),) = _fields(content, *tensor, 2)
                raw = list(_fields(content, *tensor, 9))
                count = math.prod(dimensions)
                if kind != 1 or len(raw) != 1 or count < MIN_WEIGHTS_FOR_TABLE or not dimensions:
                    continue
                start, end = raw[0]
                if end - start != 4 * count:
                    continue
                first, second, *others = *dimensions, 1
                cell = math.prod(others)
                yield [Span(start, first, second, cell), Span(start, 1, first, second * cell)]
    except (IndexError, ValueError):
        return


def _fields(content: bytes, start: int, end: int, wanted: int) -> Iterator[tuple[int, int]]:
    """Every field number ``wanted``: (start, end) of its bytes, or (value, 0) of an integer."""
    for field in fields(content, start, end):
        if field.number == wanted:
            yield field.start, field.end
