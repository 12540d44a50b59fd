"""Features of a frozen network, made once an image: most of the time of a training goes there."""

from __future__ import annotations

import math
import os
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from ..normalisation import Normalisation, example
from ..plugin import Autoencoder
from .dataset import Indices

FILE = "features.bin"
MAX_BYTES = 2**33  # on disk; of more images the features are made at every step


class Features:
    """What ``model.target`` gives for rows of the data, kept in a file as float16.

    Each image is run through alone, so that its features do not depend on the order of the
    training, and a run that was resumed sees the same.
    """

    def __init__(self, model: Autoencoder, file: Path, shape: tuple[int, ...]) -> None:
        self._model = model
        with file.open("wb") as room:  # here a full disk is an error, in a mapped file a crash
            if hasattr(os, "posix_fallocate"):
                os.posix_fallocate(room.fileno(), 0, 2 * math.prod(shape))
            else:
                room.truncate(2 * math.prod(shape))
        self._kept = np.memmap(file, np.float16, "r+", shape=shape)
        self._known = np.zeros(len(self._kept), bool)

    @torch.no_grad()
    def of(self, indices: Indices, x: Tensor) -> Tensor:
        """float32 (n, C, h, w) of the rows ``indices``, which are x (n, C', H, W)."""
        for place in np.flatnonzero(~self._known[indices]):
            target = self._model.target(x[place : place + 1])
            self._kept[indices[place]] = target.half().cpu().numpy()[0]
            self._known[indices[place]] = True
        return torch.from_numpy(self._kept[indices]).to(x.device).float()


def kept_features(model: Autoencoder, count: int, folder: Path) -> Features | None:
    """None for a model that rebuilds pixels, and for features that would fill the disk."""
    if not model.rebuilds_features:
        return None
    with torch.no_grad():
        x = Normalisation(model.spec)(example(model.spec, 1))
        shape = (count, *model.cpu().target(x).shape[1:])
    return Features(model, folder / FILE, shape) if 2 * math.prod(shape) <= MAX_BYTES else None
