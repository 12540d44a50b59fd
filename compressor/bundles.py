"""Files beside a manifest that has their hashes: a folder, the same as one zip, or in memory.

manifest.json says what they are and has the SHA-256 of each; manifest.sha256 vouches for it.
"""

from __future__ import annotations

import hashlib
import json
import zipfile
from collections.abc import Collection, Mapping
from contextlib import suppress
from itertools import chain
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, Generic, Self, TypeVar

from .errors import CompressorError
from .files import (
    atomic_file,
    atomic_folder,
    finish_together,
    is_leftover,
    read_current,
    refuse_existing,
    refuse_irreplaceable,
)
from .manifests import HASH, MANIFEST, FileEntry, ManifestFormat, hash_line
from .onnx_bytes import OPERATORS, refuse_foreign
from .untrusted import ZIP_ERRORS, checked_zip, plain_name

if TYPE_CHECKING:
    import numpy.typing as npt

WEIGHTS = "weights.safetensors"
MAX_MANIFEST = 64 << 20  # a column of vectors takes about 80 bytes


AnyManifest = TypeVar("AnyManifest", bound=Any)  # a pydantic model with ``files``


class Bundle(Generic[AnyManifest]):
    """What ``open`` and ``from_files`` give; subclasses set ``format`` and say what is in it.

    All methods raise the format's error for what is missing, altered, damaged or too new.
    """

    format: ClassVar[ManifestFormat[Any]]
    operators: ClassVar[Collection[str]] = OPERATORS  # that its graphs may have

    def __init__(
        self, location: Path, manifest: AnyManifest, files: Mapping[str, bytes] | None = None
    ) -> None:
        self.location = location
        self._files = files
        self.manifest = manifest

    @classmethod
    def open(cls, location: str | Path) -> Self:
        """Reads the manifest, and no more yet."""
        location = Path(location)
        with suppress(OSError):  # where nothing can be written, it is read as it is
            finish_together(location)
        for _ in range(3):  # a process may replace both between the two readings
            text = cls._stored_at(location, MANIFEST, MAX_MANIFEST)
            stored_hash = cls._stored_at(location, HASH, 1000)
            if text is not None and stored_hash == hash_line(text):
                break
        return cls(location, cls._checked_manifest(text, stored_hash, location))

    @classmethod
    def from_files(cls, files: Mapping[str, bytes]) -> Self:
        """One in memory, from what ``contents`` gives; it can be pickled."""
        location = Path(f"the {cls.format.kind} in memory")
        for name in files:
            cls._refuse_unsafe_name(location, name)
        manifest = cls._checked_manifest(files.get(MANIFEST), files.get(HASH), location)
        return cls(location, manifest, files)

    def __reduce__(self) -> tuple[Any, ...]:
        if self._files is None:
            return type(self).open, (self.location,)
        return type(self).from_files, (self._files,)

    @property
    def files(self) -> Collection[str]:
        """The names of its files."""
        names: Collection[str] = self.manifest.files.keys()
        return names

    def contents(self) -> dict[str, bytes]:
        """The content of every file, checked, as ``from_files`` and ``write`` take them."""
        manifest = {name: self._stored(name, MAX_MANIFEST) for name in (MANIFEST, HASH)}
        files = {name: self.read(name) for name in self.files}
        return files | {name: content for name, content in manifest.items() if content is not None}

    def read(self, name: str) -> bytes:
        """A file's content, decompressed and checked against its SHA-256.

        A graph that could read files or run for ever is refused, too: see onnx_bytes.py.
        """
        entry: FileEntry | None = self.manifest.files.get(name)
        if entry is None:
            raise self.format.error(f"{self.location} has no {name}")
        content = self._stored(name, entry.size)
        if content is None:
            content = self._read_packed(name, entry.size)
        if len(content) != entry.size or hashlib.sha256(content).hexdigest() != entry.sha256:
            raise self.format.error(
                f"{self.location}/{name} does not have the hash in the manifest: "
                f"it was altered, swapped or damaged; take a good copy of the {self.format.kind}"
            )
        if name.endswith(".onnx"):
            refuse_foreign(content, f"{self.location}/{name}", self.operators)
        return content

    def weights(self) -> dict[str, npt.NDArray[Any]]:
        """Tensors by name, of what can be trained further."""
        from safetensors import SafetensorError
        from safetensors.numpy import load

        try:
            return load(self.read(WEIGHTS))
        except (SafetensorError, KeyError, ValueError, TypeError) as error:
            reason = " ".join(str(error).split())[:200]
            raise self.format.error(
                f"{self.location}/{WEIGHTS} is damaged: {reason}; "
                f"take a good copy of the {self.format.kind}"
            ) from error

    def _read_packed(self, name: str, size: int) -> bytes:
        """Of a file that is not there as it is: subclasses may have it in another form."""
        raise self.format.error(
            f"{self.location}/{name} is missing; take a good copy of the {self.format.kind}"
        )

    def _names_of(self, name: str) -> Collection[str]:
        """Under which names a file may be stored."""
        return [name]

    def check(self) -> list[str]:
        """What is wrong with its files, one sentence each; empty when all is well."""
        problems = []
        for name in self.files:
            try:
                self.read(name)
            except CompressorError as error:
                problems.append(str(error))
        known = {MANIFEST, HASH, *chain.from_iterable(map(self._names_of, self.files))}
        for name in self._files or _names(self.location):
            if name not in known:
                problems.append(f"{self.location}/{name} does not belong to the {self.format.kind}")
        return problems

    def _stored(self, name: str, limit: int) -> bytes | None:
        if self._files is not None:
            return self._files.get(name)
        return self._stored_at(self.location, name, limit)

    @classmethod
    def _checked_manifest(
        cls, text: bytes | None, stored_hash: bytes | None, location: Path
    ) -> AnyManifest:
        kind, error = cls.format.kind, cls.format.error
        if text is None:
            raise error(f"{location} is not {cls.format.a_kind}: it has no {MANIFEST}")
        if stored_hash is None:
            raise error(f"{location} has no {HASH}: take a good copy of the {kind}")
        if stored_hash != hash_line(text):
            raise error(
                f"{location}/{MANIFEST} does not have the hash in {HASH}: "
                f"the {kind} was altered or damaged; take a good copy"
            )
        manifest: AnyManifest = cls.format.parse(text, location)
        return manifest

    @classmethod
    def _stored_at(cls, location: Path, name: str, limit: int) -> bytes | None:
        """The bytes of a file as stored, at most ``limit`` + 1 of them; None if absent."""
        cls._refuse_unsafe_name(location, name)
        try:
            return _stored(location, name, limit)
        except FileNotFoundError as error:
            raise cls.format.error(f"there is no {cls.format.kind} at {location}") from error
        except ZIP_ERRORS as error:
            reason = error.strerror if isinstance(error, OSError) and error.strerror else error
            raise cls.format.error(
                f"{location} cannot be read as {cls.format.a_kind}: {name}: {reason}"
            ) from error

    @classmethod
    def _refuse_unsafe_name(cls, location: Path, name: str) -> None:
        try:
            plain_name(name)
        except ValueError as error:
            raise cls.format.error(f"{location} is not {cls.format.a_kind}: {error}") from error

    @classmethod
    def refuse_output(cls, path: Path, force: bool) -> None:
        """Raises OutputError if one must not be written to ``path``."""
        if path.suffix == ".zip":
            refuse_existing(path, force)
        else:
            refuse_irreplaceable(path, force, cls.format.name)

    @classmethod
    def write(cls, path: Path, files: Mapping[str, bytes], force: bool) -> None:
        """Writes all files as a folder, or as one zip if ``path`` ends in .zip."""
        cls.refuse_output(path, force)
        for name in files:
            cls._refuse_unsafe_name(path, name)
        if path.suffix == ".zip":
            with (
                atomic_file(path, force) as temporary,
                zipfile.ZipFile(temporary, "w", zipfile.ZIP_DEFLATED) as archive,
            ):
                for name, content in files.items():
                    archive.writestr(zipfile.ZipInfo(name), content, zipfile.ZIP_DEFLATED)
        else:
            with atomic_folder(path, force) as temporary:
                for name, content in files.items():
                    (temporary / name).write_bytes(content)


def format_of(location: str | Path) -> str | None:
    """What a manifest there says that it is the manifest of; None where none can be read."""
    try:
        return str(json.loads(_stored(Path(location), MANIFEST, MAX_MANIFEST) or b"")["format"])
    except (*ZIP_ERRORS, ValueError, KeyError, TypeError, RecursionError):
        return None


def _stored(location: Path, name: str, limit: int) -> bytes | None:
    if location.is_dir():
        return read_current(location, name, limit)
    with zipfile.ZipFile(location) as archive:
        checked_zip(archive, location.stat().st_size)
        if name not in archive.NameToInfo:
            return None
        with archive.open(name) as member:
            return member.read(limit + 1)


def _names(location: Path) -> list[str]:
    if location.is_dir():
        own = [path for path in location.iterdir() if not is_leftover(path.name)]
        below = chain.from_iterable([path, *path.rglob("*")] for path in own)
        return sorted(path.relative_to(location).as_posix() for path in below)
    with zipfile.ZipFile(location) as archive:
        return archive.namelist()
