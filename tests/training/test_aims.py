"""What a user asks for in decibels or bits is what a training gives."""

from __future__ import annotations

from pathlib import Path

import pytest
from compressor.plugins.vae import VAE

from compressor.data.images import Pixels
from compressor.errors import ConfigError
from compressor.training.rate import Aim
from compressor.training.settings import TrainingSettings, split_settings


@pytest.mark.parametrize("aim", [{"quality": 17.0}, {"bits": 0.25}], ids=str)
def test_an_aim_in_the_users_terms_is_reached(
    aim, trained, clothes: Pixels, tmp_path: Path
) -> None:
    told = trained(clothes, tmp_path, prior="factorised", **aim)
    if "quality" in aim:
        assert told["psnr"] == pytest.approx(17.0, abs=0.4)
    else:
        assert told["payload"] == pytest.approx(0.25, rel=0.1)


def test_one_aim_at_a_time() -> None:
    with pytest.raises(ConfigError, match="give one"):
        split_settings({"rate": 1.0, "quality": 30}, VAE.Config, "vae")
    with pytest.raises(ConfigError, match="rate"):
        split_settings({"rate": 0}, VAE.Config, "vae")


def test_the_aim_moves_lambda_towards_itself(clothes: Pixels) -> None:
    settings = TrainingSettings(quality=20.0)
    aim = Aim(settings)
    assert aim.miss(None, error=10**-2.1, bits=1.0) == pytest.approx(1.0)
    assert aim.miss(None, error=10**-1.9, bits=1.0) == pytest.approx(-1.0)
