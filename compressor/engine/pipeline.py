"""Work on chunks in parallel, results in order, with a bounded number of chunks at a time.

Each worker thread takes a chunk through all of its stages: decode, infer, code. Decoders, ONNX
Runtime and encoders release the interpreter's lock, so one chunk's decoding overlaps another's
inference and the consumer's writing. At most ``workers`` + CHUNKS_AHEAD chunks exist at a time,
whatever the size of the dataset.
"""

from __future__ import annotations

import os
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from typing import TypeVar

from ..data.images import CHUNK_BYTES, Source
from ..interrupts import stop_if_caught
from ..spec import DataSpec

Item = TypeVar("Item")
Result = TypeVar("Result")

CHUNKS_AHEAD = 2  # finished or waiting, beside those being worked on
CHUNK_IMAGES = 256


def worker_count() -> int:
    """One for each core that this process may use."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def chunk_size(spec: DataSpec, source: Source) -> int:
    """Inputs in a chunk: at most 256, and at most 64 MiB if they are like the first one.

    Where others are larger, a chunk is loaded in several pieces of at most 64 MiB.
    """
    elements = spec.elements
    if spec.stride is not None:  # any size: look at the data
        first = next(iter(source.chunks(1)), None)
        for group in next(first.load()).groups if first else ():
            elements = max(elements, group.pixels[0].size)
    return max(1, min(CHUNK_IMAGES, CHUNK_BYTES // elements))


def in_order(
    work: Callable[[Item], Result], items: Iterable[Item], workers: int | None = None
) -> Iterator[Result]:
    """Yields work(item) for each item in order.

    An error in ``items``, in ``work`` or in the consumer ends it all: waiting work is cancelled,
    running work is awaited, and the error is raised here.
    """
    workers = workers or worker_count()
    pool = ThreadPoolExecutor(workers, thread_name_prefix="compressor")
    pending: deque[Future[Result]] = deque()
    try:
        for item in items:
            stop_if_caught()
            pending.append(pool.submit(work, item))
            if len(pending) >= workers + CHUNKS_AHEAD:
                yield pending.popleft().result()
        while pending:
            stop_if_caught()
            yield pending.popleft().result()
    finally:
        pool.shutdown(wait=True, cancel_futures=True)
