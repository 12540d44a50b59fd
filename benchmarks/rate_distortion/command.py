"""The command line of benchmarks/compression.py."""

from __future__ import annotations

import argparse
import os
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from cells import RESULTS, Cell, Cells, write_results

from .compressai import MODELS, compressai_cells
from .datasets import DATASETS, Prepared
from .figures import Figures
from .ours import LONGER, our_cells
from .pca import pca_cells
from .report import Found, write_report
from .rivals import rival_cells, slow_cells

PUBLISHED = RESULTS / "compression.jsonl"
KINDS = ("rivals", "slow", "pca", "ours", "longer", *MODELS)


@dataclass(frozen=True)
class Bench:
    """Where data and cells are, how long a training takes, and the Python that has CompressAI."""

    data: Path
    work: Path
    seconds: float
    longer: float
    python: Path | None

    @property
    def cells(self) -> Cells[Figures]:
        return Cells(self.work / "cells", PUBLISHED, Figures)

    def prepared(self, name: str) -> Prepared:
        return Prepared(DATASETS[name], self.data, self.work)

    def cells_of(self, data: Prepared, kind: str) -> Iterator[Cell[Figures]]:
        if kind == "rivals":
            return rival_cells(data)
        if kind == "slow":
            return slow_cells(data)
        if kind == "pca":
            return pca_cells(data)
        if kind == "ours":
            return our_cells(data, self.seconds, self.work / "models")
        if kind == "longer":
            return our_cells(data, self.longer, self.work / "models", LONGER)
        return compressai_cells(data, kind, self.seconds, self.cells, self.python)

    def found(self, name: str) -> Found:
        """The cells that were measured."""
        data = self.prepared(name)
        cells = [cell for kind in KINDS for cell in self.cells_of(data, kind)]
        measured = [(cell, self.cells.find(cell)) for cell in cells]
        dataset = DATASETS[name]
        kept = [(cell, figures) for cell, figures in measured if figures]
        return Found(name, dataset.title, dataset.split, kept)

    def run(self, names: list[str], kinds: list[str]) -> None:
        """Measures what is missing, a line on stdout for each."""
        for kind in kinds:
            for name in names:
                for cell in self.cells_of(self.prepared(name), kind):
                    if self.cells.find(cell) is None:
                        started = time.monotonic()
                        found = self.cells.measured(cell)
                        print(
                            f"{cell.name}: {8 * found.bytes / found.pixels:.4f} bits a pixel, "
                            f"{found.psnr:.2f} dB, {time.monotonic() - started:.0f} s",
                            flush=True,
                        )


def main() -> None:
    parser = argparse.ArgumentParser(prog="compression.py", description="See the top of that file.")
    parser.add_argument("--data", type=Path, default=os.environ.get("COMPRESSOR_DATA"))
    parser.add_argument("--work", type=Path, default=Path("compression-benchmark"))
    parser.add_argument("--only", choices=DATASETS, nargs="+", default=list(DATASETS))
    parser.add_argument(
        "--cells", choices=KINDS, nargs="+", help="all that can be measured; with --report none"
    )
    parser.add_argument("--seconds", type=float, default=600, help="of each training; 600")
    parser.add_argument("--longer", type=float, default=1800, help="of our longer ones; 1800")
    parser.add_argument("--compressai", type=Path, help="the Python that has CompressAI")
    parser.add_argument(
        "--report", action="store_true", help="write tables and plot into benchmarks/results/"
    )
    arguments = parser.parse_args()
    if arguments.data is None:
        parser.error("give --data or set COMPRESSOR_DATA")
    kinds = arguments.cells or ([] if arguments.report else list(KINDS))
    if {*MODELS} & {*(arguments.cells or [])} and arguments.compressai is None:
        parser.error(f"--cells {' '.join(MODELS)} need --compressai PYTHON")
    bench = Bench(
        Path(arguments.data),
        arguments.work,
        arguments.seconds,
        arguments.longer,
        arguments.compressai,
    )
    if arguments.compressai is None:
        kinds = [kind for kind in kinds if kind not in MODELS]
    bench.run(arguments.only, kinds)
    if arguments.report:
        found = [bench.found(name) for name in arguments.only]
        write_results(PUBLISHED, [pair for data in found for pair in data.cells])
        write_report(found, arguments.seconds, arguments.longer)
