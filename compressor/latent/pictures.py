"""Pictures that the verbs of latent space write."""

from __future__ import annotations

import math
from pathlib import Path

from ..data.images import Pixels, Rows
from ..errors import ConfigError
from ..files import atomic_file, refuse_existing, refuse_input
from ..report.pictures import png, sheet
from ..spec import VectorSpec
from .latents import Latents

MAX_SHOWN = 400  # images of a grid
SHEET_SIDE = 1024  # pixels that the images of a row have together, about


def refuse_picture(option: str, path: Path, force: bool, latents: Latents, *inputs: object) -> None:
    """Raises CompressorError for a picture that cannot be made.

    option: what the path was given as, for the message.
    """
    if isinstance(latents.model.spec, VectorSpec):
        raise ConfigError(f"{option}={path}: vectors have no picture")
    if path.suffix.lower() != ".png":
        raise ConfigError(f"{option}={path}: pictures are written as .png")
    refuse_input(path, *inputs)
    refuse_existing(path, force)


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
