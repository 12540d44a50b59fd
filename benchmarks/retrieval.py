"""Which space finds inputs of the same class, and how fast an index is searched.

Usage: python benchmarks/retrieval.py [--data FOLDER] [--work FOLDER] [--seconds S] [--speed]

FOLDER (or the environment variable COMPRESSOR_DATA) holds mnist.npz and fashion_mnist_pub.npz, both
with x_train, y_train, x_test and y_test. Of each model, trained for S seconds on 20,000 images, it
prints as Markdown the precision@10 of 1,000 test images (the share of the ten found that have the
query's class) beside what is chosen by without labels; with --speed the queries a second among a
million vectors of 64 numbers, and nothing else. Models in the work folder are not trained again.
"""

from __future__ import annotations

import argparse
import os
import time
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import numpy.typing as npt

from compressor.anomaly.normals import NAME, Normals
from compressor.engine.engine import Engine
from compressor.model import Model
from compressor.retrieval.search import nearest
from compressor.retrieval.space import SPACES, Space
from compressor.verbs import train

FILES = {"MNIST": "mnist.npz", "Fashion-MNIST": "fashion_mnist_pub.npz"}
MODELS: dict[str, dict[str, Any]] = {
    "denoising": {"network": "dense", "latent": 64},
    "undercomplete": {"network": "dense", "latent": 32},
    "gradients": {"latent": 64},
}
BASE, QUERIES, NEAREST = 20_000, 1_000, 10


class InMemory:
    """An index of vectors (n, D) in parts, as ``nearest`` takes one."""

    def __init__(self, vectors: npt.NDArray[np.float32], space: Any, rows: int = 1 << 16) -> None:
        self._parts = [vectors[at : at + rows] for at in range(0, len(vectors), rows)]
        self.count, self.space = len(vectors), space
        self.manifest = SimpleNamespace(parts=[len(part) for part in self._parts])

    def vectors(self, part: int) -> npt.NDArray[np.float32]:
        return self._parts[part]


def measure(name: str, data: Path, work: Path, seconds: float) -> None:
    arrays = np.load(data / FILES[name])
    base, asked = arrays["x_train"][:BASE, ..., None], arrays["x_test"][:QUERIES, ..., None]
    labels, wanted = arrays["y_train"][:BASE], arrays["y_test"][:QUERIES, None]
    for plugin, settings in MODELS.items():
        path = work / f"{FILES[name].partition('.')[0]}-{plugin}"
        if not path.exists():
            train(plugin, base, path, settings=settings, max_seconds=seconds, force=True)
        model = Model.open(path)
        engine, normals = Engine(model, "cpu"), Normals.from_bytes(model.read(NAME))
        codes, queries = engine.encode(base), engine.encode(asked)
        chosen = Space.of(model)
        for power, cosine in SPACES:
            space = Space.learn(normals, [(power, cosine)])
            index: Any = InMemory(space.vectors(codes), space)
            found = nearest(index, space.vectors(queries), NEAREST)
            precision = (labels[found.rows] == wanted).mean()
            here = (space.power, space.cosine) == (chosen.power, chosen.cosine)
            print(
                f"| {name} | {plugin} | {power:g}, {'cosine' if cosine else 'Euclidean'} | "
                f"{precision:.3f} | {space.reliability:.3f}{' (chosen)' if here else ''} |",
                flush=True,
            )


def speed(rows: int = 1_000_000, numbers: int = 64, queries: int = 1024) -> None:
    random = np.random.default_rng(0)
    centres = random.normal(size=(2000, numbers))
    noise = random.normal(size=(rows, numbers))
    vectors = (centres[random.integers(0, len(centres), rows)] + 0.5 * noise).astype(np.float32)
    asked = vectors[random.integers(0, rows, queries)] + 0.3
    index: Any = InMemory(vectors, SimpleNamespace(distances=np.sqrt))
    for _ in range(3):
        started = time.perf_counter()
        nearest(index, asked, NEAREST)
        print(f"{queries / (time.perf_counter() - started):.0f} queries/s")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--data", type=Path, default=os.environ.get("COMPRESSOR_DATA"))
    parser.add_argument("--work", type=Path, default=Path("retrieval-benchmark"))
    parser.add_argument("--seconds", type=float, default=60, help="of each training")
    parser.add_argument("--speed", action="store_true", help="queries a second, and nothing else")
    arguments = parser.parse_args()
    if arguments.speed:
        speed()
        return
    if arguments.data is None:
        parser.error("give --data FOLDER")
    print("| data | plugin | power, distance | precision@10 | reliability |\n|---|---|---|---|---|")
    for name in FILES:
        measure(name, arguments.data, arguments.work, arguments.seconds)


if __name__ == "__main__":
    main()
