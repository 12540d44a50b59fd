"""Figures that are measured once: a small JSON file for each data set, method and setting."""

from __future__ import annotations

import hashlib
import json
import math
from collections.abc import Callable, Iterable, Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt


@dataclass(frozen=True)
class Figures:
    """What was measured on ``images`` images with ``pixels`` pixels (height x width, summed).

    bytes: on disk, without the model; fixed_bytes: those of them that more images would not add
    to; model_bytes: of what a decoder needs to know beforehand. psnr: of the MSE pooled over all
    values; mean_psnr: the mean of the images' PSNRs; in dB. facts: what else is worth telling.
    """

    bytes: int
    model_bytes: int
    images: int
    pixels: int
    psnr: float
    mean_psnr: float
    fixed_bytes: int = 0
    facts: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class Cell:
    """``key``: data set, method, setting, and all else that the figures depend on."""

    key: Mapping[str, Any]
    measure: Callable[[], Figures]

    @property
    def name(self) -> str:
        return name_of(self.key)


def name_of(key: Mapping[str, Any]) -> str:
    """Of a cell's file, without an ending."""
    words = f"{key['data']}-{key['method']}".replace(" ", "-")
    text = json.dumps(key, sort_keys=True)
    return f"{words}-{hashlib.sha256(text.encode()).hexdigest()[:12]}"


class Cells:
    """The folder of them, and what was published in a file of ``write_results``."""

    def __init__(self, folder: Path, results: Path) -> None:
        self.folder = folder
        folder.mkdir(parents=True, exist_ok=True)
        lines = results.read_text().splitlines() if results.exists() else []
        self.published = {name_of(line["key"]): line["figures"] for line in map(json.loads, lines)}

    def find(self, cell: Cell) -> Figures | None:
        file = self.folder / f"{cell.name}.json"
        if file.exists():
            return Figures(**json.loads(file.read_text())["figures"])
        return Figures(**self.published[cell.name]) if cell.name in self.published else None

    def measured(self, cell: Cell) -> Figures:
        """From the file, or now and into the file."""
        found = self.find(cell)
        if found is None:
            found = cell.measure()
            content = json.dumps({"key": dict(cell.key), "figures": asdict(found)}, indent=1)
            part = self.folder / f"{cell.name}.part"
            part.write_text(content)
            part.rename(self.folder / f"{cell.name}.json")
        return found


def write_results(path: Path, cells: Iterable[tuple[Cell, Figures]]) -> None:
    """A line of JSON for each cell, by name: what tables were made of."""
    lines = {
        cell.name: json.dumps({"key": dict(cell.key), "figures": asdict(figures)}, sort_keys=True)
        for cell, figures in cells
    }
    path.write_text("".join(f"{lines[name]}\n" for name in sorted(lines)))


def psnrs(errors: npt.NDArray[Any], values: npt.NDArray[Any]) -> tuple[float, float]:
    """Pooled and mean PSNR in dB from each image's squared error and number of values, (N,).

    An image without loss counts as one grey level in one value.
    """
    pooled = 10 * math.log10(255**2 * float(values.sum()) / max(1.0, float(errors.sum())))
    return pooled, float(np.mean(10 * np.log10(255**2 * values / np.maximum(errors, 1))))
