"""An index on disk, as it is read: its manifest, its parts, and what they were made of.

    manifest.json, manifest.sha256    the model's digest, the sources, the hash of every other file
    space.npz                         which vector stands for a code (space.py)
    model/                            the encoder, so that images can be asked for
    vectors/part-00000.npy            float32 (n, D)
    names/part-00000.parquet          path, and number: which of its source's inputs a row is
    cells.npz, cells/part-00000.npy   of a large one: which rows lie near each other (cells.py)

More data are added as further parts; the manifest, which is replaced in one step, makes them count.
"""

from __future__ import annotations

import hashlib
import io
import os
import re
from collections.abc import Iterator
from contextlib import suppress
from functools import cached_property
from pathlib import Path
from typing import Annotated, Any, Final, Literal

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.parquet as pq
from pydantic import AfterValidator, BaseModel, ConfigDict, Field, model_validator

from .. import __version__
from ..data.images import Data
from ..errors import ArchiveError, CompressorError
from ..files import finish_together, read_current
from ..manifests import HASH, MANIFEST, FileEntry, ManifestFormat, hash_line, with_hash
from ..model import Model
from ..untrusted import plain_name, read_npy, read_regular
from .cells import CellNumbers, Cells
from .space import Space, Vectors

FORMAT: Final = "compressor-index"
SPACE, CELLS = "space.npz", "cells.npz"
ENCODER = "encoder.onnx"
MAX_PART_ROWS = 1 << 16
MAX_PARTS = 1 << 16
MAX_MANIFEST = 1 << 26
_PARTS = re.compile(r"((vectors|cells)/part-\d{5}\.npy|names/part-\d{5}\.parquet)", re.ASCII)
NAMES = pa.schema([("path", pa.string()), ("number", pa.int64())])


def _index_name(name: str) -> str:
    """``name``; ValueError unless an index has a file of that name."""
    if not _PARTS.fullmatch(name) and name not in (SPACE, CELLS):
        if not name.startswith("model/"):
            raise ValueError(f"{name[:100]!r} is not the name of a file of an index")
        plain_name(name.removeprefix("model/"))
    return name


class IndexSource(BaseModel):
    """Where some parts came from.

    ``place``: the way there from the index's folder, ``::key`` included; None for what was in
    memory. It is a hint, where pictures of what is found may be; other inputs may be there by now.
    """

    model_config = ConfigDict(frozen=True, extra="ignore")

    place: str | None
    archive: bool
    parts: int = Field(ge=0)

    @classmethod
    def of(cls, data: Data, index: Path, archive: bool) -> IndexSource:
        """Of ``data``, before any of its parts."""
        place = None
        if isinstance(data, str | os.PathLike):
            front, mark, key = split_key(os.fspath(data))
            try:
                place = os.path.relpath(front, index.absolute()) + mark + key
                place.encode()
            except ValueError:  # on another drive, or a name that is not valid text
                place = None
        return cls(place=place, archive=archive, parts=0)

    def location(self, index: Path) -> str | None:
        """Where ``place`` is, seen from an index."""
        if self.place is None:
            return None
        front, mark, key = split_key(self.place)
        return os.path.normpath(index.absolute() / front) + mark + key


def split_key(location: str) -> tuple[str, str, str]:
    """A path, ``::`` and what follows it, unless that is a part of the path itself."""
    front, mark, key = location.rpartition("::")
    return (location, "", "") if not mark or os.path.lexists(location) else (front, mark, key)


class IndexManifest(BaseModel):
    """manifest.json. Readers ignore keys that they do not know."""

    model_config = ConfigDict(frozen=True, extra="ignore")

    format: Literal["compressor-index"] = FORMAT
    format_version: Literal[1] = 1
    created_by: str = f"compressor {__version__}"
    model: str  # the digest of the model whose codes these are
    parts: tuple[Annotated[int, Field(ge=1, le=MAX_PART_ROWS)], ...] = Field(max_length=MAX_PARTS)
    sources: tuple[IndexSource, ...] = Field(max_length=MAX_PARTS)  # in the order of their parts
    files: dict[Annotated[str, AfterValidator(_index_name)], FileEntry]

    @model_validator(mode="after")
    def _every_part_has_a_source(self) -> IndexManifest:
        if sum(source.parts for source in self.sources) != len(self.parts):
            raise ValueError("its sources do not have its parts")
        return self

    def to_files(self) -> dict[str, bytes]:
        """manifest.json and manifest.sha256."""
        return with_hash((self.model_dump_json(indent=1) + "\n").encode())


MANIFEST_FORMAT = ManifestFormat(
    FORMAT, "index", (1,), IndexManifest, ArchiveError, 3 * MAX_PARTS + 8, _index_name
)


def part_files(part: int) -> tuple[str, str]:
    """The vectors and the names of a part, relative to the index."""
    return f"vectors/part-{part:05d}.npy", f"names/part-{part:05d}.parquet"


def cell_file(part: int) -> str:
    """The cells of a part's rows, relative to the index."""
    return f"cells/part-{part:05d}.npy"


class Index:
    """An index on disk; raises ArchiveError where it is damaged, or no index."""

    def __init__(self, path: Path, manifest: IndexManifest, digest: str) -> None:
        self.path, self.manifest = path, manifest
        self.digest = digest  # of all of it: the SHA-256 of manifest.json
        self.space = Space.from_bytes(self.read(SPACE))

    @classmethod
    def open(cls, path: str | Path) -> Index:
        path = Path(path)
        if not path.is_dir():
            raise ArchiveError(f"{path} is not an index: there is no such folder")
        with suppress(OSError):  # where nothing can be written, it is read as it is
            finish_together(path)
        try:
            text, line = read_current(path, MANIFEST, MAX_MANIFEST), read_current(path, HASH, 1000)
        except OSError as error:
            raise ArchiveError(f"{path}/{MANIFEST} cannot be read: {error.strerror}") from error
        if text is None or line is None:
            raise ArchiveError(f"{path} is not an index: it has no {MANIFEST} with its {HASH}")
        if line != hash_line(text):
            raise ArchiveError(f"{path}/{MANIFEST} does not have the hash in {HASH}: damaged")
        manifest = MANIFEST_FORMAT.parse(text, path)
        return cls(path, manifest, hashlib.sha256(text).hexdigest())

    @property
    def count(self) -> int:
        return sum(self.manifest.parts)

    @property
    def counts(self) -> tuple[int, ...]:
        """The rows of each part."""
        return self.manifest.parts

    @cached_property
    def cells(self) -> Cells | None:
        """What a few rows are chosen by; a small index has none."""
        if CELLS not in self.manifest.files:
            return None
        return Cells.from_bytes(self.read(CELLS), self.space.dimensions)

    def model(self) -> Model:
        """Its model, of which the encoder alone is there."""
        model = Model.open(self.path / "model")
        if model.digest != self.manifest.model:
            raise ArchiveError(f"the model inside {self.path} was swapped")
        return model

    def refuse_other(self, model: Model) -> None:
        """Raises ArchiveError unless the vectors are of this model's codes."""
        if model.digest != self.manifest.model:
            raise ArchiveError(f"{self.path} was made with another model than {model.location}")

    def vectors(self, part: int) -> Vectors:
        """float32 (n, D) of a part, checked."""
        shape = self.manifest.parts[part], self.space.dimensions
        return self._array(part_files(part)[0], shape, np.float32)

    def cell_numbers(self, part: int) -> CellNumbers:
        """Of a part's rows, where the index has cells."""
        numbers = self._array(cell_file(part), (self.manifest.parts[part],), np.uint16)
        if self.cells is None or numbers.max() >= len(self.cells.centres):
            raise ArchiveError(f"{self.path}/{cell_file(part)} has cells that are not there")
        return numbers

    def _array(self, name: str, shape: tuple[int, ...], kind: type) -> npt.NDArray[Any]:
        try:
            array = read_npy(self.read(name))
        except ValueError as error:
            raise ArchiveError(f"{self.path}/{name} is damaged: {error}") from error
        if array.shape != shape or array.dtype != kind:
            raise ArchiveError(f"{self.path}/{name} is not {np.dtype(kind)} {shape}")
        return array

    def names(self, part: int) -> list[str]:
        """Of a part, one for each vector."""
        return [str(value) for value in self._named(part)["path"].to_pylist()]

    def numbers(self, part: int) -> npt.NDArray[np.int64]:
        """Which of its source's inputs each row of a part is, from 0."""
        return np.asarray(self._named(part)["number"], np.int64)

    def _named(self, part: int) -> pa.Table:
        rows, name = self.manifest.parts[part], part_files(part)[1]
        try:
            table = pq.read_table(io.BytesIO(self.read(name)), schema=NAMES)
        except pa.ArrowException as error:
            raise ArchiveError(f"{self.path}/{name} is damaged: {error}") from error
        if len(table) != rows or table["number"].null_count:
            raise ArchiveError(f"{self.path}/{name} has other rows than the vectors")
        return table

    def parts_with(
        self, rows: npt.NDArray[np.int64]
    ) -> Iterator[tuple[int, npt.NDArray[np.int64]]]:
        """Each part that has some of the rows (n,) of the index, and which of its own they are."""
        start = 0
        for part, count in enumerate(self.manifest.parts):
            inside = rows[(rows >= start) & (rows < start + count)] - start
            if len(inside):
                yield part, inside
            start += count

    def read(self, name: str) -> bytes:
        """A file's content, checked against the manifest."""
        entry = self.manifest.files.get(name)
        if entry is None:
            raise ArchiveError(f"{self.path} has no {name}")
        try:
            content = read_regular(self.path / name, entry.size)
        except OSError as error:
            raise ArchiveError(f"{self.path}/{name} cannot be read: {error.strerror}") from error
        if FileEntry.of(content) != entry:
            raise ArchiveError(f"{self.path}/{name} does not have the hash in the manifest")
        return content


def remove_strays(path: Path) -> None:
    """Deletes parts in an index that its manifest does not name: those of a killed addition.

    No other process may be writing it.
    """
    with suppress(CompressorError):  # what is damaged or no index stays as it is
        known = Index.open(path).manifest.files
        for folder in ("vectors", "names", "cells"):
            for file in (path / folder).glob("part-*"):
                name = f"{folder}/{file.name}"
                if name not in known and _PARTS.fullmatch(name):
                    file.unlink()
