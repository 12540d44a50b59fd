"""Figures that are measured once: a small JSON file for each data set, method and setting."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Iterable, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Generic, TypeVar

RESULTS = Path(__file__).parent / "results"  # what --report writes
F = TypeVar("F")  # a dataclass of what JSON knows


@dataclass(frozen=True)
class Cell(Generic[F]):
    """``key``: data set, method, setting, and all else that the figures depend on."""

    key: Mapping[str, Any]
    measure: Callable[[], F]

    @property
    def name(self) -> str:
        return name_of(self.key)


def name_of(key: Mapping[str, Any]) -> str:
    """Of a cell's file, without an ending."""
    words = f"{key['data']}-{key['method']}".replace(" ", "-")
    text = json.dumps(key, sort_keys=True)
    return f"{words}-{hashlib.sha256(text.encode()).hexdigest()[:12]}"


class Cells(Generic[F]):
    """The folder of them, and what was published in a file of ``write_results``."""

    def __init__(self, folder: Path, results: Path, figures: Callable[..., F]) -> None:
        self.folder, self.figures = folder, figures
        folder.mkdir(parents=True, exist_ok=True)
        lines = results.read_text().splitlines() if results.exists() else []
        self.published = {name_of(line["key"]): line["figures"] for line in map(json.loads, lines)}

    def find(self, cell: Cell[F]) -> F | None:
        file = self.folder / f"{cell.name}.json"
        if file.exists():
            return self.figures(**json.loads(file.read_text())["figures"])
        if cell.name in self.published:
            return self.figures(**self.published[cell.name])
        return None

    def measured(self, cell: Cell[F]) -> F:
        """From the file, or now and into the file."""
        found = self.find(cell)
        if found is None:
            found = cell.measure()
            figures: Any = found
            content = json.dumps({"key": dict(cell.key), "figures": asdict(figures)}, indent=1)
            part = self.folder / f"{cell.name}.part"
            part.write_text(content)
            part.rename(self.folder / f"{cell.name}.json")
        return found


def write_results(path: Path, cells: Iterable[tuple[Cell[F], F]]) -> None:
    """A line of JSON for each cell, by name: what tables were made of."""
    lines: dict[str, str] = {}
    for cell, found in cells:
        figures: Any = found
        content = {"key": dict(cell.key), "figures": asdict(figures)}
        lines[cell.name] = json.dumps(content, sort_keys=True)
    path.write_text("".join(f"{lines[name]}\n" for name in sorted(lines)))
