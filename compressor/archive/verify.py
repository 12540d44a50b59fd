"""Everything that is wrong with an archive: hashes, checksums, every code, and that all agree."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

import numpy as np

from ..errors import ArchiveError
from ..manifests import FileEntry
from ..model import Model
from .blocks import PER_PART, scan
from .manifest import ArchiveManifest, DamagedManifest, part_files, read_manifest
from .reader import Archive, Part, Place


def verify_archive(path: Path, model: Model | None = None) -> list[str]:
    """One sentence for each thing that is wrong; empty if all is well.

    A changed, missing or additional byte in any file is found. Decodes the codes of all blocks,
    and the images that a fallback stored. Raises ArchiveError if ``path`` is no archive, or has a
    newer version; MissingDependency if the fallback's codec is not installed.
    """
    problems: dict[str, None] = {}
    lengths: set[int] = set()
    for problem in iterate_problems(path, model):
        # One that begins like an earlier one has a cause that was named already.
        if not any(problem[:length] in problems for length in lengths):
            problems[problem] = None
            lengths.add(len(problem))
    return list(problems)


def iterate_problems(path: Path, model: Model | None = None) -> Iterator[str]:
    """What verify_archive lists, as it is found: changed files first."""
    try:
        yield from _check_files(path, read_manifest(path))
    except DamagedManifest as error:
        yield str(error)
    try:
        archive = Archive.open(path, model)
    except ArchiveError as error:
        yield str(error)
        return
    images = 0
    for number in archive.part_numbers():
        part = archive.part(number)
        yield from _check_part(archive, part)
        images += len(part.items)
    if images != archive.count:
        kind = archive.model.spec.kind
        yield f"{path}: the manifest counts {archive.count} {kind}s, the items {images}"
    yield from archive.damage


def _check_files(path: Path, manifest: ArchiveManifest) -> Iterator[str]:
    """Compares what is on disk with the manifest, which is the only judge of names."""
    present = {
        (Path(folder) / name).relative_to(path).as_posix()
        for folder, folders, names in os.walk(path)
        for name in [*names, *(name for name in folders if (Path(folder) / name).is_symlink())]
    }
    present -= {"manifest.json", "manifest.sha256"}
    for name in sorted(present | manifest.files.keys()):
        if name not in present:
            yield f"{path}/{name} is missing"
        elif name not in manifest.files:
            yield f"{path}/{name} does not belong to the archive"
        else:
            try:
                if FileEntry.of_file(path / name) != manifest.files[name]:
                    yield f"{path}/{name} is damaged: it does not have the hash in the manifest"
            except OSError as error:
                yield f"{path}/{name} cannot be read: {error.strerror}"


def _check_part(archive: Archive, part: Part) -> Iterator[str]:
    """Frames that fill their file and agree with the index, that decode, images once each."""
    name = f"{archive.path}/{part_files(part.number)[1]}"
    end = ordinal = 0
    try:
        for offset, header in scan(Path(name)):
            if offset != end:
                yield f"{name}: bytes {end} to {offset} hold no block"
            place = part.places.get(ordinal)
            number = part.number * PER_PART + ordinal
            if header.number != number or place != Place.of(offset, header):
                yield f"{name}: block {ordinal} and the index do not agree"
            end, ordinal = offset + header.size + header.length, ordinal + 1
        if Path(name).lstat().st_size != end:
            yield f"{name}: no block after byte {end}"
    except OSError as error:
        yield f"{name} cannot be read: {error.strerror}"
    if ordinal != len(part.places):
        yield f"{name} has {ordinal} blocks, the index {len(part.places)}"

    for block in sorted(part.places):
        try:
            archive.content(part, block)
        except ArchiveError as error:
            yield f"{name}: {error}"

    items, kind = part.items, archive.model.spec.kind
    held = [(block, at) for block, place in part.places.items() for at in range(place.images)]
    if sorted(zip(items.block.tolist(), items.index.tolist(), strict=True)) != sorted(held):
        yield f"{archive.path}: part {part.number} does not have each {kind} exactly once"
    else:
        places = [part.places[block] for block in items.block.tolist()]
        sizes = np.array([(place.height, place.width) for place in places]).reshape(-1, 2)
        if not np.array_equal(sizes, np.stack([items.height, items.width], axis=1)):
            yield f"{archive.path}: part {part.number} has items of another size"
        if items.codec != [place.codec for place in places]:
            yield f"{archive.path}: part {part.number} has items of another codec"
    if np.any(items.channels != archive.model.spec.channels):
        yield f"{archive.path}: part {part.number} has items with other channels"
