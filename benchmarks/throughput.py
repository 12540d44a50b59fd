"""How much of bare inference the pipeline keeps: compress and decompress against session.run loops.

Usage: python benchmarks/throughput.py [--model MODEL] [--images N] [--rounds R]
           [--compressai PYTHON]
       python benchmarks/throughput.py --memory [--model MODEL]

In every round, one after the other: the verb compress from an .npy file to an archive on disk, the
verb decompress from that archive to an .npy file, the shuffled stream of compressor.datasets over
it, and loops of nothing but ``session.run`` over the same graphs and images, already in memory, in
the batches that the engine uses. The loops run in ONNX Runtime's default setting (one caller,
operators on all cores) and in the engine's (a thread a core, each with its own batches). "Bare" is
the faster of the two, and the time of the same loop over a hyperprior's two networks, with a thread
a core, added to it. Ratios are within a round. That of CPU time is with the loops of threads: it
tells what the verbs do beside, and not what they wait for, such as other work on the machine.

Then the entropy coder alone on the model's codes, one core, in millions of symbols a second; what a
hyperprior's networks say is known beforehand. Bare is constriction, which codes them, with symbols
that are looked up and sorted already: its calls and nothing else. What other codecs take for mosaic
sheets of the same images, one core (WebP method 6, AVIF speed 4, JPEG-XL effort 7). And, with the
Python of an environment that has CompressAI (benchmarks/compression.py says how to make one),
compress() and decompress() of its entropy bottleneck around the model's own networks, on all cores.

With --memory: the peak memory of compress and decompress for 10,000, 60,000 and a million images,
each in a process of its own.
"""

from __future__ import annotations

import argparse
import json
import re
import statistics
import subprocess
import sys
import tempfile
import time
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import constriction
import numpy as np
import numpy.typing as npt
import onnxruntime as ort

from compressor import verbs
from compressor.codecs.rivals import CODECS, Codec, mosaic
from compressor.datasets import ArchiveStream
from compressor.engine.engine import batch_size
from compressor.engine.pipeline import worker_count
from compressor.engine.providers import choose_device
from compressor.entropy import coder
from compressor.entropy.hyperprior import HyperTables, Networks
from compressor.entropy.networks import DECODER, ENCODER
from compressor.entropy.tables import Codes, Tables
from compressor.model import Model
from compressor.spec import size_of

HYPER_BATCH = 64  # images, as the verbs have them where they are of 28x28
HYPER = ("hyperprior's encoder", "hyperprior's decoder")
SAMPLE = Path(__file__).parent.parent / "examples" / "data" / "fashion_mnist.npz"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--model", type=Path, help="a model; without one, a small one is trained")
    parser.add_argument("--images", type=int, default=60_000)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--compressai", type=Path, help="the Python that has CompressAI")
    parser.add_argument("--memory", action="store_true", help="peak memory, and nothing else")
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        if arguments.memory:
            memory(arguments.model, Path(folder))
        else:
            run(
                arguments.model,
                arguments.images,
                arguments.rounds,
                arguments.compressai,
                Path(folder),
            )


def run(model: Path | None, count: int, rounds: int, compressai: Path | None, folder: Path) -> None:
    """Prints a line for each figure: the median, and the least and the most of all rounds."""
    images = sample_images(count)
    np.save(folder / "images.npy", images)
    model = model or trained(folder)
    opened = Model.open(model)
    codes = codes_of(opened, images)
    measured: dict[str, list[float]] = {}
    work: dict[str, list[float]] = {}  # seconds of all cores

    def note(name: str, job: Callable[[], Any], amount: float = count) -> None:
        started, worked = time.perf_counter(), time.process_time()
        job()
        measured.setdefault(name, []).append(amount / (time.perf_counter() - started))
        work.setdefault(name, []).append(time.process_time() - worked)

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
        if isinstance(opened.prior, HyperTables):
            for name, loop in zip(HYPER, hyper_loops(opened, codes), strict=True):
                note(name, loop)
        for name, job, amount in [*entropy_jobs(opened, codes), *rival_jobs(images)]:
            note(name, job, amount)
        if compressai is not None:
            for name, value in compressai_speed(compressai, model, images[:5000], folder).items():
                measured.setdefault(f"CompressAI {name}", []).append(value)

    print(f"{count:,} images, {rounds} rounds, {worker_count()} cores: images/s")
    for name, values in measured.items():
        unit = "{:,.1f} M symbols/s" if name.startswith("entropy") else "{:,.0f}"
        print(line(name, values, unit))
    pairs = zip(measured["stream"], measured["decompress"], strict=True)
    print(line("stream / decompress", [stream / verb for stream, verb in pairs], "{:.2f}"))
    for way in ("entropy encoder", "entropy decoder"):
        pairs = zip(measured[way], measured[f"{way}, bare"], strict=True)
        print(line(f"{way} / bare", [ours / bare for ours, bare in pairs], "{:.2f}"))
    for verb, graph, further in (
        ("compress", "encoder", HYPER),
        ("decompress", "decoder", HYPER[1:]),
    ):
        ratios = []
        for turn, ours in enumerate(measured[verb]):
            loops = [measured[f"{graph}, {how}"][turn] for how in ("ORT default", "thread a core")]
            others = [measured[name][turn] for name in further if name in measured]
            ratios.append(ours * sum(1 / rate for rate in (max(loops), *others)))
        print(line(f"{verb} / bare {graph}", ratios, "{:.2f}"))
        bare = [work[name] for name in (f"{graph}, thread a core", *further) if name in work]
        ratios = [sum(loops) / ours for ours, *loops in zip(work[verb], *bare, strict=True)]
        print(line(f"{verb}, CPU time", ratios, "{:.2f}"))


def sample_images(count: int) -> npt.NDArray[np.uint8]:
    with np.load(SAMPLE) as arrays:
        sample = np.concatenate([arrays["train"], arrays["test"]])[..., None]
    images: npt.NDArray[np.uint8] = sample[np.arange(count) % len(sample)]
    return images


def trained(folder: Path) -> Path:
    verbs.train("undercomplete", sample_images(6000), folder / "model", max_seconds=60)
    return folder / "model"


Job = tuple[str, Callable[[], Any], float]


class Answered:
    """A hyperprior's networks whose answers are known, block by block."""

    def __init__(self, networks: Networks, blocks: Sequence[Codes]) -> None:
        self.sides = [networks.side(block.astype(np.float32)) for block in blocks]
        known = [
            np.pad(side, [(0, 0), (0, 1), *[(0, 0)] * 2], constant_values=1) for side in self.sides
        ]
        self.answers = [
            networks.expected(side, *block.shape[2:])
            for side, block in zip(known, blocks, strict=True)
        ]
        self.number = 0

    def side(self, codes: Any) -> Any:
        return self.sides[self.number]

    def expected(self, side: Any, height: int, width: int) -> Any:
        return self.answers[self.number]


def entropy_jobs(model: Model, codes: npt.NDArray[Any]) -> list[Job]:
    """The coder on blocks of 256 images, one thread."""
    blocks = [codes[start : start + 256] for start in range(0, min(len(codes), 20_000), 256)]
    payloads = [coder.encode(block, model.prior) for block in blocks]
    millions = sum(block.size for block in blocks) / 1e6
    prior, answered = model.prior, None
    if isinstance(prior, HyperTables):
        answered = Answered(prior.networks, blocks)
        prior = HyperTables(
            prior.channels, prior.first, prior.code_tables.tables, prior.chosen, answered
        )

    def in_turn() -> Iterator[tuple[Codes, bytes]]:
        for number, pair in enumerate(zip(blocks, payloads, strict=True)):
            if answered is not None:
                answered.number = number
            yield pair

    def encode() -> None:
        for block, _ in in_turn():
            coder.encode(block, prior)

    def decode() -> None:
        for block, payload in in_turn():
            coder.decode(payload, len(block), block.shape[1:], prior)

    calls = [list(coder_calls(block, prior)) for block, _ in in_turn()]
    words = [np.frombuffer(payload, np.uint32) for payload in payloads]

    def encode_bare() -> None:
        for block in calls:
            ans = constriction.stream.stack.AnsCoder()
            for table, symbols in reversed(block):
                ans.encode_reverse(symbols, table)

    def decode_bare() -> None:
        for block, payload in zip(calls, words, strict=True):
            ans = constriction.stream.stack.AnsCoder(payload)
            for table, symbols in block:
                ans.decode(table, len(symbols))

    return [
        ("entropy encoder", encode, millions),
        ("entropy encoder, bare", encode_bare, millions),
        ("entropy decoder", decode, millions),
        ("entropy decoder, bare", decode_bare, millions),
    ]


def coder_calls(block: Codes, prior: Tables) -> Iterator[tuple[Any, Codes]]:
    """A table and the symbols that it codes, in the order of decoding."""
    for _, runs, symbols, _ in prior.coded(block):
        pieces = np.split(symbols, np.cumsum(runs.lengths)[:-1])
        yield from zip((prior.entropy_models[n] for n in runs.tables), pieces, strict=True)


def rival_jobs(images: npt.NDArray[Any]) -> list[Job]:
    """Each codec on mosaic sheets, in the middle of its levels, one thread."""
    few = images[:5000]
    sheets = mosaic([image[:, :, 0] for image in few])
    jobs: list[Job] = []
    for codec in CODECS:
        level, chroma = codec.levels[len(codec.levels) // 2], codec.chromas[0]
        files = [codec.encode(sheet.pixels, level, chroma) for sheet in sheets]

        def encode(codec: Codec = codec, level: float = level, chroma: str = chroma) -> None:
            for sheet in sheets:
                codec.encode(sheet.pixels, level, chroma)

        def decode(codec: Codec = codec, files: list[bytes] = files) -> None:
            for file in files:
                codec.decode(file)

        jobs += [(f"{codec.name} encoder", encode, len(few))]
        jobs += [(f"{codec.name} decoder", decode, len(few))]
    return jobs


def memory(model: Path | None, folder: Path) -> None:
    """Prints the peak resident memory, in MB, of each verb."""
    model = model or trained(folder)
    print("peak memory in MB")
    for count in (10_000, 60_000, 1_000_000):  # less than a part of an archive, and more
        np.save(folder / "images.npy", sample_images(count))
        for verb, arguments in (
            ("compress", [folder / "images.npy", model, folder / "archive"]),
            ("decompress", [folder / "archive", folder / "out.npy"]),
        ):
            code = (
                "import sys; from pathlib import Path; from compressor import verbs; "
                f"verbs.{verb}(*map(Path, sys.argv[1:]), device='cpu', force=True); "
                "print(Path('/proc/self/status').read_text())"
            )
            command = [sys.executable, "-c", code, *map(str, arguments)]
            status = subprocess.run(command, check=True, capture_output=True, text=True).stdout
            # Not ru_maxrss: a process begins with that of the one that started it.
            (peak,) = re.findall(r"VmHWM:\s+(\d+) kB", status)
            print(f"{verb:<12} {count:>9,} images  {int(peak) // 1024:>6}")


def line(name: str, values: list[float], form: str) -> str:
    low, middle, high = (
        form.format(value) for value in (min(values), statistics.median(values), max(values))
    )
    return f"{name:<26} {middle:>9}  ({low} to {high})"


def hyper_loops(model: Model, codes: Codes) -> list[Callable[[], None]]:
    """Of a hyperprior's two networks, a thread a core."""
    encoder, decoder = (
        choose_device("cpu").session(model.read(name)) for name in (ENCODER, DECODER)
    )
    values = [
        codes[at : at + HYPER_BATCH].astype(np.float32) for at in range(0, len(codes), HYPER_BATCH)
    ]
    sides = [encoder.run(None, {encoder.get_inputs()[0].name: piece})[0] for piece in values]
    known = [np.concatenate([side, np.ones_like(side[:, :1])], 1) for side in sides]
    return [threads_loop(encoder, values), threads_loop(decoder, known)]


def compressai_speed(
    python: Path, model: Path, images: npt.NDArray[np.uint8], folder: Path
) -> dict[str, float]:
    """Images a second of compress and decompress."""
    import torch

    from compressor.export.graphs import Decoder, Encoder
    from compressor.training.start import restore

    restored = restore(model)
    restored.bottleneck = None
    steps = torch.tensor(Model.open(model).manifest.quantiser["steps"]).reshape(-1, 1, 1)
    encoder, decoder = Encoder(restored, steps), Decoder(restored, steps)
    encoder.forward = encoder.scaled  # type: ignore[method-assign]  # CompressAI rounds
    batch = torch.export.Dim("N")
    with torch.no_grad():
        few = torch.from_numpy(images[:2])
        for name, module, values in (("f", encoder, few), ("g", decoder, encoder.scaled(few))):
            program = torch.export.export(module.eval(), (values,), dynamic_shapes=({0: batch},))
            torch.export.save(program, folder / f"{name}.pt2")
    np.save(folder / "few.npy", images)
    script = Path(__file__).parent / "compressai_speed.py"
    command = [python, script, folder / "f.pt2", folder / "g.pt2", folder / "few.npy"]
    output = subprocess.run(command, check=True, capture_output=True, text=True).stdout
    rates: dict[str, float] = json.loads(output)
    return rates


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
    return threads_loop(session, batches(model, array))


def threads_loop(
    session: ort.InferenceSession, pieces: Sequence[npt.NDArray[Any]]
) -> Callable[[], None]:
    name = session.get_inputs()[0].name
    session.run(None, {name: pieces[0]})

    def loop() -> None:
        with ThreadPoolExecutor(worker_count()) as pool:
            deque(pool.map(lambda piece: session.run(None, {name: piece}), pieces), 0)

    return loop


if __name__ == "__main__":
    main()
