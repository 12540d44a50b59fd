"""manifest.json of an archive, and manifest.sha256 that vouches for it."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path
from typing import Final, Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from .. import __version__
from ..data.images import Unreadable
from ..errors import ArchiveError
from ..files import sha256
from ..model import FileEntry
from ..spec import DataSpec

FORMAT: Final = "compressor-archive"
FORMAT_VERSION: Final = 3
# 1 knows no images that a fallback codec stored; 1 and 2 have a model's files in xz
READ_VERSIONS: Final = (1, 2, 3)
MAX_MANIFEST = 1 << 28  # bytes


class PartEntry(BaseModel):
    """What a part holds."""

    model_config = ConfigDict(frozen=True)

    images: int = Field(ge=1)
    blocks: int = Field(ge=1)


class ArchiveManifest(BaseModel):
    """manifest.json. Readers ignore keys they do not know: those may come in any version."""

    model_config = ConfigDict(frozen=True, extra="ignore")

    format: Literal["compressor-archive"] = FORMAT
    format_version: Literal[1, 2, 3] = FORMAT_VERSION
    created_by: str = f"compressor {__version__}"
    images: int
    unreadable: Unreadable = Unreadable()
    data: DataSpec
    model: str  # the digest of the model, embedded or not
    parts: tuple[PartEntry, ...]
    files: dict[str, FileEntry]  # all but the manifest and its hash

    def to_files(self) -> dict[str, bytes]:
        """manifest.json and manifest.sha256."""
        text = (self.model_dump_json(indent=1) + "\n").encode()
        return {"manifest.json": text, "manifest.sha256": hash_line(text)}


class DamagedManifest(ArchiveError):
    """manifest.json or manifest.sha256 is damaged or missing: nothing in them is to be believed."""


def part_files(part: int) -> tuple[str, str, str]:
    """The items, frames and index of a part, relative to the archive."""
    return (
        f"items/part-{part:05d}.parquet",
        f"blocks/part-{part:05d}.bin",
        f"blocks/part-{part:05d}.parquet",
    )


def hash_line(text: bytes) -> bytes:
    """The content of manifest.sha256, for sha256sum -c."""
    return f"{hashlib.sha256(text).hexdigest()}  manifest.json\n".encode()


def read_small(path: Path, limit: int) -> bytes:
    """A whole file of at most ``limit`` bytes; ArchiveError if it is missing or larger."""
    try:
        with path.open("rb") as file:
            content = file.read(limit + 1)
    except FileNotFoundError as error:
        raise ArchiveError("is missing") from error
    except OSError as error:
        raise ArchiveError(f"cannot be read: {error.strerror}") from error
    if len(content) > limit:
        raise ArchiveError(f"is larger than {limit} bytes, which no writer makes")
    return content


def read_manifest(folder: Path) -> ArchiveManifest:
    """The manifest, if its hash vouches for it, or DamagedManifest.

    Raises ArchiveError if it belongs to something else or to a newer version.
    """
    try:
        text = read_small(folder / "manifest.json", MAX_MANIFEST)
    except ArchiveError as error:
        raise DamagedManifest(f"{folder}/manifest.json {error}") from error
    try:
        line = read_small(folder / "manifest.sha256", 1000)
    except ArchiveError as error:
        raise DamagedManifest(f"{folder}/manifest.sha256 {error}") from error
    if line != hash_line(text):
        raise DamagedManifest(
            f"{folder}/manifest.json does not have the hash in manifest.sha256: one is damaged"
        )
    try:
        data = json.loads(text)
        name, version = data["format"], data["format_version"]
    except (ValueError, KeyError, TypeError, RecursionError) as error:
        raise ArchiveError(f"{folder}/manifest.json is not an archive's manifest") from error
    if name != FORMAT:
        raise ArchiveError(f"{folder} is a {name}, not an archive")
    if version not in READ_VERSIONS:
        raise ArchiveError(
            f"{folder} has archive format version {version}; compressor {__version__} reads "
            f"versions {READ_VERSIONS[0]} to {READ_VERSIONS[-1]}: update compressor"
        )
    try:
        return ArchiveManifest.model_validate(data)
    except ValidationError as error:
        first = error.errors()[0]
        field = ".".join(map(str, first["loc"]))
        raise ArchiveError(f"{folder}/manifest.json: field {field}: {first['msg']}") from error


def entry_of(path: Path) -> FileEntry:
    return FileEntry(size=path.stat().st_size, sha256=sha256(path))
