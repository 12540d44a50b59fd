"""What the manifests of models, archives and results share: files and their hashes, and parsing.

manifest.json says what stands beside it, with the SHA-256 of every file; manifest.sha256 vouches
for manifest.json and is written as sha256sum does.
"""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Generic, TypeVar

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, ValidationError

from . import __version__
from .errors import CompressorError
from .untrusted import open_regular, plain_name

MANIFEST, HASH = "manifest.json", "manifest.sha256"
MAX_SIZE = 1 << 50  # bytes of a file: no number that arithmetic or an allocation trips over
MAX_FILES = 1000  # of a model
PlainName = Annotated[str, AfterValidator(plain_name)]


class FileEntry(BaseModel):
    """A file's content: its size in bytes and SHA-256 in hex, before any compression."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    size: int = Field(ge=0, le=MAX_SIZE)
    sha256: str = Field(pattern=r"^[0-9a-f]{64}$")

    @classmethod
    def of(cls, content: bytes) -> FileEntry:
        """That of a content in memory."""
        return cls(size=len(content), sha256=hashlib.sha256(content).hexdigest())

    @classmethod
    def of_file(cls, path: Path) -> FileEntry:
        """That of a file, which is no link; reads it in pieces. Raises OSError."""
        with open_regular(path) as file:
            size = os.fstat(file.fileno()).st_size
            return cls(size=size, sha256=hashlib.file_digest(file, "sha256").hexdigest())


def file_entries(contents: Mapping[str, bytes]) -> dict[str, FileEntry]:
    """Of contents by name, in the order of names."""
    return {name: FileEntry.of(content) for name, content in sorted(contents.items())}


def hash_line(text: bytes) -> bytes:
    """The content of manifest.sha256, for sha256sum -c."""
    return f"{hashlib.sha256(text).hexdigest()}  {MANIFEST}\n".encode()


def with_hash(text: bytes) -> dict[str, bytes]:
    """manifest.json and manifest.sha256."""
    return {MANIFEST: text, HASH: hash_line(text)}


def first_problem(error: ValidationError) -> tuple[str, str]:
    """The field that pydantic found wrong first, with dots, and what is wrong with it."""
    problem = error.errors()[0]
    field = " ".join(".".join(map(str, problem["loc"])).split())
    return field[:200], problem["msg"].removeprefix("Value error, ")


AnyManifest = TypeVar("AnyManifest", bound=BaseModel)


@dataclass(frozen=True)
class ManifestFormat(Generic[AnyManifest]):
    """A kind of manifest: its keys "format" and "format_version", and what it is the manifest of.

    kind: "model" or "archive"; versions: those that can be read, ascending; error: what ``parse``
    raises; max_files: how many files it may list; file_name: raises ValueError for other names.
    """

    name: str
    kind: str
    versions: Sequence[int]
    manifest: type[AnyManifest]
    error: type[CompressorError]
    max_files: int = MAX_FILES
    file_name: Callable[[str], str] = plain_name

    @property
    def a_kind(self) -> str:
        """With its article."""
        return f"{'an' if self.kind[0] in 'aeiou' else 'a'} {self.kind}"

    def parse(self, text: bytes, location: object) -> AnyManifest:
        """Raises ``error``, which says whether it is damaged, of something else or too new.

        location: what it is the manifest of, for the message.
        """
        try:
            content = json.loads(text)
            name, version = content["format"], content["format_version"]
        except (ValueError, KeyError, TypeError, RecursionError) as error:
            raise self.error(
                f"{location}/{MANIFEST} is not the manifest of {self.a_kind}"
            ) from error
        if name != self.name:
            raise self.error(f"{location} is a {name}, not {self.a_kind}")
        if type(version) is not int or version not in self.versions:
            first, last = self.versions[0], self.versions[-1]
            known = f"version {last}" if first == last else f"versions {first} to {last}"
            raise self.error(
                f"{location} has {self.kind} format version {version}; compressor {__version__} "
                f"reads {known}: update compressor"
            )
        self._refuse_files(content.get("files"), location)
        try:
            return self.manifest.model_validate(content)
        except ValidationError as error:
            field, problem = first_problem(error)
            raise self.error(f"{location}/{MANIFEST}: field {field}: {problem}") from error

    def _refuse_files(self, files: object, location: object) -> None:
        """Raises ``error`` at the first wrong entry: pydantic lists them all, and there may be
        hundreds of thousands."""
        if not isinstance(files, dict):
            return
        if len(files) > self.max_files:
            raise self.error(f"{location}/{MANIFEST} has {len(files)} files, which no writer makes")
        for name, entry in files.items():
            try:
                self.file_name(name)
                FileEntry.model_validate(entry)
            except ValidationError as error:
                field, problem = first_problem(error)
                where = f"field files.{name[:100]}.{field}".rstrip(".")
                raise self.error(f"{location}/{MANIFEST}: {where}: {problem}") from error
            except ValueError as error:
                raise self.error(f"{location}/{MANIFEST}: field files: {error}") from error
