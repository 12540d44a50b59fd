"""What the verbs of latent space write: pictures of many images, or the rows themselves."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from pathlib import Path

from ..data.images import Pixels, Rows
from ..data.sinks import open_sink
from ..errors import ConfigError
from ..files import atomic_file, refuse_existing, refuse_input
from ..report.pictures import png, sheet
from ..spec import DataSpec, VectorSpec

MAX_SHOWN = 400  # images of a grid
SHEET_SIDE = 1024  # pixels that the images of a row have together, about
ARRAYS = (".npy", ".csv", ".parquet")


def refuse_picture(option: str, path: Path, force: bool, spec: DataSpec, *inputs: object) -> None:
    """Raises CompressorError for a picture that cannot be made.

    option: what the path was given as, for the message.
    """
    if isinstance(spec, VectorSpec):
        raise ConfigError(f"{option}={path}: vectors have no picture; give .npy, .csv or .parquet")
    if path.suffix.lower() != ".png":
        raise ConfigError(f"{option}={path}: pictures are written as .png")
    refuse_input(path, *inputs)
    refuse_existing(path, force)


def refuse_rows(path: Path, force: bool, *inputs: object) -> None:
    """Raises CompressorError for a place where images or vectors cannot be written."""
    refuse_input(path, *inputs)
    if path.suffix.lower() in ARRAYS:  # a folder keeps what is there
        refuse_existing(path, force)


class Output:
    """Where rows go: a .png, which is a picture of them all, or what ``open_sink`` opens."""

    def __init__(
        self, path: str | Path | None, force: bool, spec: DataSpec, *inputs: object
    ) -> None:
        """Raises CompressorError for a place where nothing can be written."""
        self._path = None if path is None else Path(path)
        self._force, self._spec = force, spec
        if self._path is None:
            return
        self._is_picture = self._path.suffix.lower() == ".png"
        if self._is_picture:
            refuse_picture("output", self._path, force, spec, *inputs)
        else:
            refuse_rows(self._path, force, *inputs)

    def write(self, names: Sequence[str], rows: Rows, picture: Callable[[], Pixels]) -> None:
        """Rows (n, H, W, C) or (n, D), or the picture, where there is a path."""
        if self._path is None:
            return
        if self._is_picture:
            write_picture(self._path, picture(), self._force)
            return
        vectors = self._spec if isinstance(self._spec, VectorSpec) else None
        with open_sink(self._path, len(rows), self._force, vectors) as sink:
            sink.write(list(names), list(rows))


def grid(images: Rows) -> Pixels:
    """Images (n, H, W, C) in rows, as many as in a column."""
    columns = math.ceil(math.sqrt(len(images)))
    rows = [images[start : start + columns] for start in range(0, len(images), columns)]
    return sheet(rows, side=side_of(columns))


def side_of(columns: int) -> int:
    """Pixels of an image's longer side where there are so many in a row."""
    return max(28, min(112, SHEET_SIDE // columns))


def write_picture(path: Path, picture: Pixels, force: bool) -> None:
    """RGBA (H, W, 4), as PNG."""
    with atomic_file(path, force) as temporary:
        temporary.write_bytes(png(picture))
