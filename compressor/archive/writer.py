"""Writes an archive part by part, in ``.NAME.partial/archive``, which is renamed to NAME at last.

A job that was cut short goes on after its last whole part, as resume.py says.
"""

from __future__ import annotations

import hashlib
import json
import math
import shutil
from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Any

import numpy as np
import numpy.typing as npt

from ..data.images import Unreadable
from ..entropy.tables import Tables
from ..errors import DataError, OutputError
from ..files import output_errors, refuse_irreplaceable, replace_folder, sync
from ..manifests import FileEntry
from ..model import Model, decoding_files
from ..resume import Ledger, Unfinished
from .blocks import (
    HEADER_SIZE,
    MODEL,
    PER_PART,
    CodedImages,
    Header,
    images_per_block,
    numbered,
    pack,
)
from .fallback_blocks import StoredGroup, pack_stored
from .items import MAX_NAME, Index, Items
from .manifest import FORMAT, ArchiveManifest, PartEntry, part_files

PART_IMAGES = 1 << 15  # of MAX_ROWS: names and places of a part are in memory, here and in readers
PART_BYTES = 1 << 30  # of payload: a part that has them is closed
MAX_PARTS = 1 << 16


@dataclass(frozen=True)
class PackedImages:
    """Consecutive images of the source, coded: ``block[i]`` says which of ``frames`` holds the
    code (or the file) of ``names[i]``, and ``index[i]`` where in it. ``unreadable`` are names and
    reasons."""

    names: list[str]
    block: npt.NDArray[np.int64]
    index: npt.NDArray[np.int64]
    frames: list[bytes]
    unreadable: list[tuple[str, str]]
    pixels: int  # of all images
    ideal_bits: float  # of the codes under the prior


def pack_images(
    images: CodedImages, prior: Tables, stored: Sequence[StoredGroup] = ()
) -> PackedImages:
    """Entropy-codes images into blocks, and puts those that a fallback ``stored`` into blocks of
    their own; may run in any thread.

    Raises DataError for a name that no archive can hold.
    """
    block = np.full(len(images.names), -1, np.int64)
    index = np.zeros(len(images.names), np.int64)
    frames: list[bytes] = []
    pixels, ideal_bits = 0, 0.0
    for group in images.groups:
        pixels += len(group.codes) * group.height * group.width
        step = images_per_block(group.codes.shape[1:])
        for start in range(0, len(group.codes), step):
            codes = group.codes[start : start + step]
            positions = group.positions[start : start + step]
            block[positions] = len(frames)
            index[positions] = np.arange(len(codes))
            frame, bits = pack(codes, group.height, group.width, prior)
            frames.append(frame)
            ideal_bits += bits
    for files in stored:
        count, height, width, channels = files.pixels.shape
        pixels += count * height * width
        step = images_per_block((height, width, channels))
        for start in range(0, count, step):
            rows = slice(start, start + step)
            positions = files.positions[rows]
            block[positions] = len(frames)
            index[positions] = np.arange(len(positions))
            frames.append(pack_stored(files.codec, files.files[rows], files.pixels[rows]))
    readable = np.flatnonzero(block >= 0)
    if len(readable) + len(images.missing) != len(images.names):
        raise ValueError("each image must have a code, be stored or be missing")
    names = [images.names[position] for position in readable]
    for name in names:
        _check_name(name)
    unreadable = [(images.names[at], reason) for at, reason in sorted(images.missing.items())]
    return PackedImages(
        names, block[readable], index[readable], frames, unreadable, pixels, ideal_bits
    )


@dataclass(frozen=True)
class Sizes:
    """Bytes: of the pixels (or a vector's numbers), of the codes by the prior's ideal lengths, and
    on disk those of the embedded model, the items, the payload of the blocks and all together.

    ``fallback_images`` of the images were stored by a fallback codec; their ``fallback_bytes`` are
    a part of the payload, and not of the ideal."""

    raw_bytes: int
    ideal_bytes: int
    model_bytes: int
    items_bytes: int
    payload_bytes: int
    archive_bytes: int
    fallback_images: int
    fallback_bytes: int


class ArchiveLedger(Ledger):
    """What the images became, beside their files."""

    pixels: int = 0
    ideal_bits: float = 0
    payload_bytes: int = 0
    fallback_images: int = 0
    fallback_bytes: int = 0
    unreadable: Unreadable = Unreadable()
    parts: tuple[PartEntry, ...] = ()


class ArchiveWriter:
    """Writes an archive to ``path``, which exists only once the ``with`` block has ended well.

    ``job`` says what the archive is made from: the source's fingerprint and every option that
    matters, the size of its chunks included. With ``resume``, the job that was cut short goes on:
    the first ``consumed`` images of the source are to be left out. After an error, finished parts
    stay in a hidden folder for that.

    ``sizes`` is there after the ``with`` block and covers the job's earlier runs too. Raises
    OutputError if ``path`` cannot be written or the job cannot go on.
    """

    sizes: Sizes

    def __init__(
        self,
        path: Path,
        model: Model,
        job: Mapping[str, str],
        *,
        force: bool = False,
        resume: bool = False,
        embed: bool = True,
    ) -> None:
        self._model = model
        job = {**job, "model": model.digest}
        ledger = ArchiveLedger(job={**job, "embed": str(embed)})
        self._work = Unfinished(path, "archive", ledger, model.spec.kind)
        self.path, self._folder = self._work.path, self._work.folder
        self._force = force
        self._resume = resume
        self._embed = embed
        self._id = _id_of(job)
        self._part: _Part | None = None

    @property
    def _ledger(self) -> ArchiveLedger:
        return self._work.ledger

    def _note(self, **changes: Any) -> None:
        self._work.ledger = self._ledger.model_copy(update=changes)

    @property
    def consumed(self) -> int:
        """How many images of the source are done, unreadable ones included."""
        return self._ledger.consumed

    @property
    def images(self) -> int:
        """How many images the finished parts hold."""
        return sum(part.images for part in self._ledger.parts)

    @property
    def unreadable(self) -> Unreadable:
        """The images left out, those of the job's earlier runs included."""
        return self._ledger.unreadable

    def __enter__(self) -> ArchiveWriter:
        refuse_irreplaceable(self.path, self._force, FORMAT)
        for name in decoding_files(self._model.manifest):
            self._model.read(name)  # found damaged now and not when everything is coded
        with output_errors(self.path):
            self._work.open(resume=self._resume, discard=self._force)
            for name in ("items", "blocks"):
                (self._folder / name).mkdir(exist_ok=True)
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        with output_errors(self.path), ExitStack() as cleanup:
            cleanup.callback(self._work.close)
            if self._part is not None:
                cleanup.callback(self._part.close)
            if kind is None:
                self._finish()

    def add(self, packed: PackedImages) -> None:
        """Adds the next images of the source, at most PART_IMAGES at a time."""
        if len(packed.names) > PART_IMAGES:
            raise ValueError(f"{len(packed.names)} images at a time; a part takes {PART_IMAGES}")
        with output_errors(self.path):
            part = self._part
            if part is not None and not part.has_room_for(packed):
                self._finish_part()
            if packed.names:
                if self._part is None:
                    self._part = self._new_part()
                self._part.add(packed)
        ledger = self._ledger
        self._note(
            consumed=ledger.consumed + len(packed.names) + len(packed.unreadable),
            pixels=ledger.pixels + packed.pixels,
            ideal_bits=ledger.ideal_bits + packed.ideal_bits,
            unreadable=ledger.unreadable.plus(packed.unreadable),
        )

    def _new_part(self) -> _Part:
        number = len(self._ledger.parts)
        if number == MAX_PARTS:
            raise OutputError(f"{self.path}: an archive has at most {MAX_PARTS} parts; make two")
        return _Part(self._folder, self._id, number, self._model.spec.channels)

    def _finish_part(self) -> None:
        if self._part is None:
            return
        part = self._part
        ledger = self._ledger
        self._note(
            payload_bytes=ledger.payload_bytes + part.payload_bytes,
            fallback_images=ledger.fallback_images + part.fallback_images,
            fallback_bytes=ledger.fallback_bytes + part.fallback_bytes,
            parts=(*ledger.parts, part.entry),
            files=ledger.files | part.finish(),
        )
        self._work.save()
        self._part = None

    def _finish(self) -> None:
        self._finish_part()
        files = dict(self._ledger.files)
        embedded = self._folder / "model"
        if self._embed:
            shutil.rmtree(embedded, ignore_errors=True)  # of a run that was cut short here
            used = self._ledger.fallback_images < self.images
            self._model.embed(embedded, used=used)
            for file in sorted(embedded.iterdir()):
                files[f"model/{file.name}"] = FileEntry.of_file(file)
        manifest = ArchiveManifest(
            id=self._id,
            images=self.images,
            unreadable=self.unreadable,
            data=self._model.spec,
            model=self._model.digest,
            parts=self._ledger.parts,
            files=dict(sorted(files.items())),
        )
        for name, content in manifest.to_files().items():
            (self._folder / name).write_bytes(content)
        self.sizes = Sizes(
            raw_bytes=self._ledger.pixels * self._model.spec.bytes_per_place,
            ideal_bytes=math.ceil(self._ledger.ideal_bits / 8),
            model_bytes=_bytes_below(embedded),
            items_bytes=_bytes_below(self._folder / "items"),
            payload_bytes=self._ledger.payload_bytes,
            archive_bytes=_bytes_below(self._folder),
            fallback_images=self._ledger.fallback_images,
            fallback_bytes=self._ledger.fallback_bytes,
        )
        refuse_irreplaceable(self.path, self._force, FORMAT)  # it may have come meanwhile
        replace_folder(self._folder, self.path, self._force)
        self._work.remove()


class _Part:
    """The part that grows."""

    def __init__(self, folder: Path, archive: int, number: int, channels: int) -> None:
        self._folder = folder
        self._archive = archive
        self._number = number
        self._channels = channels
        self._files = part_files(number)
        self._stream = (folder / self._files[1]).open("wb")
        self._hash = hashlib.sha256()
        self._names: list[str] = []
        self._blocks: list[npt.NDArray[np.int64]] = []
        self._indices: list[npt.NDArray[np.int64]] = []
        self._headers: list[Header] = []

    @property
    def entry(self) -> PartEntry:
        return PartEntry(images=len(self._names), blocks=len(self._headers))

    @property
    def payload_bytes(self) -> int:
        return sum(header.length for header in self._headers)

    @property
    def fallback_images(self) -> int:
        return sum(header.images for header in self._headers if header.codec != MODEL)

    @property
    def fallback_bytes(self) -> int:
        return sum(header.length for header in self._headers if header.codec != MODEL)

    def has_room_for(self, packed: PackedImages) -> bool:
        full = self.payload_bytes >= PART_BYTES
        return not full and len(self._names) + len(packed.names) <= PART_IMAGES

    def add(self, packed: PackedImages) -> None:
        self._names += packed.names
        self._blocks.append(packed.block + len(self._headers))
        self._indices.append(packed.index)
        for frame in packed.frames:
            number = self._number * PER_PART + len(self._headers)
            header, content = numbered(frame, number, self._archive)
            self._headers.append(header)
            self._stream.write(content)
            self._hash.update(content)

    def finish(self) -> dict[str, FileEntry]:
        """Writes the items and the index, syncs all three files and says what they hold."""
        length = np.array([header.length for header in self._headers])
        height = np.array([header.height for header in self._headers])
        width = np.array([header.width for header in self._headers])
        ends = np.cumsum(length + HEADER_SIZE)
        index = Index(
            offset=ends - length - HEADER_SIZE,
            length=length,
            count=np.array([header.images for header in self._headers]),
            height=height,
            width=width,
            codec=[header.codec for header in self._headers],
        )
        block = np.concatenate(self._blocks)
        items = Items(
            path=self._names,
            block=block,
            index=np.concatenate(self._indices),
            height=height[block],
            width=width[block],
            channels=np.full(len(block), self._channels),
            codec=[self._headers[number].codec for number in block.tolist()],
            archive=self._archive,
        )
        self.close()
        items_name, frames_name, index_name = self._files
        written = {
            frames_name: FileEntry(size=int(ends[-1]), sha256=self._hash.hexdigest()),
        }
        for name, content in ((items_name, items.to_bytes()), (index_name, index.to_bytes())):
            (self._folder / name).write_bytes(content)
            written[name] = FileEntry.of(content)
        for name in self._files:
            sync(self._folder / name)
            sync((self._folder / name).parent)
        return written

    def close(self) -> None:
        self._stream.close()


def _id_of(job: Mapping[str, str]) -> int:
    """What an archive and its frames are known by: the same whenever the same job runs."""
    digest = hashlib.sha256(json.dumps(job, sort_keys=True).encode()).digest()
    return int.from_bytes(digest[:4], "little") or 1  # 0 stands for none


def _bytes_below(folder: Path) -> int:
    return sum(file.stat().st_size for file in folder.rglob("*") if file.is_file())


def _check_name(name: str) -> None:
    try:
        size = len(name.encode())
    except UnicodeEncodeError as error:
        raise DataError(f"the name {name!r} is not valid text; rename it") from error
    if size > MAX_NAME:
        raise DataError(f"the name {name[:40]!r}... has {size} bytes; at most {MAX_NAME} are taken")
