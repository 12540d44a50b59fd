"""A folder of files that each hold many images, .tar or .npy, as one source."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from functools import partial
from itertools import accumulate, chain, islice
from pathlib import Path

from ..errors import DataError
from .containers import TarSource
from .images import Chunk, Images, Shard, Source
from .left_out import LeftOut, left_out
from .reading import bytes_of, fingerprint

MAX_SHARDS = 100_000  # that braces may name
_BRACES = re.compile(r"\{(?:([0-9]{1,18})\.\.([0-9]{1,18})|([^{}]*,[^{}]*))\}")

_NESTED = re.compile(r"\{[^{}]*\{")


class ShardedSource:
    """The images of ``files``, paths below ``folder``, one file after the other.

    open_one: opens one of them; beside: the other files of the folder. An image's name is its
    file's, then its own in that file; a chunk may have images of several files. Raises DataError if
    .npy files are not all of one shape.
    """

    columns = None

    def __init__(
        self,
        folder: Path,
        files: list[str],
        open_one: Callable[[Path], Source],
        beside: LeftOut | None = None,
    ) -> None:
        self.location = str(folder)
        self._folder, self._files = folder, files
        self._beside = beside or LeftOut()
        self.left_out = self._beside
        self._open_one = open_one
        self.shards: list[Shard] = []
        self.shape, self._count = None, None
        if files[0].endswith(".npy"):
            sources = [self._open(file) for file in files]
            self.shape = sources[0].shape
            for file, source in zip(files, sources, strict=True):
                if source.shape != self.shape:
                    raise DataError(
                        f"{folder / file} has rows {source.shape}, {folder / files[0]} has "
                        f"{self.shape}; read the two one by one"
                    )
            ends = list(accumulate(source.count() or 0 for source in sources))
            self.shards = list(map(Shard, files, ends))

    def _open(self, file: str) -> Source:
        return self._open_one(self._folder / file)

    def count(self) -> int | None:
        return self.shards[-1].stop if self.shape is not None else None

    def bytes_on_disk(self) -> int:
        return bytes_of(self._folder / file for file in self._files)

    def fingerprint(self) -> str:
        return fingerprint("shards", ((file, self._folder / file) for file in self._files))

    def chunks(self, size: int, start: int = 0) -> Iterator[Chunk]:
        first, held = 0, list[Chunk]()  # of earlier files, too few for a chunk
        inside = LeftOut()
        for number, file in enumerate(self._files):
            source = self._open(file)
            skipped = max(0, start - first)
            length = self.shards[number].stop - first if number < len(self.shards) else None
            if length is None and skipped:
                length = _length(source)
            at = skipped if length is None else min(skipped, length)
            room = size - sum(chunk.count for chunk in held)
            once = islice(source.chunks(room, at), 1) if held else ()
            for chunk in chain(once, _after(source, size, at + room if held else at)):
                at = chunk.start + chunk.count
                part = Chunk(first + chunk.start, chunk.count, partial(_load, chunk, file))
                held.append(part)
                if sum(chunk.count for chunk in held) == size:
                    yield _joined(held)
                    held = []
            first += at
            inside.add_all(left_out(source))
            if number == len(self.shards):
                self.shards.append(Shard(file, first))
        inside.add_all(self._beside)
        self.left_out = inside
        if held:
            yield _joined(held)


def _after(source: Source, size: int, start: int) -> Iterator[Chunk]:
    """The source's chunks from ``start`` on, opened only when they are needed."""
    yield from source.chunks(size, start)


def _joined(chunks: list[Chunk]) -> Chunk:
    """One chunk made of several consecutive ones."""

    def load() -> Iterator[Images]:
        return chain.from_iterable(chunk.load() for chunk in chunks)

    return Chunk(chunks[0].start, sum(chunk.count for chunk in chunks), load)


def _load(chunk: Chunk, file: str) -> Iterator[Images]:
    for images in chunk.load():
        names = [f"{file}/{name}" for name in images.names]
        yield Images(names, images.groups, images.unreadable, images.not_kept)


def _length(source: Source) -> int:
    return source.length() if isinstance(source, TarSource) else source.count() or 0


def expanded(pattern: str) -> list[Path] | None:
    """The paths that ``data-{000..012}.tar`` or ``{a,b}.tar`` mean, in order; None without braces.

    As in bash and WebDataset: several braces are combined, and zeros in front are kept; braces in
    braces are not read. Raises DataError if they are more than MAX_SHARDS.
    """
    paths = [pattern]
    if _NESTED.search(pattern):
        return None
    while (braces := _BRACES.search(paths[0])) is not None:  # at the same place in all of them
        first, last, several = braces.groups()
        if several is not None:
            choices = several.split(",")
        else:
            choices = _numbers(first, last, MAX_SHARDS // len(paths) + 1)
        if len(choices) * len(paths) > MAX_SHARDS:
            raise DataError(f"{pattern} are more than {MAX_SHARDS:,} files; give a folder of them")
        ends = [path.split(braces[0], 1) for path in paths]
        paths = [f"{front}{choice}{back}" for front, back in ends for choice in choices]
    return None if paths == [pattern] else [Path(path) for path in paths]


def _numbers(first: str, last: str, most: int) -> list[str]:
    """At most ``most`` numbers from first to last, upwards or downwards."""
    step = 1 if int(first) <= int(last) else -1
    padded = any(number[0] == "0" and len(number) > 1 for number in (first, last))
    width = max(len(first), len(last)) if padded else 1
    numbers = range(int(first), int(last) + step, step)
    return [f"{number:0{width}}" for number in islice(numbers, most)]
