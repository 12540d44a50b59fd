"""Our own models, through the public verbs: train, compress, decompress."""

from __future__ import annotations

import shutil
import tempfile
import time
from collections.abc import Iterator, Sequence
from functools import partial
from pathlib import Path
from typing import Any
from unittest.mock import patch

import numpy as np
from cells import Cell, name_of

from compressor import verbs

from .datasets import Prepared, images_of
from .figures import Figures, psnrs

# What is trained: the plugin, its setting that trades bits for quality, the settings of all data
# sets, and for each of them that setting's values and further settings.
OURS, LONGER = "ours", "ours, longer"  # as long as CompressAI's models, and longer
PLUGIN = "codec"
RATE = "rate"
SETTINGS: dict[str, Any] = {
    "patience": 1000,
    "calibration": 0,
    "validation": 0.02,
    "batch_size": 64,
    "learning_rate": 0.003,
    "precision": "bf16-mixed",
}
RATES = (0.02, 0.003, 0.05, 0.008, 0.001)
GREY = {"widths": [96], "latent": 16}
COLOUR = {"widths": [96], "latent": 24, "learning_rate": 0.002, "batch_size": 32}
LARGER = {
    "widths": [128],
    "patch": 8,
    "latent": 64,
    "learning_rate": 0.001,
    "batch_size": 16,
}
ROWS: dict[str, tuple[Sequence[float], dict[str, Any]]] = {
    "fashion-mnist": (RATES, GREY),
    "mnist": (RATES, GREY),
    "cifar-10": (RATES, COLOUR),
    "crops": (RATES, LARGER),
    "eurosat": (RATES, LARGER),
    "kodak": (RATES, {**LARGER, "batch_size": 8, "crop": 96}),
}


def our_cells(
    data: Prepared, seconds: float, models: Path, method: str = OURS
) -> Iterator[Cell[Figures]]:
    """A model for each value; it stays in ``models`` under the cell's name."""
    rates, further = ROWS[data.name]
    for rate in rates:
        settings = {**SETTINGS, **further, RATE: rate}
        key = {
            "data": data.name,
            "method": method,
            "test": data.test_digest,
            "train": data.train_digest,
            "plugin": PLUGIN,
            "settings": settings,
            "seconds": seconds,
        }
        yield Cell(key, partial(_measured, data, settings, seconds, models / name_of(key)))


def _measured(data: Prepared, settings: dict[str, Any], seconds: float, model: Path) -> Figures:
    if not model.exists():
        model.parent.mkdir(exist_ok=True)
        # With one thread that is the time of a core of its own, whatever else the machine does.
        with patch("time.monotonic", time.process_time):
            verbs.train(
                PLUGIN, data.train, model, settings=settings, max_seconds=seconds, resume=True
            )
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        once = verbs.compress(data.test, model, folder / "once", measure=True)
        twice = verbs.compress(_twice(data.test, folder), model, folder / "twice")
        decoded = folder / ("decoded" if data.test.is_dir() else "decoded.npy")
        verbs.decompress(folder / "once", decoded)
        restored = images_of(decoded)
    errors = [
        np.square(image.astype(np.int32) - other).sum()
        for image, other in zip(data.test_images, restored, strict=True)
    ]
    values = np.array([image.size for image in data.test_images])
    pooled, mean = psnrs(np.array(errors), values)
    if abs(pooled - once["psnr"]) > 0.001:
        raise ValueError(f"compress says {once['psnr']} dB, but its archive has {pooled:.4f} dB")
    sizes = [summary["archive_bytes"] - summary["model_bytes"] for summary in (once, twice)]
    training = verbs.inspect(model)["training"]
    return Figures(
        bytes=sizes[0],
        fixed_bytes=2 * sizes[0] - sizes[1],
        model_bytes=once["model_bytes"],
        images=once["images"],
        pixels=sum(image.shape[0] * image.shape[1] for image in data.test_images),
        psnr=pooled,
        mean_psnr=mean,
        facts={name: training[name] for name in ("parameters", "seconds", "steps", "threads")},
    )


def _twice(test: Path, folder: Path) -> Path:
    """The same images two times over, which shows what an archive holds only once."""
    if not test.is_dir():
        array = np.load(test)
        np.save(folder / "twice.npy", np.concatenate([array, array]))
        return folder / "twice.npy"
    for copy in ("a", "b"):
        shutil.copytree(test, folder / "images" / copy)
    return folder / "images"
