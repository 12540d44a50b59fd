"""Files that tests make, alter and compare."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path

import numpy as np
from PIL import Image

from compressor.data.images import Pixels
from compressor.data.sources import open_source


def tree(folder: Path) -> dict[str, bytes | None]:
    """Everything below a folder, hidden files too; None for folders."""
    return {
        path.relative_to(folder).as_posix(): path.read_bytes() if path.is_file() else None
        for path in folder.rglob("*")
    }


def pixels_of(path: Path) -> dict[str, Pixels]:
    """The images in an output of decompress, by name."""
    found = {}
    for chunk in open_source(path).chunks(1000):
        (images,) = chunk.load()
        assert not images.unreadable
        for group in images.groups:
            for position, pixels in zip(group.positions, group.pixels, strict=True):
                found[images.names[position]] = pixels
    return found


def same(found: dict[str, Pixels], expected: dict[str, Pixels]) -> bool:
    return found.keys() == expected.keys() and all(
        np.array_equal(found[name], expected[name]) for name in expected
    )


def save(path: Path, pixels: Pixels) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(pixels[:, :, 0] if pixels.shape[2] == 1 else pixels).save(path)


def rehash(folder: Path, **changes: object) -> None:
    """Changes a manifest, and makes its hash right."""
    data = json.loads((folder / "manifest.json").read_text()) | changes
    text = json.dumps(data).encode()
    (folder / "manifest.json").write_bytes(text)
    line = f"{hashlib.sha256(text).hexdigest()}  manifest.json\n"
    (folder / "manifest.sha256").write_text(line)
