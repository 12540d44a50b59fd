"""The six data sets, unpacked once into a work folder; images to test on are never trained on."""

from __future__ import annotations

import hashlib
import io
import re
import zipfile
from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import numpy as np
import numpy.typing as npt
from PIL import Image

Pixels = npt.NDArray[np.uint8]
TEST_SHARE = 0.2
PATCH = 160  # six to a photo of 481x321


@dataclass(frozen=True)
class Split:
    """Images to train on, (N, H, W, C), and to test on, (H, W, C) each."""

    train: Pixels
    test: list[Pixels]


@dataclass(frozen=True)
class Dataset:
    """``split`` says which images are which; ``unpack`` reads them from the folder of --data."""

    name: str
    title: str
    split: str
    unpack: Callable[[Path], Split]


class Prepared:
    """A data set in the work folder: train.npy and test, an .npy or, of photos, a folder of PNG."""

    def __init__(self, dataset: Dataset, data: Path, work: Path) -> None:
        self.name, self.folder = dataset.name, work / "data" / dataset.name
        self.train = self.folder / "train.npy"
        done = self.folder / "done"
        if not done.exists():
            self.folder.mkdir(parents=True, exist_ok=True)
            split = dataset.unpack(data)
            np.save(self.train, split.train)
            if len({image.shape for image in split.test}) == 1:
                np.save(self.folder / "test.npy", np.stack(split.test))
            else:
                (self.folder / "test").mkdir(exist_ok=True)
                for number, image in enumerate(split.test):
                    Image.fromarray(image).save(self.folder / "test" / f"{number:05d}.png")
            done.touch()
        array = self.folder / "test.npy"
        self.test = array if array.exists() else self.folder / "test"

    @cached_property
    def test_images(self) -> list[Pixels]:
        return images_of(self.test)

    @cached_property
    def train_images(self) -> Pixels:
        return np.asarray(np.load(self.train))

    @cached_property
    def test_digest(self) -> str:
        return digest(self.test_images)

    @cached_property
    def train_digest(self) -> str:
        return digest([self.train_images])


def images_of(path: Path) -> list[Pixels]:
    """(H, W, C) each, of an .npy file or a folder of RGB photos, by name."""
    if path.is_dir():
        return [np.asarray(Image.open(file)) for file in sorted(path.glob("*.png"))]
    array = np.load(path)  # (N, H, W) if decompress wrote grey images
    return list(array if array.ndim == 4 else array[..., None])


def digest(arrays: list[Pixels]) -> str:
    found = hashlib.sha256()
    for array in arrays:
        found.update(str(array.shape).encode() + np.ascontiguousarray(array).tobytes())
    return found.hexdigest()[:12]


def _arrays(file: str) -> Callable[[Path], Split]:
    def unpack(data: Path) -> Split:
        with np.load(data / file) as arrays:
            train, test = (
                part[..., None] if part.ndim == 3 else part
                for part in (arrays["x_train"], arrays["x_test"])
            )
        return Split(train, list(test))

    return unpack


def _folders(file: str) -> Callable[[Path], Split]:
    """The last fifth of each folder, by the numbers in the names, to test on."""

    def unpack(data: Path) -> Split:
        folders: dict[str, list[tuple[int, str]]] = {}
        train, test = [], []
        with zipfile.ZipFile(data / file) as archive:
            for name in archive.namelist():
                folder, _, leaf = name.rpartition("/")
                if number := re.search(r"(\d+)\.\w+$", leaf):
                    folders.setdefault(folder, []).append((int(number[1]), name))
            for entries in folders.values():
                images = [_image(archive, name) for _, name in sorted(entries)]
                first = round(len(images) * (1 - TEST_SHARE))
                train += images[:first]
                test += images[first:]
        return Split(np.stack(train), test)

    return unpack


def _photos(data: Path) -> Split:
    with zipfile.ZipFile(data / "kodak_odd.zip") as archive:
        test = [_image(archive, name) for name in sorted(archive.namelist())]
    patches = []
    with zipfile.ZipFile(data / "bsds500.zip") as archive:
        for name in sorted(archive.namelist()):
            photo = _image(archive, name)
            for top in range(0, photo.shape[0] - PATCH + 1, PATCH):
                for left in range(0, photo.shape[1] - PATCH + 1, PATCH):
                    patches.append(photo[top : top + PATCH, left : left + PATCH])
    return Split(np.stack(patches), test)


def _image(archive: zipfile.ZipFile, name: str) -> Pixels:
    return np.asarray(Image.open(io.BytesIO(archive.read(name))).convert("RGB"))


DATASETS = {
    dataset.name: dataset
    for dataset in (
        Dataset(
            "fashion-mnist",
            "Fashion-MNIST, 28x28 grey",
            "the 60,000 training images; 2,000 of the test images (fashion_mnist_pub.npz)",
            _arrays("fashion_mnist_pub.npz"),
        ),
        Dataset(
            "mnist",
            "MNIST, 28x28 grey",
            "the 60,000 training images; the 10,000 test images (mnist.npz)",
            _arrays("mnist.npz"),
        ),
        Dataset(
            "cifar-10",
            "CIFAR-10, 32x32 RGB",
            "10,000 of the training images; 2,000 of the test images (cifar10_pub.npz)",
            _arrays("cifar10_pub.npz"),
        ),
        Dataset(
            "crops",
            "road crops with and without vehicles, 64x64 RGB",
            "of each of the five folders, which are video in the order of time, the first 80%; the "
            "last 20%: 520 images (carnd_gti.zip)",
            _folders("carnd_gti.zip"),
        ),
        Dataset(
            "eurosat",
            "EuroSAT, 64x64 RGB",
            "of each of the five classes the first 80% by number; the last 20%: 800 images "
            "(eurosat_A.zip; the source is JPEG)",
            _folders("eurosat_A.zip"),
        ),
        Dataset(
            "kodak",
            "Kodak photos, 768x512 RGB",
            f"140 training photos of BSDS500 as 840 pieces of {PATCH}x{PATCH} (bsds500.zip; the "
            "source is JPEG); the 12 Kodak photos with odd numbers (kodak_odd.zip)",
            _photos,
        ),
    )
}
