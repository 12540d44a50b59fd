"""What is sound before tests damage it: images, a model, an archive, the arguments of verbs."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from compressor.data.images import Pixels
from compressor.engine.engine import Engine
from compressor.model import Model

from .command_line import run


@pytest.fixture(scope="session")
def data(tmp_path_factory: pytest.TempPathFactory, clothes: Pixels) -> Path:
    """1,000 images."""
    path = tmp_path_factory.mktemp("data") / "clothes.npy"
    np.save(path, clothes)
    return path


@pytest.fixture(scope="session")
def archive(tmp_path_factory: pytest.TempPathFactory, clothes: Pixels, dense_model: Path) -> Path:
    """200 images: do not change it."""
    folder = tmp_path_factory.mktemp("archive")
    np.save(folder / "clothes.npy", clothes[:200])
    ran = run("compress", folder / "clothes.npy", "-m", dense_model, "-o", folder / "a")
    assert ran.code == 0
    return folder / "a"


@pytest.fixture(scope="session")
def rebuilt(dense_model: Path, clothes: Pixels) -> dict[str, Pixels]:
    """What decompressing the archive gives."""
    engine = Engine(Model.open(dense_model))
    pixels = engine.decode(engine.encode(clothes[:200]), 28, 28)
    return {f"{number:05d}": image for number, image in enumerate(pixels)}


@pytest.fixture
def copy(dense_model: Path, tmp_path: Path) -> Path:
    """A model to damage."""
    return shutil.copytree(dense_model, tmp_path / "copy")


@pytest.fixture
def arguments(data: Path, archive: Path, dense_model: Path) -> Callable[..., tuple[object, ...]]:
    """The arguments of a verb that would end well."""

    def of(
        verb: str, output: Path, images: Path = data, model: Path = dense_model
    ) -> tuple[object, ...]:
        options = {
            "train": ("undercomplete", images, "--set", "network=dense", "--max-steps", "1"),
            "export": (model,),
            "encode": (images, "-m", model),
            "compress": (images, "-m", model),
            "decompress": (archive,),
            "score": (images, "-m", model, "--fpr", "0.1"),
            "calibrate": (model, images),
        }[verb]
        return (verb, *options, *(() if verb == "calibrate" else ("-o", output)))

    return of


@pytest.fixture
def quick_end(monkeypatch: pytest.MonkeyPatch, dense_model: Path) -> None:
    """Trainings do without the export, which takes seconds: their model is a card alone."""
    manifest = Model.open(dense_model).manifest
    files = {"MODEL_CARD.md": bytes(100_000)}
    monkeypatch.setattr("compressor.training.train.bundle", lambda *_: (dict(files), manifest))
    monkeypatch.setattr("compressor.training.train.rehearse", lambda *_: None)
