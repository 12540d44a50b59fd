"""Reads an archive, in order or here and there; goes on where damage leaves something to read."""

from __future__ import annotations

import fnmatch
import hashlib
import os
import re
from collections import Counter, defaultdict
from collections.abc import Callable, Iterator
from contextlib import suppress
from dataclasses import dataclass
from functools import cached_property, partial
from pathlib import Path
from typing import NamedTuple

import numpy as np

from ..data.images import Group, Pixels
from ..entropy.tables import Codes
from ..errors import ArchiveError, ModelError, UnreadableImage
from ..model import Model, decoding_files
from ..untrusted import open_regular
from . import blocks
from .blocks import HEADER_SIZE, MAGICS, MODEL, PER_PART, CodedImages, CodeGroup, Header
from .fallback_blocks import unpack_stored
from .items import MAX_ROWS, MAX_UNPACKED, Index, Integers, Items
from .manifest import (
    MAX_MANIFEST,
    ArchiveManifest,
    DamagedManifest,
    part_files,
    read_manifest,
    read_small,
)

FOLDERS = ("items", "blocks", "model")  # what an archive consists of, beside its manifest
SEGMENT_IMAGES = 1024  # a segment is complete when it has them
SEGMENT_PIXELS = 1 << 24  # or these


class Place(NamedTuple):
    """Where a frame is, and what its header says."""

    codec: str
    offset: int
    length: int
    images: int
    height: int
    width: int

    @classmethod
    def of(cls, offset: int, header: Header) -> Place:
        size = header.height, header.width
        return cls(header.codec, offset, header.length, header.images, *size)


@dataclass(frozen=True)
class Part:
    """A part's images, and the place of each block that was found, by its ordinal."""

    number: int
    items: Items
    places: dict[int, Place]


@dataclass(frozen=True)
class Segment:
    """Some images, consecutive among those asked for; ``load`` may run in any thread."""

    count: int
    load: Callable[[], CodedImages]


class Archive:
    """An archive on disk.

    ``count``: its images. ``damage``: what is wrong with it as far as was read, one sentence
    each; ``segments`` adds to it. Images that are lost are named where they are loaded.
    """

    def __init__(self, path: Path, model: Model, manifest: ArchiveManifest | None) -> None:
        self.path = path
        self.model = model
        self.manifest = manifest
        self.damage: list[str] = []
        self._noted: set[str] = set()

    @classmethod
    def open(cls, path: str | Path, model: Model | None = None) -> Archive:
        """Opens an archive; decodes with the model inside unless one is given.

        Raises ArchiveError if this is no archive, has a newer version, was made with another
        model than the given one, or if the model inside is damaged and none is given.
        """
        path = Path(path)
        if not path.is_dir():
            raise ArchiveError(f"{path} is not an archive: there is no such folder")
        for name in FOLDERS:
            if (path / name).is_symlink():
                raise ArchiveError(f"{path}/{name} is a link, which is not followed")
        manifest, damage = None, []
        try:
            manifest = read_manifest(path)
        except DamagedManifest as error:
            if not (path / "blocks").is_dir():
                raise ArchiveError(f"{path} is not an archive: {error}") from error
            damage.append(f"{error}; read on from the parts themselves")
        archive = cls(path, _decoding_model(path, manifest, model), manifest)
        archive.damage += damage
        return archive

    @cached_property
    def count(self) -> int:
        """How many images it has; reads all items if the manifest is damaged."""
        if self.manifest is not None:
            return self.manifest.images
        return sum(len(self.part(number).items) for number in self.part_numbers())

    @cached_property
    def id(self) -> int:
        """What its frames must have; the most common one in its parts if the manifest is damaged.

        Of a part that has no items, its first frame tells.
        """
        if self.manifest is not None:
            return self.manifest.id
        found = Counter(self._id_of(number) for number in self.part_numbers())
        return max(found, key=lambda one: found[one], default=0)

    def _id_of(self, number: int) -> int:
        items, frames, _ = (self.path / name for name in part_files(number))
        with suppress(ArchiveError):
            return Items.from_bytes(read_small(items, MAX_UNPACKED)).archive
        with suppress(OSError):
            return next((header.archive for _, header in blocks.scan(frames)), 0)
        return 0

    def codecs(self) -> dict[str, int]:
        """How many images the model stored, and how many each fallback codec; reads all items."""
        parts = (self.part(number) for number in self.part_numbers())
        counts = Counter(codec for part in parts for codec in part.items.codec)
        return {codec: counts[codec] for codec in MAGICS if codec in counts}

    def part_numbers(self) -> list[int]:
        if self.manifest is not None:
            return list(range(len(self.manifest.parts)))
        names = [file.name for name in ("items", "blocks") for file in (self.path / name).glob("*")]
        matches = {re.fullmatch(r"part-(\d{5})\.(bin|parquet)", name) for name in names}
        return sorted({int(match[1]) for match in matches if match and int(match[1]) < PER_PART})

    def part(self, number: int) -> Part:
        """Reads the items and the index of a part, or finds out without them."""
        items_name, frames_name, index_name = part_files(number)
        try:
            index = Index.from_bytes(self._checked(index_name))
            rows = zip(
                index.codec,
                index.offset.tolist(),
                index.length.tolist(),
                index.count.tolist(),
                index.height.tolist(),
                index.width.tolist(),
                strict=True,
            )
            places = {block: Place(*row) for block, row in enumerate(rows)}
        except ArchiveError as error:
            self._note(f"{self.path}/{index_name} {error}; the blocks were found without it")
            places = self._scanned(number, self.path / frames_name)
        try:
            items = Items.from_bytes(self._checked(items_name))
        except ArchiveError as error:
            self._note(
                f"{self.path}/{items_name} {error}; its {self.model.spec.kind}s come in the order "
                f"of their blocks and are named damaged-{number:05d}/00000000 and so on"
            )
            items = _numbered_items(number, places, self.model.spec.channels)
        return Part(number, items, places)

    def _scanned(self, number: int, frames: Path) -> dict[int, Place]:
        """The places of a part's blocks, from their own headers."""
        places: dict[int, Place] = {}
        images = 0
        try:
            for offset, header in blocks.scan(frames):
                part, ordinal = divmod(header.number, PER_PART)
                if (part, header.archive) != (number, self.id):
                    continue
                images += header.images
                if ordinal not in places and images <= MAX_ROWS:
                    places[ordinal] = Place.of(offset, header)
        except OSError as error:
            self._note(f"{frames} cannot be read: {error.strerror}")
        return places

    def content(self, part: Part, block: int) -> Codes | Pixels:
        """The codes of a block, (n, *shape), or of one that a fallback stored its pixels,
        (n, H, W, C); ArchiveError, naming it, if they are lost."""
        where = f"block {block} of part {part.number}"
        place = part.places.get(block)
        if place is None:
            raise ArchiveError(f"{where} was not found")
        frames = self.path / part_files(part.number)[1]
        try:
            with open_regular(frames) as file:
                if place.offset + place.length > os.fstat(file.fileno()).st_size:
                    raise ArchiveError(f"{where} is cut off")
                file.seek(place.offset)
                frame = file.read(HEADER_SIZE + place.length)
        except OSError as error:
            raise ArchiveError(f"{where} cannot be read: {error.strerror}") from error
        header = Header.parse(frame)
        if header is None:
            raise ArchiveError(f"{where} is damaged: its header does not have its checksum")
        if (
            header.number != part.number * PER_PART + block
            or Place.of(place.offset, header) != place
        ):
            raise ArchiveError(f"{where} is not what its index says")
        if header.archive != self.id:
            raise ArchiveError(f"{where} belongs to another archive")
        frame = frame[: header.size + header.length]  # the header of version 1 is shorter
        try:
            self.model.spec.check(self.model.spec.shape_of(header.height, header.width))
        except UnreadableImage as error:
            raise ArchiveError(f"{where} {error}") from error
        spec = self.model.spec
        size = header.height * header.width * spec.bytes_per_place
        if not blocks.plausible(header, size, blocks.SURELY_BYTES):
            raise ArchiveError(
                f"{where} claims {self.model.spec.kind}s of {header.height}x{header.width}, "
                "for which its payload is too short"
            )
        if place.codec != MODEL:
            if self.model.spec.kind != "image":
                raise ArchiveError(f"{where} holds images, and this is an archive of vectors")
            return unpack_stored(frame, self.model.spec.channels)
        try:
            prior = self.model.prior
        except ModelError as error:
            raise ArchiveError(
                f"{where} needs the model, which is damaged ({error}); give the one that made it"
            ) from error
        return blocks.unpack(frame, prior, self.model.code)[0]

    def segments(self, only: str | None = None) -> Iterator[Segment]:
        """All images in order, or those whose whole name matches the glob ``only`` (in which *
        also stands for slashes). Blocks without a wanted image are not read."""
        pattern = re.compile(fnmatch.translate(only)) if only is not None else None
        for number in self.part_numbers():
            part = self.part(number)
            wanted = np.ones(len(part.items), bool)
            if pattern is not None:
                wanted[:] = [bool(pattern.match(name)) for name in part.items.path]
            for start, stop in _segment_edges(part.items):
                rows = start + np.flatnonzero(wanted[start:stop])
                if len(rows):
                    yield Segment(len(rows), partial(self.load, part, rows))

    def load(self, part: Part, rows: Integers) -> CodedImages:
        """The images of the rows, (n,), of a part's items, in that order; may run in any thread.

        Reads each block that holds one of them, once.
        """
        items = part.items
        coded: dict[tuple[int, int], list[tuple[Integers, Codes]]] = defaultdict(list)
        stored: list[Group] = []
        missing: dict[int, str] = {}
        for block in np.unique(items.block[rows]).tolist():
            positions = np.flatnonzero(items.block[rows] == block)
            try:
                content = self.content(part, block)
            except ArchiveError as error:
                missing |= dict.fromkeys(positions.tolist(), f"lost: {error}")
                continue
            place, of_block = part.places[block], rows[positions]
            sound = (
                (items.index[of_block] >= 0)
                & (items.index[of_block] < place.images)
                & (items.height[of_block] == place.height)
                & (items.width[of_block] == place.width)
            )
            missing |= dict.fromkeys(
                positions[~sound].tolist(),
                f"lost: block {block} has no such {self.model.spec.kind}",
            )
            chosen = content[items.index[of_block[sound]]]
            if not len(chosen):
                continue
            if place.codec == MODEL:
                coded[place.height, place.width].append((positions[sound], chosen))
            else:
                stored.append(Group(positions[sound], chosen))
        groups = [
            CodeGroup(
                np.concatenate([positions for positions, _ in pieces]),
                height,
                width,
                np.concatenate([codes for _, codes in pieces]),
            )
            for (height, width), pieces in coded.items()
        ]
        return CodedImages([items.path[row] for row in rows], groups, missing, stored)

    def _checked(self, name: str) -> bytes:
        """A small file's content; ArchiveError, without its name, unless the manifest agrees."""
        content = read_small(self.path / name, MAX_UNPACKED)
        if self.manifest is not None:
            entry = self.manifest.files.get(name)
            if entry is None or entry.sha256 != hashlib.sha256(content).hexdigest():
                raise ArchiveError("is damaged: it does not have the hash in the manifest")
        return content

    def _note(self, sentence: str) -> None:
        if sentence not in self._noted:
            self._noted.add(sentence)
            self.damage.append(sentence)


def _decoding_model(path: Path, manifest: ArchiveManifest | None, given: Model | None) -> Model:
    """The model that the archive was made with: no other gives the right pixels."""
    if given is not None:
        known = manifest.model == given.digest if manifest else _proves(path, given)
        if not known:
            raise ArchiveError(
                f"{path} was made with another model than {given.location}, or does not tell; "
                "give the model it was made with, or none to use the one inside"
            )
        return given
    if not (path / "model").is_dir():
        raise ArchiveError(f"{path} has no model inside; give the model that it was made with")
    try:
        model = Model.open(path / "model")
        names = decoding_files(model.manifest)
        # There are none of them where a fallback stored every image.
        if any(list((path / "model").glob(f"{name}*")) for name in names):
            for name in names:
                model.read(name)
            model.prior  # noqa: B018  (parses the tables)
    except ModelError as error:
        raise ArchiveError(
            f"the model inside {path} is damaged ({error}); give the model that it was made with"
        ) from error
    if manifest is not None and manifest.model != model.digest:
        raise ArchiveError(
            f"the model inside {path} was swapped; give the model that the archive was made with"
        )
    return model


def _proves(path: Path, given: Model) -> bool:
    """Whether what is left of the archive shows that ``given`` made it: a SHA-256 that damage
    hit does not equal another one by chance."""
    try:
        return given.digest.encode() in read_small(path / "manifest.json", MAX_MANIFEST)
    except ArchiveError:
        pass
    try:
        return Model.open(path / "model").digest == given.digest
    except ModelError:
        return False


def _numbered_items(part: int, places: dict[int, Place], channels: int) -> Items:
    """Items in the order of the blocks, for a part that lost its own."""
    ordinals = sorted(places)
    counts = [places[ordinal].images for ordinal in ordinals]
    total = sum(counts)

    def column(values: list[int]) -> Integers:
        return np.repeat(np.array(values, np.int64), counts)

    return Items(
        path=[f"damaged-{part:05d}/{number:08d}" for number in range(total)],
        block=column(ordinals),
        index=np.concatenate([np.arange(count) for count in [0, *counts]]),
        height=column([places[ordinal].height for ordinal in ordinals]),
        width=column([places[ordinal].width for ordinal in ordinals]),
        channels=np.full(total, channels),
        codec=[
            places[ordinal].codec for ordinal in ordinals for _ in range(places[ordinal].images)
        ],
    )


def _segment_edges(items: Items) -> Iterator[tuple[int, int]]:
    """Runs of rows that hold all the rows of their blocks, none longer than it must be."""
    rows = np.arange(len(items))
    _, block = np.unique(items.block, return_inverse=True)
    last_row = np.zeros(len(items), np.int64)
    np.maximum.at(last_row, block, rows)
    complete = np.maximum.accumulate(last_row[block]) == rows
    pixels = np.cumsum(items.height * items.width)
    start, before = 0, 0
    for row in np.flatnonzero(complete).tolist():
        large = row + 1 - start >= SEGMENT_IMAGES or pixels[row] - before >= SEGMENT_PIXELS
        if large or row + 1 == len(items):
            yield start, row + 1
            start, before = row + 1, int(pixels[row])
