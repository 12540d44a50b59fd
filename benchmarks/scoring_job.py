"""What a scoring job costs beside bare inference, and how much memory it takes.

Usage: python benchmarks/scoring_job.py [--model MODEL] [--images N] [--rounds R]
       python benchmarks/scoring_job.py --memory [--model MODEL]

In every round, one after the other and in one process: the verb score from an .npy file to a folder
of parts, and a loop of nothing but ``session.run`` over the same graph and images, already in
memory, in the batches of the engine. Both in CPU seconds, which other work moves less than
the clock; ratios are within a round.

With --memory: the peak memory of ``score`` on tar shards of 5,000 PNG images, for ten thousand and
for two hundred thousand images, each in a process of its own.
"""

from __future__ import annotations

import argparse
import io
import statistics
import subprocess
import sys
import tarfile
import tempfile
import time
from pathlib import Path

import numpy as np
from PIL import Image

from compressor import verbs
from compressor.data.images import Pixels
from compressor.engine.engine import batch_size
from compressor.engine.providers import choose_device
from compressor.model import Model

ROOT = Path(__file__).parent.parent
SHARD = 5000


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--model", default=str(ROOT / "tests" / "golden" / "1" / "model"))
    parser.add_argument("--images", type=int, default=20_000)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--memory", action="store_true")
    given = parser.parse_args()
    clothes = np.load(ROOT / "examples" / "data" / "fashion_mnist.npz")["train"]
    with tempfile.TemporaryDirectory() as folder:
        if given.memory:
            for count in (10_000, 200_000):
                peak = peak_memory(given.model, clothes[:500], count, Path(folder) / str(count))
                print(f"{count:,} images: peak memory {peak:.0f} MiB")
            return
        images = np.resize(clothes, (given.images, *clothes.shape[1:]))[..., None]
        ratios = []
        one_round(given.model, images[:1000], Path(folder))  # imports, and the first of everything
        for number in range(given.rounds):
            job, bare = one_round(given.model, images, Path(folder))
            ratios.append(bare / job)
            print(f"round {number}: score {job:.2f} s of CPU, session.run alone {bare:.2f} s")
    print(f"share of bare inference: median {statistics.median(ratios):.2f}", sorted(ratios))


def one_round(model: str, images: Pixels, folder: Path) -> tuple[float, float]:
    """CPU seconds of the job and of the loop."""
    np.save(folder / "images.npy", images)
    start = time.process_time()
    verbs.score(
        folder / "images.npy", model, folder / "results", fpr=0.05, device="cpu", force=True
    )
    job = time.process_time() - start
    session = choose_device("cpu").session(Model.open(model).read("scorer.onnx"))
    (name,), outputs = session.get_inputs(), None
    size = batch_size(*images.shape[1:3])
    start = time.process_time()
    for first in range(0, len(images) - size + 1, size):
        outputs = session.run(None, {name.name: images[first : first + size]})
    assert outputs is not None
    return job, time.process_time() - start


def peak_memory(model: str, images: Pixels, count: int, folder: Path) -> float:
    """MiB, of a process that scores ``count`` images."""
    folder.mkdir()
    files = []
    for image in images:
        file = io.BytesIO()
        Image.fromarray(image).save(file, "PNG")
        files.append(file.getvalue())
    for shard in range(count // SHARD):
        with tarfile.open(folder / f"{shard:03d}.tar", "w") as tar:
            for number in range(SHARD):
                member = tarfile.TarInfo(f"{number:05d}.png")
                member.size = len(files[number % len(files)])
                tar.addfile(member, io.BytesIO(files[number % len(files)]))
    script = (
        "import resource, sys; from compressor.verbs import score; "
        "score(sys.argv[1], sys.argv[2], sys.argv[1] + '-results/', fpr=0.05, device='cpu'); "
        "print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024)"
    )
    command = [sys.executable, "-c", script, str(folder), model]
    done = subprocess.run(command, check=True, capture_output=True, text=True)
    return float(done.stdout)


if __name__ == "__main__":
    main()
