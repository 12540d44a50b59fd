"""manifest.json of an archive, and manifest.sha256 that vouches for it."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Annotated, Final, Literal

from pydantic import AfterValidator, BaseModel, ConfigDict, Field

from .. import __version__
from ..data.images import Unreadable
from ..errors import ArchiveError
from ..manifests import HASH, MANIFEST, MAX_FILES, FileEntry, ManifestFormat, hash_line, with_hash
from ..spec import DataSpec
from ..untrusted import plain_name, read_regular

FORMAT: Final = "compressor-archive"
FORMAT_VERSION: Final = 4
# 1 knows no images that a fallback codec stored; 1 and 2 have a model's files in xz; up to 3 frames
# do not name their archive
READ_VERSIONS: Final = (1, 2, 3, 4)
MAX_MANIFEST = 1 << 26  # bytes; a part, of which there are at most 2^16, takes about 700
MAX_PARTS = 1 << 16
MAX_OF_PART = 1 << 16  # images, and blocks
_PARTS = re.compile(r"(items/part-\d{5}\.parquet|blocks/part-\d{5}\.(bin|parquet))", re.ASCII)


def archive_name(name: str) -> str:
    """``name``; ValueError unless an archive has a file of that name."""
    if not _PARTS.fullmatch(name):
        if not name.startswith("model/"):
            raise ValueError(f"{name[:100]!r} is not the name of a file of an archive")
        plain_name(name.removeprefix("model/"))
    return name


class PartEntry(BaseModel):
    """What a part holds."""

    model_config = ConfigDict(frozen=True)

    images: int = Field(ge=1, le=MAX_OF_PART)
    blocks: int = Field(ge=1, le=MAX_OF_PART)


class ArchiveManifest(BaseModel):
    """manifest.json. Readers ignore keys they do not know: those may come in any version."""

    model_config = ConfigDict(frozen=True, extra="ignore")

    format: Literal["compressor-archive"] = FORMAT
    format_version: Literal[1, 2, 3, 4] = FORMAT_VERSION
    id: int = Field(default=0, ge=0, lt=1 << 32)  # which its frames have, too
    created_by: str = f"compressor {__version__}"
    images: int = Field(ge=0, le=MAX_PARTS * MAX_OF_PART)
    unreadable: Unreadable = Unreadable()
    data: DataSpec
    model: str  # the digest of the model, embedded or not
    parts: tuple[PartEntry, ...] = Field(max_length=MAX_PARTS)
    files: dict[
        Annotated[str, AfterValidator(archive_name)], FileEntry
    ]  # all but the manifest and its hash

    def to_files(self) -> dict[str, bytes]:
        """manifest.json and manifest.sha256."""
        text = (self.model_dump_json(indent=1) + "\n").encode()
        return with_hash(text)


MANIFEST_FORMAT = ManifestFormat(
    FORMAT,
    "archive",
    READ_VERSIONS,
    ArchiveManifest,
    ArchiveError,
    max_files=3 * MAX_PARTS + MAX_FILES,
    file_name=archive_name,
)


class DamagedManifest(ArchiveError):
    """manifest.json or manifest.sha256 is damaged or missing: nothing in them is to be believed."""


def part_files(part: int) -> tuple[str, str, str]:
    """The items, frames and index of a part, relative to the archive."""
    return (
        f"items/part-{part:05d}.parquet",
        f"blocks/part-{part:05d}.bin",
        f"blocks/part-{part:05d}.parquet",
    )


def read_small(path: Path, limit: int) -> bytes:
    """A whole file of at most ``limit`` bytes; ArchiveError if it is missing or larger."""
    try:
        content = read_regular(path, limit)
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
        text = read_small(folder / MANIFEST, MAX_MANIFEST)
    except ArchiveError as error:
        raise DamagedManifest(f"{folder}/{MANIFEST} {error}") from error
    try:
        line = read_small(folder / HASH, 1000)
    except ArchiveError as error:
        raise DamagedManifest(f"{folder}/{HASH} {error}") from error
    if line != hash_line(text):
        raise DamagedManifest(
            f"{folder}/{MANIFEST} does not have the hash in {HASH}: one is damaged"
        )
    return MANIFEST_FORMAT.parse(text, folder)
