"""Oriented gradients: what phi sees, the principal components, and one class told from others."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
import pytest
import torch
from compressor.plugins.gradients import (
    DIRECTIONS,
    Gradients,
    GradientsConfig,
    OrientedGradients,
)
from sklearn.datasets import load_digits
from sklearn.metrics import roc_auc_score

from compressor.data.images import Pixels
from compressor.errors import ConfigError, ModelError
from compressor.spec import ImageSpec, VectorSpec
from compressor.verbs import compress, score, train


def phi(x: torch.Tensor) -> torch.Tensor:
    _, channels, height, width = x.shape
    features: torch.Tensor = OrientedGradients(
        ImageSpec(height=height, width=width, channels=channels)
    )(x)
    return features


def test_a_quarter_turn_of_the_image_turns_its_gradients(clothes: Pixels) -> None:
    x = torch.zeros(4, 1, 29, 29)  # an odd side: every second place stays one
    x[:, 0, :28, :28] = torch.from_numpy(clothes[:4, ..., 0]) / 255
    turned = phi(torch.rot90(x, 1, (2, 3)))
    expected = torch.rot90(phi(x), 1, (2, 3))
    quarter = DIRECTIONS // 4
    assert torch.allclose(turned[:, -1], expected[:, -1], atol=1e-5)
    assert any(
        torch.allclose(turned[:, :-1], torch.roll(expected[:, :-1], turn, 1), atol=1e-4)
        for turn in (quarter, -quarter)
    )


def test_faint_edges_count_as_strong_ones_do_and_a_plain_image_has_none() -> None:
    x = torch.zeros(1, 3, 40, 40)
    x[..., 20:] = 1
    strong, faint, plain = phi(x), phi(0.5 + 0.3 * x), phi(torch.full_like(x, 0.7))
    edges = slice(0, 3 * DIRECTIONS)
    assert strong[:, edges].max() > 0.1
    assert (strong - faint)[:, edges].abs().max() < 0.2 * strong[:, edges].max()
    assert plain[:, edges].abs().max() < 1e-5
    assert torch.allclose(plain[:, edges.stop :], torch.tensor(0.4 * 0.7), atol=1e-5)


@pytest.mark.parametrize(
    ("side", "places"),
    [((1, 1), (1, 1)), ((28, 28), (14, 14)), ((63, 90), (32, 45)), ((64, 64), (16, 16)),
     ((200, 301), (17, 25))],
)  # fmt: skip
def test_any_size_has_features(side: tuple[int, int], places: tuple[int, int]) -> None:
    torch.manual_seed(0)
    x = torch.rand(2, 4, *side)
    found = phi(x)
    assert found.shape == (2, 4 * (DIRECTIONS + 1), *places)
    assert found.isfinite().all()
    assert OrientedGradients(ImageSpec(height=side[0], width=side[1], channels=4)).shape == tuple(
        found.shape[1:]
    )


def test_training_finds_the_principal_components(fit: Callable[..., Any], clothes: Pixels) -> None:
    model = fit(Gradients, clothes[:256], 600, {"latent": 8}, batch_size=64).model.eval()
    with torch.no_grad():
        features = model.target(torch.from_numpy(clothes[:256]).permute(0, 3, 1, 2) / 255)
        error = (model.decode(model.encode(features).mean) - features).square().sum()
    centred = features.flatten(1) - features.flatten(1).mean(0)
    least = torch.linalg.svdvals(centred)[8:].square().sum()
    assert least <= error < 1.05 * least


def test_it_tells_a_digit_from_the_others(tmp_path: Path) -> None:
    """Better than as many principal components of the pixels do."""
    digits = load_digits()
    images = np.kron(digits.images * 15, np.ones((4, 4))).astype(np.uint8)[..., None]
    fives, others = images[digits.target == 5], images[digits.target != 5][:500]
    known, test = fives[:130], np.concatenate([fives[130:], others])
    settings = {"latent": 16, "calibration": 0.1, "validation": 0.1}
    train("gradients", known, tmp_path / "model", settings=settings, max_steps=300)
    score(test, tmp_path / "model", tmp_path / "scores.parquet", threshold=0.0)
    strange = np.arange(len(test)) >= len(fives) - 130
    found = roc_auc_score(strange, pq.read_table(tmp_path / "scores.parquet")["score"].to_numpy())
    pixels, tested = (rows.reshape(len(rows), -1) / 255.0 for rows in (known, test))
    components = np.linalg.svd(pixels - pixels.mean(0), full_matrices=False)[2][:16]
    centred = tested - pixels.mean(0)
    errors = np.square(centred - centred @ components.T @ components).sum(1)
    assert found > 0.95 and found > roc_auc_score(strange, errors)
    with pytest.raises(ModelError, match="features"):
        compress(test, tmp_path / "model", tmp_path / "x.archive")


def test_what_it_is_not_for_is_refused() -> None:
    with pytest.raises(ConfigError, match="these data are vectors"):
        Gradients(GradientsConfig(), VectorSpec(length=12, mean=[0.0] * 12, scale=[1.0] * 12))
    with pytest.raises(ConfigError, match="latent=200: there are 36 features"):
        Gradients(GradientsConfig(latent=200), ImageSpec(height=4, width=4, channels=1))
