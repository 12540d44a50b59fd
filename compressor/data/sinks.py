"""Where images and vectors go: PNG files, one .npy array, a table; complete or absent."""

from __future__ import annotations

import csv
import errno
import io
import json
import os
import shutil
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, contextmanager
from pathlib import Path, PurePosixPath
from typing import IO, Any

import numpy as np
import pyarrow as pa
import pyarrow.csv
import pyarrow.parquet as pq
from PIL import Image

from ..errors import ArchiveError, ConfigError, OutputError
from ..files import atomic_file, merging_folder
from ..log import log
from ..spec import VectorSpec
from .images import Pixels, Rows, Sink
from .names import is_unsafe, shortened
from .npy import GrowingNpy

# Writes photos three times as fast as Pillow's default of 6, and 2% larger.
PNG_LEVEL = 1
ROW_GROUP_BYTES = 2**24
NAMES_FILE = "names.csv"  # columns name and file: of images whose names were too long

_FEATURES = {"path": {"dtype": "string", "_type": "Value"}, "image": {"_type": "Image"}}
_SCHEMA = pa.schema(
    [("path", pa.string()), ("image", pa.struct({"bytes": pa.binary(), "path": pa.string()}))],
    # With this the datasets library decodes the column image.
    {"huggingface": json.dumps({"info": {"features": _FEATURES}})},
)


@contextmanager
def open_sink(
    path: Path, count: int, force: bool = False, vectors: VectorSpec | None = None
) -> Iterator[Sink]:
    """Yields a sink for up to ``count`` images, or ``vectors``; it writes ``path``, by its suffix.

    .npy: uint8 (N, H, W) for grey images, (N, H, W, C) for others, all of one size. .parquet: the
    columns path and image, a struct of PNG bytes and path. Otherwise a folder of PNG files with
    the images' names, see PngNames. Vectors: .npy, float32 (N, D), or .csv and .parquet with the
    column name and one for each number, which has the model's name for it or c0, c1 and so on.

    With ``force`` a file is replaced at the end; in a folder that exists, new files replace those
    of the same name and all others stay. Raises OutputError if ``path`` exists and ``force`` is
    not given, if it cannot be written, or if images do not fit into one array; ArchiveError for a
    name that leads out of the folder; ConfigError for a kind of file that does not accept such
    data.
    """
    suffix = path.suffix.lower()
    if vectors and suffix not in (".npy", ".csv", ".parquet"):
        raise ConfigError(f"{path}: vectors are written as .npy, .csv or .parquet")
    if suffix == ".csv" and not vectors:
        raise ConfigError(f"{path}: images are written as .npy, .parquet or a folder of PNG")
    with ExitStack() as stack:
        sink: _NpySink | _ParquetSink | _FolderSink | _TableSink
        if suffix == ".npy":
            temporary = stack.enter_context(atomic_file(path, force))
            sink = _NpySink(temporary, count, vectors, stack)
        elif vectors:
            temporary = stack.enter_context(atomic_file(path, force))
            sink = _TableSink(temporary, suffix, vectors, stack)
        elif suffix == ".parquet":
            temporary = stack.enter_context(atomic_file(path, force))
            sink = _ParquetSink(temporary, stack)
        else:
            sink = _FolderSink(stack.enter_context(merging_folder(path, force)), stack)
        yield sink
        sink.finish()


def png_path(folder: Path, name: str) -> Path:
    """A free path in ``folder`` for the PNG of the image ``name``; makes no folders.

    A name that ends in .png stays as it is, others get .png appended (a.jpg: a.jpg.png), and as
    many more as it takes until no file of that name is there. What is too long for the file system
    is shortened, see names.shortened. Raises ArchiveError for a name that leads out of the folder.
    """
    if is_unsafe(name):
        raise ArchiveError(
            f"the image {name!r} has a name that leads out of the output folder; if you trust "
            "where it comes from, write a .npy or .parquet file instead"
        )
    limits = _limits(folder)
    file = name if name.lower().endswith(".png") else f"{name}.png"
    while os.path.lexists(path := folder / shortened(file, *limits)):
        file = f"{file}.png"
    return path


def _limits(folder: Path) -> tuple[int, int]:
    """Most bytes of a file's name in ``folder``, and of its path below it."""
    try:
        names, paths = os.pathconf(folder, "PC_NAME_MAX"), os.pathconf(folder, "PC_PATH_MAX")
    except (AttributeError, OSError, ValueError):  # no POSIX, or it does not know
        names, paths = 255, 4096
    used = len(os.fsencode(folder.absolute())) + 2  # a slash, and a zero at the end
    return names, max(names, paths - used)


class PngNames:
    """Free paths in a folder for the PNG of images, as of png_path; a context manager.

    Names that had to be shortened are listed beside the images, in NAMES_FILE.
    """

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._file: IO[str] | None = None
        self._count = 0

    def __enter__(self) -> PngNames:
        return self

    def __exit__(self, error: object, *_: object) -> None:
        if self._file is None:
            return
        self._file.close()
        if error is None:
            log.warning(
                "shortened names that are too long for the file system: %s; %s among the images "
                "has both",
                f"{self._count:,}",
                Path(self._file.name).name,
            )

    def path(self, name: str) -> Path:
        """A free path. Raises ArchiveError as png_path does."""
        path = png_path(self._folder, name)
        file = path.relative_to(self._folder).as_posix()
        if not file.startswith(PurePosixPath(name).as_posix()):
            self._note(name, file)
        return path

    def _note(self, name: str, file: str) -> None:
        if self._file is None:
            place = self._folder / NAMES_FILE
            while os.path.lexists(place):
                place = place.with_name(f"{place.stem}-{place.suffix}")
            self._file = place.open("x", encoding="utf-8", newline="", errors="surrogateescape")
            csv.writer(self._file).writerow(("name", "file"))
        csv.writer(self._file).writerow((name, file))
        self._count += 1


def encode_png(pixels: Pixels) -> bytes:
    """(H, W, C) uint8, C in 1, 3, 4, as the bytes of a PNG file, quickly."""
    image = Image.fromarray(pixels[:, :, 0] if pixels.shape[2] == 1 else pixels)
    file = io.BytesIO()
    image.save(file, "PNG", compress_level=PNG_LEVEL)
    return file.getvalue()


class _NpySink:
    def __init__(
        self, path: Path, count: int, vectors: VectorSpec | None, stack: ExitStack
    ) -> None:
        self._path, self._count, self._vectors, self._stack = path, count, vectors, stack
        self._file: GrowingNpy | None = None
        self._shape: tuple[int, ...] = ()
        self._row_shape: tuple[int, ...] = ()

    def write(self, names: list[str], pixels: list[Rows]) -> None:
        for name, image in zip(names, pixels, strict=True):
            if self._file is None:
                self._shape = image.shape
                self._row_shape = image.shape[:2] if image.shape[2:] == (1,) else image.shape
                self._file = self._open(self._row_shape, image.dtype)
                self._check_space(image.nbytes * self._count)
            if image.shape != self._shape:
                raise OutputError(
                    f"{name} is {image.shape}, the images before it are {self._shape}, and an .npy "
                    "takes images of one size; write to a folder or a .parquet file instead"
                )
        if self._file is not None and pixels:
            rows = np.concatenate(pixels) if len(pixels) > 1 else pixels[0]
            self._file.append(rows.reshape(len(pixels), *self._row_shape))

    def finish(self) -> None:
        if self._file is None and self._vectors:
            self._open(self._vectors.shape, np.dtype(np.float32))
        elif self._file is None:
            self._open((0, 0), np.dtype(np.uint8))

    def _open(self, row_shape: tuple[int, ...], dtype: np.dtype[Any]) -> GrowingNpy:
        return self._stack.enter_context(GrowingNpy(self._path, row_shape, dtype))

    def _check_space(self, needed: int) -> None:
        """Raises OSError now instead of hours later."""
        free = shutil.disk_usage(self._path.parent).free
        if free < needed:
            raise OSError(errno.ENOSPC, f"{needed:,} bytes are needed, {free:,} are free")


class _TableSink:
    """Vectors as rows of a table."""

    def __init__(self, path: Path, suffix: str, spec: VectorSpec, stack: ExitStack) -> None:
        columns = spec.columns or tuple(f"c{number}" for number in range(spec.length))
        # All but the last are columns that names are read from (vectors.NAME_COLUMNS).
        names = ("name", "path", "filename", "id", "row_name")
        name = next(n for n in names if n not in columns)
        self._schema = pa.schema(
            [(name, pa.string()), *((column, pa.float32()) for column in columns)]
        )
        writer = (
            pyarrow.csv.CSVWriter(path, self._schema)
            if suffix == ".csv"
            else pq.ParquetWriter(path, self._schema, compression="zstd")
        )
        self._writer = stack.enter_context(writer)

    def write(self, names: list[str], pixels: list[Rows]) -> None:
        if names:
            columns = [pa.array(column) for column in np.stack(pixels, axis=1)]
            self._writer.write_table(pa.table([pa.array(names), *columns], self._schema))

    def finish(self) -> None:
        """Every row is written already."""


class _ParquetSink:
    def __init__(self, path: Path, stack: ExitStack) -> None:
        # PNGs are compressed already, and statistics would copy them into the footer.
        self._writer = stack.enter_context(
            pq.ParquetWriter(
                path,
                _SCHEMA,
                compression={"path": "zstd", "image.bytes": "none", "image.path": "zstd"},
                use_dictionary=False,
                write_statistics=False,
            )
        )
        self._pool = stack.enter_context(ThreadPoolExecutor(os.cpu_count()))
        self._rows: list[dict[str, Any]] = []
        self._bytes = 0

    def write(self, names: list[str], pixels: list[Rows]) -> None:
        for name, png in zip(names, self._pool.map(encode_png, pixels), strict=True):
            self._rows.append({"path": name, "image": {"bytes": png, "path": name}})
            self._bytes += len(png)
            if self._bytes >= ROW_GROUP_BYTES:
                self.finish()

    def finish(self) -> None:
        """Writes the rows that are held as a row group."""
        if self._rows:
            self._writer.write_table(pa.Table.from_pylist(self._rows, _SCHEMA))
            self._rows, self._bytes = [], 0


class _FolderSink:
    def __init__(self, folder: Path, stack: ExitStack) -> None:
        self._names = stack.enter_context(PngNames(folder))
        self._pool = stack.enter_context(ThreadPoolExecutor(os.cpu_count()))

    def write(self, names: list[str], pixels: list[Rows]) -> None:
        for name, png in zip(names, self._pool.map(encode_png, pixels), strict=True):
            path = self._names.path(name)
            try:
                path.parent.mkdir(parents=True, exist_ok=True)
            except (FileExistsError, NotADirectoryError) as error:
                raise ArchiveError(
                    f"the image {name!r} is to go into a folder that has the name of another "
                    "image; write a .npy or .parquet file instead"
                ) from error
            with path.open("xb") as file:
                file.write(png)

    def finish(self) -> None:
        """Every file is written already."""
