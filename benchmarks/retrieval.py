"""Which space finds inputs of the same class, and how fast an index is searched.

Usage: python benchmarks/retrieval.py --data FOLDER [--work FOLDER] [--seconds S] [--speed]

FOLDER (or the environment variable COMPRESSOR_DATA) holds mnist.npz, fashion_mnist_pub.npz and
cifar10_pub.npz, with x_train, y_train, x_test and y_test. Of each model, trained for S seconds on
up to 20,000 images, it prints as Markdown the precision@10 of 1,000 test images (the share of the
ten found that have the query's class), with queries as they are and expanded by two and four,
beside what is chosen by without labels. With --speed the queries a second among a million codes,
those of `gradients` for MNIST's training images at 17 places, exactly and by cells, and nothing
else. Models in the work folder are not trained again.
"""

from __future__ import annotations

import argparse
import os
import time
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from compressor.anomaly.normals import NAME, Normals
from compressor.engine.engine import Engine
from compressor.model import Model
from compressor.retrieval.cells import ROWS_A_CELL, SAMPLE_A_CELL, Cells
from compressor.retrieval.nearest import nearest, nearest_in_cells
from compressor.retrieval.space import SPACES, Space
from compressor.verbs import train

FILES = {
    "MNIST": "mnist.npz",
    "Fashion-MNIST": "fashion_mnist_pub.npz",
    "CIFAR-10": "cifar10_pub.npz",
}
GREY: dict[str, dict[str, Any]] = {
    "denoising": {"network": "dense", "latent": 64},
    "undercomplete": {"network": "dense", "latent": 32},
    "gradients": {"latent": 64},
}
COLOUR: dict[str, dict[str, Any]] = {"gradients": {"latent": 128}, "features": {"latent": 64}}
BASE, QUERIES, NEAREST = 20_000, 1_000, 10
EXPANDED = (2, 4)


class InMemory:
    """Vectors (n, D) in parts, as ``nearest`` takes them."""

    def __init__(self, vectors: npt.NDArray[np.float32], rows: int = 1 << 16) -> None:
        self._parts = [vectors[at : at + rows] for at in range(0, len(vectors), rows)]
        self.counts = [len(part) for part in self._parts]

    def vectors(self, part: int) -> npt.NDArray[np.float32]:
        return self._parts[part]


def model_of(name: str, plugin: str, settings: Any, base: Any, work: Path, seconds: float) -> Model:
    path = work / f"{FILES[name].partition('.')[0].removesuffix('_pub')}-{plugin}"
    if not path.exists():
        train(plugin, base, path, settings=settings, max_seconds=seconds, force=True)
    return Model.open(path)


def loaded(data: Path, name: str) -> tuple[Any, Any, Any, Any]:
    arrays = np.load(data / FILES[name])
    images = [arrays["x_train"][:BASE], arrays["x_test"][:QUERIES]]
    base, asked = (some[..., None] if some.ndim == 3 else some for some in images)
    return base, asked, arrays["y_train"][:BASE], arrays["y_test"][:QUERIES, None]


def measure(name: str, data: Path, work: Path, seconds: float) -> None:
    base, asked, labels, wanted = loaded(data, name)
    for plugin, settings in (COLOUR if base.shape[3] == 3 else GREY).items():
        model = model_of(name, plugin, settings, base, work, seconds)
        engine, normals = Engine(model, "cpu"), Normals.from_bytes(model.read(NAME))
        codes, queries = engine.encode(base), engine.encode(asked)
        chosen = Space.of(model)
        for power, cosine in SPACES:
            space = Space.learn(normals, [(power, cosine)])
            known, plain = InMemory(space.vectors(codes)), space.vectors(queries)
            found = [nearest(known, plain, NEAREST).rows]
            for count in EXPANDED:
                near = space.vectors(codes)[found[0][:, :count]].sum(1)
                means = space.scaled((plain + near) / (count + 1)).astype(np.float32)
                found.append(nearest(known, means, NEAREST).rows)
            precision = " | ".join(f"{(labels[rows] == wanted).mean():.3f}" for rows in found)
            here = (space.power, space.cosine) == (chosen.power, chosen.cosine)
            print(
                f"| {name} | {plugin} | {power:g}, {space.metric} | {precision} | "
                f"{space.reliability:.3f}{' (chosen)' if here else ''} |",
                flush=True,
            )


def speed(data: Path, work: Path, seconds: float, rows: int = 1_000_000) -> None:
    base, asked, _, _ = loaded(data, "MNIST")
    model = model_of("MNIST", "gradients", GREY["gradients"], base, work, seconds)
    engine, space = Engine(model, "cpu"), Space.of(model)
    images = np.load(data / FILES["MNIST"])["x_train"][..., None]
    shifts = [(down, across) for down in range(-2, 3) for across in range(-2, 3)]
    codes = [space.vectors(engine.encode(np.roll(images, by, (1, 2)))) for by in shifts[4:21]]
    vectors, queries = np.concatenate(codes)[:rows], space.vectors(engine.encode(asked))
    known = InMemory(vectors)
    exact = timed("exactly", queries, lambda: nearest(known, queries, NEAREST))
    started = time.perf_counter()
    cells = Cells.learn(vectors[:: ROWS_A_CELL // SAMPLE_A_CELL], rows)
    of_rows = [cells.of(known.vectors(part)) for part in range(len(known.counts))]
    some = nearest(known, vectors[:: rows // 256], NEAREST).rows
    cells = cells.probing(vectors[:: rows // 256], np.concatenate(of_rows)[some])
    made = time.perf_counter() - started
    print(f"{len(cells.centres)} cells in {made:.1f} s, {cells.probes} for a query")

    def by_cells(batch: Any) -> Any:
        return nearest_in_cells(known, of_rows.__getitem__, cells, batch, NEAREST)

    found = timed("by cells", queries, lambda: by_cells(queries))
    many = np.concatenate([queries] * 10)
    timed("by cells", many, lambda: by_cells(many))
    same = [len(set(one) & set(other)) for one, other in zip(exact.rows, found.rows, strict=False)]
    print(f"recall@10 {np.mean(same) / NEAREST:.4f}")


def timed(name: str, queries: Any, run: Any) -> Any:
    run()  # once before: memory that is new costs time
    started, used = time.perf_counter(), time.process_time()
    found = run()
    wall, used = time.perf_counter() - started, time.process_time() - used
    count = len(queries)
    print(f"{name}, {count} queries at once: {count / wall:.0f}/s, {count / used:.0f}/s of CPU")
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--data", type=Path, default=os.environ.get("COMPRESSOR_DATA"))
    parser.add_argument("--work", type=Path, default=Path("retrieval-benchmark"))
    parser.add_argument("--seconds", type=float, default=60, help="of each training")
    parser.add_argument("--speed", action="store_true", help="queries a second, and nothing else")
    arguments = parser.parse_args()
    if arguments.data is None:
        parser.error("give --data FOLDER")
    if arguments.speed:
        speed(arguments.data, arguments.work, arguments.seconds)
        return
    print(
        "| data | plugin | power, distance | precision@10 | expanded by 2 | by 4 | reliability |\n"
        "|---|---|---|---|---|---|---|"
    )
    for name in FILES:
        measure(name, arguments.data, arguments.work, arguments.seconds)


if __name__ == "__main__":
    main()
