"""What each score of a model costs alone: CPU time as a multiple of l2's, and images/s.

    python benchmarks/scorer_costs.py MODEL DATA.npz::KEY

Chunks of 256, the least of three runs; set OMP_NUM_THREADS=1 and OPENBLAS_NUM_THREADS=1.
"""

from __future__ import annotations

import sys
import time

import numpy as np

from compressor.anomaly.scorers import Scorer, Seen, scorers
from compressor.data.images import Rows
from compressor.engine.engine import Engine
from compressor.model import Model


def seconds(scorer: Scorer, engine: Engine, images: Rows) -> float:
    """CPU time of all images by one score."""
    times = []
    for _ in range(4):  # the first one makes sessions and tables
        started = time.process_time()
        for start in range(0, len(images), 256):
            scorer(Seen(engine, images[start : start + 256]))
        times.append(time.process_time() - started)
    return min(times[1:])


def main(location: str, data: str) -> None:
    path, _, key = data.partition("::")
    images = np.load(path)[key]
    images = images[..., None] if images.ndim == 3 else images
    model = Model.open(location)
    engine = Engine(model, "cpu")
    found = {name: seconds(s, engine, images) for name, s in scorers(model).items()}
    for name, taken in found.items():
        print(f"{name:22}{taken / found['l2']:8.2f}{len(images) / taken:12,.0f} images/s")


if __name__ == "__main__":
    main(*sys.argv[1:])
