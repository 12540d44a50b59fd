"""The command line of benchmarks/anomaly.py."""

from __future__ import annotations

import argparse
import os
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from cells import RESULTS, Cell, Cells, write_results

from compressor.errors import CompressorError
from compressor.log import log

from .classic import classic_cells
from .metrics import Figures
from .ours import our_cells
from .peers import Peers, peer_cells
from .report import Found, write_report
from .tasks import DATASETS, Task

PUBLISHED = RESULTS / "anomaly.jsonl"
KINDS = ("classic", "ours", "peers")
SEEDS = (0, 1, 2, 3, 4)


@dataclass(frozen=True)
class Bench:
    """Where data and cells are, and how long a training on images takes, in CPU seconds."""

    data: Path
    work: Path
    seconds: float
    peers: Peers

    @property
    def cells(self) -> Cells[Figures]:
        return Cells(self.work / "cells", PUBLISHED, Figures)

    def cells_of(self, task: Task, kind: str) -> Iterator[Cell[Figures]]:
        if kind == "classic":
            return classic_cells(task)
        if kind == "ours":
            return our_cells(task, self.work / "models", self.seconds)
        return peer_cells(task, self.peers, self.seconds)

    def run(
        self, names: list[str], kinds: list[str], seeds: list[int], methods: list[str] | None
    ) -> bool:
        """Measures what is missing, a line on stdout for each; False if some could not be."""
        whole, cells = True, self.cells
        for name in names:
            for task in DATASETS[name].tasks(self.data, seeds):
                for kind in kinds:
                    for cell in self.cells_of(task, kind):
                        if methods and cell.key["method"] not in methods:
                            continue
                        if cells.find(cell) is not None:
                            continue
                        started = time.monotonic()
                        where = f"{cell.name} {task.part}, seed {task.seed}"
                        try:
                            found = cells.measured(cell)
                        except (CompressorError, RuntimeError, ValueError) as error:
                            whole = False
                            print(f"{where}: FAILED: {error}", flush=True)
                            continue
                        spent = time.monotonic() - started
                        print(f"{where}: {found.judged:.4f}, {spent:.0f} s", flush=True)
        return whole

    def found(self, name: str, seeds: list[int]) -> Found:
        """The cells that were measured."""
        cells = self.cells
        kept = []
        for task in DATASETS[name].tasks(self.data, seeds):
            for kind in KINDS:
                for cell in self.cells_of(task, kind):
                    if figures := cells.find(cell):
                        kept.append((cell, figures))
        return Found(DATASETS[name], kept, len(seeds))


def main() -> None:
    parser = argparse.ArgumentParser(prog="anomaly.py", description="See the top of that file.")
    parser.add_argument("--data", type=Path, default=os.environ.get("COMPRESSOR_DATA"))
    parser.add_argument("--work", type=Path, default=Path("anomaly-benchmark"))
    parser.add_argument("--only", choices=DATASETS, nargs="+", default=list(DATASETS))
    parser.add_argument("--seeds", type=int, nargs="+", default=list(SEEDS))
    parser.add_argument(
        "--cells", choices=KINDS, nargs="+", help="all that can be measured; with --report none"
    )
    parser.add_argument("--methods", nargs="+", metavar="NAME", help="of those cells; all")
    parser.add_argument(
        "--seconds", type=float, default=30, help="CPU time of a training on images; 30"
    )
    parser.add_argument("--peers", type=Path, help="the Python that has PyOD and anomalib")
    parser.add_argument(
        "--report", action="store_true", help="write tables into benchmarks/results/"
    )
    arguments = parser.parse_args()
    if arguments.data is None:
        parser.error("give --data or set COMPRESSOR_DATA")
    kinds = arguments.cells or ([] if arguments.report else list(KINDS))
    if arguments.peers is None:
        if "peers" in (arguments.cells or []):
            parser.error("--cells peers needs --peers PYTHON")
        kinds = [kind for kind in kinds if kind != "peers"]
    log.setLevel("ERROR")  # that most of a test set is strange is no news
    peers = Peers(arguments.peers)
    bench = Bench(Path(arguments.data), arguments.work, arguments.seconds, peers)
    try:
        whole = bench.run(arguments.only, kinds, arguments.seeds, arguments.methods)
    finally:
        peers.close()
    if arguments.report:
        found = [bench.found(name, arguments.seeds) for name in DATASETS]
        write_results(PUBLISHED, [pair for data in found for pair in data.cells])
        write_report(found, arguments.seconds)
    if not whole:
        raise SystemExit(1)
