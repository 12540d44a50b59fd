"""CompressAI's models, trained as long as ours on the same images, in an environment of their own.

The published widths, 128 and more, would see few images in that time on two cores: two narrower
ones are tried at a middle rate, and the one with the lower loss serves at all rates.
"""

from __future__ import annotations

import json
import subprocess
from collections.abc import Iterator
from functools import partial
from pathlib import Path

import numpy as np
from cells import Cell, Cells

from .datasets import Prepared
from .figures import Figures, psnrs

SCRIPT = Path(__file__).parents[1] / "compressai_cell.py"
MODELS = {
    "bmshj2018-factorized": "FactorizedPrior",
    "bmshj2018-hyperprior": "ScaleHyperprior",
}
WIDTHS = (32, 64)
# Squared error of an image, pixels in [0, 1], that a bit must save.
RATES = (0.05, 0.02, 0.008, 0.003, 0.001)
MIDDLE = RATES[2]


def compressai_cells(
    data: Prepared, method: str, seconds: float, cells: Cells[Figures], python: Path | None
) -> Iterator[Cell[Figures]]:
    """The cells of both widths at the middle rate, and, once those are measured, the others."""
    trials = [_cell(data, method, width, MIDDLE, seconds, python) for width in WIDTHS]
    yield from trials
    found = [cells.find(trial) for trial in trials]
    losses = [_loss(data, figures) for figures in found if figures]
    if len(losses) == len(WIDTHS):
        width = WIDTHS[int(np.argmin(losses))]
        for rate in RATES:
            if rate != MIDDLE:
                yield _cell(data, method, width, rate, seconds, python)


def _cell(
    data: Prepared, method: str, width: int, rate: float, seconds: float, python: Path | None
) -> Cell[Figures]:
    key = {
        "data": data.name,
        "method": method,
        "test": data.test_digest,
        "train": data.train_digest,
        "width": width,
        "rate": rate,
        "seconds": seconds,
    }
    return Cell(key, partial(_measured, data, method, width, rate, seconds, python))


def _loss(data: Prepared, figures: Figures) -> float:
    values = sum(image.size for image in data.test_images)
    return float(10 ** (-figures.psnr / 10) * values + MIDDLE * 8 * figures.bytes)


def _measured(
    data: Prepared, method: str, width: int, rate: float, seconds: float, python: Path | None
) -> Figures:
    command = [
        str(python),
        str(SCRIPT),
        MODELS[method],
        str(data.train),
        str(data.test),
        f"--width={width}",
        f"--rate={rate}",
        f"--seconds={seconds}",
    ]
    answer = json.loads(subprocess.run(command, check=True, stdout=subprocess.PIPE).stdout)
    values = np.array([image.size for image in data.test_images])
    pooled, mean = psnrs(np.array(answer.pop("errors")), values)
    return Figures(
        bytes=answer.pop("bytes"),
        model_bytes=answer.pop("model_bytes"),
        images=len(values),
        pixels=sum(image.shape[0] * image.shape[1] for image in data.test_images),
        psnr=pooled,
        mean_psnr=mean,
        facts=answer,
    )
