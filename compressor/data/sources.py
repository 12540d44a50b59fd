"""Opens whatever holds images or vectors: the DATA of every verb."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path

from ..errors import DataError
from ..files import refuse_elsewhere
from .arrays import ArraySource, NpzSource, open_npy
from .containers import TarSource, ZipSource
from .csv_table import CSV_SUFFIXES, CsvTable, trimmed
from .decode import IMAGE_SUFFIXES
from .folder import FolderSource, find_files
from .images import Data, Source
from .objects import NamedRows, NamedSource, open_object
from .parquet import ParquetSource, holds_images
from .shards import ShardedSource
from .vectors import ParquetTable, TableSource

TAR_SUFFIXES = (".tar", ".tar.gz", ".tgz")
WANTED = (
    "a folder of images or of Parquet, .tar or .npy files, an image file (.png .jpg .jpeg .webp "
    ".tif .tiff .bmp), .npy, .npz, .parquet, .csv, .tsv or .txt (also with .gz), .tar, "
    ".tar.gz, .tgz or .zip"
)


def open_source(location: Data, columns: Sequence[str] | None = None) -> Source:
    """The images or vectors in a folder, a file or an array; read from front to end, once.

    ``location`` is a path; ``file.npz::key`` and ``data.parquet::column`` (or a folder of such
    files) name one array or column of several, ``data.csv::a,b,c`` columns of numbers. Arrays are
    uint8 (N, H, W) or (N, H, W, C) with C of 1, 3 or 4, or (N, D) of floats, of integers other
    than uint8 or of booleans; an ``ArraySource`` is one whose columns have names. In a folder the
    images are read, whatever else is there; without images its Parquet, .tar or .npy files, one
    after the other. Objects of Python: see objects.py; ``rows`` gives them names.
    ``columns``: those that a model takes, in its order; a table must have them, and others are left
    out.

    Raises DataError, saying what to give, if it does not exist, cannot be read, is empty or holds
    something else.
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
        path.stat()
    except (OSError, ValueError) as error:
        missing = isinstance(error, FileNotFoundError)
        reason = getattr(error, "strerror", None) or str(error)
        reason = "it does not exist" if missing else reason
        raise DataError(f"cannot open {path}: {reason}; give {WANTED}") from error
    if path.is_dir():
        return _open_folder(path, key, columns)
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
    if path.suffix.lower() in IMAGE_SUFFIXES:
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


def _open_folder(folder: Path, column: str | None, columns: Sequence[str] | None) -> Source:
    images = [] if column else find_files(folder, IMAGE_SUFFIXES)
    if images:
        return FolderSource(folder, images, str(folder))
    parts = [folder / part for part in find_files(folder, [".parquet"])]
    if parts:
        return _open_parquet(folder, parts, column, columns)
    for suffixes, open_one in ((TAR_SUFFIXES, TarSource), ((".npy",), open_npy)):
        shards = [] if column else find_files(folder, suffixes)
        if shards:
            return ShardedSource(folder, shards, open_one)
    raise DataError(f"{folder} holds no images and no Parquet, .tar or .npy files; give {WANTED}")
