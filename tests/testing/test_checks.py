"""The checks fail where a plugin breaks the contract, and say how."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import pytest
import torch
from compressor.plugins.undercomplete import Undercomplete, UndercompleteConfig
from pydantic import BaseModel, Field
from torch import Tensor, nn

from compressor.errors import ConfigError
from compressor.plugin import Autoencoder, Code, Pass, Phase, Player, PluginConfig
from compressor.spec import DataSpec
from compressor.testing import check_plugin, checks
from compressor.testing.cases import Case
from compressor.testing.checks import CHECKS

SETTINGS = {"network": "dense", "hidden": [16], "latent": 4}


class NoDescription(Undercomplete):
    """Its Config says nothing about a field."""

    class Config(UndercompleteConfig):
        extra: int = 3


class Forgiving(Undercomplete):
    """Its Config takes anything."""

    class Config(BaseModel):
        latent: int = Field(3, description="elements of the code")


class OwnRandomness(Undercomplete):
    """Starts from random numbers of its own."""

    def __init__(self, config: Any, spec: DataSpec) -> None:
        super().__init__(config, spec)
        own = torch.Generator()
        own.seed()
        nn.init.normal_(self.g[0].weight, generator=own)


class Double(Undercomplete):
    """A code of float64."""

    def encode(self, x: Tensor) -> Code:
        return Code(super().encode(x).mean.double())


class WrongShape(Undercomplete):
    """Gives rows where x has images or other vectors."""

    def decode(self, z: Tensor) -> Tensor:
        return super().decode(z).flatten(1)[:, :5]


class AlwaysRandom(Undercomplete):
    """Samples in eval mode too."""

    def encode(self, x: Tensor) -> Code:
        mean = super().encode(x).mean
        return Code(mean + torch.randn_like(mean))


class BatchDependent(Undercomplete):
    """Centres a code with the mean of its batch."""

    def encode(self, x: Tensor) -> Code:
        mean = super().encode(x).mean
        return Code(mean - mean.mean(0))


class NotANumber(Undercomplete):
    """A penalty that is not finite."""

    def penalty(self, passed: Pass) -> Mapping[str, Tensor]:
        return {"odd": torch.tensor(float("nan"))}


class Untrained(Undercomplete):
    """A player has a module that its loss never reads."""

    def __init__(self, config: Any, spec: DataSpec) -> None:
        super().__init__(config, spec)
        self.idle = nn.Linear(3, 3)


class Climbs(Undercomplete):
    """Maximises what it should minimise."""

    def phases(self) -> Sequence[Phase]:
        return [
            Phase("up", [Player("all", [self], lambda passed: {"up": -passed.distortion.mean()})])
        ]


class ReadsFiles(Undercomplete):
    """Looks at a file while it encodes."""

    def encode(self, x: Tensor) -> Code:
        Path("/proc/self/status").read_text()
        return super().encode(x)


class Exploding(Undercomplete):
    """Pixels far away from an image's range."""

    def decode(self, z: Tensor) -> Tensor:
        return super().decode(z) * 1e-3 + 50


class Forgets(Undercomplete):
    """Keeps state that no checkpoint has."""

    calls = 0

    def penalty(self, passed: Pass) -> Mapping[str, Tensor]:
        self.calls += torch.is_grad_enabled()
        return {"drift": passed.z.square().mean() * self.calls}


class Creeps(Undercomplete):
    """Moves weights that no player of the phase has."""

    def phases(self) -> Sequence[Phase]:
        return [Phase("g", [Player("g", [self.g])])]

    def penalty(self, passed: Pass) -> Mapping[str, Tensor]:
        if torch.is_grad_enabled():
            with torch.no_grad():
                self.f[0].bias += 0.01
        return {}


class Unportable(Undercomplete):
    """An operator that does not run everywhere."""

    def encode(self, x: Tensor) -> Code:
        return Code(torch.erf(super().encode(x).mean))


class ScoresABatch(Undercomplete):
    """One score for all inputs."""

    def scores(self, passed: Pass) -> Mapping[str, Tensor]:
        return {"odd": passed.distortion.mean()}


class Outdated(Undercomplete):
    """Was written for an earlier contract."""

    contract = 1


class MeasuresInputs(Undercomplete):
    """A measure of each input instead of one."""

    def measures(self, passed: Pass) -> Mapping[str, Tensor]:
        return {"odd": passed.distortion}


@pytest.mark.parametrize(
    ("plugin", "check", "message"),
    [
        (Outdated, "names_its_contract", "contract = 1; write contract = 2"),
        (MeasuresInputs, "measures_are_scalars", "'odd' is .8,."),
        (NoDescription, "config_round_trip", "extra has no description"),
        (Forgiving, "config_round_trip", "derive it from PluginConfig"),
        (OwnRandomness, "seeded_build", "torch's global generator"),
        (Double, "shapes", r"float64 \(8, 4\)"),
        (WrongShape, "shapes", r"decode returns \(8, 5\)"),
        (AlwaysRandom, "deterministic_encoding", "sample in training only"),
        (BatchDependent, "batch_independent_encoding", "depends on its batch"),
        (NotANumber, "finite_objective", "odd is nan"),
        (Untrained, "finite_objective", "no gradient reaches idle.weight"),
        (Climbs, "loss_falls", "the distortion went from"),
        (ReadsFiles, "no_files_or_network", "the file /proc/self/status"),
        (Exploding, "decoder_range", r"x is in \[0, 1\]"),
        (Forgets, "resumes_from_a_checkpoint", "differs after an interruption"),
        (Creeps, "frozen_modules_stay", "'g' changes f.0.bias"),
        (Unportable, "portable_export_with_parity", "Erf"),
        (ScoresABatch, "scores_for_each_input", "odd is"),
    ],
)
def test_a_breach_is_found_and_named(plugin: type[Autoencoder], check: str, message: str) -> None:
    settings = {} if plugin is Forgiving else SETTINGS
    case = Case.__new__(Case)
    if plugin is Forgiving:  # it cannot be built
        case.plugin, case.config = plugin, plugin.Config()
    else:
        case = Case(plugin, settings, "image")
    (run,) = (run for run in CHECKS if run.__name__ == check)
    with pytest.raises(AssertionError, match=message):
        run(case)


def test_a_stride_must_keep_its_promise() -> None:
    class Crooked(Undercomplete):
        """Says that it takes any size, and does not."""

        def __init__(self, config: Any, spec: DataSpec) -> None:
            super().__init__(config, spec)
            self.stride = 8

    (run,) = (run for run in CHECKS if run.__name__ == "any_size_that_the_stride_divides")
    with pytest.raises(AssertionError, match="stride 8: 24x40"):
        run(Case(Crooked, {"network": "conv", "hidden": [4]}, "image"))


def test_what_hides_from_nan_and_sees_far_is_found_out() -> None:
    class Sly(Undercomplete):
        """Adds a little of the whole image's mean, which a comparison keeps NaN out of."""

        def encode(self, x: Tensor) -> Code:
            bright = torch.where(x > 0.5, 1.0, 0.0).mean((1, 2, 3), keepdim=True)
            return Code(super().encode(x).mean + bright)

    (run,) = (run for run in CHECKS if run.__name__ == "tiles_equal_the_whole")
    with pytest.raises(AssertionError, match="encode sees farther than"):
        run(Case(Sly, {"network": "conv", "hidden": [4]}, "image"))


def test_checks_have_names_that_read_well() -> None:
    names = [str(check) for check in checks(Undercomplete, {"latent": 3})]
    assert "Undercomplete(latent=3)-image-loss_falls" in names
    assert "Undercomplete(latent=3)-vector-loss_falls" in names


def test_a_plugin_for_images_alone_is_checked_on_images_alone() -> None:
    names = [str(check) for check in checks(Undercomplete, {"network": "conv"})]
    assert names and all("-image-" in name for name in names)


def test_a_plugin_that_takes_nothing_is_refused() -> None:
    class Nothing(Autoencoder):
        """Takes no data."""

        Config = PluginConfig

        def __init__(self, config: Any, spec: DataSpec) -> None:
            raise ConfigError("no")

    with pytest.raises(ConfigError):
        check_plugin(Nothing)
