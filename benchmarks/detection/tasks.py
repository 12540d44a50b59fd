"""The data sets and protocols: what is trained on, what is tested on, and what of that is strange.

A task is one training and one test. Labels are of test data alone, and only metrics.py sees them.
"""

from __future__ import annotations

import csv
import hashlib
import io
import zipfile
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import cache, partial
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from PIL import Image
from sklearn.model_selection import train_test_split

Rows = npt.NDArray[Any]  # uint8 (N, H, W, C), or float32 (N, D)
Flags = npt.NDArray[np.bool_]
TILE = 128  # pixels: tiles come in 623 sizes, 103 to 632 by 227 to 398
TRAINED_TILES = 0.7  # of the groups without a defect
LARGEST_TABLE = 50_000  # rows


@dataclass(frozen=True)
class Sample:
    """``strange`` (N,) and, where there are any, ``masks`` (N, H, W) are of ``test``."""

    train: Rows
    test: Rows
    strange: Flags
    masks: Flags | None = None


@dataclass(frozen=True)
class Task:
    """``part``: a class or a table of the data set; ``digest``: of the files that it is made of.

    The seed draws splits, where the protocol has any, and trainings. ``same_training``: tasks that
    agree in it and in the seed train on the same data.
    """

    data: str
    part: str
    seed: int
    digest: str
    same_training: str
    load: Callable[[], Sample]


@dataclass(frozen=True)
class DataSet:
    """``protocol`` in a sentence; ``parts``: how many tasks a seed has."""

    name: str
    title: str
    protocol: str
    parts: Sequence[str]
    files: Sequence[str]
    load: Callable[[Path, str, int], Sample]
    trains_once: bool = False  # whatever the part

    def tasks(self, folder: Path, seeds: Sequence[int]) -> Iterator[Task]:
        digest = "-".join(file_digest(folder / file) for file in self.files)
        for seed in seeds:
            for part in self.parts:
                same = self.name if self.trains_once else f"{self.name} {part}"
                load = partial(self.load, folder, part, seed)
                yield Task(self.name, part, seed, digest, same, load)


@cache
def file_digest(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()[:12]


def images_of(path: Path, *names: str) -> list[Rows]:
    """Arrays of an .npz by name, images as (N, H, W, C)."""
    with np.load(path) as arrays:
        found = [arrays[name] for name in names]
    return [array[..., None] if array.ndim == 3 else array for array in found]


def one_vs_rest(file: str, folder: Path, part: str, seed: int) -> Sample:
    """Trains on one class's training images; of all test images those of others are strange."""
    train, labels, test, truth = images_of(folder / file, "x_train", "y_train", "x_test", "y_test")
    number = int(part.removeprefix("class "))
    return Sample(train[labels.ravel() == number], test, truth.ravel() != number)


def other_data(folder: Path, part: str, seed: int) -> Sample:
    """Trains on Fashion-MNIST; its test images and as many of other data, which are strange."""
    train, test = images_of(folder / "fashion_mnist_pub.npz", "x_train", "x_test")
    if part == "MNIST":
        (others,) = images_of(folder / "mnist.npz", "x_test")
    else:
        (others,) = images_of(folder / "notmnist_pub.npz", "x")
    others = others[: len(test)]
    strange = np.arange(len(test) + len(others)) >= len(test)
    return Sample(train, np.concatenate([test, others]), strange)


def screws(folder: Path, part: str, seed: int) -> Sample:
    with zipfile.ZipFile(folder / "mvtec_screw_256.zip") as archive:
        names = sorted(name for name in archive.namelist() if name.endswith(".png"))
        train = [_grey(archive, name) for name in names if name.startswith("train/good/")]
        tested = [name for name in names if name.startswith("test/")]
        test = np.stack([_grey(archive, name) for name in tested])
        masks = np.zeros(test.shape[:3], bool)
        for number, name in enumerate(tested):
            if not name.startswith("test/good/"):
                mask = name.replace("test/", "ground_truth/").replace(".png", "_mask.png")
                masks[number] = _grey(archive, mask)[..., 0] > 127
    strange = np.array([not name.startswith("test/good/") for name in tested])
    return Sample(np.stack(train), test, strange, masks)


def tiles(folder: Path, part: str, seed: int) -> Sample:
    """A group's tiles, shots of one piece, are all trained on or all tested on.

    Groups with a defect are tested on; of the others a part that the seed draws.
    """
    with zipfile.ZipFile(folder / "magnetic_tile_A.zip") as archive:
        rows = list(csv.DictReader(io.StringIO(archive.read("groups.csv").decode())))
        images = np.stack([_grey(archive, row["file"], TILE) for row in rows])
        masks = np.stack([_mask(archive, row["file"].replace(".jpg", ".png")) for row in rows])
    groups = np.array([row["group"] for row in rows])
    strange = np.array([not row["file"].startswith("MT_Free/") for row in rows])
    trained = np.isin(groups, trained_groups(groups, strange, seed))
    return Sample(images[trained], images[~trained], strange[~trained], masks[~trained])


def trained_groups(groups: npt.NDArray[Any], strange: Flags, seed: int) -> npt.NDArray[Any]:
    free = np.setdiff1d(groups, groups[strange])
    return np.random.default_rng(seed).permutation(free)[: round(TRAINED_TILES * len(free))]


def _grey(archive: zipfile.ZipFile, name: str, side: int | None = None) -> Rows:
    image = Image.open(io.BytesIO(archive.read(name))).convert("L")
    if side is not None:
        image = image.resize((side, side), Image.Resampling.BOX)
    return np.asarray(image)[..., None]


def _mask(archive: zipfile.ZipFile, name: str) -> Flags:
    """Pixels at least half of which are defect; of defects too thin for any, the one with most."""
    full = np.asarray(Image.open(io.BytesIO(archive.read(name))).convert("L")) > 127
    image = Image.fromarray(full.astype(np.float32)).resize((TILE, TILE), Image.Resampling.BOX)
    share = np.asarray(image)
    return (share > 0) & (share >= min(0.5, float(share.max())))


def table(setting: str, folder: Path, part: str, seed: int) -> Sample:
    """normals only: half of them trained on, the other half and all anomalies tested on.

    unsupervised: trained and tested on all rows.
    """
    with (
        zipfile.ZipFile(folder / "adbench_A.zip") as archive,
        np.load(io.BytesIO(archive.read(f"{part}.npz"))) as arrays,
    ):
        x, strange = arrays["X"].astype(np.float32), arrays["y"].ravel().astype(bool)
    if len(x) > LARGEST_TABLE:
        x, _, strange, _ = train_test_split(
            x, strange, train_size=LARGEST_TABLE, random_state=seed, stratify=strange
        )
    if setting == "unsupervised":
        return Sample(x, x, strange)
    train, rest = train_test_split(x[~strange], test_size=0.5, random_state=seed)
    test = np.concatenate([rest, x[strange]])
    return Sample(train, test, np.arange(len(test)) >= len(rest))


CLASSES = [f"class {number}" for number in range(10)]
TABLES = (
    *("14_glass", "15_Hepatitis", "18_Ionosphere", "20_letter", "22_magic.gamma"),
    *("23_mammography", "24_mnist", "25_musk", "26_optdigits", "27_PageBlocks", "29_Pima"),
    *("2_annthyroid", "31_satimage-2", "32_shuttle", "35_SpamBase", "38_thyroid", "40_vowels"),
    *("42_WBC", "45_wine", "4_breastw", "6_cardio"),
)
NORMALS_ONLY, UNSUPERVISED = "adbench, normals only", "adbench, unsupervised"


def _classes(name: str, title: str, file: str, size: str) -> DataSet:
    protocol = (
        f"trained on the training images of one class, tested on all test images; ten classes; "
        f"{size} ({file})"
    )
    load = partial(one_vs_rest, file)
    return DataSet(name, f"{title}, one-vs-rest", protocol, CLASSES, [file], load)


def _tables(name: str, setting: str, how: str) -> DataSet:
    protocol = (
        f"{how}; {len(TABLES)} tables (those over {LARGEST_TABLE:,} rows are subsampled; none of "
        "these is)"
    )
    load = partial(table, setting)
    return DataSet(name, f"ADBench tables, {setting}", protocol, TABLES, ["adbench_A.zip"], load)


DATASETS = {
    data.name: data
    for data in (
        _classes("mnist", "MNIST", "mnist.npz", "60,000 training and 10,000 test images"),
        _classes(
            "fashion-mnist",
            "Fashion-MNIST",
            "fashion_mnist_pub.npz",
            "60,000 training and 2,000 of the test images",
        ),
        _classes(
            "cifar-10",
            "CIFAR-10",
            "cifar10_pub.npz",
            "10,000 of the training and 2,000 of the test images",
        ),
        DataSet(
            "other data",
            "Fashion-MNIST against other data",
            "trained on the 60,000 training images of Fashion-MNIST, tested on 2,000 of its test "
            "images and the first 2,000 MNIST test images or notMNIST letters",
            ["MNIST", "notMNIST"],
            ["fashion_mnist_pub.npz", "mnist.npz", "notmnist_pub.npz"],
            other_data,
            trains_once=True,
        ),
        DataSet(
            "screw",
            "MVTec AD screw",
            "trained on the 320 good training images, tested on 41 good and 119 defective ones, "
            "256x256 grey",
            ["screw"],
            ["mvtec_screw_256.zip"],
            screws,
        ),
        DataSet(
            "magnetic tile",
            "Magnetic tiles",
            "groups of groups.csv, shots of one piece, are not split: trained on "
            f"{TRAINED_TILES:.0%} of the groups without a defect, drawn by the seed, tested on all "
            f"other groups; resized to {TILE}x{TILE} grey",
            ["tiles"],
            ["magnetic_tile_A.zip"],
            tiles,
        ),
        _tables(
            NORMALS_ONLY,
            "normals only",
            "trained on half of the normal rows, drawn by the seed, tested on the other half and "
            "all anomalies",
        ),
        _tables(UNSUPERVISED, "unsupervised", "trained and tested on all rows"),
    )
}
