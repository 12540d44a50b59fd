"""The main job on a real sample: train, compress, give back, score; one table at the end.

Usage: python examples/demo.py OUTPUT_FOLDER
"""

from __future__ import annotations

import logging
import shutil
import sys
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow.parquet as pq
from PIL import Image
from rich.console import Console
from rich.table import Table

from compressor import verbs
from compressor.data.images import Pixels
from compressor.report.pictures import comparison_sheet

SAMPLE = Path(__file__).parent / "data"
SETTINGS = {
    "network": "dense",
    "hidden": [128],
    "latent": 48,
    "rounding_loss": 1.0,
    "batch_size": 64,
}
TRAINING_SECONDS = 120
MARK = ".compressor-demo"  # a folder with this may be made anew


def main(folder: Path) -> None:
    logging.basicConfig(format="%(message)s", stream=sys.stderr)
    if folder.exists() and any(folder.iterdir()):
        if not (folder / MARK).exists():
            sys.exit(f"{folder} holds other data than an earlier demo's; name a new folder")
        shutil.rmtree(folder)
    folder.mkdir(parents=True, exist_ok=True)
    (folder / MARK).touch()
    with np.load(SAMPLE / "fashion_mnist.npz") as arrays:
        seen, unseen = arrays["train"], arrays["test"]
    clothes = np.concatenate([seen, unseen])
    letters = np.load(SAMPLE / "notmnist.npz")["images"]

    model, archive, images = folder / "model", folder / "archive", folder / "images.npy"
    results, page, picture = (
        folder / "results.parquet",
        folder / "report.html",
        folder / "images.png",
    )
    trained = verbs.train(
        "undercomplete", seen, model, settings=SETTINGS, max_seconds=TRAINING_SECONDS, progress=True
    )
    compressed = verbs.compress(clothes, model, archive, compare=True, progress=True)
    timed = verbs.compress(clothes, model, folder / "timed")
    shutil.rmtree(folder / "timed")
    restored = verbs.decompress(archive, images, progress=True)
    scored = verbs.score(
        np.concatenate([unseen, letters]), model, results, report=page, progress=True
    )

    back = np.load(images)
    scores = pq.read_table(results)["score"].to_numpy()
    columns = np.linspace(0, len(unseen) - 1, 10).astype(int)
    sheet = comparison_sheet(unseen[columns][..., None], back[len(seen) :][columns][..., None])
    Image.fromarray(sheet).save(picture)

    facts: list[tuple[str, str]] = [
        ("images", f"{len(clothes):,} of 28x28, {len(seen):,} of them trained on"),
        (
            "training",
            f"{trained['parameters']:,} parameters, {trained['epochs']:.0f} epochs, "
            f"{trained['seconds']:.0f} s with export and checks",
        ),
        ("raw", size(compressed["raw_bytes"], clothes)),
        ("archive with its model", size(compressed["archive_bytes"], clothes)),
        ("archive without", size(compressed["archive_bytes"] - compressed["model_bytes"], clothes)),
        (
            "coder above the ideal",
            f"{compressed['payload_bytes'] / compressed['ideal_bytes'] - 1:.2%}",
        ),
        (
            "PSNR",
            f"{compressed['psnr']:.2f} dB; {psnr(unseen, back[len(seen) :]):.2f} dB on the "
            f"{len(unseen):,} images never seen",
        ),
    ]
    facts += [(f"{row['codec']}, {row['form']}", rival(row)) for row in compressed["compare"][1:]]
    facts += [
        ("images/s in", f"{len(clothes) / timed['seconds']:,.0f}"),
        ("images/s out", f"{len(clothes) / restored['seconds']:,.0f}"),
        (
            "AUROC, letters against clothes",
            f"{auroc(scores[len(unseen) :], scores[: len(unseen)]):.3f}",
        ),
        (
            "alarms",
            f"{scored['anomalies']} at 1% false alarms, {len(letters)} letters among "
            f"{scored['images']:,} images",
        ),
        ("model", str(model)),
        ("archive", str(archive)),
        ("images given back", str(images)),
        ("results", str(results)),
        ("report", str(page)),
        ("picture", str(picture)),
    ]
    table = Table("", "", title="compressor demo", show_header=False)
    for name, value in facts:
        table.add_row(name, value)
    Console(width=100).print(table)


def size(count: int, images: npt.NDArray[Any]) -> str:
    return f"{count:>10,} bytes  {8 * count / images.size:.3f} bits per pixel"


def rival(row: dict[str, Any]) -> str:
    if row["bytes"] is None:
        return str(row["note"])
    bits = f"{row['bits_per_pixel']:.3f} bits per pixel at {row['psnr']:.2f} dB"
    return f"{row['bytes']:>10,} bytes  {bits}"


def psnr(original: Pixels, image: Pixels) -> float:
    error = np.square(original.astype(np.float64) - image).mean()
    return float(10 * np.log10(255**2 / error))


def auroc(anomalous: npt.NDArray[Any], normal: npt.NDArray[Any]) -> float:
    """The probability that an anomalous image scores higher than a normal one."""
    below = np.searchsorted(np.sort(normal), anomalous, side="left")
    not_above = np.searchsorted(np.sort(normal), anomalous, side="right")
    return float((below + not_above).mean() / 2 / len(normal))


if __name__ == "__main__":
    main(Path(sys.argv[1] if len(sys.argv) > 1 else "demo"))
