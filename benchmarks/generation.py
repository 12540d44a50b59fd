"""How like the test images samples are, whether they have every kind, and whether they are copies.

Usage: python benchmarks/generation.py [--data FOLDER] [--work FOLDER] [--only NAME ...]
           [--seeds N ...] [--times T] [--sheet FILE] [--report]

FOLDER (or the environment variable COMPRESSOR_DATA) holds mnist.npz, with x_train, y_train, x_test
and y_test. Models, samples and cells (a small JSON file a row and seed) are kept in the work folder
and not made again: after a change of a plugin remove what it is about. --report prints the tables
as Markdown, from the cells that there are; --sheet draws samples beside their nearest training
images. Run it with OMP_NUM_THREADS=1: seconds are CPU seconds of one thread.

The judge is a small convolutional network that is trained here on the digits' labels (two layers of
3x3 convolutions, 16 and 32 channels wide, each halved by the largest of 2x2, and a dense layer of
64 ReLU units; three epochs, 98% of test images right). Its 64 units are the features. Inception's
are made for photographs.

- FD: the Fréchet distance of 10,000 samples to the 10,000 test images, |m - m'|^2 + tr(C + C' - 2
  (C C')^(1/2)), m and C being mean and covariance of features (Heusel et al. 2017).
- precision, recall: Kynkäänniemi et al. 2019 with k = 3, 2,000 samples and 2,000 test images.
- digits: of the ten, those that at least one sample in a hundred is taken for.
- copies: the share of 1,000 samples nearer to a training image, in pixels, than all but one in a
  hundred of 1,000 test images are: 1% where nothing was learned by heart.
"""

from __future__ import annotations

import argparse
import json
import os
import time
from collections.abc import Callable
from functools import cached_property, partial
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
import torch.nn.functional as F
from PIL import Image
from scipy.spatial.distance import cdist
from sklearn.decomposition import PCA
from torch import Tensor, nn

from compressor.model import Model
from compressor.verbs import compress, decompress, sample, train

Images = npt.NDArray[np.uint8]  # (N, 28, 28, 1)
Matrix = npt.NDArray[np.float64]
SAMPLES, COMPARED, COPIES = 10_000, 2_000, 1_000
COMPONENTS = 64
SHOWN, SCALE = 10, 2
DENSE = {"network": "dense", "hidden": [512, 256], "latent": 16}
MODELS: dict[str, tuple[str, dict[str, Any], int]] = {  # plugin, settings, steps
    "undercomplete": ("undercomplete", DENSE, 1500),
    "vae": ("vae", {**DENSE, "loss": "cross-entropy"}, 1500),
    "gan": ("gan", {"batch_size": 64}, 500),
}
OURS = ("training images", "PCA + Gaussian")
Cell = dict[str, Any]


class Judge(nn.Module):
    """A classifier of digits; ``body`` gives the features."""

    def __init__(self) -> None:
        super().__init__()
        self.body = nn.Sequential(
            nn.Conv2d(1, 16, 3, padding=1),
            nn.ReLU(),
            nn.MaxPool2d(2),
            nn.Conv2d(16, 32, 3, padding=1),
            nn.ReLU(),
            nn.MaxPool2d(2),
            nn.Flatten(),
            nn.Linear(32 * 49, 64),
            nn.ReLU(),
        )
        self.head = nn.Linear(64, 10)

    def forward(self, x: Tensor) -> Tensor:
        logits: Tensor = self.head(self.body(x))
        return logits


def to_x(images: Images) -> Tensor:
    return torch.from_numpy(images).permute(0, 3, 1, 2).float() / 255


class Bench:
    """Data, judge and work folder."""

    def __init__(self, data: Path, work: Path, times: float) -> None:
        self.work, self.times = work, times
        work.mkdir(parents=True, exist_ok=True)
        with np.load(data / "mnist.npz") as arrays:
            self.training, self.labels = arrays["x_train"][..., None], arrays["y_train"]
            self.test, self.test_labels = arrays["x_test"][..., None], arrays["y_test"]

    @cached_property
    def judge(self) -> Judge:
        """Trained now, or in an earlier run."""
        judge, file = Judge(), self.work / "judge.pt"
        if file.exists():
            judge.load_state_dict(torch.load(file, weights_only=True))
            return judge.eval()
        torch.manual_seed(0)
        judge = Judge()
        optimiser = torch.optim.Adam(judge.parameters(), lr=1e-3)
        batches = [
            part for _ in range(3) for part in torch.split(torch.randperm(len(self.training)), 128)
        ]
        for number, batch in enumerate(batches):
            optimiser.param_groups[0]["lr"] = 1e-3 * (1 - number / len(batches))
            rows = batch.numpy()
            wanted = torch.from_numpy(self.labels[rows]).long()
            loss = F.cross_entropy(judge(to_x(self.training[rows])), wanted)
            optimiser.zero_grad()
            loss.backward()  # type: ignore[no-untyped-call]  # torch's stub
            optimiser.step()
        right = (self.judged(self.test, judge.eval())[1] == self.test_labels).mean()
        print(f"the judge is right about {right:.1%} of the test images", flush=True)
        torch.save(judge.state_dict(), file)
        return judge

    @torch.no_grad()
    def judged(
        self, images: Images, judge: Judge | None = None
    ) -> tuple[Matrix, npt.NDArray[np.int64]]:
        """Features (N, 64) and digits (N,)."""
        judge = judge or self.judge
        parts = [judge.body(to_x(part)) for part in np.array_split(images, 20)]
        features = torch.cat(parts)
        return features.double().numpy(), judge.head(features).argmax(1).numpy()

    @cached_property
    def of_test(self) -> Matrix:
        return self.judged(self.test)[0]

    @cached_property
    def near(self) -> float:
        """The 1% quantile of test images' distances to the nearest training image."""
        return float(np.quantile(self.nearest(self.test[:COPIES])[0], 0.01))

    def nearest(self, images: Images) -> tuple[Matrix, npt.NDArray[np.int64]]:
        """Distances to the nearest training image, in pixels in [0, 1], and which it is."""
        training = self.training.reshape(len(self.training), -1).astype(np.float32) / 255
        asked = images.reshape(len(images), -1).astype(np.float32) / 255
        squares = np.square(training).sum(1) - 2 * asked @ training.T
        found = squares.argmin(1)
        return np.linalg.norm((asked - training[found]).astype(np.float64), axis=1), found

    def cell(self, name: str, measure: Callable[[], Cell]) -> Cell:
        """What ``measure`` gives, now or in an earlier run."""
        file = self.work / f"{name}.json"
        if not file.exists():
            file.write_text(json.dumps(measure(), indent=1))
        result: Cell = json.loads(file.read_text())
        print(name, json.dumps(result), flush=True)
        return result

    def measure(self, images: Images) -> Cell:
        """The figures of samples (SAMPLES, 28, 28, 1)."""
        features, digits = self.judged(images)
        precision, recall = precision_and_recall(self.of_test[:COMPARED], features[:COMPARED])
        shares = np.bincount(digits, minlength=10) / len(digits)
        distances, _ = self.nearest(images[:COPIES])
        return {
            "FD": frechet(features, self.of_test),
            "precision": precision,
            "recall": recall,
            "digits": int((shares >= 0.01).sum()),
            "copies": float((distances < self.near).mean()),
        }

    def model(self, name: str, seed: int) -> tuple[Path, float]:
        """A model, trained now or in an earlier run, and the CPU seconds that it took."""
        plugin, settings, steps = MODELS[name]
        path, seconds = self.work / f"{name}-{seed}", self.work / f"{name}-{seed}.seconds"
        if not path.exists():
            started = time.process_time()
            settings = {"patience": 1000, **settings}
            told = train(
                plugin,
                self.training,
                path,
                settings=settings,
                max_steps=round(self.times * steps),
                force=True,
                seed=seed,
            )
            seconds.write_text(f"{time.process_time() - started:.0f}")
            print(name, seed, *told["warnings"], sep="\n", flush=True)
        return path, float(seconds.read_text())

    def samples(self, name: str, seed: int) -> Images:
        file = self.work / f"{name}-{seed}-samples.npy"
        if not file.exists():
            sample(self.model(name, seed)[0], n=SAMPLES, output=file, seed=seed)
        images: Images = np.load(file)
        return images.reshape(-1, 28, 28, 1)

    def of_model(self, name: str, seed: int) -> Cell:
        path, seconds = self.model(name, seed)
        archive, back = self.work / "archive", self.work / "reconstructions.npy"
        told = compress(self.test, path, archive, measure=True, force=True)
        decompress(archive, back, force=True)
        rebuilt = self.judged(np.load(back).reshape(self.test.shape))[0]
        return {
            **self.measure(self.samples(name, seed)),
            "reconstructions": frechet(rebuilt, self.of_test),
            "psnr": told["psnr"],
            "seconds": seconds,
            "measures": Model.open(path).manifest.training["measures"],
        }

    def of_training(self, seed: int) -> Cell:
        drawn = np.random.default_rng(seed).choice(len(self.training), SAMPLES, replace=False)
        return {**self.measure(self.training[drawn]), "copies": None}  # all are

    def of_components(self, seed: int) -> Cell:
        """Samples of a Gaussian of as many principal components."""
        flat = self.training.reshape(len(self.training), -1) / 255.0
        pca = PCA(COMPONENTS, random_state=0).fit(flat[:20_000])
        codes = np.random.default_rng(seed).normal(size=(SAMPLES, COMPONENTS))
        drawn = pca.inverse_transform(codes * np.sqrt(pca.explained_variance_))
        tested = self.test.reshape(len(self.test), -1) / 255.0
        rebuilt = pca.inverse_transform(pca.transform(tested))
        return {
            **self.measure(as_images(drawn)),
            "reconstructions": frechet(self.judged(as_images(rebuilt))[0], self.of_test),
        }

    def sheet(self, path: Path, names: list[str]) -> None:
        """Of each model two rows: samples, and the training image nearest to each."""
        rows = []
        for name in names:
            images = self.samples(name, 0)[:SHOWN]
            rows += [images, self.training[self.nearest(images)[1]]]
        joined = np.concatenate([np.concatenate([*row[..., 0]], axis=1) for row in rows])
        Image.fromarray(joined).resize(
            (joined.shape[1] * SCALE, joined.shape[0] * SCALE), Image.Resampling.NEAREST
        ).save(path, optimize=True)


def as_images(flat: Matrix) -> Images:
    return np.round(255 * flat.clip(0, 1)).astype(np.uint8).reshape(-1, 28, 28, 1)


def frechet(a: Matrix, b: Matrix) -> float:
    """Between Gaussians with the means and covariances of features."""
    cov_a, cov_b = np.cov(a.T), np.cov(b.T)
    # tr (C C')^(1/2): the eigenvalues of a product of two covariances are real and not negative
    roots = np.sqrt(np.linalg.eigvals(cov_a @ cov_b).real.clip(0))
    apart = np.square(a.mean(0) - b.mean(0)).sum()
    return float(apart + np.trace(cov_a) + np.trace(cov_b) - 2 * roots.sum())


def precision_and_recall(real: Matrix, made: Matrix, neighbour: int = 3) -> tuple[float, float]:
    radii = [np.sort(cdist(x, x), axis=1)[:, neighbour] for x in (real, made)]
    apart = cdist(real, made)
    precision = (apart <= radii[0][:, None]).any(0).mean()
    recall = (apart <= radii[1]).any(1).mean()
    return float(precision), float(recall)


def row(name: str, cells: list[Cell]) -> str:
    """Mean and, over several seeds, standard deviation."""

    def said(key: str, pattern: str) -> str:
        values = [cell[key] for cell in cells if cell.get(key) is not None]
        if not values:
            return "-"
        spread = f" ± {pattern.format(np.std(values, ddof=1))}" if len(values) > 1 else ""
        return pattern.format(np.mean(values)) + spread

    columns = [
        said("seconds", "{:.0f}"),
        said("FD", "{:.1f}"),
        said("reconstructions", "{:.1f}"),
        said("psnr", "{:.1f}"),
        said("precision", "{:.2f}"),
        said("recall", "{:.2f}"),
        said("digits", "{:.1f}"),
        said("copies", "{:.1%}"),
    ]
    return f"| {name} | {len(cells)} | " + " | ".join(columns) + " |"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--data", type=Path, default=os.environ.get("COMPRESSOR_DATA"))
    parser.add_argument("--work", type=Path, default=Path("generation-benchmark"))
    names = [*OURS, *MODELS]
    parser.add_argument("--only", choices=names, nargs="+", default=names)
    parser.add_argument("--seeds", type=int, nargs="+", default=[0])
    parser.add_argument("--times", type=float, default=1, help="as many steps as in MODELS")
    parser.add_argument("--sheet", type=Path, help="a PNG, of seed 0")
    parser.add_argument("--report", action="store_true", help="tables of the cells that there are")
    arguments = parser.parse_args()
    if arguments.data is None:
        parser.error("give --data FOLDER")
    bench = Bench(Path(arguments.data), arguments.work, arguments.times)
    if not arguments.report:
        for seed in arguments.seeds:
            for name in arguments.only:
                key = f"{name.replace(' ', '')}-{seed}-cell"
                if name in MODELS:
                    bench.cell(key, partial(bench.of_model, name, seed))
                else:
                    own = bench.of_training if name == OURS[0] else bench.of_components
                    bench.cell(key, partial(own, seed))
    if arguments.sheet:
        bench.sheet(arguments.sheet, [name for name in arguments.only if name in MODELS])
    print(
        "| | seeds | CPU seconds | FD | FD of reconstructions | PSNR | precision | recall | "
        "digits | copies |"
    )
    print("|---|---|---|---|---|---|---|---|---|---|")
    for name in names:
        files = sorted(bench.work.glob(f"{name.replace(' ', '')}-*-cell.json"))
        if files:
            print(row(name, [json.loads(file.read_text()) for file in files]))


if __name__ == "__main__":
    main()
