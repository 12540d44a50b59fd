"""Peers in an environment of their own, as long trained as ours: benchmarks/anomaly_peers.py."""

from __future__ import annotations

import json
import subprocess
import tempfile
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from cells import Cell
from sklearn.preprocessing import StandardScaler

from .metrics import Figures, auroc, with_pixels
from .pictures import enlarged, resized
from .tasks import UNSUPERVISED, Rows, Task

SCRIPT = Path(__file__).parents[1] / "anomaly_peers.py"
VERSIONS = "pyod 3.6.7, anomalib 2.7.0"
VECTORS = ("PyOD KNN", "PyOD IForest", "PyOD AutoEncoder", "PyOD VAE")
GANOMALY, PATCH_KNN = "anomalib GANomaly", "patch kNN, EfficientNet-Lite0"
SIDE = 64  # of surfaces, but for the patches, that small networks see in some detail in that time
SURFACES = ("screw", "magnetic tile")


class Peers:
    """The other Python, which is started with the first request and gets one request at a time."""

    def __init__(self, python: Path | None) -> None:
        self.python = python
        self._process: subprocess.Popen[str] | None = None

    def ask(self, request: dict[str, Any]) -> dict[str, Any]:
        if self._process is None:
            self._process = subprocess.Popen(
                [str(self.python), str(SCRIPT)],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                text=True,
            )
        assert self._process.stdin and self._process.stdout
        self._process.stdin.write(json.dumps(request) + "\n")
        self._process.stdin.flush()
        line = self._process.stdout.readline()
        if not line:
            raise RuntimeError(f"{SCRIPT.name} ended with code {self._process.wait()}")
        answer: dict[str, Any] = json.loads(line)
        if "error" in answer:
            raise RuntimeError(f"{request['method']}: {answer['error']}")
        return answer

    def close(self) -> None:
        if self._process is not None:
            self._process.communicate()


def peer_cells(task: Task, peers: Peers, seconds: float) -> Iterator[Cell[Figures]]:
    """``seconds``: of CPU time, of a network's training on images; on tables a sixth of it."""
    methods = list(VECTORS)
    if task.data in SURFACES:
        methods += [GANOMALY, PATCH_KNN]
    elif not task.data.startswith("adbench"):
        methods += [GANOMALY]
    for method in methods:
        side = SIDE if task.data in SURFACES and method != PATCH_KNN else None
        budget = seconds / 6 if task.data.startswith("adbench") else seconds
        key = {
            "data": task.data,
            "method": method,
            "part": task.part,
            "seed": task.seed,
            "digest": task.digest,
            "seconds": budget,
            "side": side,
            "versions": VERSIONS,
        }
        yield Cell(key, partial(_measured, task, peers, method, budget, side))


def _measured(task: Task, peers: Peers, method: str, seconds: float, side: int | None) -> Figures:
    sample = task.load()
    train, test = (resized(rows, side) for rows in (sample.train, sample.test))
    scaler = StandardScaler().fit(train) if train.dtype != np.uint8 else None
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        for part, rows in (("train", train), ("test", test)):
            np.save(folder / f"{part}.npy", _scaled(rows, scaler))
        same = task.data == UNSUPERVISED
        answer = peers.ask(
            {
                "method": method,
                "train": str(folder / "train.npy"),
                "test": None if same else str(folder / "test.npy"),
                "output": str(folder / "output.npz"),
                "seconds": seconds,
                "seed": task.seed,
            }
        )
        with np.load(folder / "output.npz") as output:
            found = dict(output)
    figures = Figures(
        auroc={"score": auroc(sample.strange, found["scores"])},
        scorer="score",
        images=len(test),
        **answer,
    )
    if "maps" not in found or sample.masks is None:
        return figures
    maps = enlarged(found["maps"], sample.masks.shape[1])
    return with_pixels(figures, sample, maps)


def _scaled(rows: Rows, scaler: StandardScaler | None) -> Rows:
    """Images in [0, 1], or columns standardised by the rows trained on; float32."""
    scaled: Rows = rows / np.float32(255) if scaler is None else scaler.transform(rows)
    return scaled.astype(np.float32)
