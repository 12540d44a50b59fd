"""Opens whatever holds images or vectors: the DATA of every verb."""

from __future__ import annotations

import os
import stat
from collections.abc import Mapping, Sequence
from pathlib import Path

from ..errors import DataError
from ..files import refuse_elsewhere
from .arrays import ArraySource, NpzSource, open_npy
from .containers import TarSource, ZipSource
from .csv_table import CSV_SUFFIXES, CsvTable, trimmed
from .folder import FolderSource, find_files, first_bytes
from .formats import IMAGE_SUFFIXES, is_read
from .images import Data, Source
from .left_out import NO_FILE, LeftOut, listed, suffix_of
from .objects import NamedRows, NamedSource, open_object
from .parquet import ParquetSource, holds_images
from .shards import ShardedSource, expanded
from .vectors import ParquetTable, TableSource

TAR_SUFFIXES = (".tar", ".tar.gz", ".tgz", ".tar.bz2", ".tbz2", ".tar.xz", ".txz")
WANTED = (
    "a folder of images or of Parquet, .tar or .npy files, an image file (.png .jpg .webp .tif "
    ".bmp .gif .avif .jp2 .jxl .ppm), .npy, .npz, .parquet, .csv, .tsv or .txt (also with .gz), "
    ".tar, .tar.gz (.bz2, .xz) or .zip"
)
MAX_SHARDS_LISTED = 20  # in a message
# What files a dataset is made of, by the ends of their names.
IMAGES, PARQUET, TAR, NPY = "images", "Parquet files", ".tar files", ".npy files"
_KINDS = {IMAGES: tuple(IMAGE_SUFFIXES), PARQUET: (".parquet",), TAR: TAR_SUFFIXES, NPY: (".npy",)}
_METADATA = "metadata.parquet"  # labels of images, as Hugging Face's imagefolder has them


def open_source(location: Data, columns: Sequence[str] | None = None) -> Source:
    """The images or vectors in a folder, a file or an array; read from front to end, once.

    ``location`` is a path; ``file.npz::key`` and ``data.parquet::column`` (or a folder of such
    files) name one array or column of several, ``data.csv::a,b,c`` columns of numbers. Arrays are
    uint8 (N, H, W) or (N, H, W, C) with C of 1, 3 or 4, or (N, D) of floats, of integers other
    than uint8 or of booleans; an ``ArraySource`` is one whose columns have names. Of a folder the
    images are read, or its Parquet, .tar or .npy files, one after the other; other files are left
    out and counted. ``data-{000..012}.tar`` are such files, too, and ``{a,b}.tar``. Objects of
    Python: see objects.py; ``rows`` gives them names.
    ``columns``: those that a model takes, in its order; a table must have them, and others are left
    out.

    Raises DataError, saying what to give, if it does not exist, cannot be read, is empty, or holds
    something else or several of these kinds.
    """
    if isinstance(location, ArraySource):
        return location
    if isinstance(location, NamedRows):
        return _open_named(location, columns)
    if not isinstance(location, str | os.PathLike):
        return open_object(location, wanted=columns)
    refuse_elsewhere(location)
    path, key = _split(str(location))
    try:
        mode = path.stat().st_mode
    except FileNotFoundError as error:
        if (shards := expanded(str(path))) is not None:
            return _open_shards(path, shards)
        raise DataError(f"{path} does not exist; give {WANTED}") from error
    except (OSError, ValueError) as error:
        reason = getattr(error, "strerror", None) or str(error)
        raise DataError(f"cannot open {path}: {reason}; give {WANTED}") from error
    if stat.S_ISDIR(mode):
        return _open_folder(path, key, columns)
    _refuse_no_file(path)
    name = path.name.lower()
    if name.endswith(".npz"):
        return NpzSource(path, key)
    if name.endswith(".parquet"):
        return _open_parquet(path, [path], key, columns)
    if name.endswith(CSV_SUFFIXES):
        key, wanted = key and ",".join(trimmed(key.split(","))), columns and trimmed(columns)
        table = CsvTable(path, wanted or (key.split(",") if key else ()))
        return TableSource(path, table, key, wanted)
    if key is not None:
        raise DataError(f"{path} has no parts to name by ::{key}; only .npz, Parquet and CSV do")
    if name.endswith(".npy"):
        return open_npy(path)
    if name.endswith(TAR_SUFFIXES):
        return TarSource(path)
    if name.endswith(".zip"):
        return ZipSource(path)
    if name.endswith(_KINDS[IMAGES]) or (not suffix_of(name) and is_read(first_bytes(path) or b"")):
        return FolderSource(path.parent, [path.name], str(path))
    raise DataError(f"{path} is of a kind that cannot be read; give {WANTED}")


def _open_named(given: NamedRows, wanted: Sequence[str] | None) -> Source:
    """Raises DataError for names that do not fit."""
    data, taken = given.data, given.columns
    if not isinstance(data, str | os.PathLike):
        source = open_object(data, taken, wanted)
    else:
        source = open_source(data if taken is None else f"{data}::{','.join(taken)}", wanted)
    return source if given.names is None else NamedSource(source, given.names)


def _split(location: str) -> tuple[Path, str | None]:
    """A path, and what follows ``::`` unless that is part of the path itself."""
    front, mark, key = location.rpartition("::")
    if not mark or Path(location).exists():
        return Path(location), None
    return Path(front), key


def _open_parquet(
    location: Path, parts: list[Path], key: str | None, columns: Sequence[str] | None
) -> Source:
    if holds_images(parts[0], key):
        return ParquetSource(location, parts, key)
    return TableSource(location, ParquetTable(parts), key, columns)


def _open_shards(pattern: Path, shards: list[Path]) -> Source:
    """Files named by braces, in the order of the braces."""
    ends = next((ends for ends in (TAR_SUFFIXES, _KINDS[NPY]) if str(pattern).endswith(ends)), None)
    if ends is None:
        raise DataError(f"{pattern} names several files, which must be .tar or .npy files")
    if missing := [str(path) for path in shards if not path.exists()]:
        more = ", ..." * (len(missing) > MAX_SHARDS_LISTED)
        raise DataError(
            f"{len(missing):,} of the {len(shards):,} files {pattern} do not exist: "
            f"{', '.join(missing[:MAX_SHARDS_LISTED])}{more}"
        )
    for path in shards:
        _refuse_no_file(path)
    folder = Path(os.path.commonpath([path.parent for path in shards]))
    names = [path.relative_to(folder).as_posix() for path in shards]
    return ShardedSource(folder, names, TarSource if ends == TAR_SUFFIXES else open_npy)


def _open_folder(folder: Path, column: str | None, columns: Sequence[str] | None) -> Source:
    files, left_out = _sorted_out(folder)
    if column is not None:  # only Parquet files have any
        for file in (file for kind, found in files.items() if kind != PARQUET for file in found):
            left_out.add(file)
        files = {PARQUET: files[PARQUET]} if PARQUET in files else {}
    if len(files) > 1:
        raise DataError(_why_one_kind(folder, files))
    if not files:
        beside = f" ({listed(left_out.sorted())})" if left_out else ""
        raise DataError(
            f"{folder} holds no images and no Parquet, .tar or .npy files{beside}; give {WANTED}"
        )
    ((kind, found),) = files.items()
    found.sort()
    if kind == IMAGES:
        return FolderSource(folder, found, str(folder), left_out)
    for file in found:
        _refuse_no_file(folder / file)
    if kind == PARQUET:
        source = _open_parquet(folder, [folder / file for file in found], column, columns)
        source.left_out = left_out  # type: ignore[attr-defined]  # other folders have it, too
        return source
    return ShardedSource(folder, found, TarSource if kind == TAR else open_npy, left_out)


def _sorted_out(folder: Path) -> tuple[dict[str, list[str]], LeftOut]:
    """The files below a folder by kind, and the number of those of no kind."""
    files: dict[str, list[str]] = {kind: [] for kind in _KINDS}
    left_out = LeftOut()
    for file in find_files(folder):
        kind = _kind(file)
        head: bytes | None = b""
        if kind is None and not suffix_of(file):
            head = first_bytes(folder / file)
            kind = IMAGES if head is not None and is_read(head) else None
        if kind is not None:
            files[kind].append(file)
        elif head is None:
            left_out.add_all({NO_FILE: 1})
        else:
            left_out.add(file, head)
    if files[IMAGES] and all(Path(file).name.lower() == _METADATA for file in files[PARQUET]):
        for file in files.pop(PARQUET):
            left_out.add(file)
    return {kind: found for kind, found in files.items() if found}, left_out


def _kind(file: str) -> str | None:
    """What a file is by its name."""
    return next((kind for kind, ends in _KINDS.items() if file.lower().endswith(ends)), None)


def _why_one_kind(folder: Path, files: Mapping[str, list[str]]) -> str:
    found = [f"{kind} ({len(f):,}: {min(f)}{', ...' * (len(f) > 1)})" for kind, f in files.items()]
    or_column = f", or name a column of the Parquet files, {folder}::COLUMN" * (PARQUET in files)
    return (
        f"{folder} holds {' and '.join(found)}, and a dataset is of one kind: give one of them by "
        f"its own path, or move them to folders of their own{or_column}"
    )


def _refuse_no_file(path: Path) -> None:
    """Raises DataError for a pipe, a socket or a device: reading one may never end."""
    mode = path.stat().st_mode if path.exists() else stat.S_IFREG
    kinds = {stat.S_ISFIFO: "a pipe", stat.S_ISSOCK: "a socket", stat.S_ISDIR: "a folder"}
    if not stat.S_ISREG(mode):
        kind = next((name for test, name in kinds.items() if test(mode)), "a device")
        raise DataError(f"{path} is {kind}, which is not opened; write its content to a file")
