"""A plugin with settings, and toy data to check it on."""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Mapping
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from ..errors import ConfigError
from ..likelihood import LIKELIHOODS
from ..normalisation import Normalisation
from ..plugin import Autoencoder, PluginConfig
from ..spec import DataSpec
from ..training.checkpoint import State
from ..training.dataset import Dataset, split_rows
from ..training.loop import Budget, Loop
from ..training.rate import add_bottleneck
from ..training.settings import TrainingSettings

ROWS, SIDE, COLUMNS = 192, 16, 12
STEPS = 40
SETTINGS = TrainingSettings(
    batch_size=32, evaluate_every=10, warmup_steps=5, accelerator="cpu", patience=1000
)


class Case:
    """A plugin, its config and toy data of one kind."""

    def __init__(self, plugin: type[Autoencoder], settings: Mapping[str, Any], kind: str) -> None:
        self.plugin, self.settings, self.kind = plugin, dict(settings), kind
        self.config: PluginConfig = plugin.Config.model_validate(self.settings)
        self.rows = toy_images() if kind == "image" else toy_vectors()

    def __str__(self) -> str:
        settings = ",".join(f"{name}={value}" for name, value in self.settings.items())
        return f"{self.plugin.__name__}({settings})-{self.kind}"

    @cached_property
    def spec(self) -> DataSpec:
        """The toy data's."""
        dataset = self._dataset(Path())
        vars(dataset)["rows"] = self.rows  # nothing is written yet
        return dataset.spec(np.arange(len(self.rows)), standardise=True)

    @property
    def x(self) -> Tensor:
        """The first rows, as the networks see them."""
        x: Tensor = Normalisation(self.spec)(torch.from_numpy(self.rows[:8]))
        return x

    def model(self) -> Autoencoder:
        """A new one, always with the same weights, in eval mode."""
        torch.manual_seed(7)
        return self.plugin(self.config, self.spec).eval()

    @cached_property
    def trained(self) -> tuple[Autoencoder, State]:
        """A model after a short training; not to be changed."""
        loop = self.train(lambda *_: None)
        return loop.model.eval(), loop.state

    def with_rate(self, rate: float) -> Autoencoder:
        """A new model with a bottleneck after its encoder, for training with that rate."""
        model = self.model()
        add_bottleneck(model, SETTINGS.model_copy(update={"rate": rate}))
        return model

    def train(
        self,
        report: Callable[[State, float, float], None],
        folder: str = "",
        model: Autoencoder | None = None,
    ) -> Loop:
        """A training of STEPS steps, from the checkpoint in ``folder`` if there is one."""
        with tempfile.TemporaryDirectory() as temporary:
            place = Path(folder or temporary)
            dataset = self._dataset(place)
            self.rows.tofile(dataset.file)
            split = split_rows(dataset.count, 0.2, 0.1, seed=7)
            loop = Loop(
                model or self.model(), SETTINGS, dataset, split, Budget(STEPS), 7, place, report
            )
            loop.run()
            return loop

    def _dataset(self, folder: Path) -> Dataset:
        return Dataset(folder / "rows.bin", len(self.rows), self.rows.shape[1:], None, [])


def cases(plugin: type[Autoencoder], settings: Mapping[str, Any]) -> list[Case]:
    """For each kind of data that the plugin takes; raises ConfigError if it takes none."""
    accepted, refusals = [], []
    for kind in ("image", "vector"):
        case = Case(plugin, settings, kind)
        try:
            wanted = LIKELIHOODS[case.model().likelihood].data
            if kind == "vector" and wanted != "any":
                raise ConfigError(f"the likelihood takes {wanted}, not standardised vectors")
        except ConfigError as error:
            refusals.append(error)
        else:
            accepted.append(case)
    if not accepted:
        raise refusals[0]
    return accepted


def toy_images() -> npt.NDArray[np.uint8]:
    """Soft blobs of random place, width and brightness, one an image: (N, SIDE, SIDE, 1)."""
    random = np.random.default_rng(0)
    y, x = np.mgrid[:SIDE, :SIDE]
    row, column = random.uniform(3, SIDE - 3, (2, ROWS, 1, 1))
    width, peak = random.uniform(2, 4, (ROWS, 1, 1)), random.uniform(120, 255, (ROWS, 1, 1))
    blobs = peak * np.exp(-((y - row) ** 2 + (x - column) ** 2) / (2 * width**2))
    images: npt.NDArray[np.uint8] = np.rint(blobs)[..., None].astype(np.uint8)
    return images


def toy_vectors() -> npt.NDArray[np.float32]:
    """Mixtures of three hidden causes, each column in a unit of its own: (N, COLUMNS)."""
    random = np.random.default_rng(0)
    causes = random.normal(size=(ROWS, 3)) @ random.normal(size=(3, COLUMNS))
    noise = 0.1 * random.normal(size=causes.shape)
    units = 10.0 ** random.integers(-2, 3, COLUMNS)
    vectors: npt.NDArray[np.float32] = ((causes + noise) * units + 5 * units).astype(np.float32)
    return vectors
