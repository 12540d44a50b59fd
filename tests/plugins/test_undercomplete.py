"""The undercomplete autoencoder finds binary codes for one-hot vectors, and principal components.

8-3-8: Rumelhart, Hinton & Williams 1986; Ackley, Hinton & Sejnowski 1985. 3-2-3 and PCA: Bourlard
& Kamp 1988; Baldi & Hornik 1989.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
import torch
from compressor.plugins.undercomplete import Undercomplete
from scipy.linalg import subspace_angles
from sklearn.decomposition import PCA

from compressor.data.images import Pixels
from compressor.normalisation import Normalisation
from compressor.plugin import Autoencoder, Pass
from compressor.training.loop import Loop
from compressor.training.start import restore
from compressor.verbs import compress, decompress, encode, train

Fit = Callable[..., Loop]
Vectors = npt.NDArray[np.float32]
EIGHT = np.eye(8, dtype=np.float32)
LINEAR = {"network": "dense", "hidden": [], "activation": "linear", "loss": "square"}
# The slow rise of a high rate lets all units choose before they saturate. All eight inputs come
# back from every start; the codes are at the cube's corners from about seven starts of ten, among
# them the seeds 0 to 7: from the others one input takes a code of, say, (0.5, 0, 1).
BINARY = {
    "network": "dense",
    "hidden": [],
    "latent": 3,
    "code_activation": "sigmoid",
    "output_activation": "sigmoid",
    "loss": "square",
    "standardise": False,
    "validation": 0,
    "calibration": 0,
    "batch_size": 8,
    "learning_rate": 0.5,
    "schedule": "constant",
    "warmup_steps": 1000,
    "clip_norm": None,
    "evaluate_every": 1000,  # or a checkpoint would be written after every step, an epoch
}


@pytest.fixture(scope="module")
def eight(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """8-3-8, trained on the eight one-hot vectors."""
    path = tmp_path_factory.mktemp("eight") / "model"
    train("undercomplete", EIGHT, path, settings=BINARY, max_steps=1000, seed=3)
    return path


def assert_all_come_back(out: Vectors) -> None:
    assert out.argmax(1).tolist() == list(range(8))
    assert out.diagonal().min() > 0.9
    assert out[~np.eye(8, dtype=bool)].max() < 0.1


def test_eight_inputs_come_back_through_three_hidden_units(eight: Path) -> None:
    with torch.no_grad():
        out = Pass(restore(eight), torch.from_numpy(EIGHT)).pixels
    assert_all_come_back(out.numpy())


def test_three_hidden_units_learn_eight_different_binary_codes(eight: Path) -> None:
    with torch.no_grad():
        h = restore(eight).encode(torch.from_numpy(EIGHT)).mean
    assert {tuple(code) for code in (h > 0.5).int().tolist()} == set(np.ndindex(2, 2, 2))


def test_rounded_weights_and_codes_still_bring_all_eight_back(eight: Path, tmp_path: Path) -> None:
    compress(EIGHT, eight, tmp_path / "archive")
    decompress(tmp_path / "archive", tmp_path / "back.npy")
    assert_all_come_back(np.load(tmp_path / "back.npy"))
    encode(EIGHT, eight, tmp_path / "codes.npy")
    assert len(np.unique(np.load(tmp_path / "codes.npy"), axis=0)) == 8


def errors_and_angle(model: Autoencoder, rows: npt.NDArray[Any]) -> tuple[float, float, float]:
    """The squared error of the continuous code, PCA's, and the angle between the two, degrees."""
    x = Normalisation(model.spec)(torch.from_numpy(rows))
    with torch.no_grad():
        ours = (Pass(model, x).pixels - x).square().mean().item()
        code = model.encode(x).mean
    weight = dict(model.named_parameters())["g.0.weight"].detach().numpy()
    flat = x.flatten(1).double().numpy()
    pca = PCA(code.shape[1], svd_solver="full").fit(flat)
    best = np.square(pca.inverse_transform(pca.transform(flat)) - flat).mean()
    return ours, best, np.degrees(subspace_angles(weight, pca.components_.T).max())


def near_a_plane() -> Vectors:
    """500 vectors within a fifth or so of a slanted plane that is off the origin: (N, 3)."""
    random = np.random.default_rng(0)
    axes = np.linalg.qr(random.normal(size=(3, 3)))[0]
    rows = random.normal(size=(500, 3)) * [2, 1, 0.2] @ axes.T + [1, -2, 0.5]
    return rows.astype(np.float32)


def test_two_linear_units_find_the_plane_that_vectors_lie_near(fit: Fit) -> None:
    rows = near_a_plane()
    loop = fit(
        Undercomplete,
        rows,
        500,
        {**LINEAR, "latent": 2},
        batch_size=500,
        learning_rate=0.2,
        clip_norm=None,
        standardise=False,
    )
    ours, best, angle = errors_and_angle(loop.model, rows)
    assert best * (1 - 1e-6) <= ours < best * 1.01
    assert angle < 1


def test_linear_units_span_the_principal_components_of_images(clothes: Pixels, fit: Fit) -> None:
    loop = fit(
        Undercomplete,
        clothes,
        800,
        {**LINEAR, "latent": 3},
        learning_rate=0.03,
        clip_norm=None,
    )
    ours, best, angle = errors_and_angle(loop.model, clothes)
    assert best * (1 - 1e-6) <= ours < best * 1.01
    assert angle < 5
