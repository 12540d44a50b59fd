"""Outputs that are whole or absent: written under a temporary name, synced, then renamed."""

from __future__ import annotations

import errno
import hashlib
import json
import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from .errors import OutputError


def sha256(path: Path) -> str:
    """The SHA-256 of a file, in hex; reads in pieces."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


@contextmanager
def output_errors(path: Path) -> Iterator[None]:
    """Turns the system's errors while writing ``path`` into an OutputError that says what to do."""
    try:
        yield
    except OSError as error:
        advice = {
            errno.ENOSPC: "the disk is full; free some space and run the command again",
            errno.EDQUOT: "the disk quota is used up; free some space and run the command again",
            errno.EFBIG: "the file would be larger than the system allows",
            errno.EACCES: "no permission to write there; choose another output",
            errno.EPERM: "no permission to write there; choose another output",
            errno.EROFS: "the file system is read-only; choose another output",
            errno.ENOTDIR: "a part of its path is a file; choose another output",
            errno.ENOENT: "its folder cannot be made; choose another output",
        }.get(error.errno or 0, error.strerror or str(error))
        raise OutputError(f"cannot write {path}: {advice}") from error


def refuse_existing(path: Path, force: bool) -> None:
    """Raises OutputError if ``path`` exists (a broken link included) and ``force`` is not given."""
    if os.path.lexists(path) and not force:
        raise OutputError(f"{path} exists; give force=True to replace it, or another output")


def refuse_input(output: Path, *inputs: object) -> None:
    """Raises OutputError if ``output`` is one of the inputs, or a folder that one of them is in.

    inputs: paths as users give them, ``file.npz::key`` included; anything but paths is ignored.
    """
    target = output.absolute().resolve()
    for given in inputs:
        if not isinstance(given, str | os.PathLike):
            continue
        text = os.fspath(given)
        path = Path(text if os.path.lexists(text) else text.partition("::")[0]).resolve()
        if path == target or (path.exists() and target in path.parents and target.exists()):
            raise OutputError(f"{output} holds the input {given}; choose another output")


def sync(path: Path) -> None:
    """Makes a file, or the entries of a folder, survive a power cut."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def write_atomically(path: Path, data: bytes) -> None:
    """Writes a small file so that ``path`` holds the old bytes or all the new ones."""
    with output_errors(path):
        temporary = temporary_beside(path)
        try:
            with temporary.open("wb") as file:
                file.write(data)
                file.flush()
                os.fsync(file.fileno())
            temporary.replace(path)
        except BaseException:
            temporary.unlink(missing_ok=True)
            raise


def temporary_beside(path: Path) -> Path:
    """A name in the same folder, and so on the same file system, that no reader looks at."""
    path = path.absolute()  # the name of "." is empty
    return path.with_name(f".{path.name}.{os.getpid()}.partial")


@contextmanager
def atomic_file(path: Path, force: bool) -> Iterator[Path]:
    """Yields a temporary path; it takes the name ``path`` if the body ends without an error."""
    refuse_existing(path, force)
    temporary = temporary_beside(path)
    with output_errors(path):
        path.parent.mkdir(parents=True, exist_ok=True)
        try:
            yield temporary
            sync(temporary)
            temporary.replace(path)
            sync(path.parent)
        finally:
            temporary.unlink(missing_ok=True)


@contextmanager
def atomic_folder(path: Path, force: bool) -> Iterator[Path]:
    """Yields a new empty folder; it takes the name ``path`` if the body ends without an error.

    With ``force`` an existing file or folder of that name is replaced, in the last moment.
    """
    refuse_existing(path, force)
    temporary = temporary_beside(path)
    with output_errors(path):
        path.parent.mkdir(parents=True, exist_ok=True)
        shutil.rmtree(temporary, ignore_errors=True)
        temporary.mkdir()
        try:
            yield temporary
            replace_folder(temporary, path)
        finally:
            shutil.rmtree(temporary, ignore_errors=True)


def replace_folder(new: Path, path: Path) -> None:
    """Renames the folder ``new`` to ``path``; what stood there goes only after that."""
    for entry in new.rglob("*"):
        sync(entry)
    sync(new)
    path = path.absolute()
    old = path.with_name(f".{path.name}.{os.getpid()}.old")
    if os.path.lexists(path):
        path.rename(old)
    try:
        new.rename(path)
    except BaseException:
        if os.path.lexists(old):
            old.rename(path)
        raise
    sync(path.parent)
    if old.is_dir() and not old.is_symlink():
        shutil.rmtree(old)
    else:
        old.unlink(missing_ok=True)


def refuse_irreplaceable(
    path: Path, force: bool, format_name: str, manifest_name: str = "manifest.json"
) -> None:
    """Raises OutputError unless ``path`` is free, or ``force`` is given and replacing it is safe.

    Safe to replace: an empty folder, or one whose manifest says ``format_name``; whatever else
    stands there may be a user's own data, and ``force`` must not cost them that.
    """
    refuse_existing(path, force)
    if not os.path.lexists(path):
        return
    try:
        entries = {
            entry.relative_to(path).as_posix() for entry in path.rglob("*") if not entry.is_dir()
        }
        empty = not any(path.iterdir())
        manifest = {} if empty else json.loads((path / manifest_name).read_text())
        known = {manifest_name, "manifest.sha256", *manifest.get("files", {})}
        ours = manifest.get("format") == format_name and entries <= known
    except (OSError, ValueError, AttributeError, TypeError, RecursionError):
        empty = ours = False
    if not (empty or ours):
        raise OutputError(
            f"{path} exists and is not a {format_name}; force=True does not replace other data, "
            "choose another output"
        )


@contextmanager
def merging_folder(path: Path, force: bool) -> Iterator[Path]:
    """Yields a new folder that becomes ``path``, or whose files go into it if it exists."""
    refuse_existing(path, force)
    if not os.path.lexists(path):
        with atomic_folder(path, force=False) as folder:
            yield folder
        return
    if not path.is_dir():
        raise OutputError(f"{path} is a file; give another output, a folder is to be written")
    # Inside of the folder and not beside it: that may be another file system.
    temporary = temporary_beside(path / "images")
    with output_errors(path):
        for left in path.glob(temporary.name.replace(str(os.getpid()), "*")):
            if not _is_running(left.name.split(".")[-2]):
                shutil.rmtree(left, ignore_errors=True)  # of a process that was killed
        shutil.rmtree(temporary, ignore_errors=True)
        temporary.mkdir()
        try:
            yield temporary
            _merge(temporary, path)
        finally:
            shutil.rmtree(temporary, ignore_errors=True)


def _is_running(process: str) -> bool:
    """Whether there may be a process of that number; unknown counts as running."""
    if os.name != "posix" or not process.isdigit():
        return True
    try:
        os.kill(int(process), 0)
    except ProcessLookupError:
        return False
    except (PermissionError, OverflowError):
        pass
    return True


def _merge(new: Path, path: Path) -> None:
    """Renames the files below ``new`` into ``path``, over files of the same names.

    Raises OutputError before the first one if something other than a file would be replaced, or a
    link would lead out of ``path``.
    """
    entries = [(entry, path / entry.relative_to(new)) for entry in sorted(new.rglob("*"))]
    for entry, target in entries:
        if not os.path.lexists(target):
            continue
        if target.is_symlink() or target.is_dir() != entry.is_dir():
            raise OutputError(
                f"{target} is in the way, a link, or a folder for a file; give another output"
            )
    for entry, target in entries:
        if entry.is_dir():
            target.mkdir(exist_ok=True)
        else:
            sync(entry)
            entry.replace(target)
