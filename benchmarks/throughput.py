"""How much of bare inference the pipeline keeps: compress and decompress against session.run loops.

Usage: python benchmarks/throughput.py [--model MODEL] [--images N] [--rounds R]

In every round, one after the other: the verb compress from an .npy file to an archive on disk, the
verb decompress from that archive to an .npy file, the shuffled stream of compressor.datasets over
it, and loops of nothing but ``session.run`` over the same graphs and images, already in memory, in
the batches that the engine uses. The loops run in ONNX Runtime's default setting (one caller,
operators on all cores) and in the engine's (a thread a core, each with its own batches); the faster
of the two is "bare". Ratios are within a round.
"""

from __future__ import annotations

import argparse
import statistics
import tempfile
import time
from collections import deque
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import onnxruntime as ort

from compressor import verbs
from compressor.datasets import ArchiveStream
from compressor.engine.engine import batch_size
from compressor.engine.pipeline import worker_count
from compressor.engine.providers import choose_device
from compressor.model import Model
from compressor.spec import size_of

SAMPLE = Path(__file__).parent.parent / "examples" / "data" / "fashion_mnist.npz"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--model", type=Path, help="a model; without one, a small one is trained")
    parser.add_argument("--images", type=int, default=60_000)
    parser.add_argument("--rounds", type=int, default=5)
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        run(arguments.model, arguments.images, arguments.rounds, Path(folder))


def run(model: Path | None, count: int, rounds: int, folder: Path) -> None:
    """Prints a line for each figure: the median, and the least and the most of all rounds."""
    with np.load(SAMPLE) as arrays:
        sample = np.concatenate([arrays["train"], arrays["test"]])[..., None]
    images = sample[np.arange(count) % len(sample)]
    np.save(folder / "images.npy", images)
    if model is None:
        model = folder / "model"
        verbs.train("undercomplete", sample, model, max_seconds=60)
    opened = Model.open(model)
    codes = codes_of(opened, images)
    measured: dict[str, list[float]] = {}

    def note(name: str, job: Callable[[], Any]) -> None:
        started = time.perf_counter()
        job()
        measured.setdefault(name, []).append(count / (time.perf_counter() - started))

    for _ in range(rounds):
        note(
            "compress",
            lambda: verbs.compress(
                folder / "images.npy", model, folder / "archive", device="cpu", force=True
            ),
        )
        note("encoder, ORT default", default_loop(opened, "encoder", images))
        note("encoder, thread a core", parallel_loop(opened, "encoder", images))
        note(
            "decompress",
            lambda: verbs.decompress(
                folder / "archive", folder / "out.npy", device="cpu", force=True
            ),
        )
        note("stream", lambda: deque(ArchiveStream(folder / "archive"), 0))
        note("decoder, ORT default", default_loop(opened, "decoder", codes))
        note("decoder, thread a core", parallel_loop(opened, "decoder", codes))

    print(f"{count:,} images, {rounds} rounds, {worker_count()} cores: images/s")
    for name, values in measured.items():
        print(line(name, values, "{:,.0f}"))
    pairs = zip(measured["stream"], measured["decompress"], strict=True)
    print(line("stream / decompress", [stream / verb for stream, verb in pairs], "{:.2f}"))
    for verb, graph in (("compress", "encoder"), ("decompress", "decoder")):
        loops = zip(
            measured[f"{graph}, ORT default"], measured[f"{graph}, thread a core"], strict=True
        )
        ratios = [ours / max(bare) for ours, bare in zip(measured[verb], loops, strict=True)]
        print(line(f"{verb} / bare {graph}", ratios, "{:.2f}"))


def line(name: str, values: list[float], form: str) -> str:
    low, middle, high = (
        form.format(value) for value in (min(values), statistics.median(values), max(values))
    )
    return f"{name:<26} {middle:>9}  ({low} to {high})"


def codes_of(model: Model, images: npt.NDArray[Any]) -> npt.NDArray[Any]:
    from compressor.engine.engine import Engine

    return Engine(model, "cpu").encode(images)


def batches(model: Model, array: npt.NDArray[Any]) -> list[npt.NDArray[Any]]:
    """Whole batches of the engine's size; a remainder is left out, to the loops' favour."""
    size = batch_size(*size_of(model.spec.shape))
    return [array[start : start + size] for start in range(0, len(array) - size + 1, size)]


def default_loop(model: Model, graph: str, array: npt.NDArray[Any]) -> Callable[[], None]:
    session = ort.InferenceSession(model.read(f"{graph}.onnx"), providers=["CPUExecutionProvider"])
    name, pieces = session.get_inputs()[0].name, batches(model, array)
    session.run(None, {name: pieces[0]})

    def loop() -> None:
        for piece in pieces:
            session.run(None, {name: piece})

    return loop


def parallel_loop(model: Model, graph: str, array: npt.NDArray[Any]) -> Callable[[], None]:
    session = choose_device("cpu").session(model.read(f"{graph}.onnx"))
    name, pieces = session.get_inputs()[0].name, batches(model, array)
    session.run(None, {name: pieces[0]})

    def loop() -> None:
        with ThreadPoolExecutor(worker_count()) as pool:
            for _ in pool.map(lambda piece: session.run(None, {name: piece}), pieces):
                pass

    return loop


if __name__ == "__main__":
    main()
