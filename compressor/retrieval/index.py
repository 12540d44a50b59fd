"""The verb ``index``: vectors of a dataset, or of an archive's codes, in a folder to search in.

    manifest.json, manifest.sha256    the model's digest, and the hash of every other file
    space.npz                         which vector stands for a code (space.py)
    model/                            the encoder, so that images can be asked for
    vectors/part-00000.npy            float32 (n, D)
    names/part-00000.parquet          the column path

More data are added as further parts; the manifest, which is replaced in one step, makes them count.
"""

from __future__ import annotations

import io
import re
import time
from collections.abc import Iterator
from contextlib import ExitStack, suppress
from pathlib import Path
from typing import Annotated, Any, Final, Literal

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.parquet as pq
from pydantic import AfterValidator, BaseModel, ConfigDict, Field

from .. import __version__
from ..archive.blocks import CodedImages
from ..archive.reader import Archive
from ..data.images import Data, Images
from ..engine.encode import readable
from ..engine.engine import Engine
from ..engine.job import Job
from ..engine.pipeline import in_order
from ..errors import ArchiveError, ConfigError, OutputError
from ..files import (
    atomic_folder,
    finish_together,
    output_errors,
    read_current,
    refuse_elsewhere,
    refuse_input,
    refuse_irreplaceable,
    sync,
    write_together,
)
from ..log import log
from ..manifests import HASH, MANIFEST, FileEntry, ManifestFormat, hash_line, with_hash
from ..model import Model
from ..progress import Progress
from ..resume import FolderLock
from ..untrusted import plain_name, read_npy, read_regular
from .space import Space, Vectors

FORMAT: Final = "compressor-index"
SPACE = "space.npz"
ENCODER = "encoder.onnx"
PART_NUMBERS = 1 << 22  # of a part's vectors together: 16 MiB
MAX_PART_ROWS = 1 << 16
MAX_PARTS = 1 << 16
MAX_MANIFEST = 1 << 26
_PARTS = re.compile(r"(vectors/part-\d{5}\.npy|names/part-\d{5}\.parquet)", re.ASCII)
_NAMES = pa.schema([("path", pa.string())])


def _index_name(name: str) -> str:
    """``name``; ValueError unless an index has a file of that name."""
    if not _PARTS.fullmatch(name) and name != SPACE:
        if not name.startswith("model/"):
            raise ValueError(f"{name[:100]!r} is not the name of a file of an index")
        plain_name(name.removeprefix("model/"))
    return name


class IndexManifest(BaseModel):
    """manifest.json. Readers ignore keys that they do not know."""

    model_config = ConfigDict(frozen=True, extra="ignore")

    format: Literal["compressor-index"] = FORMAT
    format_version: Literal[1] = 1
    created_by: str = f"compressor {__version__}"
    model: str  # the digest of the model whose codes these are
    parts: tuple[Annotated[int, Field(ge=1, le=MAX_PART_ROWS)], ...] = Field(max_length=MAX_PARTS)
    files: dict[Annotated[str, AfterValidator(_index_name)], FileEntry]

    def to_files(self) -> dict[str, bytes]:
        """manifest.json and manifest.sha256."""
        return with_hash((self.model_dump_json(indent=1) + "\n").encode())


MANIFEST_FORMAT = ManifestFormat(
    FORMAT, "index", (1,), IndexManifest, ArchiveError, 2 * MAX_PARTS + 8, _index_name
)


def part_files(part: int) -> tuple[str, str]:
    """The vectors and the names of a part, relative to the index."""
    return f"vectors/part-{part:05d}.npy", f"names/part-{part:05d}.parquet"


class Index:
    """An index on disk; raises ArchiveError where it is damaged, or no index."""

    def __init__(self, path: Path, manifest: IndexManifest) -> None:
        self.path, self.manifest = path, manifest
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
        return cls(path, MANIFEST_FORMAT.parse(text, path))

    @property
    def count(self) -> int:
        return sum(self.manifest.parts)

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
        rows, name = self.manifest.parts[part], part_files(part)[0]
        content = self.read(name)
        shape = rows, self.space.dimensions
        try:
            vectors = read_npy(content)
        except ValueError as error:
            raise ArchiveError(f"{self.path}/{name} is damaged: {error}") from error
        if vectors.shape != shape or vectors.dtype != np.float32:
            raise ArchiveError(f"{self.path}/{name} is not float32 {shape}")
        return vectors

    def names(self, part: int) -> list[str]:
        """Of a part, one for each vector."""
        rows, name = self.manifest.parts[part], part_files(part)[1]
        try:
            table = pq.read_table(io.BytesIO(self.read(name)), schema=_NAMES)
        except pa.ArrowException as error:
            raise ArchiveError(f"{self.path}/{name} is damaged: {error}") from error
        if len(table) != rows:
            raise ArchiveError(f"{self.path}/{name} has other rows than the vectors")
        return [str(value) for value in table["path"].to_pylist()]

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


def index(
    data: Data,
    model: str | Path,
    output: str | Path,
    *,
    add: bool = False,
    device: str = "auto",
    force: bool = False,
    progress: bool = False,
) -> dict[str, Any]:
    """Writes an index of ``data``, or of the codes of an archive, none of which is decoded.

    ``add``: to an index that is there, of the same model.

    Gives images (of all the index), added, dimensions, metric ("cosine" or "euclidean"), whitening
    (the power of the deviations that axes are divided by), reliability (of ten neighbours by half
    of the code's numbers, the share that the other half has, too), unreadable, seconds, device.
    Raises CompressorError.
    """
    refuse_elsewhere(data, model, outputs=[output])
    if add and force:
        raise ConfigError("add keeps what is there, force replaces it: give one of them")
    output, started = Path(output), time.monotonic()
    refuse_input(output, data, model)
    opened = Model.open(model)
    earlier = Index.open(output) if add else None
    if earlier is not None:
        earlier.refuse_other(opened)
    else:
        refuse_irreplaceable(output, force, FORMAT)
    space = earlier.space if earlier else Space.of(opened)
    reader: ArchiveVectors | DataVectors
    if _is_archive(data):
        reader = ArchiveVectors(Archive.open(data, opened), opened, device, space)
    else:
        reader = DataVectors(Job("index", data, model, device), space)
    with ExitStack() as stack:
        if earlier is not None:
            lock = FolderLock(output, output)
            lock.take()
            stack.callback(lock.release)
            earlier = Index.open(output)  # as it is now that no other process changes it
            folder = output
        else:
            folder = stack.enter_context(atomic_folder(output, force))
        with output_errors(output):
            writer = _Writer(folder, space, earlier.manifest if earlier else None)
            for names, vectors in reader.run(progress):
                writer.write(names, vectors)
            manifest = writer.finish(opened)
            if earlier is None:
                for name, content in manifest.to_files().items():
                    (folder / name).write_bytes(content)
        if earlier is not None:
            write_together(output, manifest.to_files())
    return {
        "images": sum(manifest.parts),
        "added": writer.added,
        "dimensions": space.dimensions,
        "metric": "cosine" if space.cosine else "euclidean",
        "whitening": space.power,
        "reliability": space.reliability,
        **reader.summary(),
        "seconds": round(time.monotonic() - started, 3),
    }


def _is_archive(data: Data) -> bool:
    if not isinstance(data, str | Path):
        return False
    return (Path(data) / "blocks").is_dir() and (Path(data) / "items").is_dir()


class DataVectors:
    """Names and vectors of images or vectors that are encoded here."""

    def __init__(self, job: Job, space: Space) -> None:
        self._job, self._space = job, space

    def run(self, progress: bool) -> Iterator[tuple[list[str], list[Vectors]]]:
        def work(images: Images) -> dict[int, Vectors]:
            by_position: dict[int, Vectors] = {}
            for group in images.groups:
                vectors = self._space.vectors(self._job.engine.encode(group.pixels))
                by_position |= zip(group.positions.tolist(), vectors, strict=True)
            return by_position

        for images, by_position in self._job.run(work, progress=progress):
            yield readable(images.names, by_position)

    def summary(self) -> dict[str, Any]:
        summary = self._job.summary()
        return {name: summary[name] for name in summary if name not in ("images", "seconds")}


class ArchiveVectors:
    """Names and vectors of an archive's codes; what a fallback stored is encoded here."""

    def __init__(self, archive: Archive, model: Model, device: str, space: Space) -> None:
        self._archive, self._space = archive, space
        self._engine = Engine(model, device)
        self._lost: list[str] = []

    def run(self, progress: bool) -> Iterator[tuple[list[str], list[Vectors]]]:
        with Progress("index", self._archive.count, shown=progress) as bar:
            done = 0
            for coded, by_position in in_order(
                lambda segment: self._vectors(segment.load()), self._archive.segments()
            ):
                for at, reason in sorted(coded.missing.items()):
                    self._lost.append(f"{coded.names[at]}: {reason}")
                done += len(coded.names)
                bar.update(done)
                yield readable(coded.names, by_position)
        for sentence in self._archive.damage:
            log.warning("damage: %s", sentence)
        if len(self._lost) == done:
            raise ArchiveError(f"every image of {self._archive.path} is lost; {self._lost[0]}")

    def _vectors(self, coded: CodedImages) -> tuple[CodedImages, dict[int, Vectors]]:
        by_position: dict[int, Vectors] = {}
        groups: list[tuple[npt.NDArray[np.int64], npt.NDArray[np.int32]]] = [
            (group.positions, group.codes) for group in coded.groups
        ]
        groups += [(group.positions, self._engine.encode(group.pixels)) for group in coded.stored]
        for positions, codes in groups:
            by_position |= zip(positions.tolist(), self._space.vectors(codes), strict=True)
        return coded, by_position

    def summary(self) -> dict[str, Any]:
        return {
            "unreadable": len(self._lost),
            "unreadable_names": self._lost,
            "damage": self._archive.damage,
            "device": self._engine.device.name,
        }


class _Writer:
    """Writes parts behind those of ``earlier``; they count once the manifest names them."""

    def __init__(self, folder: Path, space: Space, earlier: IndexManifest | None) -> None:
        self._folder, self._space = folder, space
        self._parts = list(earlier.parts) if earlier else []
        self._files = dict(earlier.files) if earlier else {}
        self._names: list[str] = []
        self._vectors: list[Vectors] = []
        self._rows = max(1, min(MAX_PART_ROWS, PART_NUMBERS // space.dimensions))
        self.added = 0
        for name in ("vectors", "names", "model"):
            (folder / name).mkdir(exist_ok=True)

    def write(self, names: list[str], vectors: list[Vectors]) -> None:
        self._names += names
        self._vectors += vectors
        self.added += len(names)
        while len(self._names) >= self._rows:
            self._write_part()

    def _write_part(self) -> None:
        rows, part = self._rows, len(self._parts)
        if part >= MAX_PARTS:
            raise OutputError(f"{self._folder} has {MAX_PARTS:,} parts, and takes no more")
        names, self._names = self._names[:rows], self._names[rows:]
        vectors, self._vectors = self._vectors[:rows], self._vectors[rows:]
        array, table = io.BytesIO(), io.BytesIO()
        np.save(array, np.stack(vectors), allow_pickle=False)  # raises where objects are in it
        pq.write_table(pa.table([pa.array(names)], _NAMES), table, compression="zstd")
        for name, content in zip(part_files(part), (array, table), strict=True):
            self._put(name, content.getvalue())
        self._parts.append(len(names))

    def _put(self, name: str, content: bytes) -> None:
        (self._folder / name).write_bytes(content)
        sync(self._folder / name)
        self._files[name] = FileEntry.of(content)

    def finish(self, model: Model) -> IndexManifest:
        if self._names:
            self._write_part()
        if SPACE not in self._files:
            self._put(SPACE, self._space.to_bytes())
            files = model.contents()
            for name in (MANIFEST, HASH, ENCODER):
                self._put(f"model/{name}", files[name])
        return IndexManifest(model=model.digest, parts=tuple(self._parts), files=self._files)
