"""Principal components, one step of rounding for all of them, and an ideal coder.

Each component's integers cost -log2 of how often they occur among the training codes (with half a
count more for each, over the range of both sets). The components and these tables are the model,
whose bytes are not counted: a bound that flatters, not a codec.
"""

from __future__ import annotations

from collections.abc import Iterator
from functools import cache, partial
from math import ceil

import numpy as np
import numpy.typing as npt
from cells import Cell
from sklearn.decomposition import PCA

from .datasets import Pixels, Prepared
from .figures import Figures, psnrs

STEPS = (12, 18, 27, 40, 60, 90, 135, 200, 300, 450)  # grey levels
WHOLE, PIECE = 32, 16  # larger images than the one are cut into squares of the other
Numbers = npt.NDArray[np.float32]


def pca_cells(data: Prepared) -> Iterator[Cell[Figures]]:
    height = data.train_images.shape[1]
    side = height if height <= WHOLE else PIECE
    for step in STEPS:
        key = {
            "data": data.name,
            "method": "PCA",
            "test": data.test_digest,
            "train": data.train_digest,
            "side": side,
            "step": step,
        }
        yield Cell(key, partial(_measured, data, side, step))


def pieces(images: list[Pixels], side: int) -> Numbers:
    """Images cut into squares, row by row: (pieces, side * side * channels)."""
    cut = []
    for image in images:
        rows, columns = image.shape[0] // side, image.shape[1] // side
        grid = image.reshape(rows, side, columns, side, -1).swapaxes(1, 2)
        cut.append(grid.reshape(rows * columns, -1))
    return np.concatenate(cut).astype(np.float32)


@cache
def _fitted(data: Prepared, side: int) -> tuple[PCA, Numbers, Numbers]:
    """The components, and the coefficients of training and test images."""
    train = pieces(list(data.train_images), side)
    pca = PCA(svd_solver="covariance_eigh").fit(train)
    return pca, pca.transform(train), pca.transform(pieces(data.test_images, side))


def _measured(data: Prepared, side: int, step: float) -> Figures:
    pca, train, test = _fitted(data, side)
    codes = np.rint(test / step).astype(np.int32)
    bits = ideal_bits(np.rint(train / step).astype(np.int32), codes)
    decoded = np.rint(np.clip(pca.inverse_transform(codes * np.float32(step)), 0, 255))
    error = np.square(decoded - pieces(data.test_images, side)).sum(1)
    counts = [image.shape[0] * image.shape[1] // side**2 for image in data.test_images]
    errors = np.add.reduceat(error, np.cumsum([0, *counts[:-1]]))
    pooled, mean = psnrs(errors, np.array([image.size for image in data.test_images]))
    return Figures(
        bytes=ceil(bits / 8),
        model_bytes=0,
        images=len(counts),
        pixels=sum(image.shape[0] * image.shape[1] for image in data.test_images),
        psnr=pooled,
        mean_psnr=mean,
    )


def ideal_bits(train: npt.NDArray[np.int32], test: npt.NDArray[np.int32]) -> float:
    """Of ``test``, (n, components), with the frequencies of ``train``, (m, components)."""
    bits = 0.0
    for known, new in zip(train.T, test.T, strict=True):
        low = min(known.min(), new.min())
        counts = np.bincount(known - low, minlength=max(known.max(), new.max()) - low + 1) + 0.5
        bits += float(np.log2(counts.sum() / counts)[new - low].sum())
    return bits
