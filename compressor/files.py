"""Outputs that are whole or absent: written under a temporary name, synced, then renamed.

A rename that must not replace anything and one that exchanges two folders are single steps of the
system where it has them, Linux's renameat2; elsewhere they are made of several.
"""

from __future__ import annotations

import ctypes
import errno
import hashlib
import json
import os
import re
import shutil
import stat
import sys
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager, suppress
from functools import cache
from pathlib import Path

from .errors import ConfigError, OutputError
from .interrupts import stop_if_caught
from .untrusted import read_regular

COMMITTED = ".committed"  # a folder in a folder: its files are to replace those of the same names
_LEFTOVER = re.compile(r"\..+\.\d+\.(partial|old)")
_NOREPLACE, _EXCHANGE = 1, 2  # flags of renameat2, linux/fs.h
_HERE = -100  # AT_FDCWD of fcntl.h
# s3://bucket, simplecache::s3://bucket, and s3:/bucket, which Path makes of the first. One letter
# is a drive.
_ADDRESS = re.compile(r"(?:^[a-z][a-z0-9+.-]+:/|::[a-z][a-z0-9+.-]+://)", re.IGNORECASE)
_PIPE = re.compile(r"-|/dev/(stdin|stdout|stderr|tty|fd/.*)|/proc/[^/]+/fd/.*")


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


def refuse_elsewhere(*inputs: object, outputs: Iterable[object] = ()) -> None:
    """Raises ConfigError for places that are not files or folders of this machine.

    Those are addresses (``s3://bucket``, ``https://host``, ``file:///path``), pipes and devices,
    and for outputs an empty name, which would be the current folder, or one that is no valid text.
    inputs, outputs: paths as users give them; anything but paths is ignored.
    """
    places = [(place, True) for place in inputs] + [(place, False) for place in outputs]
    for place, is_input in places:
        if not isinstance(place, str | os.PathLike):
            continue
        text = os.fsdecode(place)
        if not is_input and not text:
            raise ConfigError("the name of the output is empty: give one")
        if not is_input and not _is_utf8(text):
            raise ConfigError(f"{text} is not valid UTF-8: give the output another name")
        if _ADDRESS.search(text):
            advice = "copy it here first" if is_input else "write to a folder here and copy that"
            raise ConfigError(
                f"{text} is an address, and addresses are not yet supported, files and folders of "
                f"this machine alone: {advice}"
            )
        if _PIPE.fullmatch(text) or (not is_input and _is_device(text)):
            advice = "save the input as a file first" if is_input else "give the name of a new one"
            raise ConfigError(
                f"{text} is a pipe or a device, and files and folders alone are read and written: "
                f"{advice}"
            )


def _is_utf8(text: str) -> bool:
    """By its bytes: where the locale is ASCII, Python escapes good ones, too."""
    try:
        os.fsencode(text).decode("utf-8")
    except UnicodeError:
        return False
    return True


def _is_device(text: str) -> bool:
    try:
        mode = Path(text).stat().st_mode
    except (OSError, ValueError):
        return False
    return not (stat.S_ISREG(mode) or stat.S_ISDIR(mode))


def refuse_input(output: Path, *inputs: object) -> None:
    """Raises OutputError if ``output`` is one of the inputs, a folder that one of them is in, or
    inside a model or an archive, which has no other files.

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
        if path in target.parents and (path / "manifest.sha256").exists():
            raise OutputError(f"{output} is inside the input {given}; choose another output")


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
        clean_up(path)
        temporary = temporary_beside(path)
        try:
            _write_synced(temporary, data)
            temporary.replace(path)
        except BaseException:
            temporary.unlink(missing_ok=True)
            raise


def _write_synced(path: Path, data: bytes) -> None:
    with path.open("wb") as file:
        file.write(data)
        file.flush()
        os.fsync(file.fileno())


def write_together(folder: Path, files: Mapping[str, bytes]) -> None:
    """Replaces several files right below ``folder``: readers see all the old or all the new ones.

    The new ones are written to a folder inside, and one rename, to COMMITTED, makes them valid:
    ``read_current`` prefers them. Then they are moved over the old ones, which whoever finds
    COMMITTED may finish.
    """
    with output_errors(folder):
        finish_together(folder)
        clean_up(folder / "files")
        new = temporary_beside(folder / "files")
        shutil.rmtree(new, ignore_errors=True)
        new.mkdir()
        try:
            for name, content in files.items():
                _write_synced(new / name, content)
            sync(new)
            stop_if_caught()
            new.rename(folder / COMMITTED)
        except BaseException:
            shutil.rmtree(new, ignore_errors=True)
            raise
        sync(folder)
        finish_together(folder)


def finish_together(folder: Path) -> None:
    """Moves what ``write_together`` has committed; any number of processes may do so at once."""
    committed = folder / COMMITTED
    if committed.is_symlink() or not committed.is_dir():
        return
    with suppress(FileNotFoundError):
        for entry in sorted(committed.iterdir()):
            with suppress(FileNotFoundError):
                entry.replace(folder / entry.name)
    sync(folder)
    with suppress(OSError):  # another process has removed it, or committed anew
        committed.rmdir()


def read_current(folder: Path, name: str, limit: int) -> bytes | None:
    """At most ``limit`` + 1 bytes of a file of ``folder``, a committed one first, or None.

    Raises OSError for a link, or what is no file.
    """
    for path in (folder / COMMITTED / name, folder / name):
        with suppress(FileNotFoundError, NotADirectoryError):
            return read_regular(path, limit)
    return None


def temporary_beside(path: Path) -> Path:
    """A name in the same folder, and so on the same file system, that no reader looks at."""
    path = path.absolute()  # the name of "." is empty
    return path.with_name(f".{path.name}.{os.getpid()}.partial")


def _old_beside(path: Path) -> Path:
    """Where ``path`` goes for the moment in which something else takes its name."""
    return path.with_name(f".{path.name}.{os.getpid()}.old")


def is_leftover(name: str) -> bool:
    """Whether a file or folder of that name is one that a job removes at its end, or the next."""
    return name == COMMITTED or _LEFTOVER.fullmatch(name) is not None


def clean_up(path: Path) -> None:
    """Deletes what killed processes left beside the output ``path``.

    An output that was just being replaced gets its name back if nothing else has it.
    """
    path = path.absolute()
    name = re.compile(rf"\.{re.escape(path.name)}\.(\d+)\.(partial|old)")
    with suppress(OSError):
        for left in list(path.parent.iterdir()):
            match = name.fullmatch(left.name)
            if match is None or (left / "job.json").exists():
                continue  # job.json: resume.py's folder of an output that is called NAME.123
            is_own = left == _old_beside(path)  # of an earlier process of this one's number
            if _is_running(match[1]) and not is_own:
                continue
            if match[2] == "old" and not os.path.lexists(path):
                left.rename(path)
            else:
                _delete(left)


def _delete(path: Path) -> None:
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path, ignore_errors=True)
    else:
        path.unlink(missing_ok=True)


@contextmanager
def atomic_file(path: Path, force: bool) -> Iterator[Path]:
    """Yields a temporary path; it takes the name ``path`` if the body ends without an error.

    Without ``force`` not if something has come there meanwhile: OutputError.
    """
    refuse_existing(path, force)
    temporary = temporary_beside(path)
    with output_errors(path):
        path.parent.mkdir(parents=True, exist_ok=True)
        clean_up(path)
        try:
            yield temporary
            replace_file(temporary, path, force)
        finally:
            temporary.unlink(missing_ok=True)


def replace_file(new: Path, path: Path, force: bool) -> None:
    """Renames the file ``new`` to ``path``; without ``force`` OutputError if that exists."""
    sync(new)
    stop_if_caught()
    if force:
        new.replace(path)
    else:
        rename_new(new, path)
    sync(path.absolute().parent)


@contextmanager
def atomic_folder(path: Path, force: bool) -> Iterator[Path]:
    """Yields a new empty folder; it takes the name ``path`` if the body ends without an error.

    With ``force`` an existing file or folder of that name is replaced, in the last moment.
    """
    with _new_folder(path, force) as temporary:
        yield temporary
        with output_errors(path):
            replace_folder(temporary, path, force)


@contextmanager
def _new_folder(path: Path, force: bool) -> Iterator[Path]:
    """Yields a new empty folder beside ``path``, which is gone after the body."""
    clean_up(path)
    refuse_existing(path, force)
    temporary = temporary_beside(path)
    with output_errors(path):
        path.parent.mkdir(parents=True, exist_ok=True)
        shutil.rmtree(temporary, ignore_errors=True)
        temporary.mkdir()
        try:
            yield temporary
        finally:
            shutil.rmtree(temporary, ignore_errors=True)


def replace_folder(new: Path, path: Path, force: bool) -> None:
    """Renames the folder ``new`` to ``path``; without ``force`` OutputError if that exists.

    What stood there goes only after that.
    """
    _sync_below(new)
    stop_if_caught()
    path = path.absolute()
    try:
        rename_new(new, path)
    except OutputError:
        if not force:
            raise
        _exchange(new, path)
        _delete(new)
    sync(path.parent)


def _sync_below(folder: Path) -> None:
    for entry in folder.rglob("*"):
        sync(entry)
    sync(folder)


def rename_new(new: Path, path: Path) -> None:
    """Renames a file or folder; raises OutputError if ``path`` exists, and never replaces it."""
    try:
        if _renamed(new, path, _NOREPLACE):
            return
        refuse_existing(path, force=False)
        if new.is_dir():
            new.rename(path)  # never over a file, or over a folder with anything in it
            return
        try:
            os.link(new, path)
        except FileExistsError:
            raise
        except OSError:  # no such links on this file system
            new.rename(path)
        else:
            new.unlink()
    except OSError as error:
        if error.errno in (errno.EEXIST, errno.ENOTEMPTY, errno.ENOTDIR):
            refuse_existing(path, force=False)
        raise


def _exchange(one: Path, other: Path) -> None:
    """Each gets the other's name; killed in between where the system cannot, see ``clean_up``."""
    if _renamed(one, other, _EXCHANGE):
        return
    old = _old_beside(other)
    other.rename(old)
    try:
        one.rename(other)
    except BaseException:
        if not os.path.lexists(other):
            old.rename(other)
        raise
    old.rename(one)


def _renamed(source: Path, target: Path, flag: int) -> bool:
    """Renames with a flag of renameat2; False if the system or the file system cannot."""
    rename = _renameat2()
    if rename is None:
        return False
    if rename(_HERE, os.fsencode(source), _HERE, os.fsencode(target), flag) == 0:
        return True
    number = ctypes.get_errno()
    if number in (errno.ENOSYS, errno.EINVAL, errno.ENOTSUP, errno.EPERM):
        return False  # EPERM: also of containers that do not know the call
    raise OSError(number, os.strerror(number), str(target))


@cache
def _renameat2() -> Callable[..., int] | None:
    if sys.platform != "linux":
        return None
    function = getattr(ctypes.CDLL(None, use_errno=True), "renameat2", None)
    if function is not None:
        integer, text = ctypes.c_int, ctypes.c_char_p
        function.argtypes = (integer, text, integer, text, ctypes.c_uint)
    return function


def refuse_irreplaceable(
    path: Path, force: bool, format_name: str, manifest_name: str = "manifest.json"
) -> None:
    """Raises OutputError unless ``path`` is free, or ``force`` is given and replacing it is safe.

    Safe to replace: an empty folder, or one whose manifest says ``format_name``; whatever else
    stands there may be a user's own data, and ``force`` must not cost them that.
    """
    clean_up(path)
    refuse_existing(path, force)
    if not os.path.lexists(path):
        return
    try:
        below = [entry.relative_to(path) for entry in path.rglob("*") if not entry.is_dir()]
        entries = {entry.as_posix() for entry in below if not is_leftover(entry.parts[0])}
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
    """Yields a new folder that becomes ``path``.

    If that exists, at the beginning or at the end, the files go into it with ``force``; without, it
    raises OutputError.
    """
    clean_up(path)
    refuse_existing(path, force)
    if not os.path.lexists(path):
        with _new_folder(path, force) as folder:
            yield folder
            _sync_below(folder)
            stop_if_caught()
            try:
                rename_new(folder, path)
            except OutputError:
                if not force or not path.is_dir():
                    raise
                _merge(folder, path)
            sync(path.absolute().parent)
        return
    if not path.is_dir():
        raise OutputError(f"{path} is a file; give another output, a folder is to be written")
    # Inside of the folder and not beside it: that may be another file system.
    temporary = temporary_beside(path / "images")
    with output_errors(path):
        clean_up(path / "images")
        shutil.rmtree(temporary, ignore_errors=True)
        temporary.mkdir()
        try:
            yield temporary
            stop_if_caught()
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
