"""How many of a test set's labels are right, after training with few of them.

Usage: python benchmarks/labels.py [--data FOLDER] [--work FOLDER] [--seeds N] [--first-seed N]
                                   [--steps N] [--labels N,N] [--ways NAME,NAME]

FOLDER (or the environment variable COMPRESSOR_DATA) holds mnist.npz and fashion_mnist_pub.npz, both
with x_train, y_train, x_test and y_test. Of all 60,000 training images 100, 300 and 1,000 have a
label, as many of each class, drawn by the seed; a tenth of them are held out to judge. A denoising
autoencoder is trained on all images once; then, for each seed, ways of WAYS train a classifier, and
`compressor classify` counts what is right among the test images. Each line of results.jsonl in the
work folder is one run, and is not run again. Prints Markdown: mean and deviation over seeds.
"""

from __future__ import annotations

import argparse
import json
import os
from collections import defaultdict
from pathlib import Path
from typing import Any

import numpy as np

from compressor.verbs import classify, train, train_classifier

FILES = {"MNIST": "mnist.npz", "Fashion-MNIST": "fashion_mnist_pub.npz"}
# What one knows of the data: a 6 is no 9, and clothes hang straight and may be turned over.
KNOWN: dict[str, dict[str, Any]] = {
    "MNIST": {},
    "Fashion-MNIST": {"rotation": 5, "scale": 0.1, "flip": True},
}
AUTOENCODER_STEPS = 1000
# What a classifier begins with, the autoencoder or a new network, and whether labels are guessed.
NO_VIEWS = {"consistency": 0, "shift": 0, "flip": False}  # labelled inputs as they are
WAYS: dict[str, dict[str, Any]] = {
    "copied, guessing": {"start": "model"},
    "new, guessing": {"start": "denoising"},
    "copied, labels alone": {"start": "model", "settings": {"consistency": 0}},
    "new, labels alone": {"start": "denoising", "settings": {"consistency": 0}},
    "copied, labels as they are": {"start": "model", "settings": NO_VIEWS},
    "new, labels as they are": {"start": "denoising", "settings": NO_VIEWS},
    "copied, all layers frozen": {"start": "model", "freeze": "all"},
    "gradients, all layers frozen": {"start": "gradients", "freeze": "all"},
}


def few(classes: np.ndarray[Any, Any], count: int, seed: int) -> list[str | None]:
    """A label for ``count`` inputs, as many of each class, and none for the others."""
    draw = np.random.default_rng(seed)
    kinds = np.unique(classes)
    chosen = [
        draw.choice(np.flatnonzero(classes == kind), count // len(kinds), replace=False)
        for kind in kinds
    ]
    labelled = np.isin(np.arange(len(classes)), np.concatenate(chosen))
    return [str(kind) if known else None for kind, known in zip(classes, labelled, strict=True)]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0] if __doc__ else None)
    parser.add_argument("--data", type=Path, default=os.environ.get("COMPRESSOR_DATA"))
    parser.add_argument("--work", type=Path, default=Path("labels-work"))
    parser.add_argument("--seeds", type=int, default=5)
    parser.add_argument("--first-seed", type=int, default=0)
    parser.add_argument("--steps", type=int, default=1500)
    parser.add_argument("--labels", default="100,300,1000")
    parser.add_argument("--ways", default=",".join(name.replace(", ", ": ") for name in WAYS))
    given = parser.parse_args()
    if given.data is None:
        parser.error("give --data FOLDER, or set COMPRESSOR_DATA")
    given.work.mkdir(parents=True, exist_ok=True)
    results = given.work / "results.jsonl"
    lines = results.read_text().splitlines() if results.exists() else []
    done = {tuple(entry["key"]): entry["accuracy"] for entry in map(json.loads, lines)}
    ways = [name.replace(": ", ", ") for name in given.ways.split(",")]
    counts = [int(count) for count in given.labels.split(",")]
    for seed in range(given.first_seed, given.first_seed + given.seeds):
        for name in FILES:
            for count in counts:
                for way in ways:
                    key = (name, count, way, seed, given.steps)
                    if key not in done:
                        done[key] = measure(name, count, way, seed, given)
                        with results.open("a") as file:
                            file.write(json.dumps({"key": key, "accuracy": done[key]}) + "\n")
    table(done, given.steps)


def measure(name: str, count: int, way: str, seed: int, given: argparse.Namespace) -> float:
    """The share of test images whose label is right."""
    arrays = np.load(given.data / FILES[name])
    images = arrays["x_train"][..., None]
    model = given.work / f"{FILES[name].partition('.')[0]}-denoising"
    if not model.exists():
        settings = {"noise": "masking"}
        train("denoising", images, model, settings=settings, max_steps=AUTOENCODER_STEPS)
    options = dict(WAYS[way])
    start = options.pop("start")
    settings = KNOWN[name] | options.pop("settings", {})
    path = given.work / "classifier"
    train_classifier(
        images,
        path,
        start=model if start == "model" else start,
        labels=few(arrays["y_train"], count, seed),
        max_steps=given.steps,
        seed=seed,
        force=True,
        settings=settings,
        **options,
    )
    truth = [str(kind) for kind in arrays["y_test"]]
    output = given.work / "labels.parquet"
    found = classify(arrays["x_test"][..., None], path, output, labels=truth, force=True)
    accuracy: float = found["accuracy"]
    return accuracy


def table(done: dict[tuple[Any, ...], float], steps: int) -> None:
    """Prints what there is, in per cent."""
    cells: dict[tuple[str, int, str], list[float]] = defaultdict(list)
    for (name, count, way, _, of_steps), accuracy in done.items():
        if of_steps == steps:
            cells[name, count, way].append(100 * accuracy)
    print("| data | labels | " + " | ".join(WAYS) + " |\n|---|---|" + "---|" * len(WAYS))
    for name, count in sorted({key[:2] for key in cells}, reverse=True):
        row = [cells.get((name, count, way), []) for way in WAYS]
        shown = [f"{np.mean(c):.1f} ± {np.std(c):.1f} ({len(c)})" if c else "-" for c in row]
        print(f"| {name} | {count:,} | " + " | ".join(shown) + " |")


if __name__ == "__main__":
    main()
